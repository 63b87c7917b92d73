"""Frames between the grader and a process that may be hostile."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import random
import socket
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autograder.engine import border, oracle
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


@pytest.mark.parametrize("odd", ["\ud800", "\x1b[31m", "\x9b", "\u202e", "a\x00b"])
def test_behind_the_border_every_text_can_be_shown_and_kept(odd):
    kept = border.clean({odd: [odd, {"text": odd * 5_000}], "array": np.ones(2), "n": 1.5, "fine": "é\tπ\n😀"})
    assert kept["fine"] == "é\tπ\n😀"
    text = json.dumps({k: v for k, v in kept.items() if k != "array"}, ensure_ascii=False)
    text.encode()
    assert not set(odd) & set(text) - set("ab[31m")
    assert len(text) < 2 * border.MAX_TEXT


def test_the_border_bounds_items_and_numbers():
    for value in ([[]] * 300_000, 10**5000):
        with pytest.raises(border.Malformed):
            border.clean(value)


def test_a_picture_is_its_pixels_alone():
    from PIL import Image, PngImagePlugin

    info, out = PngImagePlugin.PngInfo(), io.BytesIO()
    info.add_text("answers", "secret")
    Image.new("RGB", (4, 3), "red").save(out, "PNG", pnginfo=info)
    data = base64.b64encode(out.getvalue() + b"secret").decode()
    kept = base64.b64decode(border.picture(data, "image/png"))
    assert b"secret" not in kept
    assert Image.open(io.BytesIO(kept)).getpixel((1, 1)) == (255, 0, 0)
    for bad in ("", "no picture \ud800", data[:40], base64.b64encode(b"x").decode()):
        assert border.picture(bad, "image/png") is None


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=100, deadline=None)
@given(plain)
def test_fuzzed_values_pass_the_border_or_are_refused(value):
    with contextlib.suppress(border.Malformed):
        json.dumps(border.clean(value), ensure_ascii=False).encode()
    json.dumps(oracle.clean_outputs([{"output_type": "error", "traceback": value, "ename": value}], 1)).encode()
