"""Models that are damaged, too large, or meant to harm: each is refused in words, and the old version serves."""

from __future__ import annotations

import base64
import marshal
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
import tensorflow as tf
import tfx
from tensorflow.core.framework import node_def_pb2, types_pb2
from tensorflow.core.protobuf import saved_model_pb2

from serving import vetting
from serving.errors import Code, ServingError
from serving.graph import node_name
from serving.loader import load
from serving.operations import TABLE_FILES, stays_within
from tests.serving import models

MAX_BYTES = 1 << 20
GRAPH, DATA = "saved_model.pb", "variables/variables.data-00000-of-00001"
WAYS_OUT = (
    "..%2Foutside",
    "%2e%2e",
    "..",
    "m%00",
    "%252e%252e%252fm",
    "m%2F..%2Fm",
    "m/../m",
    "m/versions/..%2F1",
    "m/labels/..%2F..%2Foutside",
)
"""Paths in an address that would leave the model's folder, if anybody took them for paths."""


def after(done: tf.Operation, x: tf.Tensor) -> tf.Tensor:
    with tf.control_dependencies([done]):
        return tf.identity(x)


def saving(x: tf.Tensor, file: str) -> tf.Operation:
    return tf.raw_ops.SaveV2(prefix=file, tensor_names=["x"], shape_and_slices=[""], tensors=[x])


def branching(x: tf.Tensor, file: str) -> tf.Tensor:
    return tf.cond(tf.size(x) > 5, lambda: tf.io.read_file(file), lambda: tf.constant(b""))


def reading_records(x: tf.Tensor, file: str) -> tf.Tensor:
    return tf.data.TFRecordDataset(file).reduce(tf.constant(b""), lambda state, record: state + record)


def decoding_protobufs(x: tf.Tensor, file: str) -> tf.Tensor:
    _, [field] = tf.io.decode_proto(tf.strings.as_string(x), "m", ["f"], [tf.string], descriptor_source=file)
    return field


def encoding_protobufs(x: tf.Tensor, file: str) -> tf.Tensor:
    sizes, values = tf.ones([tf.size(x), 1], tf.int32), [x[:, None]]
    return tf.io.encode_proto(sizes, values, ["f"], "m", descriptor_source=file)


REACHING = {
    "reads": ("ReadFile", lambda x, file: tf.io.read_file(file)),
    "writes": ("WriteFile", lambda x, file: after(tf.io.write_file(file, "written"), x)),
    "lists": ("MatchingFiles", lambda x, file: tf.io.matching_files("/etc/*")),
    "calls Python": ("EagerPyFunc", lambda x, file: tf.py_function(lambda value: value, [x], tf.float32)),
    "calls NumPy": ("PyFunc", lambda x, file: tf.numpy_function(lambda value: value, [x], tf.float32)),
    "prints to a file": ("PrintV2", lambda x, file: after(tf.print("x", output_stream=f"file://{file}"), x)),
    "reads in a branch": ("ReadFile", branching),
    "saves": ("SaveV2", lambda x, file: after(saving(x, file), x)),
    "reads records": ("TFRecordDataset", reading_records),
    "reads a description of protobufs": ("DecodeProtoV2", decoding_protobufs),
    "reads a description of protobufs to write them": ("EncodeProto", encoding_protobufs),
    "ends the process": ("Abort", lambda x, file: after(tf.raw_ops.Abort(error_msg="", exit_without_error=False), x)),
}
"""What a model should not do: the operation's name, and how."""


def save(folder: Path, reach: Callable[[tf.Tensor, str], tf.Tensor], file: Path) -> Path:
    """Writes a SavedModel that does it."""
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def serve(x):
        return {"y": reach(x, str(file))}

    module.serve = serve
    tf.saved_model.save(module, str(folder), signatures=serve)
    return folder


