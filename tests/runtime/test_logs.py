"""What a task's log shows of what a node and its libraries print."""

import logging
import subprocess
import sys

import pytest

from airtight.home import ROOT
from runtime import logs
from runtime.logs import legible

NOISE = """\
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
WARNING: Logging before InitGoogleLogging() is written to STDERR
I0000 00:00:1795891246.415293   18185 port.cc:153] oneDNN custom operations are on. Results may differ.
I0000 00:00:1795891246.416620   18185 cudart_stub.cc:31] Could not find cuda drivers on your machine.
I0000 00:00:1795890856.785629    3940 cpu_feature_guard.cc:227] This TensorFlow binary is optimized to use instructions.
To enable the following instructions: AVX2 AVX512F FMA, in other operations, rebuild TensorFlow with the flags.
I1128 18:34:22.853245  3940 postgresql_metadata_source.cc:208] Connecting to database.
I1128 19:05:57.599142   26950 fork_posix.cc:71] Other threads are currently calling into gRPC, skipping fork() handlers
E0000 00:00:1795893185.424856 26950 util.cc:131] oneDNN supports DT_INT32 only on AVX-512. Falling back to the default.
WARNING: Using incubator modules: jdk.incubator.vector
Setting default log level to "WARN".
To adjust logging level use sc.setLogLevel(newLevel). For SparkR, use setLogLevel(newLevel).
Setting Spark log level to "ERROR".
2026-11-28 18:34:22.853245: I tensorflow/core/util/port.cc:153] oneDNN custom operations are on.
""".splitlines()
NO_GPU = (
    "E0000 00:00:1795891309.175278   19986 cuda_platform.cc:52] failed call to cuInit: INTERNAL: CUDA error: UNKNOWN"
)


@pytest.fixture(params=[True, False], ids=["with a GPU", "without a GPU"])
def has_gpu(request, monkeypatch):
    there = request.param
    monkeypatch.setattr(logs.Path, "exists", lambda path: there)
    return there


def test_what_native_libraries_say_of_themselves_is_left_out(has_gpu):
    assert list(legible(["INFO a: one", *NOISE, "INFO b: two"])) == ["INFO a: one", "INFO b: two"]


def test_where_there_is_a_gpu_it_is_a_fault_that_it_cannot_be_used(has_gpu):
    shown = ["ERROR native.cuda_platform: failed call to cuInit: INTERNAL: CUDA error: UNKNOWN"]
    assert list(legible([NO_GPU])) == (shown if has_gpu else [])


def test_warnings_and_errors_of_native_code_are_records_of_their_own(has_gpu):
    lines = [
        "W0000 00:00:1795891246.415293   18185 gpu_timer.cc:114] Skipping the delay kernel",
        "E1128 18:34:22.868358  3940 postgresql_metadata_source.cc:211] PostgreSQL error: FATAL:  permission denied",
        "DETAIL:  User does not have CONNECT privilege.",
        "F0000 00:00:1795891246.415293   18185 bfc.cc:1] Check failed: size > 0",
        "2026-11-28 18:34:22.853245: W tensorflow/core/framework/op_kernel.cc:1844] OP_REQUIRES failed",
    ]
    assert list(legible(lines)) == [
        "WARNING native.gpu_timer: Skipping the delay kernel",
        "ERROR native.postgresql_metadata_source: PostgreSQL error: FATAL:  permission denied",
        "DETAIL:  User does not have CONNECT privilege.",
        "CRITICAL native.bfc: Check failed: size > 0",
        "WARNING native.op_kernel: OP_REQUIRES failed",
    ]
    assert all(logs.LINE.match(line) for line in legible(lines) if not line.startswith("DETAIL"))


def test_what_is_printed_otherwise_stays_as_it_is(has_gpu):
    lines = ["a print of the user's", "WARNING: mine", "", "Traceback (most recent call last):", "  File ..., line 1"]
    assert list(legible(lines)) == lines


def printed(code: str) -> list[str]:
    """The lines that a process prints which logs as nodes do."""
    program = f"import logging, warnings\nfrom runtime import logs\nlogs.speak()\n{code}"
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()


def record(name: str, level: int, path: str, message: str) -> str:
    given = {"name": name, "levelno": level, "levelname": logging.getLevelName(level), "pathname": path}
    return f"logging.getLogger({name!r}).handle(logging.makeLogRecord({given | {'msg': message}}))\n"


LIBRARY = "/venv/lib/python3.11/site-packages"


def test_a_library_that_logs_its_progress_as_root_is_not_heard_and_a_user_is():
    code = record("root", logging.INFO, f"{LIBRARY}/apache_beam/pipeline.py", "Missing pipeline option (runner).")
    code += record("root", logging.WARNING, f"{LIBRARY}/apache_beam/pipeline.py", "A real one.")
    code += "logging.info('My own.')"
    assert printed(code) == ["WARNING root: A real one.", "INFO root: My own."]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absl", "metadata_connection_config is not provided by IR."),
        ("tensorflow", "SavedModel saved prior to TF 2.5 detected when loading Keras model. Please ensure that ..."),
        (
            "tensorflow",
            f"From {LIBRARY}/tfma/writer.py:127: tf_record_iterator is deprecated and will be removed in a ...",
        ),
        ("py.warnings", f"{LIBRARY}/tfma/util.py:3: DeprecationWarning: np.product is deprecated\n  product()"),
        (
            "py.warnings",
            f"{LIBRARY}/tensorflow_model_analysis/a.py:3: RuntimeWarning: invalid value in divide\n  a / b",
        ),
    ],
)
def test_warnings_that_nobody_can_do_anything_about_are_not_heard(name, message):
    assert printed(record(name, logging.WARNING, "x.py", message)) == []


def test_a_logging_call_whose_arguments_do_not_fit_fails_nobody():
    code = "logging.getLogger('mine').warning('%d of %s', 'one')\nlogging.getLogger('mine').warning('It goes on.')"
    assert printed(code) == ["WARNING mine: It goes on."]


def test_other_warnings_are_heard():
    code = "warnings.warn('Mine.', RuntimeWarning)\n"
    code += record(
        "tensorflow", logging.WARNING, "x.py", "From /home/me/model.py:1: old is deprecated and will be removed"
    )
    code += record(
        "py.warnings", logging.WARNING, "x.py", f"{LIBRARY}/pandas/a.py:3: UserWarning: mixed types\n  read()"
    )
    code += record("absl", logging.WARNING, "x.py", "Disk is nearly full.")
    text = "\n".join(printed(code))
    for heard in ("RuntimeWarning: Mine.", "/home/me/model.py:1: old is deprecated", "mixed types", "nearly full"):
        assert heard in text
