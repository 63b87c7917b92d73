"""The Gradescope zip, run as Gradescope does: unpacked, set up once, then a submission, then ``results.json``."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import grade_course
import nbformat
import pytest
from grade_course import FULL, STAGE

from autograder import in_gradescope as inside
from autograder.answers import load_answer
from autograder.engine import sandbox
from autograder.engine.assignment import ROOT
from autograder.engine.store import seed_of
from autograder.evaluation import evaluate
from autograder.exercises import STAGES
from autograder.publish import gradescope
from autograder.publish.release import secret_lines

METADATA = {"id": 4711, "created_at": "2026-11-25T10:00:00+00:00", "users": [{"name": "Jane", "email": "j@x.org"}]}
VISIBILITIES = {"visible", "after_due_date", "after_published", "hidden"}

#: Reads what it should not, forges results, signals everybody, and leaves a process behind that goes on with it.
HOSTILE = """
import json, os, signal, time
told = {{"uid": os.getuid(), "read": [], "wrote": []}}
def attack():
    for path in {paths}:
        try:
            open(path).read()
            told["read"].append(path)
        except OSError:
            pass
        try:
            open(path, "w").write('{{"score": 22}}')
            told["wrote"].append(path)
        except OSError:
            pass
attack()
for pid in os.listdir("/proc"):
    if pid.isdigit() and int(pid) != os.getpid():
        try:
            if open("/proc/" + pid + "/environ").read().find("LORA_AUTOGRADER_ROOT") >= 0:
                told["read"].append(pid)
        except OSError:
            pass
if os.fork() == 0:
    os.setsid()
    told["left"] = os.getpid()
    open("{leak}", "w").write(json.dumps(told))
    while True:
        attack()
        time.sleep(0.01)
time.sleep(0.5)
class LoRALayer:
    __eq__ = lambda *_: True
"""


class Container:
    """A folder that stands for ``/autograder``."""

    def __init__(self, root: Path):
        self.root = root
        with zipfile.ZipFile(io.BytesIO(gradescope.bundle(STAGE, seed=7))) as archive:
            archive.extractall(root / "source")
        self.setup = self.bash("source/setup.sh")
        shutil.copy(root / "source" / "run_autograder", root / "run_autograder")

    def bash(self, script: str, path: str = "") -> str:
        environment = {**os.environ, "LORA_AUTOGRADER_ROOT": str(self.root)}
        environment["PATH"] = os.pathsep.join(filter(None, [path, environment["PATH"]]))
        line = ["bash", str(self.root / script)]
        done = subprocess.run(line, cwd=self.root, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def run(self, files: dict[str, bytes], path: str = "", script: bool = True) -> dict:
        """Hand files in; ``path`` goes before PATH. Returns what Gradescope would read, and checks its form.

        Without ``script`` the same runs in this process, which has imported everything.
        """
        for name in ("submission", "results"):
            shutil.rmtree(self.root / name, ignore_errors=True)
            (self.root / name).mkdir()
        (self.root / "submission_metadata.json").write_text(json.dumps(METADATA))
        for name, data in files.items():
            (self.root / "submission" / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / "submission" / name).write_bytes(data)
        if script:
            self.stdout = self.bash("run_autograder", path)
        else:
            assert inside.main(self.root) == 0
        results = json.loads((self.root / "results" / "results.json").read_text())
        assert results["stdout_visibility"] == "hidden"
        assert results["execution_time"] >= 0
        assert results["score"] == pytest.approx(sum(test["score"] for test in results["tests"]))
        assert {test["visibility"] for test in results["tests"]} <= VISIBILITIES
        most = sum(e.points for e in STAGES[STAGE] if not e.manual)
        assert sum(test["max_score"] for test in results["tests"]) == pytest.approx(most)
        return results


@pytest.fixture(scope="module")
def container(bubblewrap):
    root = Path(tempfile.mkdtemp(prefix="autograder-", dir="/tmp"))  # not pytest's, which other users cannot enter
    try:
        root.chmod(0o755)
        (root / "python").symlink_to(sys.prefix)
        yield Container(root)
    finally:
        shutil.rmtree(root)


@pytest.fixture(scope="module")
def everybodys(container):
    """An environment with the packages that other users may read, whoever owns the one that runs this."""
    if os.geteuid() != 0:
        pytest.skip("only root can run a submission as another user; Gradescope's containers run as root")
    place = container.root / "everybodys"
    everybodys_python(place)
    return place


@pytest.fixture
def without_namespaces(container, everybodys, tmp_path):
    """As in Gradescope's containers: bubblewrap is there and may do nothing. The folder to put before PATH."""
    refusing = tmp_path / "bwrap"
    refusing.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    refusing.chmod(0o755)
    own = container.root / "python"
    own.unlink()
    own.symlink_to(everybodys)
    yield str(tmp_path)
    own.unlink()
    own.symlink_to(sys.prefix)