class Words(tf.Module):
    """Looks words up in a table that is filled from a file."""

    def __init__(self, file: str, *, is_asset: bool) -> None:
        super().__init__()
        self.file = tf.saved_model.Asset(file) if is_asset else file
        key = tf.lookup.TextFileIndex.WHOLE_LINE
        number = tf.lookup.TextFileIndex.LINE_NUMBER
        if is_asset:
            filler = tf.lookup.TextFileInitializer(self.file.asset_path, tf.string, key, tf.int64, number)
            self.table = tf.lookup.StaticHashTable(filler, -1)
        self.plain = None if is_asset else (key, number)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="x")])
    def serve(self, x):
        if self.plain is None:
            return {"y": self.table.lookup(x)}
        table = tf.raw_ops.AnonymousHashTable(key_dtype=tf.string, value_dtype=tf.int64)
        key, number = self.plain
        filled = tf.raw_ops.InitializeTableFromTextFileV2(
            table_handle=table, filename=self.file, key_index=key, value_index=number
        )
        with tf.control_dependencies([filled]):
            return {
                "y": tf.raw_ops.LookupTableFindV2(table_handle=table, keys=x, default_value=tf.constant(-1, tf.int64))
            }


def refusal(path: Path, max_bytes: int = 0, allowed: frozenset[str] = frozenset()) -> ServingError | None:
    try:
        vetting.vet(path, path.parent, max_bytes, allowed)
    except ServingError as error:
        return error
    return None


@pytest.mark.parametrize("kind", REACHING)
def test_a_graph_that_reaches_beyond_the_model_is_refused_and_the_flag_allows_it(tmp_path, kind):
    operation, reach = REACHING[kind]
    path = save(tmp_path / "1", reach, tmp_path / "file")
    refused = refusal(path)
    assert refused is not None and refused.code is Code.PERMISSION_DENIED
    assert operation in refused.message
    flag = refused.message.rsplit("--allow_ops=", 1)[1]
    assert refusal(path, allowed=frozenset(flag.split(","))) is None


def test_ordinary_graphs_are_taken(tmp_path):
    models.save_affine(tmp_path / "1", 1.0)
    models.save_mixed(tmp_path / "2")
    models.save_half_plus_two(tmp_path / "3")
    save(tmp_path / "4", lambda x, file: after(tf.print("harmless", x), x), tmp_path / "file")
    words = tmp_path / "words.txt"
    words.write_text("a\nb\n")
    module = Words(str(words), is_asset=True)
    tf.saved_model.save(module, str(tmp_path / "5"), signatures=module.serve)
    for number in range(1, 6):
        assert refusal(tmp_path / str(number)) is None, number


def of_text(x: tf.Tensor, file: str) -> tf.Tensor:
    words = tf.strings.split(tf.strings.regex_replace(tf.strings.lower(tf.strings.as_string(x)), "[.]", " "))
    grams = tf.strings.ngrams(words, 2).to_tensor("")
    return tf.strings.to_hash_bucket_fast(tf.strings.substr(tf.strings.reduce_join(grams, 1), 0, 9), 10)


def of_images(x: tf.Tensor, file: str) -> tf.Tensor:
    image = tf.cast(tf.tile(x[:, None, None, None], [1, 4, 4, 3]), tf.uint8)
    jpeg = tf.map_fn(tf.io.encode_jpeg, image, fn_output_signature=tf.string)
    decoded = tf.map_fn(lambda one: tf.io.decode_image(one, expand_animations=False), jpeg, tf.uint8)
    return tf.image.resize(tf.reshape(decoded, [-1, 4, 4, 3]), [2, 2])


def of_examples(x: tf.Tensor, file: str) -> tf.Tensor:
    features = {
        "a": tf.io.VarLenFeature(tf.int64),
        "b": tf.io.FixedLenFeature([], tf.string, ""),
        "c": tf.io.RaggedFeature(tf.float32),
    }
    parsed = tf.io.parse_example(tf.strings.as_string(x), features)
    return tf.sparse.to_dense(parsed["a"]) + tf.cast(parsed["c"].to_tensor(), tf.int64)


