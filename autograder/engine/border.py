"""What comes out of the sandbox is made harmless here, once, before anything else looks at it.

A submission's process can send any text, number or picture that a frame holds. Behind `clean` there is no lone
surrogate, no control or bidirectional character, no text longer than it may be, and no more items than there may be;
behind `picture` an image is one that this process has decoded and written again.
"""

from __future__ import annotations

import base64
import io
import re
from typing import Any

#: Most characters of one text in an observation; the probes themselves cut at as many.
MAX_TEXT = 2_000
#: Most items, of all levels together, of what one order answers: ten times what the largest observation has.
MAX_ITEMS = 200_000
#: Most bits of a number: an honest one has 64.
MAX_BITS = 1_024
#: Most pixels of a picture, and bytes of it when it comes and goes.
MAX_PIXELS, MAX_PICTURE = 4_000_000, 3_000_000
#: Control characters but tab and new line, lone surrogates, and what turns the direction of text around.
_ODD = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


class Malformed(Exception):
    """What came is of a form that nothing in the sandbox makes."""


def text(value: str, most: int = MAX_TEXT) -> str:
    """A text that any terminal, file and database takes: odd characters replaced, cut at ``most`` characters."""
    if len(value) > most:
        value = value[:most]
    return value if value.isprintable() else _ODD.sub("\ufffd", value.replace("\r\n", "\n").replace("\r", "\n"))


def clean(value: Any, most: int = MAX_TEXT) -> Any:
    """Plain data as it came over the wire, with every text and key as `text` makes it.

    Raises:
        Malformed: it has too many items, or a number of too many digits.
    """
    left = MAX_ITEMS

    def copy(value: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise Malformed(f"more than {MAX_ITEMS:,} items")
        kind = type(value)
        if kind is str:
            return text(value, most)
        if kind is list:
            return [copy(item) for item in value]
        if kind is dict:
            return {text(key, 200): copy(item) for key, item in value.items()}
        if kind is int and value.bit_length() > MAX_BITS:
            raise Malformed(f"a number of {value.bit_length():,} bits")
        if value is None or kind in (int, float, bool) or kind.__module__ == "numpy":  # an array of the wire's
            return value
        raise Malformed(f"a {kind.__name__}")

    return copy(value)


def texts(value: Any, most: int = 50) -> list[str]:
    """The texts in a list, short and few; nothing of what is not one."""
    return [text(item, 200) for item in value[:most] if type(item) is str] if type(value) is list else []


def picture(data: str, kind: str) -> str | None:
    """A PNG or JPEG in base64, decoded and written again, so that nothing but its pixels is left; None if it is none.

    Args:
        data: base64.
        kind: ``"image/png"`` or ``"image/jpeg"``.
    """
    from PIL import Image

    try:
        raw = base64.b64decode("".join(data[: 2 * MAX_PICTURE].split()), validate=True)
        image = Image.open(io.BytesIO(raw), formats=["PNG" if kind == "image/png" else "JPEG"])
        if image.width * image.height > MAX_PIXELS or getattr(image, "n_frames", 1) > 1:
            return None
        wanted = "L" if image.mode in ("1", "L") else "RGBA" if image.mode == "RGBA" else "RGB"
        pixels = image.convert(wanted)
        clean = Image.frombytes(wanted, pixels.size, pixels.tobytes())  # without what else the file said
        out = io.BytesIO()
        if kind == "image/png":
            clean.save(out, "PNG", compress_level=1)
        else:
            clean.save(out, "JPEG", quality=90)
    except Exception:  # whatever a parser of a stranger's bytes stumbles over
        return None
    return base64.b64encode(out.getvalue()).decode() if out.tell() <= MAX_PICTURE else None
