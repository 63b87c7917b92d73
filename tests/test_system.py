"""Programs that pip doesn't bring: installed where that may be done, else said; and what the tests then leave out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile

import pytest
from toy_course import ROOT

from autograder import system
from autograder.system import BUBBLEWRAP, CHROMIUM

SANDBOXED = "tests/test_adding_an_exercise.py::test_a_graded_class_has_its_points_and_its_bar"
IN_A_BROWSER = "tests/browser/test_pages.py::test_the_start_page_of_the_students_zip"
NEEDS_NEITHER = "tests/test_map.py::test_paths_in_the_text_exist"
#: Installs what Debian's packages bring, and writes down how it was called.
APT = """#!/bin/sh
echo "$DEBIAN_FRONTEND $*" >> {log}
case "$*" in
*update) : > {bin}/lists ;;
*) [ -e {bin}/lists ] || {{ echo "E: Unable to locate package"; exit 100; }} ;;
esac
case "$*" in
*" bubblewrap") printf '#!/bin/sh\\n' > {bin}/bwrap; /bin/chmod +x {bin}/bwrap ;;
*" {chromium}") printf '#!/bin/sh\\n' > {bin}/chromium-browser; /bin/chmod +x {bin}/chromium-browser ;;
*update) ;;
*) echo "E: Package has no installation candidate"; exit 100 ;;
esac
"""
SUDO = """#!/bin/sh
[ "$1" = -n ] && [ -e {bin}/trusted ] || exit 1
shift
exec "$@"
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with no programs but those that a test puts there; its log is how apt-get was called."""

    class Machine:
        log = tmp_path / "log"
        bin = tmp_path / "bin"

        def has(self, name, script="#!/bin/sh\n", **words):
            path = self.bin / name
            path.write_text(script.format(bin=self.bin, log=self.log, **words) if words or "{" in script else script)
            path.chmod(0o755)

        def calls(self):
            return self.log.read_text().splitlines() if self.log.exists() else []

    made = Machine()
    made.bin.mkdir()
    made.has("env", '#!/bin/sh\nexec /usr/bin/env "$@"\n')
    made.has("true")
    monkeypatch.setenv("PATH", str(made.bin))
    monkeypatch.setattr(system.sys, "platform", "linux")
    monkeypatch.setattr(system.os, "geteuid", lambda: 1000, raising=False)
    monkeypatch.delenv("CI", raising=False)
    return made


def test_where_both_are_there_nothing_is_done_or_said(machine, capfd):
    machine.has("apt-get", APT, chromium="chromium")
    machine.has("bwrap")
    machine.has("google-chrome")
    assert system.main([]) == 0
    assert capfd.readouterr().out == ""
    assert machine.calls() == []


@pytest.mark.parametrize("chromium", ["chromium", "chromium-browser"], ids=["Debian", "Ubuntu"])
@pytest.mark.parametrize("who", ["root", "sudo"])
def test_both_are_installed_where_that_takes_no_password(machine, monkeypatch, capfd, who, chromium):
    machine.has("apt-get", APT, chromium=chromium)
    if who == "root":
        monkeypatch.setattr(system.os, "geteuid", lambda: 0)
    else:
        machine.has("sudo", SUDO)
        (machine.bin / "trusted").touch()
    monkeypatch.setenv("CI", "true")
    assert system.main([]) == 0
    assert BUBBLEWRAP.problem() is None
    assert CHROMIUM.problem() is None
    out = capfd.readouterr().out
    assert "apt-get install bubblewrap\n" in out
    assert f"apt-get install {chromium}\n" in out
    assert "left out" not in out
    assert all(call.startswith("noninteractive ") for call in machine.calls())
    assert sum(call.endswith("update") for call in machine.calls()) <= 2


@pytest.mark.parametrize("managers", [["apt-get", "sudo"], ["apt-get"], ["dnf"], ["brew"], []], ids=" ".join)
@pytest.mark.parametrize("ci", [None, "true"])
def test_where_nothing_may_be_installed_one_block_says_what_is_left_out(machine, monkeypatch, capfd, managers, ci):
    for name in managers:
        machine.has(name, {"apt-get": APT, "sudo": SUDO}.get(name, "#!/bin/sh\n"), chromium="chromium")
    if ci:
        monkeypatch.setenv("CI", ci)
    assert system.main([]) == (1 if ci else 0)
    out = capfd.readouterr().out
    assert machine.calls() == []
    assert "bubblewrap is missing: no bwrap on the PATH" in out
    assert "Chromium is missing: no chromium or chromium-browser or" in out
    assert out.count("left out ") == out.count("to get it ") == 2
    known = [name for name in managers if name != "sudo"]
    assert ("sudo apt-get install chromium" in out) == (known in (["apt-get"], []))
    assert ("sudo dnf install bubblewrap" in out) == (known != ["apt-get"])
    assert ("brew install --cask google-chrome" in out) == (known in (["brew"], []))
    assert ("CI=true: nothing may be left out, and bubblewrap and Chromium must run" in out) == bool(ci)


def test_what_apt_says_is_shown_when_it_fails(machine, monkeypatch, capfd):
    machine.has("apt-get", "#!/bin/sh\necho 'E: The repository is not signed.'\nexit 100\n")
    monkeypatch.setattr(system.os, "geteuid", lambda: 0)
    assert system.main([]) == 0
    out = capfd.readouterr().out
    assert "E: The repository is not signed." in out
    assert "to get it  apt-get install bubblewrap\n" in out, "root needs no sudo"


def test_what_is_there_and_does_not_run_is_not_installed_again(machine, monkeypatch, capfd):
    """A container may refuse namespaces; Ubuntu's chromium-browser says that a snap is missing."""
    machine.has("apt-get", APT, chromium="chromium")
    monkeypatch.setattr(system.os, "geteuid", lambda: 0)
    machine.has("bwrap", "#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    machine.has("chromium-browser", "#!/bin/sh\necho 'requires the chromium snap to be installed'\nexit 1\n")
    assert system.main([]) == 0
    out = capfd.readouterr().out
    assert machine.calls() == []
    assert "may not make namespaces here: bwrap: No permissions to create new namespace" in out
    assert "docs/grading_in_a_container.md" in out
    assert "Chromium is installed but does not run: requires the chromium snap" in out


def test_on_a_mac_the_sandbox_is_nobodys_fault(machine, monkeypatch, capfd):
    monkeypatch.setattr(system.sys, "platform", "darwin")
    monkeypatch.setenv("CI", "true")
    machine.has("chromium")
    assert system.main([]) == 0
    out = capfd.readouterr().out
    assert "bubblewrap needs Linux; this is darwin" in out
    assert "docs/grading_in_a_container.md" in out


def test_a_python_that_cannot_make_environments_is_told_the_package(machine, monkeypatch, capfd):
    there = []
    monkeypatch.setattr(system, "find_spec", lambda name: name in there or name == "venv" or None)
    package = f"python3.{sys.version_info[1]}-venv"
    assert system.main(["venv"]) == 1
    assert f"sudo apt-get install {package}\n" in capfd.readouterr().out
    machine.has("apt-get", f"#!/bin/sh\necho \"$*\" >> '{machine.log}'\n")
    monkeypatch.setattr(system.os, "geteuid", lambda: 0)
    monkeypatch.setattr(system, "_run", lambda command, run=system._run: there.append("ensurepip") or run(command))
    assert system.main(["venv"]) == 0
    assert [call.split()[-1] for call in machine.calls()] == [package]


def test_a_python_that_is_too_old_is_told_so(monkeypatch, capfd):
    monkeypatch.setattr(system.sys, "version_info", (3, 9, 6, "final", 0))
    assert system.main(["venv"]) == 1
    oldest = ".".join(map(str, system.OLDEST_PYTHON))
    assert f"is Python 3.9, and the course needs {oldest} or newer: use another" in capfd.readouterr().out


def test_the_system_s_python_can_run_it():
    """Before there is an environment: of all packages there is none."""
    code = "import autograder.system; print(autograder.system.PROGRAMS[0].name)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, '.'); {code}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "bubblewrap", done.stderr


@pytest.mark.parametrize("target", ["test", "test-all", "test-min", "demo"])
def test_the_make_targets_begin_with_it(target):
    line = ["make", "-n", "-W", "pyproject.toml", target]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
    first, second, *_ = done.stdout.splitlines()
    assert first.endswith("-m autograder.system")
    assert second.endswith("-m autograder.system venv")


def test_ci_runs_what_readme_says_and_nothing_else():
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    commands = [line for line in lines if line and not line.startswith(("#", "set ", "cd "))]
    assert commands == ["export CI=true", "make lint", "make test"]
    for name in ("README.md", "CONTRIBUTING.md"):
        assert "make test" in (ROOT / name).read_text(encoding="utf-8")


def test_pip_s_own_words_are_shown_when_make_setup_fails(tmp_path):
    """Also those that --quiet hides: which pin it is."""
    for name in ("autograder", "lora_ref", "Makefile"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "constraints.txt").write_text("torch==2.0\n")
    with zipfile.ZipFile(tmp_path / "torch-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("torch-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: torch\nVersion: 1.0\n")
        wheel.writestr("torch-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("torch-1.0.dist-info/RECORD", "")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}
    line = ["make", f"PYTHON={sys.executable}", "setup"]
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "The user requested (constraint) torch==2.0" in done.stderr
    assert not (tmp_path / ".venv" / ".ready").exists()


# --- the tests themselves --------------------------------------------------------------------------------


def suite(path, ci, *tests):
    """These tests, in another pytest, with ``path`` for PATH."""
    environment = {**os.environ, "PATH": str(path), "CI": ci}
    line = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "0", *tests]
    return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_without_the_programs_the_suite_is_green_and_says_what_it_leaves_out_at_both_ends(tmp_path):
    done = suite(tmp_path, "", SANDBOXED, IN_A_BROWSER)
    assert done.returncode == 0, done.stdout
    start, end = done.stdout.partition("collected")[0], done.stdout.rpartition("left out: ")[2]
    for text in (start, end):
        assert "bubblewrap is missing: no bwrap" in text
        assert "Chromium is missing: no chromium" in text
        assert text.count("to get it") == 2
    assert end.startswith("bubblewrap's tests (1), Chromium's tests (1)")
    assert done.stdout.splitlines()[-1].strip("= ").startswith("2 skipped")
    assert re.search(
        r"SKIPPED \[1\] tests/test_adding_an_exercise\.py:\d+: bubblewrap is missing: no bwrap on the PATH\n",
        done.stdout,
    )


def test_with_ci_true_a_missing_program_is_a_failure(tmp_path):
    done = suite(tmp_path, "true", SANDBOXED, IN_A_BROWSER)
    assert done.returncode == 1
    assert "2 errors" in done.stdout.splitlines()[-1]
    assert "bubblewrap is missing: no bwrap on the PATH. To get it: " in done.stdout


@pytest.mark.parametrize(("ci", "ends"), [("", "1 skipped"), ("true", "1 error")])
def test_a_bubblewrap_that_may_make_no_namespaces_is_as_good_as_none(tmp_path, ci, ends):
    refusing = tmp_path / "bwrap"
    refusing.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    refusing.chmod(0o755)
    done = suite(tmp_path, ci, SANDBOXED)
    assert ends in done.stdout.splitlines()[-1]
    assert "may not make namespaces here: bwrap: No permissions to create new namespace" in done.stdout


def test_a_run_that_leaves_nothing_out_does_not_end_with_it(tmp_path):
    done = suite(tmp_path, "", NEEDS_NEITHER)
    assert done.returncode == 0
    assert "to get it" in done.stdout.partition("collected")[0]
    assert "left out: " not in done.stdout
