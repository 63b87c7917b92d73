"""Pictures out of a student's notebook, made new: what reaches a page is a PNG that this program wrote."""

from __future__ import annotations

import base64
import binascii
import io

#: Bytes that are looked at, and pixels that are decoded; a larger picture is not shown.
MOST_BYTES, MOST_PIXELS = 1_200_000, 8_000_000
#: A wider or higher picture is made smaller, in pixels.
SIDE = 1_600


def png(data: str) -> str:
    """A base64 PNG, decoded and encoded again; "" if it is none, or too large.

    Only the pixels survive: no text, no profile, no bytes after the end.
    """
    from PIL import Image

    if len(data) > 4 * MOST_BYTES // 3:
        return ""
    try:
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True)), formats=["PNG"]) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                return ""
            picture.load()
            pixels = picture.convert("RGBA")
    except (
        binascii.Error,
        OSError,
        ValueError,
        SyntaxError,
        ArithmeticError,
        MemoryError,
        Image.DecompressionBombError,
    ):
        return ""
    white = Image.new("RGB", pixels.size, "white")
    white.paste(pixels, mask=pixels.getchannel("A"))
    white.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    white.save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()
