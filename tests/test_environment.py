"""A notebook's surroundings: no home, a home that cannot be written to, packages that are missing."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.version import Version

from lora_ref import assets, environment, packages

CHANGED = ("HOME", "USER", "XDG_CACHE_HOME", "MPLCONFIGDIR", "LORA_CACHE", "PYTHONPATH")


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Where the stand-in for a home will be, and nothing chosen; all is put back afterwards."""
    for name in CHANGED:
        monkeypatch.setenv(name, "to be put back")
        if name != "HOME":
            monkeypatch.delenv(name)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    environment._stand_in.cache_clear()
    yield tmp_path / f"lora-from-scratch-{os.getuid()}"
    environment._stand_in.cache_clear()


def no_entry(*_):
    raise KeyError("getpwuid(): uid not found: 12345")


@pytest.mark.parametrize("home", [None, "/missing/x", "relative"])
def test_without_a_home_a_folder_stands_in(stand_in, monkeypatch, home):
    import pwd

    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    for name in ("LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    if home is None:
        monkeypatch.delenv("HOME")
    else:
        monkeypatch.setenv("HOME", home)
    assert assets.cache_dir() == stand_in / ".cache" / "lora_ref", "also where no notebook has set anything up"
    assert environment.make_usable() == [f"there is no home folder here, so caches go to {stand_in}"]
    assert Path.home() == stand_in
    assert stand_in.stat().st_mode & 0o777 == 0o700
    assert getpass.getuser() == "student"
    assert environment.make_usable() == [], "the next kernel, or the same cell again"


def test_a_home_that_cannot_be_written_to_keeps_what_it_has(stand_in, tmp_path, monkeypatch):
    home = tmp_path / "home"
    (home / ".cache" / "lora_ref" / "p-1").mkdir(parents=True)
    (home / ".cache" / "lora_ref" / "p-1" / "words.txt").touch()
    monkeypatch.setenv("HOME", str(home))
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: home not in (path, *path.parents) and access(path, mode))
    assert environment.make_usable() == [f"{home} cannot be written to, so caches go to {stand_in}"]
    assert Path.home() == home
    assert os.environ["XDG_CACHE_HOME"] == str(stand_in / ".cache")
    assert os.environ["MPLCONFIGDIR"] == str(stand_in / ".config" / "matplotlib")
    assert assets.cache_dir() == home / ".cache" / "lora_ref"
    shutil.rmtree(home / ".cache" / "lora_ref" / "p-1")
    for name in CHANGED[2:]:
        os.environ.pop(name, None)
    environment.make_usable()
    assert assets.cache_dir() == stand_in / ".cache" / "lora_ref"


def test_an_ordinary_home_is_left_alone(stand_in, tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    before = dict(os.environ)
    assert environment.make_usable() == []
    assert dict(os.environ) == before
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_folder_that_somebody_else_may_write_to_does_not_stand_in(stand_in, monkeypatch):
    stand_in.mkdir()
    stand_in.chmod(0o777)
    monkeypatch.setenv("HOME", "/missing")
    environment.make_usable()
    assert Path.home() != stand_in
    assert Path.home().parent == stand_in.parent


@pytest.fixture
def course(monkeypatch):
    """The course needs torch in a version that is not here, filelock, and a package that is missing."""
    wanted = {"torch": "torch>=99", "filelock": "filelock", "no_such": "no_such>=1"}
    monkeypatch.setattr(packages, "requirements", lambda: wanted)
    calls = []

    def run(command, **_):
        calls.append(command)
        return SimpleNamespace(returncode=course.status, stderr=course.says)

    monkeypatch.setattr(subprocess, "run", run)
    course = SimpleNamespace(calls=calls, status=0, says="")
    return course


def test_only_what_is_missing_is_installed(course):
    torch, filelock = map(packages.version_of, ("torch", "filelock"))
    assert environment.install_missing() == [
        f"torch {torch} is here; the course is made for torch>=99, so some cells may fail",
        "installed no_such>=1",
    ]
    (command,) = course.calls
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert command[-3:] == ["no_such>=1", f"torch=={torch}", f"filelock=={filelock}"]


def test_an_environment_that_pip_may_not_change_is_explained(course):
    course.status, course.says = 1, "error: externally-managed-environment\n\n× This environment is ...\n"
    line = environment.install_missing()[-1]
    assert line.startswith("missing: no_such>=1 (error: externally-managed-environment); to install: ")


@pytest.mark.parametrize("uv", ["/usr/bin/uv", None])
def test_without_pip_uv_serves_or_nothing_is_tried(course, monkeypatch, uv):
    version_of = packages.version_of
    monkeypatch.setattr(packages, "version_of", lambda name: None if name == "pip" else version_of(name))
    monkeypatch.setattr(shutil, "which", lambda _: uv)
    line = environment.install_missing()[-1]
    if uv:
        assert course.calls[0][:5] == [uv, "pip", "install", "--python", sys.executable]
    else:
        assert not course.calls
        assert line == "missing, and there is no pip to install it: no_such>=1"


@pytest.mark.parametrize(
    ("installed", "said"),
    [
        (None, "lora_ref 0.10.0 from a.zip"),
        ("0.9.0", "lora_ref 0.10.0 from a.zip replaces 0.9.0 in this notebook; run all cells again if some ran before"),
        ("0.10.0", ""),
        ("0.11.0", "lora_ref 0.11.0, which is installed, is newer than a.zip, and stays"),
    ],
)
def test_a_line_says_which_version_serves(stand_in, tmp_path, monkeypatch, capsys, installed, said):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(packages, "requirements", dict)
    environment.prepare(Path("a.zip"), Version("0.10.0"), Version(installed) if installed else None)
    assert capsys.readouterr().out.strip() == said
    assert ("PYTHONPATH" in os.environ) == ("from a.zip" in said)
