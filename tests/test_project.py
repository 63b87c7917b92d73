"""The project's own files agree with each other, and importing the package stays cheap."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib
import yaml
from packaging.requirements import Requirement
from packaging.version import Version
from stage_answers import POINTS

from autograder.evaluation import hidden_checks
from autograder.exercises import STAGES
from lora_ref.checks import title, visible_checks

ROOT = Path(__file__).resolve().parents[1]
CONDA_NAMES = {"pytorch": "torch"}


def declared() -> dict[str, Requirement]:
    """Everything pyproject.toml asks for, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + [r for group in project["optional-dependencies"].values() for r in group]
    found = {Requirement(line).name: Requirement(line) for line in lines}
    del found["lora_ref"]  # the extra that includes another
    return found


def conda() -> dict[str, Requirement]:
    """What environment.yml asks for, of conda or of pip, under pip's names; Python and pip itself left out."""
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    lines = [line for line in entries if isinstance(line, str)]
    lines += [line for entry in entries if isinstance(entry, dict) for line in entry["pip"] if line != "-e ."]
    found = {}
    for line in lines:
        requirement = Requirement(line)
        name = CONDA_NAMES.get(requirement.name, requirement.name)
        if name not in ("python", "pip"):
            found[name] = requirement
    return found


def pinned() -> dict[str, Version]:
    """What constraints.txt pins."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {
        re.sub(r"[-_.]+", "-", name).lower(): Version(version)
        for name, version in (line.split("==") for line in lines if line and not line.startswith("#"))
    }


def test_environment_and_pyproject_have_the_same_names_and_bounds():
    ours, theirs = declared(), conda()
    assert set(ours) == set(theirs)
    assert {name: r.specifier for name, r in ours.items()} == {name: r.specifier for name, r in theirs.items()}


def test_the_environment_asks_for_the_python_that_the_package_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert f"python{project['requires-python']}" in lines


@pytest.mark.parametrize("name", sorted(declared()))
def test_constraints_pin_every_requirement_within_its_bounds(name):
    version = pinned().get(re.sub(r"[-_.]+", "-", name).lower())
    assert version is not None, f"constraints.txt does not pin {name}"
    assert declared()[name].specifier.contains(version), f"{name}=={version} is outside {declared()[name].specifier}"


def test_what_runs_here_is_what_constraints_pin():
    import torch
    import transformers

    assert Version(transformers.__version__) == pinned()["transformers"]
    assert Version(torch.__version__.partition("+")[0]) == pinned()["torch"]


def test_importing_the_package_imports_no_heavy_library():
    heavy = ("transformers", "datasets", "matplotlib", "pandas", "accelerate", "nbformat", "autograder")
    code = f"import sys, lora_ref, lora_ref.checks; print([name for name in {heavy} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_every_name_the_package_offers_is_there():
    import lora_ref

    for name in lora_ref.__all__:
        assert getattr(lora_ref, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'qurey'"):
        _ = lora_ref.qurey


def test_the_contract_adds_up():
    points = {stage: sum(e.points for e in exercises) for stage, exercises in STAGES.items()}
    assert list(points.values()) == [15, 25, 20, 25, 15]
    assert list(points) == [
        "01_rank_theory",
        "02_lora_layer",
        "03_roberta_injection",
        "04_sst2_training",
        "05_analysis",
    ]
    assert all(title(exercise_id) for exercise_id in POINTS)


@pytest.mark.parametrize("row", [e for exercises in STAGES.values() for e in exercises], ids=lambda e: e.id)
def test_hidden_points_are_the_contracts(row):
    if row.manual:
        assert visible_checks(row.id) == []
        with pytest.raises(KeyError, match="no automatic checks"):
            hidden_checks(row.id)
        return
    checks = hidden_checks(row.id)
    assert sum(check.points for check in checks) == pytest.approx(row.points)
    assert all(check.points > 0 for check in checks)
    assert visible_checks(row.id), "a student must be able to check the exercise"
    ids = [check.id for check in checks]
    assert len(set(ids)) == len(ids)


def test_no_file_names_a_machine_or_a_registry():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    # put together here, so that this file does not find itself
    places = "|".join(["/ro" + "ot/", "/ho" + "me/[a-z]", "/wo" + "rk/"])
    forbidden = re.compile(f"{places}|https?://(?:files|registry|deb|pypi)[.]")
    for name in tracked:
        path = ROOT / name
        if path.suffix in {".py", ".md", ".ipynb", ".toml", ".yml", ".txt", ""} and path.is_file():
            found = forbidden.search(path.read_text(encoding="utf-8", errors="replace"))
            assert not found, f"{name} has {found.group()!r}"