def everybodys_python(place):
    """The environment that runs this, for a user who may not look into root's folders."""
    runs = ["setpriv", "--reuid", "65499", "--regid", "65499", "--clear-groups"]
    # the system's Python starts for everybody, and finds no packages of an environment that it may not read
    same = f"import sys; sys.exit((sys.prefix, sys.base_prefix) != {(sys.prefix, sys.base_prefix)!r})"
    if subprocess.run([*runs, sys.executable, "-c", same], capture_output=True, check=False).returncode == 0:
        place.symlink_to(sys.prefix)
        return
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    system = next((p for p in (f"/usr/bin/{version}", f"/usr/local/bin/{version}") if os.path.exists(p)), None)
    if system is None:
        pytest.skip(f"{sys.executable} is closed to other users, and there is no {version} of the system's")
    subprocess.run([system, "-m", "venv", "--without-pip", str(place)], check=True)
    packages = Path(sys.prefix) / "lib" / version / "site-packages"
    if subprocess.run([*runs, "ls", packages], capture_output=True, check=False).returncode:
        pytest.skip(f"{packages} is closed to other users, as all that lies in root's home is")
    (place / "lib" / version / "site-packages" / "all.pth").write_text(f"{packages}\n")


def file_of(answer: str) -> dict[str, bytes]:
    return {f"{STAGE}.ipynb": grade_course.sample(answer)}


def hostile(container, leak) -> dict[str, bytes]:
    nb = nbformat.reads(grade_course.sample("untouched").decode(), as_version=4)
    inside = ("source/autograder/exercises/stage02/e1_layer.py", "source/gradescope.json", "results/results.json")
    paths = [str(container.root / name) for name in (*inside, "submission_metadata.json", "run_autograder")]
    cell = next(c for c in nb.cells if c.metadata.get("nbgrader", {}).get("grade_id") == "layer")
    cell.source = HOSTILE.format(paths=paths[:4], leak=leak)
    return {f"{STAGE}.ipynb": nbformat.writes(nb).encode()}


def test_the_zip_has_what_it_needs_and_no_secret_that_it_does_not():
    with zipfile.ZipFile(io.BytesIO(gradescope.bundle(STAGE, seed=7))) as archive:
        names = set(archive.namelist())
        text = {name: archive.read(name).decode() for name in names}
        assert {n for n in names if archive.getinfo(n).external_attr >> 16 & 0o100} == {"setup.sh", "run_autograder"}
    assert {n for n in names if n.startswith(("notebooks", "solutions"))} == {f"notebooks/{STAGE}/{STAGE}.ipynb"}
    rooms = {n for n in names if "autograder/exercises/" in n}
    assert rooms > {
        f"autograder/exercises/stage02/e{number}_{word}.py" for number, word in ((1, "layer"), (5, "merge"))
    }
    assert {n.split("/")[2] for n in rooms} == {"__init__.py", "scheme.py", "stage02"}
    assert not [n for n in names if "alternates" in n or "mutant" in n or "__pycache__" in n]
    secrets = secret_lines(ROOT)
    assert secrets
    for name, content in text.items():
        found = [line for line in secrets if line in content]
        assert not found, f"{name} has {found[:3]}"
    assert gradescope.bundle(STAGE, seed=7) == gradescope.bundle(STAGE, seed=7)  # the same bytes each time
    assert "torch_index='https://example.org/cpu'" in zip_text(torch_index="https://example.org/cpu")["setup.sh"]


