"""Batches of rows that lie on disk: whose order depends on seed and epoch alone, with one window as with many."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
import tensorflow as tf

from airtight.errors import TerminalError
from components.modelling.input_pipeline import Windows, batches, windows_of
from components.modelling.row_store import RowReader, RowStore


def stored(rows: int, block: int = 8192, piece: int = 7) -> RowStore:
    store, numbers = RowStore(block), np.arange(rows, dtype=np.float32)
    for start in range(0, rows, piece):
        part = numbers[start : start + piece]
        store.append(({"number": part[:, None], "code": part.astype(np.uint8)}, (part % 2)[:, None]))
    return store.finish()


def seen(data: tf.data.Dataset) -> list[list[float]]:
    return [inputs["number"][:, 0].tolist() for inputs, _ in data.as_numpy_iterator()]


def test_a_store_gives_back_what_was_put_in_by_block_by_row_and_as_tensors():
    store = stored(26, block=8)
    assert (len(store), store.blocks, store.row_bytes) == (26, 4, 4 + 1 + 4)
    inputs, target = store.read(3)
    assert inputs["number"].tolist() == [[24], [25]] and inputs["code"].dtype == np.uint8
    assert target.tolist() == [[0], [1]]
    inputs, _ = store.tensors(tf.constant([3, 0], tf.int64))
    assert inputs["code"].numpy().tolist() == [24, 25, *range(8)]
    reader = RowReader(store, 1)
    assert reader.row(17).tolist() == [17] and reader.rows(6, 26)[:, 0].tolist() == [*range(6, 26)]
    path = store.path
    store.close()
    assert not path.exists()


@pytest.mark.parametrize("rows", [np.array([["a"]], object), np.zeros((2, 3)), np.zeros((2, 1), np.float32)])
def test_rows_of_another_shape_or_of_strings_are_refused(rows):
    store = RowStore()
    store.append(np.zeros((3, 1)) if rows.dtype != object else rows[:0].astype(float))
    with pytest.raises(TerminalError, match="cannot be stored by row"):
        store.append(rows)


@pytest.mark.parametrize("rows", [3, 100_000])
def test_a_full_disk_loses_no_rows_in_silence(rows):
    store = RowStore()
    (store.path / "1-0.rows").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        store.append((np.zeros((rows, 1)), np.zeros(rows)))
        store.finish()


def test_the_shares_of_a_batch_are_its_parts_one_after_the_other():
    rows = stored(26)
    windows = windows_of(rows, 8, 1 << 20)
    whole = seen(batches(rows, windows, 3, 0, 2))
    shares = [seen(batches(rows, windows, 3, 0, 2, share, 2)) for share in range(2)]
    assert [one + other for one, other in zip(*shares, strict=True)] == whole


@pytest.mark.parametrize("blocks", [1, 2, 100])
def test_an_epoch_has_no_row_twice_and_the_next_another_order(blocks):
    rows = stored(90, block=16)
    windows = Windows(90, 16, blocks, 8)
    batches_seen = seen(batches(rows, windows, 3, 0, 2))
    assert len(batches_seen) == 2 * windows.steps == 22
    epochs = [[*chain(*batches_seen[:11])], [*chain(*batches_seen[11:])]]
    assert [len(set(epoch)) for epoch in epochs] == [88, 88] and epochs[0] != epochs[1]
    assert seen(batches(rows, windows, 3, 1, 2)) == batches_seen[11:], "as where a fit goes on"
    assert seen(batches(rows, windows, 4, 0, 2)) != batches_seen, "by the seed"


def test_a_window_mixes_blocks_from_all_over_and_another_epoch_other_ones():
    rows = stored(1600, block=16)
    windows = Windows(1600, 16, 10, 16)
    per_window = windows.steps // windows.count
    batches_seen = seen(batches(rows, windows, 0, 0, 2))
    spans = [{int(row) // 16 for row in chain(*batches_seen[start : start + per_window])} for start in (0, 100)]
    assert [len(span) for span in spans] == [10, 10] and spans[0] != spans[1]
    assert max(spans[0]) - min(spans[0]) > 50, "no ten neighbours"


def test_one_window_is_in_memory_and_the_next_is_read_when_it_is_used_up(monkeypatch):
    rows, tensors, read = stored(1600, block=16), RowStore.tensors, []

    def recorded(store, blocks):
        tf.numpy_function(lambda some: read.append(len(some)), [blocks], [])
        return tensors(store, blocks)

    monkeypatch.setattr(RowStore, "tensors", recorded)
    windows = Windows(1600, 16, 25, 16)
    taken = batches(rows, windows, 0, 0, 2).as_numpy_iterator()
    for _ in range(15):
        next(taken)
    assert read == [25], "of four windows of 25 blocks and batches"
    assert len([*taken]) == 2 * 100 - 15 and read == [25] * 8


def test_rows_that_fit_are_one_window_and_a_window_has_whole_blocks():
    assert windows_of(stored(26), 8, 1 << 20).count == 1
    windows = windows_of(stored(1000, block=100), 8, window_bytes=9 * 250)
    assert (windows.blocks, windows.count, windows.steps) == (2, 5, 5 * 25)
    assert windows_of(stored(1000, block=100), 256, window_bytes=1).blocks == 3, "a batch fits into a window"
