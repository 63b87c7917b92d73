"""The set-up's search for `lora_ref`, as a plain function, over the places and names that files come to have."""

from __future__ import annotations

import os
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace

import pytest
from handed_in import zipped

from autograder.publish import bootstrap

WHEEL = "lora_ref-{}-py3-none-any.whl"
ZIP = "lora-from-scratch-{}.zip"
DRIVE = "content/drive/MyDrive"
FOLDER = "lora-from-scratch"


def wheel(version: str) -> bytes:
    return zipped({"lora_ref/__init__.py": b"", f"lora_ref-{version}.dist-info/METADATA": b""})


def release(version: str) -> bytes:
    inside = WHEEL.format(version)
    odd = {f"__MACOSX/{FOLDER}/._{inside}": b"", f"{FOLDER}/START.html": b""}
    return zipped({f"{FOLDER}/{inside}": wheel(version), **odd})


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine without `lora_ref`: `put` lays a file down, `install` a version, `find` looks from a folder."""
    root = tmp_path / "a" / "b" / "c" / "d"  # no search comes out of this
    (root / "content").mkdir(parents=True)
    python = SimpleNamespace(path=[], modules={"torch": 1})
    spec: list[ModuleSpec] = []
    find_spec = lambda name: spec[0] if spec else None  # noqa: E731
    util = SimpleNamespace(find_spec=find_spec)
    monkeypatch.setattr(bootstrap, "sys", python)
    monkeypatch.setattr(bootstrap, "importlib", SimpleNamespace(util=util, invalidate_caches=lambda: None))

    def put(path: str, version: str = "", content: bytes | None = None) -> Path:
        """The wheel or the zip of a version; its name in `path` may have a place for the version."""
        file = root / path.format(version)
        file.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            content = wheel(version) if file.suffix == ".whl" else release(version)
        file.write_bytes(content)
        return file

    def install(version: str | None) -> None:
        """None: a checkout, which has no metadata beside it."""
        site = root / "site"
        (site / "lora_ref").mkdir(parents=True)
        if version:
            (site / f"lora_ref-{version}.dist-info").mkdir()
        spec.append(ModuleSpec("lora_ref", None, origin=str(site / "lora_ref" / "__init__.py")))

    def find(*starts: str):
        return bootstrap.find_lora_ref(*(root / start for start in starts or ("content",)), content=root / "content")

    return SimpleNamespace(root=root, put=put, install=install, find=find, python=python)


@pytest.mark.parametrize(
    ("place", "start"),
    [
        (f"content/{WHEEL}", "content"),
        (f"content/{ZIP}", "content"),
        (f"content/{FOLDER}/{WHEEL}", "content"),
        (f"content/{FOLDER}-0.1.0/{FOLDER}/{WHEEL}", "content"),
        (f"content/week 3 [new]/{ZIP}", "content"),
        (f"{FOLDER}/{WHEEL}", "content"),  # beside it
        (f"content/{FOLDER}/{WHEEL}", f"content/{FOLDER}/notebooks/01_rank_theory"),
        (f"home/{FOLDER}/{WHEEL}", f"home/{FOLDER}/notebooks/01_rank_theory"),
        (f"home/{ZIP}", f"home/{FOLDER}/notebooks/01_rank_theory"),
        (f"home/LoRA course/{ZIP}", "home/work"),
        (f"content/{ZIP}", "elsewhere"),  # a notebook's folder that was changed
        (f"{DRIVE}/{WHEEL}", "content"),
        (f"{DRIVE}/{ZIP}", "content"),
        (f"{DRIVE}/Colab Notebooks/{ZIP}", "content"),
        (f"{DRIVE}/Colab Notebooks/{FOLDER}/{WHEEL}", "content"),
        (f"{DRIVE}/Colab Notebooks/{FOLDER}-0.1.0/{FOLDER}/{WHEEL}", "content"),
        (f"{DRIVE}/courses/deep/{WHEEL}", "content"),
    ],
)
def test_a_place_where_it_is_found(machine, place, start):
    (machine.root / start).mkdir(parents=True, exist_ok=True)
    file = machine.put(place, "0.1.0")
    found, version, installed = machine.find(start)
    assert (found, str(version), installed) == (file, "0.1.0", None)
    unpacked = Path(machine.python.path[0])
    assert (unpacked / "lora_ref" / "__init__.py").is_file()
    assert machine.root not in unpacked.parents  # the notebook's folder may be read-only


@pytest.mark.parametrize(
    "name",
    [
        "lora_ref-0.1.0-py3-none-any (1).whl",
        "lora_ref-0.1.0-py3-none-any(1).whl",
        "lora_ref-0.1.0-py3-none-any-2.whl",
        "lora_ref-0.1.0-py3-none-any - Copy.whl",
        "Copy of lora_ref-0.1.0-py3-none-any.whl",
        "lora-from-scratch (2).zip",
        "lora-from-scratch-0.1.0 (2).zip",
        "48151_lora-from-scratch-0.1.0.zip",
    ],
)
def test_what_browsers_and_drives_make_of_the_name(machine, name):
    file = machine.put(f"content/{name}", "0.1.0")
    assert machine.find()[0] == file


@pytest.mark.parametrize(
    ("older", "newer"),
    [("0.9", "0.10"), ("0.2.0", "0.10.0"), ("0.1.0", "0.1.1"), ("1.0rc1", "1.0"), ("0.1.0", "0.1.0.post1")],
)
@pytest.mark.parametrize("place", [f"content/{WHEEL}", f"content/{ZIP}", f"content/{{0}}/{FOLDER}/{WHEEL}"])
def test_of_two_versions_the_newer(machine, older, newer, place):
    place = place.replace("{}", "{0}")
    for number, version in enumerate((newer, older)):
        os.utime(machine.put(place, version), (number, number))  # the older one was downloaded later
    assert str(machine.find()[1]) == newer


def test_of_two_downloads_of_one_version_the_later(machine):
    for number, name in enumerate(("b", "a", "c")):
        os.utime(machine.put(f"content/{name}/{WHEEL}", "0.1.0"), (number % 2, number % 2))
    assert machine.find()[0].parent.name == "a"


@pytest.mark.parametrize("installed", ["0.1.0", "0.9.0", "0.10.0", "0.11.0"])
def test_an_installed_version_gives_way_to_a_newer_one_alone(machine, installed):
    machine.python.modules |= {"lora_ref": 1, "lora_ref.checks": 1, "lora_reference": 1}
    machine.install(installed)
    file = machine.put(f"content/{ZIP}", "0.10.0")
    found, version, before = machine.find()
    assert (found, str(version), str(before)) == (file, "0.10.0", installed)
    replaced = installed in ("0.1.0", "0.9.0")
    assert bool(machine.python.path) == replaced
    assert sorted(machine.python.modules) == (
        ["lora_reference", "torch"] if replaced else ["lora_ref", "lora_ref.checks", "lora_reference", "torch"]
    )


def test_a_checkout_stays_and_nothing_is_searched(machine, monkeypatch):
    machine.install(None)
    machine.put(f"content/{ZIP}", "9.0")
    monkeypatch.setattr(bootstrap, "wheels_below", lambda places: 1 / 0)
    assert machine.find() == (None, None, None)
    assert machine.python.path == []


def test_the_checkout_around_the_notebook_comes_first(machine):
    machine.put("repository/lora_ref/__init__.py", content=b"")
    machine.find("repository/notebooks/01_rank_theory")
    machine.find("repository/notebooks/01_rank_theory")
    assert machine.python.path == [str(machine.root / "repository")]


def test_nothing_is_found(machine):
    machine.put("content/lora-weights.zip", content=zipped({"model.safetensors": b""}))
    assert machine.find() == (None, None, None)


def test_a_damaged_download_is_named_and_another_serves(machine, capsys):
    machine.put(f"content/{WHEEL}", "0.2.0", wheel("0.2.0")[:100])
    machine.put("content/lora_ref-latest-py3-none-any.whl", "0.4.0")
    file = machine.put(f"content/{ZIP}", "0.1.0")
    assert machine.find()[0] == file
    said = capsys.readouterr().out
    assert said.count("cannot be read, download it again") == 1
    assert WHEEL.format("0.2.0") in said


@pytest.mark.parametrize(
    "place",
    [
        f"content/1/2/3/{WHEEL}",  # three levels down
        f"content/.hidden/{WHEEL}",
        f"home/Documents/{WHEEL}",  # beside the notebook's folder: perhaps somebody's whole home
        f"{DRIVE}/1/2/3/{WHEEL}",
    ],
)
def test_where_nobody_looks(machine, place):
    machine.put(place, "0.1.0")
    assert machine.find("content", "home/work") == (None, None, None)


def test_a_huge_drive_is_not_walked(machine, monkeypatch):
    for number in range(150):
        (machine.root / DRIVE / f"{number:03}" / "deeper").mkdir(parents=True)
    file = machine.put(f"{DRIVE}/zz LoRA/{FOLDER}/{WHEEL}", "0.1.0")
    opened = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda *place: opened.append(place) or scandir(*place))
    assert machine.find()[0] == file, "what has the course's name comes first"
    assert len(opened) < 700
    opened.clear()
    machine.put(f"content/{ZIP}", "0.1.0")
    assert machine.find()[0].parent.name == "content"
    assert len(opened) < 50, "Drive is left alone where something is nearer"