def zip_text(**settings):
    with zipfile.ZipFile(io.BytesIO(gradescope.bundle(STAGE, **settings))) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="show="):
        gradescope.bundle(STAGE, show="hidden")
    with pytest.raises(ValueError, match="not the address"):
        gradescope.bundle(STAGE, torch_index="'; rm -rf /; '")


def test_setup_finds_what_is_there_and_closes_the_source(container):
    assert "the packages are there already" in container.setup
    assert container.root.joinpath("source/gradescope.json").stat().st_mode & 0o077 == 0


def test_a_worked_solution_where_namespaces_are_refused(container, without_namespaces):
    results = container.run(file_of("complete"), without_namespaces)
    assert "sandbox: user" in container.stdout
    assert results["score"] == FULL
    assert all(test["status"] == "passed" for test in results["tests"])
    assert "A person grades 2.8" in results["output"]


def test_a_hostile_submission_where_namespaces_are_refused(container, without_namespaces):
    leak = container.root.parent / f"{container.root.name}-leak.json"
    try:
        results = container.run(hostile(container, leak), without_namespaces)
        told = json.loads(leak.read_text())
    finally:
        leak.unlink(missing_ok=True)
    assert told["uid"] >= 65000
    assert told["read"] == told["wrote"] == []
    assert results["score"] == 0
    with pytest.raises(ProcessLookupError):
        os.kill(told["left"], signal.SIGKILL)  # what it left behind is gone


def test_mistakes_get_the_points_and_messages_of_plain_evaluation(container, tmp_path):
    files = file_of("buggy")
    results = container.run(files)
    assert "sandbox: bwrap" in container.stdout
    path = tmp_path / f"{STAGE}.ipynb"
    path.write_bytes(files[path.name])
    report = evaluate(STAGE, load_answer(path).namespace, seed_of(7, STAGE, "4711"))
    assert 0 < results["score"] < FULL
    assert results["score"] == pytest.approx(report.score)
    verdicts = [verdict for result in report.results for verdict in result.verdicts]
    assert [(t["score"], t["max_score"], t["output"].splitlines()[0]) for t in results["tests"]] == [
        (verdict.earned, verdict.points, verdict.message.splitlines()[0]) for verdict in verdicts
    ]
    assert any("the division by rank is missing" in test["output"] for test in results["tests"])
    shown = [test["name"] for test in results["tests"] if test["visibility"] == "visible"]
    later = [test["name"] for test in results["tests"] if test["visibility"] == "after_due_date"]
    assert "2.2 LoRALayer.forward: x may have any number of leading dimensions" in shown
    assert "a layer without bias works as well" in " ".join(later)  # no visible check asks that
    text = json.dumps(results)
    for secret in ("grade_cell", "autograder", str(seed_of(7, STAGE, "4711")), "j@x.org"):
        assert secret not in text


@pytest.mark.slow
def test_untouched_and_hostile_in_bubblewrap(container):
    assert container.run(file_of("untouched"))["score"] == 0
    assert container.run(hostile(container, "/tmp/leak.json"))["score"] == 0


