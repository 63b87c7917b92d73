"""What has been graded: one file for each result, written whole, never changed.

A result's key is made of the submission, the assignment, the environment and the seed. If the file is there, the work
is done; after ``kill -9`` a run goes on with what is missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from autograder.engine import border
from autograder.engine.assignment import digest
from autograder.files import write_whole


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """One run at a time writes ``out`` (BlockingIOError: another one does; OSError: it cannot be written)."""
    lock = FileLock(out / ".grading" / "lock")
    try:
        (out / ".grading").mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise BlockingIOError(f"another run is writing {out}") from None
    except NotImplementedError:
        raise OSError(f"the file system of {out} has no locks: choose a folder on another") from None
    except OSError as error:
        raise OSError(f"cannot write {out}: {error.strerror}") from None
    try:
        yield
    finally:
        lock.release()


class Store:
    """Results in ``folder``: ``results/KEY.N.json``, of which the largest N counts, and ``run.json`` with the seed."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "results").mkdir(parents=True, exist_ok=True)
        self._newest: dict[str, int] = {}
        for path in (folder / "results").glob("*.*.json"):
            key, number, _ = path.name.split(".")
            self._newest[key] = max(int(number), self._newest.get(key, 0))

    def seed(self, wanted: int | None = None) -> int:
        """The run's seed: ``wanted``, or the recorded one, or a new one; it is recorded."""
        path = self.folder / "run.json"
        known = json.loads(path.read_text(encoding="utf-8"))["seed"] if path.exists() else None
        seed = wanted if wanted is not None else known if known is not None else secrets.randbits(128)
        if seed != known:
            write_whole(path, json.dumps({"seed": seed}).encode())
        return seed

    def __contains__(self, key: str) -> bool:
        return key in self._newest

    def number(self, key: str) -> int:
        """How many results there have been for a key."""
        return self._newest.get(key, 0)

    def get(self, key: str) -> dict[str, Any]:
        """The newest result for a key (KeyError: there is none)."""
        text = (self.folder / "results" / f"{key}.{self._newest[key]}.json").read_text(encoding="utf-8")
        record = json.loads(text)
        return border.clean(record, len(text)) if "\\ud" in text else record  # an earlier version kept what came

    def put(self, key: str, record: dict[str, Any]) -> None:
        """Add a result."""
        number = self._newest.get(key, 0) + 1
        write_whole(self.folder / "results" / f"{key}.{number}.json", json.dumps(record).encode())
        self._newest[key] = number


def key_of(*parts: Any) -> str:
    """A key for everything that a result depends on."""
    return digest(json.dumps(parts).encode())


def seed_of(run_seed: int, stage: str, student: str, submitted: str = "") -> int:
    """A submission's seed of 128 bits, from the run's, and from the hash of what was handed in.

    So who hands in again is asked something else than what the feedback on the last try tells of.
    """
    return int(hashlib.sha256(f"{run_seed}/{stage}/{student}/{submitted}".encode()).hexdigest()[:32], 16)