def of_chance(x: tf.Tensor, file: str) -> tf.Tensor:
    return x + tf.random.normal(tf.shape(x)) + tf.random.stateless_uniform(tf.shape(x), [1, 2]) + tf.random.shuffle(x)


def of_loops_and_data(x: tf.Tensor, file: str) -> tf.Tensor:
    steps = tf.while_loop(lambda i: i < 3.0, lambda i: i + 1.0, [tf.reduce_max(x)])[0]
    rows = tf.data.Dataset.from_tensor_slices(x).map(lambda one: one + 1).batch(2).reduce(0.0, lambda s, b: s + b[0])
    tf.debugging.assert_all_finite(x, "numbers")
    return tf.linalg.svd(x[:, None] + steps + rows, compute_uv=False) + tf.einsum("i,i->", x, x)


ORDINARY = [of_text, of_images, of_examples, of_chance, of_loops_and_data]


@pytest.mark.parametrize("made", ORDINARY)
def test_what_exports_are_made_of_is_taken(tmp_path, made):
    assert refusal(save(tmp_path / "1", made, tmp_path)) is None


def test_layers_of_keras_are_taken(tmp_path):
    import keras

    texts = keras.Input([1], dtype="string", name="text")
    numbers = keras.Input([4, 3], name="numbers")
    words = keras.layers.TextVectorization(max_tokens=10, output_sequence_length=4, vocabulary=["a", "b"])(texts)
    steps = keras.layers.Concatenate()([keras.layers.Embedding(10, 2)(words), numbers])
    normal = keras.layers.Normalization(mean=[0.0] * 5, variance=[1.0] * 5)(steps)
    hidden = keras.layers.Bidirectional(keras.layers.LSTM(2))(keras.layers.Dropout(0.1)(normal))
    bins = keras.layers.Discretization([0.0, 1.0])(hidden)
    keras.Model([texts, numbers], [keras.layers.Dense(1)(hidden), bins]).export(str(tmp_path / "1"), verbose=False)
    assert refusal(tmp_path / "1") is None


@pytest.mark.parametrize("file", sorted((Path(tfx.__file__).parent / "components" / "testdata").rglob(GRAPH)), ids=str)
def test_models_of_tfx_are_taken(file):
    assert refusal(file.parent) is None


def test_what_is_neither_known_nor_harmless_by_its_registration_is_refused():
    def refused(operation: str, *attributes: tuple[str, bytes]) -> bool:
        node = node_def_pb2.NodeDef(op=operation)
        for name, value in attributes:
            node.attr[name].s = value
        return not stays_within(node)

    assert all(map(refused, ("ReadFile", "MatchingFiles", "ImmutableConst", "Skipgram", "RecordInput", "RpcClient")))
    assert all(map(refused, ("WholeFileReaderV2", "CSVDatasetV2", "DataServiceDatasetV4", "SaveV2", "RestoreV2")))
    assert all(
        map(
            refused,
            (
                "PyFuncStateless",
                "XlaCustomCall",
                "XlaCustomCallV2",
                "XlaCallModule",
                "_Send",
                "FIFOQueueV2",
                "MutexLock",
            ),
        )
    )
    assert refused("PrintV2", ("output_stream", b"file:///x")) and not refused("PrintV2", ("output_stream", b"stderr"))
    assert not any(map(refused, ("MatMul", "RegexReplace", "HashTableV2", "StatefulPartitionedCall", "DecodeJpeg")))


def test_a_table_is_filled_from_an_asset_alone(tmp_path):
    module = Words("/etc/passwd", is_asset=False)
    tf.saved_model.save(module, str(tmp_path / "1"), signatures=module.serve)
    refused = refusal(tmp_path / "1")
    assert refused is not None and "none of its assets" in refused.message


