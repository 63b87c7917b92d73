"""Pictures in a student's Markdown: PNG and JPEG, decoded and encoded again, so that only the pixels are left."""

from __future__ import annotations

import base64
import io
import re
from typing import Any

#: Most pictures of one notebook, bytes of one, its pixels, and the longest side that is kept.
MAX_PICTURES, MAX_BYTES, MAX_PIXELS, LONGEST = 12, 8_000_000, 30_000_000, 1600
#: What a picture is called in the notebook that a grader reads.
NAME = r"picture-[0-9]+\.(?:png|jpeg)"
INLINE = re.compile(r"!\[([^\[\]\n]{0,200})\]\(data:image/\w{1,10};base64,([A-Za-z0-9+/=\s]+)\)")


class Pictures:
    """The pictures of one notebook."""

    def __init__(self, notes: list[str]):
        self.notes, self.count = notes, 0

    def of(self, cell: dict[str, Any], text: str) -> tuple[str, dict[str, Any]]:
        """A Markdown cell's text with references to the pictures that are kept, and these as attachments.

        Jupyter attaches a picture to its cell; Colab writes it into the text.
        """
        kept: dict[str, Any] = {}

        def keep(data: Any) -> str:
            """The reference to a picture; "" if it is not kept."""
            encoded = data if isinstance(data, str) else "".join(map(str, data)) if isinstance(data, list) else ""
            again = encode_again(encoded) if self.count < MAX_PICTURES else None
            self.count += 1
            if again is None:
                self.notes.append("a picture in the text can't be shown here; open the student's own file")
                return "(a picture that can't be shown here)"
            kind, encoded = again
            name = f"picture-{self.count}.{kind}"
            kept[name] = {f"image/{kind}": encoded}
            return f"attachment:{name}"

        def inline(match: re.Match) -> str:
            reference = keep(match[2])
            return f"![{match[1]}]({reference})" if reference.startswith("attachment:") else reference

        if "base64," in text:
            text = INLINE.sub(inline, text)
        attached = cell.get("attachments")
        bundles = list(attached.items())[:MAX_PICTURES] if isinstance(attached, dict) else []
        data = {name: next(iter(bundle.values()), "") if isinstance(bundle, dict) else "" for name, bundle in bundles}
        left = {name: keep(picture) for name, picture in data.items()}
        references = dict(left)

        def shown(alt: str, name: str) -> str:
            reference = references[name]
            return f"![{alt}]({reference})" if reference.startswith("attachment:") else reference

        def refer(match: re.Match) -> str:
            left.pop(match[2], None)
            return shown(match[1], match[2])

        if names := "|".join(re.escape(name) for name in references if len(name) <= 300):
            text = re.sub(rf"!\[([^\[\]\n]{{0,200}})\]\(attachment:({names})\)", refer, text)
        return "\n\n".join([text, *(shown(name[:60], name) for name in left)]), kept


def encode_again(encoded: str) -> tuple[str, str] | None:
    """A picture's kind and its data, made again, in base64; None if it is not a PNG or JPEG, damaged, or too large."""
    from PIL import Image

    if len(encoded) > MAX_BYTES * 4 // 3:
        return None
    try:
        with Image.open(io.BytesIO(base64.b64decode(encoded)), formats=("PNG", "JPEG")) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                return None
            kind = str(picture.format)
            plain = picture.convert("RGB" if kind == "JPEG" else "RGBA")
        plain.thumbnail((LONGEST, LONGEST))
        clean = Image.frombytes(plain.mode, plain.size, plain.tobytes())  # pixels, and nothing else of the file
        buffer = io.BytesIO()
        clean.save(buffer, kind)
    except Exception:  # whatever a parser of a stranger's bytes stumbles over
        return None
    return kind.lower(), base64.b64encode(buffer.getvalue()).decode()
