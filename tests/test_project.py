"""The project's own files agree with each other, and importing the package stays cheap."""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from stage_answers import POINTS

from autograder.evaluation import hidden_checks
from autograder.exercises import STAGES
from autograder.publish.opening import tomllib
from lora_ref.checks import title, visible_checks
from lora_ref.doctor import OLDEST_PYTHON

ROOT = Path(__file__).resolve().parents[1]
CONDA_NAMES = {"pytorch": "torch"}
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]


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


def constraints() -> list[Requirement]:
    """The lines of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def on(python: str) -> dict[str, str]:
    """What markers read on the first release of a Python, and here for all else."""
    return default_environment() | {"python_version": python, "python_full_version": f"{python}.0"}


def pinned(python: str = "{}.{}".format(*sys.version_info)) -> dict[str, Version]:
    """What constraints.txt pins for a Python, by default the one that runs."""
    found: dict[str, Version] = {}
    for line in constraints():
        if line.marker is None or line.marker.evaluate(on(python)):
            name = canonicalize_name(line.name)
            assert name not in found, f"two pins of {name} for Python {python}"
            found[name] = Version(str(line.specifier).removeprefix("=="))
    return found


def test_environment_and_pyproject_have_the_same_names_and_bounds():
    ours, theirs = declared(), conda()
    assert set(ours) == set(theirs)
    assert {name: r.specifier for name, r in ours.items()} == {name: r.specifier for name, r in theirs.items()}


def test_all_name_the_same_oldest_python():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == f">={PYTHONS[0]}"
    assert PYTHONS[0] == ".".join(map(str, OLDEST_PYTHON))
    assert f"python>={PYTHONS[0]}" in yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    said = {"README.md", "Makefile", "docs/start.md", "docs/instructor_guide.md", "docs/gradescope.md"}
    said |= {"autograder/publish/gradescope.py", "autograder/results/templates/start.html"}
    named = re.compile(r"Python(?:</a>)? (3\.\d+) or newer")
    files = [Path("README.md"), Path("Makefile")]
    for folder, kind in [("docs", "*.md"), ("autograder", "*.py"), ("autograder", "*.html"), ("lora_ref", "*.py")]:
        files += [path.relative_to(ROOT) for path in (ROOT / folder).rglob(kind)]
    found = {path.as_posix(): set(named.findall((ROOT / path).read_text(encoding="utf-8"))) for path in files}
    assert {name: pythons for name, pythons in found.items() if pythons} == {name: {PYTHONS[0]} for name in said}


def test_the_workflow_tries_every_python():
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    assert jobs["pythons"]["strategy"]["matrix"]["python"] == PYTHONS


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", sorted(declared()))
def test_constraints_pin_every_requirement_within_its_bounds(name, python):
    requirement = declared()[name]
    if requirement.marker is None or requirement.marker.evaluate(on(python)):
        version = pinned(python).get(canonicalize_name(name))
        assert version is not None, f"constraints.txt does not pin {name} for Python {python}"
        assert requirement.specifier.contains(version), f"{name}=={version} is outside {requirement.specifier}"


def test_what_runs_here_is_what_constraints_pin():
    assert {name: Version(Version(importlib.metadata.version(name)).public) for name in pinned()} == pinned()


@pytest.mark.parametrize("python", PYTHONS)
def test_every_pin_allows_the_first_release_of_its_python(python):
    """A pin that asks for 3.11.5, say, breaks the set-up of a system whose own Python is 3.11.2.

    Seen are the releases that run here, so those that only another Python gets are seen where that one runs the tests.
    """
    here, there = pinned(), pinned(python)
    same = [name for name in here if there.get(name) == here[name]]
    assert {"torch", "nbclient", "pytest"} <= set(same)
    asked = {name: SpecifierSet(importlib.metadata.metadata(name).get("Requires-Python") or "") for name in same}
    assert {name: str(versions) for name, versions in asked.items() if not versions.contains(f"{python}.0")} == {}


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


@pytest.mark.parametrize("exercise", [e.id for exercises in STAGES.values() for e in exercises if e.manual])
def test_a_written_answer_has_no_checks(exercise):
    assert visible_checks(exercise) == []
    with pytest.raises(KeyError, match="no automatic checks"):
        hidden_checks(exercise)


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