def test_a_table_of_tensorflow_1_is_filled_from_an_asset_of_the_collection(tmp_path):
    vocabulary = tmp_path / "words.txt"
    vocabulary.write_text("a\nb\n")
    models.save_words_tf1(tmp_path / "1", vocabulary)
    file = tmp_path / "1" / GRAPH
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    saved.meta_graphs[0].ClearField("asset_file_def")  # TensorFlow 1 before 1.15 wrote the collection alone.
    file.write_bytes(saved.SerializeToString())
    vocabulary.unlink()
    loaded = load(tmp_path / "1", tmp_path, 1)
    [numbers] = loaded.signature("").run(np.array([b"b", b"c"], object))
    assert numbers.tolist() == [1, -1]
    loaded.close()
    saved.meta_graphs[0].collection_def[vetting.ASSETS].any_list.ClearField("value")
    file.write_bytes(saved.SerializeToString())
    refused = refusal(tmp_path / "1")
    assert refused is not None and "none of its assets" in refused.message


def words_of_tensorflow_1(folder: Path) -> saved_model_pb2.SavedModel:
    """Writes a SavedModel whose table is filled from its asset; its description, with both lists of assets."""
    vocabulary = folder / "words.txt"
    vocabulary.write_text("a\nb\n")
    models.save_words_tf1(folder / "1", vocabulary)
    saved = saved_model_pb2.SavedModel.FromString((folder / "1" / GRAPH).read_bytes())
    [meta_graph] = saved.meta_graphs
    if not meta_graph.asset_file_def:
        assert meta_graph.collection_def[vetting.ASSETS].any_list.value[0].Unpack(meta_graph.asset_file_def.add())
    return saved


def test_of_two_lists_of_assets_the_one_counts_that_the_loader_reads(tmp_path):
    saved = words_of_tensorflow_1(tmp_path)
    [meta_graph] = saved.meta_graphs
    [asset] = meta_graph.asset_file_def
    honest = meta_graph.graph_def.node.add()
    honest.CopyFrom(next(node for node in meta_graph.graph_def.node if f"{node.name}:0" == asset.tensor_info.name))
    honest.name = "honest"
    asset.tensor_info.name = "honest:0"  # The collection still names the node that fills the table.
    (tmp_path / "1" / GRAPH).write_bytes(saved.SerializeToString())
    refused = refusal(tmp_path / "1")
    assert refused is not None and "none of its assets" in refused.message


def test_another_output_of_an_assets_node_is_no_asset(tmp_path):
    saved = words_of_tensorflow_1(tmp_path)
    [meta_graph] = saved.meta_graphs
    file = node_name(meta_graph.asset_file_def[0].tensor_info.name)
    [filler] = [node for node in meta_graph.graph_def.node if node.op in TABLE_FILES]
    assert filler.input[1] == file
    filler.input[1] = f"{file}:1"
    (tmp_path / "1" / GRAPH).write_bytes(saved.SerializeToString())
    refused = refusal(tmp_path / "1")
    assert refused is not None and "none of its assets" in refused.message


def test_a_variable_holds_an_assets_path_if_no_other_text_may_be_put_into_it(tmp_path):
    saved = words_of_tensorflow_1(tmp_path)
    [meta_graph] = saved.meta_graphs
    graph, file = meta_graph.graph_def, node_name(meta_graph.asset_file_def[0].tensor_info.name)
    [filler] = [node for node in graph.node if node.op in TABLE_FILES]

    def add(op: str, name: str, *inputs: str) -> None:
        node = graph.node.add(op=op, name=name, input=inputs)
        node.attr["dtype"].type = types_pb2.DT_STRING
        if op == "VarHandleOp":
            node.attr["shared_name"].s = b"path"
            node.attr["shape"].shape.SetInParent()
        elif op == "Const":
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto("/etc/passwd"))

    add("VarHandleOp", "handle")
    add("AssignVariableOp", "assign", "handle", file)
    add("ReadVariableOp", "read", "handle", "^assign")
    filler.input[1] = "read"
    (tmp_path / "1" / GRAPH).write_bytes(saved.SerializeToString())
    assert refusal(tmp_path / "1") is None
    add("VarHandleOp", "second_handle")
    add("Const", "elsewhere")
    add("AssignVariableOp", "assign_elsewhere", "second_handle", "elsewhere")
    (tmp_path / "1" / GRAPH).write_bytes(saved.SerializeToString())
    refused = refusal(tmp_path / "1")
    assert refused is not None and "none of its assets" in refused.message


