"""The doctor: right about what is there, and still talking where next to nothing is."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from toy_course import ROOT

import autograder.doctor
from lora_ref import assets, doctor
from lora_ref.__main__ import main
from lora_ref.doctor import BROKEN, MISSING, OK, Line

OFFLINE = {"HF_ENDPOINT": "http://127.0.0.1:9", "PIP_INDEX_URL": "http://127.0.0.1:9", "PIP_NO_INDEX": "1"}


@pytest.fixture
def bare(tmp_path):
    """A Python with no packages at all, beside a copy of `lora_ref`; `bare(code_of_torch)` runs the doctor there."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    (tmp_path / "lora_ref").symlink_to(ROOT / "lora_ref")
    (tmp_path / "pyproject.toml").symlink_to(ROOT / "pyproject.toml")

    def run(torch: str | None = None, version: str = "2.13.0"):
        if torch is not None:
            (site / "torch.py").write_text(torch)
            info = site / f"torch-{version}.dist-info"
            info.mkdir(exist_ok=True)
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        command = [tmp_path / "venv" / "bin" / "python", "-m", "lora_ref", "doctor", "--json"]
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **OFFLINE}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.stderr == ""
        report = json.loads(done.stdout)
        assert done.returncode == (not report["ok"])
        return {line["name"]: line for line in report["lines"]}

    return run


def test_where_everything_is_missing_it_still_says_so(bare):
    lines = bare()
    assert lines["Python"]["status"] == OK
    for name in ("torch", "numpy", "transformers", "datasets", "safetensors", "notebook kernel", "JupyterLab"):
        assert lines[name]["status"] == MISSING, name
        assert " -m pip install " in lines[name]["fix"]
    assert '"transformers>=4.46.3,<6"' in lines["transformers"]["fix"]
    assert lines["torch"]["needed"]
    assert not lines["JupyterLab"]["needed"]
    assert "huggingface_hub" in lines["model hub"]["found"] or "does not answer" in lines["model hub"]["found"]
    assert "ensurepip" in lines["package index"]["fix"]
    assert "filelock" in lines["assets"]["found"]
    assert "nbgrader" not in lines, "no checkout, no instructor's lines"


@pytest.mark.parametrize(
    ("torch", "says"),
    [
        ("raise OSError('libcudart.so.12: cannot open shared object file')", "OSError: libcudart.so.12"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "it ends Python with status -11"),
        ("import sys; print('{}'); sys.exit(3)", "SystemExit: 3"),
    ],
    ids=["error", "crash", "exit"],
)
def test_a_broken_torch_is_a_line_and_not_the_end(bare, torch, says):
    line = bare(torch)["torch"]
    assert line["status"] == BROKEN
    assert says in line["found"]
    assert "--force-reinstall" in line["fix"]


def test_an_old_torch_is_told_its_bounds(bare):
    line = bare("", version="1.13.1")["torch"]
    # without `packaging`, which a bare Python lacks, bounds cannot be read: then the import decides
    assert line["status"] in (OK, BROKEN)
    assert not doctor.within("torch>=2.4", "1.13.1")
    assert doctor.within("torch>=2.4", "2.13.0+cpu")


def test_the_probe_goes_on_behind_a_crash(tmp_path, monkeypatch):
    (tmp_path / "crashes.py").write_text("import os; os._exit(7)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    modules = doctor.imported(["json", "crashes", "no_such_module", "csv"])
    assert list(modules) == ["json", "crashes", "no_such_module", "csv"]
    assert modules["json"] == modules["csv"] == {}
    assert modules["crashes"]["error"] == "it ends Python with status 7"
    assert "ModuleNotFoundError" in modules["no_such_module"]["error"]


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """The doctor on this machine, with neither network nor the seconds that imports take; the cache is empty."""
    monkeypatch.setattr(doctor, "imported", lambda names: {name: {} for name in names} | {"torch": {"gpu": "Tesla T4"}})
    monkeypatch.setattr(doctor, "_hub", lambda: Line("model hub", OK, "answers", needed=False))
    monkeypatch.setattr(doctor, "_index", lambda: Line("package index", OK, "answers", needed=False))
    monkeypatch.setenv("LORA_CACHE", str(tmp_path / "cache"))
    return lambda: {line.name: line for line in doctor.examine()}


def test_here_a_student_can_work(quick, capsys):
    lines = quick()
    assert all(line.status == OK for line in lines.values() if line.needed), lines
    assert lines["GPU"].found == "Tesla T4"
    assert lines["encoder"].status == MISSING
    assert "fetched at first use" in lines["encoder"].found
    assert {"nbgrader", "formgrader", "sandbox", "chromium"} <= set(lines), "a checkout has an instructor's lines"
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "Ready: the notebooks can run here." in out
    assert "-m lora_ref.assets encoder" in out


def test_without_assets_and_without_an_index_no_real_model_runs(quick, monkeypatch, capsys):
    gone = Line("package index", MISSING, "does not answer", needed=False)
    monkeypatch.setattr(doctor, "_index", lambda: gone)
    lines = quick()
    assert lines["encoder"].needed
    assert not lines["mnist"].needed
    assert "LORA_ASSETS_FROM" in lines["encoder"].fix
    assert main(["doctor"]) == 1
    assert "Not ready: encoder, reviews." in capsys.readouterr().out


def test_damaged_assets_and_a_full_disk_are_told(quick, monkeypatch):
    file = assets.cache_dir() / assets.ASSETS["reviews"].folder / assets.ASSETS["reviews"].files[0].name
    file.parent.mkdir(parents=True)
    file.write_bytes(b"half")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1_000_000})())
    lines = quick()
    assert (lines["reviews"].status, lines["encoder"].status) == (BROKEN, MISSING)
    assert lines["disk space"].status == BROKEN
    assert "LORA_CACHE" in lines["disk space"].fix


def test_a_missing_package_names_the_command(quick, monkeypatch):
    real = doctor.version_of
    monkeypatch.setattr(doctor, "version_of", lambda name: None if name == "datasets" else real(name))
    line = quick()["datasets"]
    assert (line.status, line.needed) == (MISSING, True)
    assert line.fix == f'{sys.executable} -m pip install "datasets>=3.0"'


def test_no_student_needs_what_an_instructor_lacks(monkeypatch):
    monkeypatch.setattr(autograder.doctor, "version_of", lambda name: None)
    monkeypatch.setenv("PATH", "/nowhere")
    lines = {line.name: line for line in autograder.doctor.examine()}
    assert {line.status for line in lines.values()} == {MISSING}
    assert not any(line.needed for line in lines.values())
    for name, package in (("sandbox", "bubblewrap"), ("chromium", "chromium")):
        assert lines[name].fix.startswith("make system, or ")
        assert f"apt-get install {package}" in lines[name].fix
    assert '-e ".[grading]"' in lines["nbgrader"].fix


def test_the_hub_and_the_index_are_really_asked(monkeypatch):
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)
    for look in (doctor._hub, doctor._index):
        line = look()
        assert (line.status, line.needed) == (MISSING, False)
        assert "not answer" in line.found
