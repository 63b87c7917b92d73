"""The student's side under Windows' rules (`windows`), and what every system must find alike."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import windows

from autograder import demo
from autograder.engine.sandbox import SandboxError, require
from autograder.exercises import STAGES

ROOT = Path(__file__).resolve().parents[1]


def under_windows(folder, *arguments, status=0):
    """What a process of Python printed under Windows' rules."""
    (folder / "rules").mkdir(exist_ok=True)
    environment = windows.environment(folder / "rules", LORA_PROFILE="tiny", OMP_NUM_THREADS="1")
    line = [sys.executable, *map(str, arguments)]
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, encoding="cp1252", check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


# --- the rules themselves -------------------------------------------------------------------------------------------

RULES = """
import mmap, os, pathlib, shutil, signal, subprocess, sys, tempfile, time
import torch
from safetensors.torch import load_file, save_file

def refused(call, kind=PermissionError):
    try:
        call()
    except kind as error:
        return "WinError" in str(error) or kind is not PermissionError
    return False

folder = pathlib.Path(tempfile.mkdtemp())
for name in ("open", "mapped", "free"):
    save_file({"x": torch.ones(3)}, folder / name)
opened, mapped, free = (folder / name for name in ("open", "mapped", "free"))
file, tensors = opened.open("rb"), load_file(mapped)
for held in (opened, mapped):
    assert refused(held.unlink) and refused(lambda: held.rename(folder / "other"))
    assert refused(lambda: os.replace(free, held)) and refused(lambda: shutil.rmtree(folder))
    assert held.exists()
save_file({"x": torch.ones(3)}, free)
assert refused(lambda: save_file({"x": torch.ones(3)}, mapped), OSError)
assert refused(lambda: mapped.write_bytes(b""), OSError) and refused(lambda: (folder / "a:b").touch(), OSError)
assert refused(lambda: (folder / "nul.txt").touch(), OSError) and refused(lambda: (folder / "dot.").mkdir(), OSError)
assert refused(lambda: (folder / "link").symlink_to(free), OSError)
asleep = subprocess.Popen([sys.executable, "-S", "-c", "input()"], cwd=folder, stdin=subprocess.PIPE)
file.close()
del tensors
assert refused(lambda: shutil.rmtree(folder)), "another process is in it"
asleep.communicate(b"x\\n")
(folder / "text").write_text("\\u00d7\\n")
assert (folder / "text").read_bytes() == b"\\xd7\\r\\n"
shutil.rmtree(folder)
assert (sys.platform, os.name) == ("win32", "nt")
assert not any(hasattr(os, name) for name in ("fork", "killpg", "getuid", "setsid", "sched_getaffinity"))
assert not any(hasattr(signal, name) for name in ("SIGALRM", "SIGKILL", "setitimer")) and not hasattr(time, "tzset")
for name in ("fcntl", "resource", "pwd"):
    assert refused(lambda: __import__(name), ImportError)
print("all of it")
"""


def test_the_rules_are_windows(tmp_path):
    assert under_windows(tmp_path, "-c", RULES) == "all of it\n"


# --- the student's side under them ----------------------------------------------------------------------------------

ANSWERS = """
import contextlib, io, sys
from autograder.answers import load_answer, run_cells
from autograder.exercises import alternates
from autograder.exercises.mutant import worked_cells
from autograder.exercises import STAGES
from autograder.evaluation import evaluate_exercise
from lora_ref.checks import visible_checks
from lora_ref.checks.verdicts import run_check

for stage in STAGES if "all" in sys.argv else ("04_sst2_training",):
    automatic = [e.id for e in STAGES[stage] if not e.manual]
    with contextlib.redirect_stdout(io.StringIO()):
        answers = [run_cells(worked_cells(stage)), *map(load_answer, alternates(stage))]
    for answer in answers:
        assert not answer.errors, answer.errors
        for exercise in automatic if "all" in sys.argv else ["4.5"]:
            result = evaluate_exercise(exercise, answer.namespace, 3)
            assert result.earned == result.points, result.message
            for verdict in (run_check(check, answer.namespace) for check in visible_checks(exercise)):
                assert verdict.passed, verdict.message
    print(stage)
"""


