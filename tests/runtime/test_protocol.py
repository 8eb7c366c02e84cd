"""Framing, and the names of runs."""

import os
import re
import socket

import pytest

from airtight.errors import TerminalError
from runtime import protocol
from runtime.protocol import CompileRequest, NodeRequest, Outcome, run_key

REQUESTS = [
    NodeRequest("b.json", "node", "run", "1", "/home", {"a": 1, "b": "x", "c": 0.5}, {"try_number": 2}),
    CompileRequest("words", "/home"),
]


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_request_and_the_output_descriptor_arrive_whole(request_):
    ours, theirs = socket.socketpair()
    read, write = os.pipe()
    with ours, theirs:
        socket.send_fds(ours, [protocol.encode_request(request_)], [write])
        told, output = protocol.receive_with_output(theirs)
        assert protocol.decode_request(told) == request_
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


def test_run_keys_are_safe_and_different():
    ids = ["manual__2013-06-01T00:00:00+00:00", "manual__2013-06-01T00-00-00-00-00", "a/../b", "ä"]
    keys = {run_key("dag", run_id) for run_id in ids}
    assert len(keys) == len(ids)
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+", key) for key in keys)
    assert run_key("dag", "plain_1") == "dag.plain_1"