def test_root_without_the_right_to_mount_still_has_bubblewrap(everybodys):
    """As in a container that allows namespaces, with its usual root."""
    code = """if True:
        import subprocess, sys
        from autograder.engine import sandbox
        assert not sandbox.may_mount()
        real, lines = subprocess.Popen, []
        subprocess.Popen = lambda line, **_: lines.append(line)
        sandbox.Warm("bwrap", 4499)
        subprocess.Popen = real
        line = lines[0][: lines[0].index(sys.executable)]
        sys.exit(subprocess.run([*line, "/bin/sh", "-c", "id -u; ls /course; ls /root /etc/shadow"]).returncode)
    """
    line = ["setpriv", "--bounding-set=-sys_admin", str(everybodys / "bin" / "python"), "-c", code]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == [
        "1000",
        "alone.py",
        "lora_ref",
        "orders.py",
        "shell.py",
        "syscalls.py",
        "watch.py",
        "wire.py",
        "zygote.py",
    ], done.stderr
    assert done.stderr.count("No such file") == 2


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "There is no notebook in your submission (there is nothing)"),
        ({"homework.py": b"x = 1"}, "(there is homework.py). Hand in 02_lora_layer.ipynb"),
        ({"a.ipynb": b"{}", "b/c.ipynb": b"{}"}, "several notebooks in your submission (a.ipynb, b/c.ipynb)"),
        ({f"{STAGE}.ipynb": b'{"cells": [{"cell_ty'}, "no notebook"),
        ({f"{STAGE}.ipynb": b'{"cells": []}'}, "none of the cells of 02_lora_layer is in it"),
        ({"homework.ipynb": json.dumps(grade_course.notebooks("01_rank_theory")[0]).encode()}, "none of the cells"),
    ],
    ids=["nothing", "no-notebook", "two", "broken", "empty", "another-stage"],
)
def test_what_cannot_be_graded_gets_a_clear_message_and_no_point(container, files, told):
    results = container.run(files, script=not files)
    assert results["score"] == 0
    assert told in results["output"]
    assert [(test["visibility"], test["status"]) for test in results["tests"]] == [("visible", "failed")]


def test_which_notebook_is_graded(tmp_path):
    def look(*names):
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        path, notes = inside.find(folder, STAGE)
        return path.relative_to(folder).as_posix(), notes

    assert look(f"{STAGE}.ipynb") == (f"{STAGE}.ipynb", [])
    assert look(f"repo/{STAGE}.ipynb", f"repo/.ipynb_checkpoints/{STAGE}.ipynb")[1] == []
    assert "was graded as" in look(f"{STAGE} (1).ipynb")[1][0]
    only = f"Only {STAGE}.ipynb was graded, and not scratch.ipynb."
    assert look(f"{STAGE}.ipynb", "scratch.ipynb") == (f"{STAGE}.ipynb", [only])
    with pytest.raises(inside.Refused, match="several"):
        look(f"a/{STAGE}.ipynb", f"b/{STAGE}.ipynb")


def test_a_fault_of_the_autograder_is_not_a_crash(container, monkeypatch, capsys):
    monkeypatch.setattr(inside, "find", lambda *_: 1 / 0)
    results = container.run({}, script=False)
    assert "not your fault" in results["output"]
    assert "ZeroDivisionError" in capsys.readouterr().err  # for the instructor
    assert "ZeroDivision" not in json.dumps(results)


def test_nothing_is_graded_where_nothing_protects_the_checks(monkeypatch):
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: None)
    with pytest.raises(inside.Refused, match="cannot be protected"):
        inside.run({}, ())


def test_results_stand_even_if_the_autograder_is_killed(container, tmp_path):
    killed = tmp_path / "python"
    (killed / "bin").mkdir(parents=True)
    (killed / "bin" / "python").write_text("#!/bin/sh\nexit 0\n")
    (killed / "bin" / "python").chmod(0o755)
    own = container.root / "python"
    own.unlink()
    own.symlink_to(killed)
    try:
        container.bash("run_autograder")
    finally:
        own.unlink()
        own.symlink_to(sys.prefix)
    assert json.loads((container.root / "results" / "results.json").read_text())["score"] == 0


def test_the_command_writes_the_zip(tmp_path, capsys):
    from autograder.__main__ import main

    assert main(["gradescope", STAGE, "--out", str(tmp_path), "--seed", "7"]) == 0
    assert "hidden checks" in capsys.readouterr().out
    assert (tmp_path / f"gradescope-{STAGE}.zip").read_bytes() == gradescope.bundle(STAGE, seed=7)