def test_right_answers_have_full_marks(tmp_path):
    """Of exercise 4.5, whose answers write and read files; of all exercises: the slow test."""
    assert under_windows(tmp_path, "-c", ANSWERS).split() == ["04_sst2_training"]


@pytest.mark.slow
def test_all_right_answers_have_full_marks(tmp_path):
    assert under_windows(tmp_path, "-c", ANSWERS, "all").split() == list(STAGES)


PACKAGE = """
import importlib, pkgutil
from pathlib import Path
import torch
import lora_ref
from lora_ref import adapters, inject_lora, load_adapter, save_adapter
from lora_ref.__main__ import main
from lora_ref.models import tiny_roberta

for module in pkgutil.walk_packages(lora_ref.__path__, "lora_ref."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
model = inject_lora(tiny_roberta(seed=0), ["query"], rank=2)
for path, kind in ((Path("adapter.safetensors"), "lora_ref"), (Path("for_peft"), "peft")):
    save_adapter(model, path, format=kind)
    held = adapters.read_adapter(model, path)
    fresh = load_adapter(inject_lora(tiny_roberta(seed=0), ["query"], rank=2), path)
    save_adapter(fresh, path, format=kind)  # over what has been read, and is held still
    assert all(torch.equal(p, held.tensors[n]) for n, p in adapters.adapter_parameters(fresh).items())
    assert main(["info", str(path)]) == 0
assert main(["train", "--out", "run", "--method", "lora"]) == 0
assert main(["merge", "run/adapter.safetensors", "--out", "merged"]) == 0
assert not any(b"\\r\\n" in file.read_bytes() for file in Path("run").glob("*.csv"))
assert main(["train", "--out", "run", "--method", "lora"]) == 0  # over the first
"""


def test_the_package(tmp_path):
    under_windows(tmp_path, "-c", PACKAGE)


# --- commands -------------------------------------------------------------------------------------------------------

COMMANDS = """
import importlib, pathlib, subprocess, sys, time
from autograder.__main__ import COMMANDS, main
from autograder.exercises import ROOT
from autograder.release import release

for name in COMMANDS:
    importlib.import_module(f"autograder.{name}")
assert main(["grade", "--submissions", "nowhere", "--out", "graded"]) == 2
assert not pathlib.Path("graded").exists()
"""


def test_commands_that_cannot_work_say_so(tmp_path):
    printed = under_windows(tmp_path, "-c", COMMANDS)
    assert printed.startswith("grade: grading runs submissions in a sandbox of Linux namespaces, and this is Windows: ")
    assert "WSL 2" in printed
    assert "docs/grading_in_a_container.md" in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize(("system", "name"), [("win32", "Windows"), ("darwin", "macOS")])
@pytest.mark.parametrize("kind", ["bwrap", "user", "none"])
def test_no_kind_of_sandbox_is_promised_elsewhere(monkeypatch, system, name, kind):
    monkeypatch.setattr(sys, "platform", system)
    with pytest.raises(SandboxError, match=f"this is {name}: use .*a container .*nbgrader autograde"):
        require(kind)


def test_the_demo_leaves_out_the_class_elsewhere(monkeypatch, tmp_path, capsys):
    for name in ("run_notebook", "build", "write_class", "grade"):
        monkeypatch.setattr(demo, name, lambda *_: None)
    monkeypatch.setattr(demo, "find_masters", lambda root: [])
    monkeypatch.setattr(demo, "comparison_png", lambda notebooks: b"")
    monkeypatch.setattr(sys, "platform", "darwin")
    arguments = demo.argparse.Namespace(out=tmp_path / "demo", all=False, profile="tiny")
    assert demo.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "No sample class will be graded: grading runs" in printed
    assert printed.index("No sample class") < printed.index("Building")


