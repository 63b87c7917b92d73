"""On Colab: a notebook and the course's zip are uploaded, and run.

Colab is simulated: a Python that has torch, transformers and most of what the course needs, and lacks `lora_ref`.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import os
import site
import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from nbclient import NotebookClient
from toy_course import ROOT

from autograder.publish.opening import setup
from autograder.publish.release import build_wheel, pack

STAGE = "01_rank_theory"
#: Not preinstalled in the simulated Colab: has to be fetched.
ABSENT = "accelerate"
UNTOUCHED = ("torch", "numpy", "transformers")
ZIP = "lora-from-scratch-0.1.0 (1).zip"


def as_wheel(name: str, folder: Path) -> Path:
    """An installed package of pure Python as a wheel again: stands for what the package index would serve."""
    found = distribution(name)
    record = csv.reader((found.read_text("RECORD") or "").splitlines())
    files = [row[0] for row in record if not row[0].startswith("..") and not row[0].endswith((".pyc", "INSTALLER"))]
    path = folder / f"{name}-{found.version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file in files:
            if not file.endswith(("RECORD", "direct_url.json", "REQUESTED")):
                wheel.write(found.locate_file(file), file)
        lines = []
        for file in wheel.namelist():
            digest = base64.urlsafe_b64encode(hashlib.sha256(wheel.read(file)).digest()).rstrip(b"=").decode()
            lines.append(f"{file},sha256={digest},{wheel.getinfo(file).file_size}")
        info = next(file for file in files if file.endswith(".dist-info/METADATA")).replace("METADATA", "RECORD")
        wheel.writestr(info, "\n".join([*lines, f"{info},,"]) + "\n")
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The course's wheel, and a folder that stands for the package index."""
    folder = tmp_path_factory.mktemp("wheels")
    index = folder / "index"
    index.mkdir()
    as_wheel(ABSENT, index)
    return SimpleNamespace(wheel=build_wheel(ROOT, folder), index=index)


@pytest.fixture
def colab(tmp_path, files, monkeypatch):
    """Colab's Python and an empty working folder.

    `colab.run(notebook)` opens a notebook there and runs all; `colab.set_up(source)` runs the common set-up alone.
    """
    packages, work = tmp_path / "colab" / "site-packages", tmp_path / "machine" / "colab" / "content"
    home, scratch = tmp_path / "home", tmp_path / "tmp"
    for folder in (packages, work, home, scratch):
        folder.mkdir(parents=True)
    for there in filter(Path.is_dir, map(Path, site.getsitepackages())):  # Debian names one more that is not there
        for entry in there.iterdir():
            if not entry.name.startswith(("lora_ref", "__editable__", ABSENT, "distutils-precedence")):
                (packages / entry.name).symlink_to(entry)
    (packages / "google").mkdir(exist_ok=True)
    (packages / "google" / "colab.py").touch()  # a kernel of Colab's has imported it before the first cell
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    own = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    (own / "colab.pth").write_text(f"{packages}\nimport google.colab\n")
    spec = tmp_path / "jupyter" / "kernels" / "colab"
    spec.mkdir(parents=True)
    arguments = '"-m", "ipykernel_launcher", "-f", "{connection_file}"'
    (spec / "kernel.json").write_text(
        f'{{"argv": ["{python}", {arguments}], "display_name": "Colab", "language": "python"}}'
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))

    drop = ("PYTHONPATH", "VIRTUAL_ENV", "PIP_CONSTRAINT", "XDG_CACHE_HOME", "MPLCONFIGDIR", "LORA_CACHE")
    environment = {name: value for name, value in os.environ.items() if name not in drop}
    environment |= {"HOME": str(home), "LORA_PROFILE": "tiny", "TMPDIR": str(scratch)}
    environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(files.index), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}

    def run(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
        client = NotebookClient(notebook, timeout=300, kernel_name="colab", resources={"metadata": {"path": str(work)}})
        client.execute(env=environment)
        return notebook

    def set_up(source: str) -> subprocess.CompletedProcess:
        command = [python, "-c", source]
        return subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)

    here = {"packages": packages, "work": work, "own": own, "home": home, "scratch": scratch, "index": files.index}
    return SimpleNamespace(**here, run=run, set_up=set_up, environment=environment)


