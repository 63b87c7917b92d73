"""Frames between the grader and a process that may be hostile."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import threading

import numpy as np
import pytest

from autograder.engine.inside import wire


def through(value):
    frame = wire.encode(value)
    _, text, _ = wire.HEAD.unpack(frame[: wire.HEAD.size])
    body = frame[wire.HEAD.size :]
    return wire.decode(body[:text], body[text:])


def test_values_come_through_exactly():
    arrays = [np.arange(6).reshape(2, 3).astype(kind) for kind in ("f4", "f8", "i8", "u1", "?")]
    arrays += [np.zeros((0, 3)), np.array(3.5), np.array([np.nan, -np.inf, -0.0])]
    value = {"a": arrays, "b": [1, 1.5, True, None, "é\x00\ud800"], "c": {"d": float("inf"), "e": 2**70}}
    got = through(value)
    for one, other in zip(value["a"], got.pop("a"), strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert one.tobytes() == other.tobytes()
    assert got == {key: value[key] for key in "bc"}


@pytest.mark.parametrize(
    "value", [object(), {1: 2}, {wire.ARRAY: 0}, np.array([object()]), np.array(["x"]), 1j, {1}, b"x"]
)
def test_other_types_are_refused(value):
    with pytest.raises(wire.WireError):
        wire.encode(value)


@pytest.mark.parametrize(
    ("head", "blob"),
    [
        ({"value": {wire.ARRAY: 0}, "arrays": []}, b""),
        ({"value": {wire.ARRAY: True}, "arrays": [["<f8", [1]]]}, b"12345678"),
        ({"value": 1, "arrays": [["|O", [1]]]}, b"12345678"),
        ({"value": 1, "arrays": [["<f8", [2]]]}, b"12345678"),
        ({"value": 1, "arrays": [["<f8", [-1]]]}, b""),
        ({"value": 1, "arrays": [["<f8", [10**30, 0]]]}, b""),
        ({"value": 1, "arrays": [["<f8", [1.0]]]}, b"12345678"),
        ({"value": 1, "arrays": []}, b"left over"),
        ({"value": 1}, b""),
        ([], b""),
        (3, b""),
    ],
)
def test_malformed_frames(head, blob):
    with pytest.raises(wire.WireError):
        wire.decode(json.dumps(head).encode(), blob)


def test_deep_and_long_frames():
    for text in (b"[" * 100_000, b'{"value": ' + b"9" * 5000 + b', "arrays": []}', b"\xff", b""):
        with pytest.raises(wire.WireError):
            wire.decode(text, b"")


def test_random_bytes_never_do_anything_else():
    generator = random.Random(0)
    frame = wire.encode({"seen": {"y": np.ones((3, 4)), "text": "x"}, "n": [1, 2]})
    for _ in range(2000):
        data = bytearray(frame)
        for _ in range(generator.randrange(1, 6)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        mine, other = socket.socketpair()
        with mine, other:
            other.sendall(data)
            other.shutdown(socket.SHUT_WR)
            with contextlib.suppress(wire.WireError, wire.Closed):
                wire.receive(mine, 1, limit=10_000)


def test_time_and_size_are_bounded():
    mine, other = socket.socketpair()
    with mine, other:
        with pytest.raises(TimeoutError):
            wire.receive(mine, 0.05)
        other.sendall(wire.HEAD.pack(wire.MAGIC, 2**31, 0))
        with pytest.raises(wire.WireError):
            wire.receive(mine, 1)
    mine, other = socket.socketpair()
    with mine, other:  # a byte at a time does not buy time
        stop = threading.Event()

        def trickle():
            while not stop.wait(0.02):
                try:
                    other.send(b"L")
                except OSError:
                    return

        thread = threading.Thread(target=trickle)
        thread.start()
        with pytest.raises((TimeoutError, wire.WireError)):
            wire.receive(mine, 0.1)
        stop.set()
        thread.join()