ENDS = """
import subprocess, sys, time
import psutil
from autograder.check import end_all

started, asleep = time.time(), "import time; time.sleep(600)"
starts = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-S', '-c', {asleep!r}]).pid, flush=True)"
parent = subprocess.Popen([sys.executable, "-S", "-c", f"{starts}; {asleep}"], stdout=subprocess.PIPE, text=True)
child = psutil.Process(int(parent.stdout.readline()))
end_all(parent, started)
assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
assert parent.poll() is not None
"""


def test_what_an_answer_started_ends_with_it(tmp_path):
    under_windows(tmp_path, "-c", ENDS)


def test_a_file_is_judged(tmp_path):
    file = tmp_path / "answer.py"
    file.write_text("raise ValueError('\u03c0 is in no code page of Western Europe')", encoding="utf-8")
    printed = under_windows(tmp_path, "-m", "autograder", "check", "01_rank_theory", file, "--seed", "1", status=1)
    assert r"note: cell 1: ValueError: \u03c0 is in no" in printed
    assert "01_rank_theory: 0 of 12 points (seed 1)" in printed
    assert "matrix_rank is not defined" in printed


def test_a_clone_on_windows_has_the_same_bytes(tmp_path):
    """Or every generated file is stale at once: git on Windows is set to write CRLF."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, encoding="utf-8", check=True).stdout
    for folder, setting in (("windows", "true"), ("elsewhere", "false")):
        line = ["git", "-c", f"core.autocrlf={setting}", "clone", "--quiet", str(ROOT), str(tmp_path / folder)]
        subprocess.run(line, check=True)
    names = [name for name in tracked.splitlines() if (tmp_path / "elsewhere" / name).is_file()]
    assert "notebooks/01_rank_theory/01_rank_theory.ipynb" in names
    read = {folder: [(tmp_path / folder / name).read_bytes() for name in names] for folder in ("windows", "elsewhere")}
    different = [name for name, a, b in zip(names, read["windows"], read["elsewhere"], strict=True) if a != b]
    assert different == []
    assert [name for name, data in zip(names, read["windows"], strict=True) if b"\r\n" in data] == []


def test_every_file_name_is_one_on_windows_and_macos():
    """Both take README and readme for one file; Windows refuses some names altogether."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, encoding="utf-8", check=True).stdout
    names = tracked.splitlines()
    assert len({name.lower() for name in names}) == len(names) > 200
    assert [name for name in names if not windows.allowed(name)] == []


#: Modules of the sandbox, which read Linux's own files.
LINUX_ALONE = {"cgroup.py", "oracle.py", "pool.py", "sandbox.py", "zygote.py"}


def careless(tree):
    """Lines of calls that read or write text as the system likes: its encoding and, writing, its line ends."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        is_name = isinstance(call.func, ast.Name)
        name = call.func.id if is_name else getattr(call.func, "attr", "")
        given = {keyword.arg for keyword in call.keywords}
        last = [a.value for a in call.args[-1:] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        mode = next((text for text in last if re.fullmatch("[rwax][b+]*", text)), "r" if is_name else "b")
        needed = {
            "open": set() if "b" in mode else {"encoding"},
            "fdopen": set() if "b" in mode else {"encoding"},
            "read_text": set() if call.args else {"encoding"},
            "write_text": {"encoding", "newline"},
            "TemporaryFile": {"encoding"} if last else set(),
        }
        if not needed.get(name, set()) <= given:
            yield call.lineno


@pytest.mark.parametrize("side", ["lora_ref", "autograder", "benchmarks", "solutions"])
def test_no_file_depends_on_the_systems_encoding_or_line_ends(side):
    """What is written is compared, hashed or read on another machine."""
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / side).rglob("*.py"))
        if path.name not in LINUX_ALONE
        for line in careless(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == []
