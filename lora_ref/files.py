"""Write a file whole or not at all; print what an output cannot show."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to, which becomes ``path`` if the block ends well and is removed if not.

    The file is readable as other new files are; some libraries make theirs for the owner alone.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "notes.txt"
        >>> with whole_file(path) as unfinished:
        ...     _ = unfinished.write_text("all of it")
        ...     path.exists()
        ...
        False
        >>> path.read_text()
        'all of it'
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.touch()
        mode = unfinished.stat().st_mode
        yield unfinished
        unfinished.chmod(mode)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def print_anything() -> None:
    r"""Let stdout and stderr take every character; one that they can't show is printed as an escape.

    Windows gives what is piped or sent to a file the system's old code page, and Python would raise in the middle.

    Example:
        >>> import io
        >>> with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), "cp1252")) as piped:
        ...     print_anything()
        ...     print("the number π", end="", flush=True)
        ...
        >>> piped.buffer.getvalue()
        b'the number \\u03c0'
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
