"""The instructor's guide says what works: its ten commands are run as they stand, and what it quotes is there."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import nbformat
import pytest
from grade_course import FULL, STAGE, sample

from autograder import __main__ as command_line
from autograder.engine.sandbox import LIMITS, TOTAL
from autograder.exercises import ROOT, STAGES

GUIDE = ROOT / "docs" / "instructor_guide.md"
CLASS = {"1234567": "complete", "2345678": "half-done"}

#: Stands for the person in front of formgrader: waits until it is served, and gives every written answer two points
#: with the requests that its page sends.
PERSON = """\
import json, pathlib, sys, time, urllib.request
def ask(path, body=None):
    headers = {"Authorization": f"token {server['token']}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    url = f"{server['url']}formgrader/api/{path}"
    request = urllib.request.Request(url, data, headers, method="PUT" if body else "GET")
    return json.load(urllib.request.urlopen(request, timeout=60))
for _ in range(3000):
    time.sleep(0.2)
    try:
        server = json.loads(next(pathlib.Path(sys.argv[1]).glob("jpserver-*.json")).read_text())
        notebooks = ask("submitted_notebooks/02_lora_layer/02_lora_layer")
        break
    except (StopIteration, OSError, ValueError):
        pass
assert len(notebooks) == 2, notebooks
written = [g for n in notebooks for g in ask(f"grades?submission_id={n['id']}") if g["needs_manual_grade"]]
assert written, "no answer to grade"
for grade in written:
    ask(f"grade/{grade['id']}", {"manual_score": 2, "extra_credit": 0})
"""


def commands() -> list[str]:
    """The ten commands, from the guide itself."""
    block = re.search(r"<!-- the ten commands.*?-->\n```shell\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    return block[1].splitlines()


def test_there_are_ten_and_each_is_explained():
    text = GUIDE.read_text(encoding="utf-8")
    assert len(commands()) == 10
    assert re.findall(r"^(\d+)\. ", text, re.MULTILINE) == [str(n) for n in range(1, 11)]


@pytest.mark.parametrize("line", [line for line in commands() if line.startswith("python -m autograder")])
def test_the_course_s_own_commands_parse(line, monkeypatch, capsys):
    words = shlex.split(line)[3:]
    monkeypatch.setattr(f"autograder.{words[0]}.main", lambda args: 42)
    assert command_line.main(words) == 42


@pytest.mark.parametrize("line", [line for line in commands() if line.startswith("make")])
def test_the_make_targets_are_there(line):
    done = subprocess.run([*shlex.split(line), "-n"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_ten_commands_from_clone_to_returned_feedback(tmp_path, bubblewrap):
    """Nothing is replaced but the environment, which is the one the tests run in, and the person at the browser."""
    with zipfile.ZipFile(tmp_path / "submissions.zip", "w") as archive:
        for number, answer in CLASS.items():
            archive.writestr(f"A Student_{number}_assignsubmission_file_/{STAGE}.ipynb", sample(answer))
    header = ["Identifier", "Full name", "Grade", "Maximum Grade", "Last modified (grade)"]
    rows = [header, *([f"Participant {number}", "A Student", "", "25.00", "-"] for number in CLASS)]
    with open(tmp_path / "worksheet.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    (tmp_path / "person.py").write_text(PERSON, encoding="utf-8")
    settings = tmp_path / "jupyter"
    settings.mkdir()
    (settings / "jupyter_server_config.py").write_text(
        "c.ServerApp.open_browser = False\nc.ServerApp.allow_root = True\nc.ServerApp.port = 0\n"
    )
    clone, environment = tmp_path / "lora", Path(sys.prefix)
    (environment / ".ready").touch(exist_ok=True)
    script = ["set -ex"]
    for line in commands():
        if line.startswith("git clone"):
            line = line.replace("ADDRESS", shlex.quote(str(ROOT)))
        if line == "make setup":  # older than the environment, so that make has nothing to do
            script.append(
                f"ln -s {shlex.quote(str(environment))} .venv; touch -d 2000-01-01 pyproject.toml constraints.txt"
            )
        if line == "jupyter lab":
            script.append("jupyter lab & server=$!")
            script.append(f"python {tmp_path}/person.py {tmp_path}/runtime || status=$?")
            script.append('kill $server; wait $server || true; test -z "$status"')
            continue
        script.append(line)
    (tmp_path / "all.sh").write_text("\n".join(script) + "\n", encoding="utf-8")
    variables = {k: v for k, v in os.environ.items() if k not in ("LORA_PROFILE", "VIRTUAL_ENV")}
    variables |= {
        "PYTHONPATH": str(clone),
        "JUPYTER_CONFIG_DIR": str(settings),
        "JUPYTER_RUNTIME_DIR": f"{tmp_path}/runtime",
    }
    done = subprocess.run(
        ["bash", "all.sh"], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]

    with open(tmp_path / "upload" / "grades.csv", encoding="utf-8", newline="") as file:
        grades = {row["Identifier"]: float(row["Grade"]) for row in csv.DictReader(file)}
    assert grades["Participant 1234567"] == FULL + 2  # and two of three by hand
    assert 2 <= grades["Participant 2345678"] < FULL + 2
    with zipfile.ZipFile(tmp_path / "upload" / "feedback.zip") as archive:
        assert len(archive.namelist()) == 2
        for name in archive.namelist():
            page = archive.read(name).decode()
            assert "2.8" in page
            assert "2 of 3 points" in page, "what the person gave"
            assert "grade_cell" not in page
            assert "MARK SCHEME" not in page
    assert list((clone / "dist").glob("lora-from-scratch-*.zip"))
    notebook = nbformat.read(clone / "notebooks" / STAGE / f"{STAGE}.ipynb", as_version=4)
    assert json.dumps(notebook).count("NotImplementedError") > 5


def test_the_worked_example_of_a_change_is_what_the_course_has():
    text = (ROOT / "docs" / "changing_an_exercise.md").read_text(encoding="utf-8")
    quotes = re.findall(r"<!-- (\S+) -->\n```{code-block} python\n(.*?)```", text, re.DOTALL)
    assert len(quotes) == 3
    for path, quote in quotes:
        assert quote in (ROOT / path).read_text(encoding="utf-8"), (
            f"{path} no longer has\n{textwrap.indent(quote, '  ')}"
        )
    for name in re.findall(r"\| `([\w/.]+)`", text):
        if "NN" not in name:
            assert (ROOT / name).exists(), name


def test_the_sandbox_s_limits_are_those_in_the_guide():
    text = (ROOT / "docs" / "keeping_it_hidden.md").read_text(encoding="utf-8")
    assert f"at most {TOTAL // 10**9} GB of memory with all its processes" in text
    assert f"{LIMITS['AS'] // 10**9} GB of address space" in text
    assert f"{LIMITS['CPU']} CPU seconds" in text
    assert f"at most {LIMITS['NPROC']} processes" in text
    assert f"no file above {LIMITS['FSIZE'] // 10**6} MB" in text
    inside = (ROOT / "autograder/engine/inside/zygote.py").read_text(encoding="utf-8")  # imported in the sandbox alone
    assert 'SCRATCH = {"/tmp": 200_000_000, "/box": 200_000_000, "/dev/shm": 64_000_000}' in inside
    assert "of 200, 200 and 64 MB" in text


def test_the_points_in_the_guide_are_the_contract_s():
    text = GUIDE.read_text(encoding="utf-8")
    for stage, exercises in STAGES.items():
        row = re.search(rf"^\| `{stage}` \|.*\| (\d+) \| (\d+) \|$", text, re.MULTILINE)
        by_hand = sum(e.points for e in exercises if e.manual)
        assert (int(row[1]), int(row[2])) == (sum(e.points for e in exercises), by_hand)