@pytest.mark.parametrize("by", ["a request", "restoring"])
def test_a_table_is_filled_from_an_asset_while_the_model_is_initialised_alone(tmp_path, by):
    """Only then the loader feeds the asset's path; else the node holds what is written in the graph."""
    saved = words_of_tensorflow_1(tmp_path)
    [meta_graph] = saved.meta_graphs
    [filler] = [node for node in meta_graph.graph_def.node if node.op in TABLE_FILES]
    if by == "restoring":
        meta_graph.saver_def.restore_op_name = filler.name
    else:
        answer = node_name(meta_graph.signature_def["serving_default"].outputs["number"].name)
        next(node for node in meta_graph.graph_def.node if node.name == answer).input.append(f"^{filler.name}")
    (tmp_path / "1" / GRAPH).write_bytes(saved.SerializeToString())
    refused = refusal(tmp_path / "1")
    assert refused is not None and "none of its assets" in refused.message
    assert refusal(tmp_path / "1", allowed=frozenset({filler.op})) is None


@pytest.mark.parametrize("listed", ["asset_file_def", "collection_def"])
@pytest.mark.parametrize(
    "filename", ["../../../../etc/passwd", "/etc/passwd", "../saved_model.pb", "../assets.extra/x"]
)
def test_an_asset_outside_the_folder_of_assets_is_refused(tmp_path, filename, listed):
    saved = words_of_tensorflow_1(tmp_path)
    [meta_graph] = saved.meta_graphs
    [asset] = meta_graph.asset_file_def
    asset.filename = filename
    if listed == "collection_def":
        meta_graph.collection_def[vetting.ASSETS].any_list.value[0].Pack(asset)
        meta_graph.ClearField("asset_file_def")
    (tmp_path / "1" / GRAPH).write_bytes(saved.SerializeToString())
    refused = refusal(tmp_path / "1")
    assert refused is not None and refused.code is Code.PERMISSION_DENIED
    assert filename in refused.message


def test_a_stream_that_the_caller_of_a_function_chooses_is_refused():
    node = node_def_pb2.NodeDef(op="PrintV2")
    node.attr["output_stream"].placeholder = "stream"
    assert not stays_within(node)


def test_a_way_of_restoring_that_writes_is_refused(tmp_path):
    models.save_half_plus_two(tmp_path / "1")
    file = tmp_path / "1" / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    graph = saved.meta_graphs[0].graph_def
    for name in ("evil_name", "evil_text"):
        constant = graph.node.add(name=name, op="Const")
        constant.attr["dtype"].type = tf.string.as_datatype_enum
        constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(str(tmp_path / "written")))
    graph.node.add(name="evil", op="WriteFile", input=["evil_name", "evil_text"])
    restore = saved.meta_graphs[0].saver_def.restore_op_name
    next(node for node in graph.node if node.name == restore).input.append("^evil")
    file.write_bytes(saved.SerializeToString())
    refused = refusal(tmp_path / "1")
    assert refused is not None and "WriteFile" in refused.message


def test_sizes_are_bounded(tmp_path, monkeypatch):
    models.save_affine(tmp_path / "1", 1.0)
    refused = refusal(tmp_path / "1", max_bytes=1000)
    assert refused is not None and refused.code is Code.RESOURCE_EXHAUSTED
    assert "--max_model_bytes allows 1000" in refused.message
    with (tmp_path / "1" / "variables" / "more").open("wb") as sparse:
        sparse.truncate(1 << 42)  # Of which the disk holds nothing.
    refused = refusal(tmp_path / "1")
    assert refused is not None and "of free memory" in refused.message
    limit, used = tmp_path / "max", tmp_path / "used"
    limit.write_text("3000\n")
    used.write_text("1000\n")
    monkeypatch.setattr(vetting, "MEMORY_LIMIT", limit)
    monkeypatch.setattr(vetting, "MEMORY_USED", used)
    assert vetting.free_memory() == 2000
    limit.write_text("max\n")
    monkeypatch.setattr(vetting, "MEMORY_INFO", tmp_path / "nothing")
    assert vetting.free_memory() is None