def printed(notebook: nbformat.NotebookNode) -> str:
    """What the set-up cell printed."""
    cell = next(cell for cell in notebook.cells if cell.cell_type == "code")
    return "".join(output.get("text", "") for output in cell.outputs)


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file of the packages that nothing may touch."""
    found = {}
    for name in UNTOUCHED:
        for path in [folder / name, *folder.glob(f"{name}-*.dist-info")]:
            real = path.resolve()
            found |= {
                str(f): (f.stat().st_size, f.stat().st_mtime_ns)
                for f in real.rglob("*")
                if f.is_file() and f.suffix != ".pyc"
            }
    assert len(found) > 1000
    return found


def installed(folder: Path) -> set[str]:
    """Names of the packages that were installed into the simulated Colab."""
    return {path.name.split("-")[0] for path in folder.glob("*.dist-info")}


def put_zip(colab, files):
    """The release, as it was downloaded a second time."""
    zipped = pack({f"lora-from-scratch/{files.wheel.name}": files.wheel.read_bytes()})
    (colab.work / ZIP).write_bytes(zipped)


def test_upload_a_notebook_and_the_zip_and_run_all(colab, files):
    put_zip(colab, files)
    colab.home.rmdir()  # HOME names a folder that is not there
    before = files_of(colab.packages)
    notebook = colab.run(nbformat.read(ROOT / "notebooks" / STAGE / f"{STAGE}.ipynb", as_version=4))
    assert files_of(colab.packages) == before
    assert installed(colab.own) == {ABSENT}, "only what is missing is installed"
    assert [path.name for path in colab.work.iterdir()] == [ZIP], "nothing is left in the notebook's folder"
    assert not colab.home.exists()
    said = printed(notebook)
    assert f"lora_ref 0.1.0 from {colab.work / ZIP}\n" in said
    assert f"installed {ABSENT}" in said
    assert f"there is no home folder here, so caches go to {colab.scratch}" in said
    assert "no GPU" in said
    assert "Change runtime type" in said
    assert "profile tiny" in said
    assert "running all cells of stage 1 takes about half a minute" in said
    checks = [cell for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get("grade")]
    text = "".join(o.get("text", "") for cell in checks if cell.cell_type == "code" for o in cell.outputs)
    assert "0 of 6 visible checks passed" in text, "the checks run, and say that the gaps are open"
    run = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in run)


def test_without_a_network_what_is_missing_is_named(colab, files):
    put_zip(colab, files)
    for archive in colab.index.iterdir():
        archive.rename(archive.with_suffix(".away"))
    try:
        done = colab.set_up(
            setup(None)
            + """
import subprocess
subprocess.run([sys.executable, "-c", "import lora_ref; print(lora_ref.__file__)"], check=True)
"""
        )
    finally:
        for archive in colab.index.iterdir():
            archive.rename(archive.with_suffix(".whl"))
    first, missing, started = done.stdout.splitlines()
    assert first == f"lora_ref 0.1.0 from {colab.work / ZIP}"
    assert missing.startswith(f"missing: {ABSENT}>=1.1 (ERROR: ")
    assert f'-m pip install "{ABSENT}>=1.1"' in missing
    assert started.startswith(str(colab.scratch)), "what a notebook starts has the package too"


def test_a_missing_zip_is_an_error_that_says_where_it_goes(colab):
    done = colab.set_up(setup(None))
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ModuleNotFoundError: put lora-from-scratch-*.zip beside this notebook")
    assert "is it in your Drive? mount that there" in last
