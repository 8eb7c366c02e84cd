"""Framing, and the names of runs."""

import os
import re
import socket
import uuid

import pytest

from airtight.errors import TerminalError
from runtime import protocol
from runtime.attempts import context_name
from runtime.protocol import CompileRequest, NodeRequest, Outcome, run_key

REQUESTS = [
    NodeRequest("b.json", "node", "run", "1", "/home", {"a": 1, "b": "x", "c": 0.5}, {"try_number": 2}),
    NodeRequest(
        *("b.json", "node", "run", "2", "/home"),
        earlier=("1",),
        unreported=("1",),
        again=True,
        inputs={"other": 3},
        pending=("another",),
    ),
    CompileRequest("words", "/home"),
    CompileRequest("words", "/home", {"n": 1}, paths=("/a",), others=(("other", {"n": 2}), ("third", {}))),
]


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_request_and_the_output_descriptor_arrive_whole(request_):
    ours, theirs = socket.socketpair()
    read, write = os.pipe()
    with ours, theirs:
        socket.send_fds(ours, [protocol.encode_request(request_)], [write])
        message, output = protocol.receive_with_output(theirs)
        assert protocol.decode_request(message) == request_
        os.write(output, b"hello")
        assert os.read(read, 10) == b"hello"


def test_an_outcome_arrives_whole_and_raises_in_its_family():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sent = Outcome.failure(TerminalError("no", expected="yes"), 7)
        ours.sendall(protocol.encode_outcome(sent))
        got = protocol.decode_outcome(protocol.receive(theirs))
    assert got == sent
    with pytest.raises(TerminalError, match="no"):
        got.raise_if_failed()


@pytest.mark.parametrize("sent", [b"", b"\0\0", b"\0\0\0\x05ab", b"\xff\xff\xff\xff"])
def test_a_broken_frame_is_no_frame(sent):
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            ours.sendall(sent)
        assert protocol.receive(theirs) is None


def test_run_keys_are_readable_safe_and_different():
    ids = ["manual__2013-06-01T00:00:00+00:00", "manual__2013-06-01T00-00-00-00-00", "a/../b", "ä", "plain_1"]
    long = ["r" * 250, "r" * 249 + "s", "s" + "r" * 249]
    names = [("dag", run_id) for run_id in (*ids, *long)]
    names += [("dag", "group", "c"), ("dag", "group.c"), ("dag", "", "group", "c"), ("dag", "group", "", "c")]
    names += [("dag", "plain", "1"), ("dag", run_key("dag", "plain_1").removeprefix("dag.")), ("d" * 250, "a")]
    keys = {run_key(*of_one) for of_one in names}
    assert len(keys) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", key) for key in keys)
    assert run_key("dag", "plain_1").startswith("dag.plain_1-")


def test_the_names_of_an_attempt_fit_ml_metadata():
    run = run_key(*(letter * 250 for letter in "dgr"))
    name = context_name(run, "n" * 250, str(uuid.uuid4()))
    assert len(name) <= 255
    assert name != context_name(run, "n" * 249 + "m", name.rpartition("/")[2])


@pytest.mark.parametrize("length", [20, 300])
def test_a_socket_is_reached_however_long_its_path(tmp_path, length):
    path = tmp_path / ("x" * (length // 2)) / ("y" * (length // 2)) / "some.sock"
    with pytest.raises(FileNotFoundError), protocol.socket_address(path) as address, socket.socket(socket.AF_UNIX) as s:
        s.connect(address)
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        with protocol.socket_address(path) as address:
            listener.bind(address)
        listener.listen()
        assert path.is_socket()
        with protocol.socket_address(path) as address:
            client.connect(address)