def test_versions_that_load_at_the_same_time_are_measured_against_what_the_others_leave(monkeypatch):
    room, events, first_is_in, let_go = vetting.Room(), [], threading.Event(), threading.Event()
    monkeypatch.setattr(vetting, "free_memory", lambda: 100)

    def first() -> None:
        with room.take(80):
            first_is_in.set()
            assert let_go.wait(60)
            events.append("first")

    def second(size: int) -> None:
        with room.take(size):
            events.append(size)

    holding = threading.Thread(target=first)
    holding.start()
    assert first_is_in.wait(60)
    second(20)
    waiting = threading.Thread(target=second, args=(30,))
    waiting.start()
    waiting.join(0.2)
    assert events == [20]
    let_go.set()
    waiting.join(60)
    holding.join(60)
    assert events == [20, "first", 30]


def test_what_is_neither_file_nor_folder_is_refused(tmp_path):
    models.save_affine(tmp_path / "1", 1.0)
    os.mkfifo(tmp_path / "1" / "assets.pipe")
    refused = refusal(tmp_path / "1")
    assert refused is not None and "no file and no folder" in refused.message


def save_lambda(folder: Path, marker: Path) -> None:
    """Writes a Keras model with a Lambda layer, whose Python code leaves a marker whenever it runs."""
    import keras

    def leave_a_marker(x):
        marker.touch()
        return x * 2.0

    model = keras.Sequential([keras.Input([1], name="x"), keras.layers.Lambda(leave_a_marker)])
    model.export(str(folder), verbose=False)
    model.save(folder / "model.keras")
    # Where older Keras keeps layers as marshalled code.
    code = compile(f"open({str(marker)!r}, 'w')", "<lambda>", "exec")
    (folder / "keras_metadata.pb").write_bytes(base64.b64encode(marshal.dumps(code)))
    marker.unlink()  # It ran while the model was traced.


def truncated(made: Path, elsewhere: Path) -> None:
    (made / GRAPH).write_bytes((made / GRAPH).read_bytes()[:200])


def nonsense(made: Path, elsewhere: Path) -> None:
    (made / GRAPH).write_bytes(Random(0).randbytes(500))


def empty_graph(made: Path, elsewhere: Path) -> None:
    (made / GRAPH).write_bytes(b"")


def variables_cut_off(made: Path, elsewhere: Path) -> None:
    (made / DATA).write_bytes((made / DATA).read_bytes()[:3])


def variables_changed(made: Path, elsewhere: Path) -> None:
    (made / DATA).write_bytes(bytes(byte ^ 255 for byte in (made / DATA).read_bytes()))


def no_variables(made: Path, elsewhere: Path) -> None:
    shutil.rmtree(made / "variables")


def nothing(made: Path, elsewhere: Path) -> None:
    shutil.rmtree(made)
    made.mkdir()


def keras_alone(made: Path, elsewhere: Path) -> None:
    nothing(made, elsewhere)
    shutil.copy(elsewhere / "lambda" / "model.keras", made)


def too_large(made: Path, elsewhere: Path) -> None:
    with (made / "assets" / "large").open("wb") as large:
        large.truncate(MAX_BYTES + 1)


def link_inside(made: Path, elsewhere: Path) -> None:
    (made / GRAPH).unlink()
    (made / GRAPH).symlink_to(elsewhere / "outside" / GRAPH)


def link_itself(made: Path, elsewhere: Path) -> None:
    shutil.rmtree(made)
    made.symlink_to(elsewhere / "outside")


def python_in_the_graph(made: Path, elsewhere: Path) -> None:
    shutil.rmtree(made)
    save(made, REACHING["calls Python"][1], elsewhere)


