"""Plain data over a stream socket: a length-prefixed frame of JSON, and the raw bytes of its arrays.

    magic (4) | bytes of JSON (u32) | bytes of arrays (u32) | JSON | arrays

The other side may be hostile: nothing is unpickled, every length is checked before memory is taken for it, and arrays
have one of a few dtypes and exactly the bytes that their shape asks for.
"""

from __future__ import annotations

import json
import math
import socket
import struct
import time
from typing import Any

import numpy as np

MAGIC = b"LoR1"
HEAD = struct.Struct("<4sII")
#: Largest JSON part and largest sum of arrays of one frame, in bytes.
MAX_JSON = 8_000_000
MAX_ARRAYS = 40_000_000
#: Most elements of all arrays of a frame: forty times what the largest observation has.
MAX_ELEMENTS = 1_000_000
#: Most arrays of a frame.
MAX_PARTS = 10_000
#: Deepest nesting; the probes' observations need five.
MAX_DEPTH = 32
DTYPES = {"|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8"}
#: A dict with this one key stands for an array: its number among the frame's arrays.
ARRAY = "\0array"
#: What a reader's page shows of outputs. HTML and JavaScript of a submission would run in the grader's browser; of
#: Markdown and LaTeX, in which they may stand, the gradebook's notebooks have a harmless form (`results.harmless`).
MIME_TYPES = ("text/plain", "text/markdown", "text/latex", "image/png", "image/jpeg")


class WireError(Exception):
    """The other side sent something that is not a frame, or too large a one."""


class Closed(Exception):
    """The other side is gone."""


def encode(value: Any) -> bytes:
    """A frame for a value of dicts with string keys, lists, tuples, str, int, float, bool, None and arrays.

    Raises:
        WireError: it holds something else, or is too large.
    """
    arrays: list[np.ndarray] = []
    tree = _lower(value, arrays, 0)
    blobs = [array.tobytes() for array in arrays]
    head = {"value": tree, "arrays": [[array.dtype.str, list(array.shape)] for array in arrays]}
    text = json.dumps(head, separators=(",", ":")).encode("utf-8", "surrogatepass")
    size = sum(map(len, blobs))
    if len(text) > MAX_JSON or size > MAX_ARRAYS:
        raise WireError(f"a frame of {len(text):,} and {size:,} bytes; at most {MAX_JSON:,} and {MAX_ARRAYS:,}")
    return b"".join([HEAD.pack(MAGIC, len(text), size), text, *blobs])


def _lower(value: Any, arrays: list[np.ndarray], depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise WireError("nested too deeply")
    kind = type(value)
    if value is None or kind in (str, int, float, bool):
        return value
    if kind in (list, tuple):
        return [_lower(item, arrays, depth + 1) for item in value]
    if kind is dict:
        if any(type(key) is not str or key == ARRAY for key in value):
            raise WireError("keys must be strings")
        return {key: _lower(item, arrays, depth + 1) for key, item in value.items()}
    if kind is np.ndarray and value.dtype.str in DTYPES:
        arrays.append(value)
        return {ARRAY: len(arrays) - 1}
    raise WireError(f"{kind.__name__} cannot be sent")


def decode(text: bytes, blob: bytes) -> Any:
    """The value of a frame's two parts.

    Raises:
        WireError: they are not what `encode` writes.
    """
    try:
        head = json.loads(text)
        specs = head["arrays"]
        arrays, at, elements = [], 0, 0
        if len(specs) > MAX_PARTS:
            raise WireError(f"more than {MAX_PARTS:,} arrays")
        for dtype, shape in specs:
            if dtype not in DTYPES or len(shape) > 16 or any(type(n) is not int or n < 0 for n in shape):
                raise WireError("an array of a dtype or shape that is not allowed")
            elements += math.prod(shape)
            if elements > MAX_ELEMENTS:
                raise WireError(f"arrays of more than {MAX_ELEMENTS:,} elements")
            size = math.prod(shape) * np.dtype(dtype).itemsize
            if size > len(blob) - at or any(n > MAX_ARRAYS for n in shape):
                raise WireError("an array larger than its bytes")
            arrays.append(np.frombuffer(blob, dtype, math.prod(shape), at).reshape(shape).copy())
            at += size
        if at != len(blob):
            raise WireError("bytes that belong to no array")
        return _raise(head["value"], arrays, 0)
    except (ValueError, KeyError, TypeError, IndexError, RecursionError, OverflowError) as error:
        raise WireError(f"no valid frame: {type(error).__name__}") from None


def _raise(value: Any, arrays: list[np.ndarray], depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise WireError("nested too deeply")
    if type(value) is list:
        return [_raise(item, arrays, depth + 1) for item in value]
    if type(value) is dict:
        if ARRAY in value:
            number = value[ARRAY]
            if len(value) != 1 or type(number) is not int or not 0 <= number < len(arrays):
                raise WireError("an array that is not there")
            return arrays[number]
        return {key: _raise(item, arrays, depth + 1) for key, item in value.items()}
    return value


def send(channel: socket.socket, value: Any, seconds: float | None = None) -> None:
    """Send one frame.

    Raises:
        Closed, TimeoutError, WireError: as their names say.
    """
    send_frame(channel, encode(value), seconds)


def send_frame(channel: socket.socket, frame: bytes, seconds: float | None = None) -> None:
    """Send what `encode` made.

    Raises:
        Closed, TimeoutError: as their names say.
    """
    try:
        channel.settimeout(seconds)
        channel.sendall(frame)
    except TimeoutError:
        raise
    except OSError as error:
        raise Closed(str(error)) from None


def receive(channel: socket.socket, seconds: float | None = None, limit: int = MAX_JSON) -> Any:
    """Wait at most ``seconds`` (None: forever) for a whole frame whose JSON has at most ``limit`` bytes.

    Raises:
        Closed, TimeoutError, WireError: as their names say. After WireError the stream cannot be read on.
    """
    until = None if seconds is None else time.monotonic() + seconds
    magic, text, blob = HEAD.unpack(_exactly(channel, HEAD.size, until))
    if magic != MAGIC or text > limit or blob > MAX_ARRAYS:
        raise WireError(f"no frame, or one of {text:,} and {blob:,} bytes")
    return decode(_exactly(channel, text, until), _exactly(channel, blob, until))


def _exactly(channel: socket.socket, size: int, until: float | None) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        left = None if until is None else until - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError
        try:
            channel.settimeout(left)
            part = channel.recv(min(size - len(parts), 1 << 20))
        except TimeoutError:
            raise
        except OSError as error:
            raise Closed(str(error)) from None
        if not part:
            raise Closed("the other side is gone")
        parts += part
    return bytes(parts)