def files_in_the_graph(made: Path, elsewhere: Path) -> None:
    shutil.rmtree(made)
    save(made, REACHING["reads"][1], Path("/etc/passwd"))


def bad_warm_up(made: Path, elsewhere: Path) -> None:
    (made / "assets.extra").mkdir()
    (made / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"\xff" * 100)


def unknown_operation(made: Path, elsewhere: Path) -> None:
    (made / GRAPH).write_bytes((made / GRAPH).read_bytes().replace(b"AddV2", b"AddV9"))


def not_the_text_it_says(made: Path, elsewhere: Path) -> None:
    (made / GRAPH).rename(made / "saved_model.pbtxt")


def graph_in_parts(made: Path, elsewhere: Path) -> None:
    shutil.copy(made / GRAPH, made / "saved_model.cpb")


BAD = (
    (truncated, "parse"),
    (nonsense, "parse"),
    (empty_graph, ""),
    (variables_cut_off, ""),
    (variables_changed, ""),
    (no_variables, ""),
    (nothing, "Could not find SavedModel"),
    (keras_alone, "Could not find SavedModel"),
    (too_large, "--max_model_bytes"),
    (link_inside, "leads out of the base path"),
    (link_itself, "leads out of the base path"),
    (python_in_the_graph, "--allow_ops=EagerPyFunc"),
    (files_in_the_graph, "--allow_ops=ReadFile"),
    (bad_warm_up, "warmup record"),
    (unknown_operation, "AddV9"),
    (not_the_text_it_says, "parse"),
    (graph_in_parts, "in parts"),
)
"""How a good version is made a bad one, and what is said then."""


@pytest.mark.slow
def test_bad_versions_stay_out_saying_why_and_the_old_one_serves(tmp_path):
    base, marker = tmp_path / "models" / "m", tmp_path / "marker"
    base.mkdir(parents=True)
    models.save_affine(tmp_path / "outside", 9.0)
    models.save_affine(base / "1", 2.0)
    save_lambda(tmp_path / "lambda", marker)
    flags = (f"--models_root={base.parent}", "--file_system_poll_wait_seconds=0.05", f"--max_model_bytes={MAX_BYTES}")
    with models.running(tmp_path, *flags) as server:

        def served(answer: float) -> bool:
            return server.ask("POST", "/v1/models/m:predict", {"instances": [1]}) == (200, {"predictions": [answer]})

        for number, (spoil, message) in enumerate(BAD, start=2):
            shutil.copytree(base / "1", base / "new")
            spoil(base / "new", tmp_path)
            (base / "new").rename(base / str(number))
            server.await_states("m", **{f"v{number}": "END", "v1": "AVAILABLE"})
            _, payload = server.ask("GET", f"/v1/models/m/versions/{number}")
            status = payload["model_version_status"][0]["status"]
            assert status["error_code"] != "OK" and status["error_message"], (spoil, status)
            assert message in status["error_message"], (spoil, status)
            assert served(2.0), spoil
        for path in WAYS_OUT:
            status, answer = server.ask("POST", f"/v1/models/{path}:predict", {"instances": [1]})
            assert status in (400, 404) and set(answer) == {"error"}, (path, status, answer)
        # A Lambda layer is graph by now; the code beside it is read by nobody.
        (tmp_path / "lambda").rename(base / "99")
        server.await_states("m", v99="AVAILABLE")
        status, answer = server.ask("POST", "/v1/models/m:predict", {"instances": [[1.0]]})
        assert (status, answer) == (200, {"predictions": [[2.0]]})
    assert not marker.exists()


def test_the_refused_links_name_the_link(tmp_path):
    models.save_affine(tmp_path / "1", 1.0)
    (tmp_path / "1" / "assets.link").symlink_to("/etc")
    with pytest.raises(ServingError, match=r"assets\.link leads out"):
        vetting.refuse_escapes(tmp_path / "1", tmp_path)
