"""The students' zip: all they need, the same bytes each time, and nothing that only graders may see."""

from __future__ import annotations

import argparse
import ast
import io
import json
import re
import zipfile

import pytest
import toy_course
from toy_course import CONTRACT, MASTER, ROOT, STAGE

from autograder import release as release_module
from autograder.evaluation import hidden_checks
from autograder.exercises import STAGES, mutants
from autograder.publish.notebooks import BuildError, build
from autograder.publish.release import TOP, LeakError, assert_clean, pack, release, secret_lines
from lora_ref.checks import visible_checks

PROJECT = '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n' + (
    '[project]\nname = "lora_ref"\nversion = "0.1.0"\n[tool.setuptools.packages.find]\ninclude = ["lora_ref*"]\n'
)
MASTERS = sorted(path.stem for path in ROOT.glob("solutions/*/*.py"))


@pytest.fixture(scope="module", autouse=True)
def toy_contract():
    """The toy stage is in the contract for as long as this module runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STAGES, STAGE, CONTRACT[STAGE])
        yield


def lay_out(root):
    """A toy course with a package to build."""
    toy_course.make(root)
    (root / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    (root / "lora_ref" / "__init__.py").write_text('"""A toy package."""\n', encoding="utf-8")
    (root / "build" / "lib" / "lora_ref").mkdir(parents=True)  # left over: must not get into the wheel
    (root / "build" / "lib" / "lora_ref" / "old.py").write_text("grade_cell = 1\n", encoding="utf-8")
    build(root)
    return root


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A toy course and the zip made from it."""
    root = lay_out(tmp_path_factory.mktemp("toy"))
    return root, release(root, root / "dist")


def names_and_texts(data: bytes, inside: str = ""):
    """Each file in a zip, wheels opened; written apart from the code under test."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for name in archive.namelist():
            if name.endswith(".whl"):
                yield from names_and_texts(archive.read(name), inside + name + "/")
            else:
                yield inside + name, archive.read(name).decode("utf-8")


def assert_nothing_private(data: bytes, secrets) -> None:
    """Searches the zip as a curious student would; a line of JSON is searched as JSON writes it."""
    for name, text in names_and_texts(data):
        assert "/autograder/" not in name, name
        assert "/solutions/" not in name, name
        for word in ("BEGIN SOLUTION", "END SOLUTION", "HIDDEN TESTS", "MARK SCHEME", "grade_cell"):
            assert word not in text, (name, word)
        for line in secrets:
            assert line not in text, (name, line)
            assert json.dumps(line)[1:-1] not in text, (name, line)


def test_the_zip_holds_what_a_student_needs(toy):
    root, path = toy
    assert path == root / "dist" / f"{TOP}-0.1.0.zip"
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [
            f"{TOP}/START.html",
            f"{TOP}/lora_ref-0.1.0-py3-none-any.whl",
            f"{TOP}/notebooks/{STAGE}/{STAGE}.ipynb",
        ]
        start = archive.read(f"{TOP}/START.html").decode()
        wheel = zipfile.ZipFile(io.BytesIO(archive.read(archive.namelist()[1])))
    assert "pip install lora_ref-0.1.0-py3-none-any.whl" in start
    assert len(start.splitlines()) < 100
    assert "keep the zip or this folder in Google Drive" in " ".join(start.split())
    modules = [f"lora_ref/{name}.py" for name in ("__init__", "checks", "environment")]
    assert [name for name in wheel.namelist() if name.endswith(".py")] == modules
    assert [entry.name for entry in root.iterdir() if entry.name.endswith("egg-info")] == []


def test_the_zip_shows_nothing_that_only_graders_may_see(toy):
    root, path = toy
    secrets = secret_lines(root)
    assert {"twice_as_much = 2 * x", "return twice_as_much", "Because addition is what it is."} <= secrets
    assert "- 3 points: names the successor function." in secrets
    assert_nothing_private(path.read_bytes(), secrets)


def test_the_same_course_gives_the_same_bytes(toy, tmp_path):
    other = lay_out(tmp_path)
    assert release(other, tmp_path / "dist").read_bytes() == toy[1].read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.ipynb", "### BEGIN SOLUTION 9.1", "a.ipynb contains 'BEGIN SOLUTION'"),
        ("a.md", "grade_cell('9.1')", "contains 'grade_cell'"),
        ("a.md", "see the MARK SCHEME", "contains 'MARK SCHEME'"),
        ("a.ipynb", "hint: twice_as_much = 2 * x", "contains 'twice_as_much = 2 \\* x'"),
        ("autograder/exercises/stage02/e1_layer.py", "", "lies in autograder/"),
        ("course/solutions/09_toy/09_toy.py", "", "lies in solutions/"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "in a wheel"])
def test_a_leak_is_refused(toy, name, content, message, wrapped):
    if name.endswith(".ipynb"):
        content = json.dumps({"cells": [{"outputs": [{"text": ["first line\n", content]}]}]})
    data = pack({name: content.encode()})
    if wrapped:
        data = pack({"lora_ref-0.1.0-py3-none-any.whl": data})
    with pytest.raises(LeakError, match=message):
        assert_clean(data, secret_lines(toy[0]))


def test_a_zip_with_a_leak_is_not_written(tmp_path):
    root = lay_out(tmp_path)
    (root / "lora_ref" / "helper.py").write_text("# calls grade_cell\n", encoding="utf-8")
    with pytest.raises(LeakError, match=r"lora_ref-0\.1\.0.*!lora_ref/helper\.py contains 'grade_cell'"):
        release(root, root / "dist")
    assert not (root / "dist").exists()


def test_lines_that_students_see_anyway_are_not_secret(tmp_path):
    root = lay_out(tmp_path)
    (root / "lora_ref" / "reference.py").write_text("twice_as_much = 2 * x\n", encoding="utf-8")
    assert "twice_as_much = 2 * x" not in secret_lines(root)


def test_stale_notebooks_are_not_released(toy, tmp_path, capsys):
    root = lay_out(tmp_path)
    master = root / "solutions" / STAGE / f"{STAGE}.py"
    master.write_text(MASTER.replace("multiply", "add"), encoding="utf-8")
    with pytest.raises(BuildError, match="run `make build` first"):
        release(root, root / "dist")
    parser = argparse.ArgumentParser()
    release_module.add_arguments(parser)
    assert release_module.main(parser.parse_args(["--root", str(root), "--out", str(root / "dist")])) == 1
    assert "run `make build` first" in capsys.readouterr().err


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The real course's zip."""
    with pytest.MonkeyPatch.context() as patch:  # the toy stage is back before the next test, whichever it is
        patch.delitem(STAGES, STAGE)
        return release(ROOT, tmp_path_factory.mktemp("real")).read_bytes()


def test_the_real_course(real):
    names = [name for name, _ in names_and_texts(real)]
    assert sorted(name for name in names if name.endswith(".ipynb")) == [
        f"{TOP}/notebooks/{stage}/{stage}.ipynb" for stage in MASTERS
    ]
    secrets = secret_lines(ROOT)
    assert len(secrets) > 20  # an empty search would find nothing
    assert_nothing_private(real, secrets)


def test_the_wheel_is_the_package_and_nothing_else(real):
    inside = {name.partition(".whl/")[2]: text for name, text in names_and_texts(real) if ".whl/" in name}
    package = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in ROOT.glob("lora_ref/**/*.py")}
    package["lora_ref/py.typed"] = ""  # for type checkers
    package["lora_ref/ranks_laptop.csv"] = (ROOT / "lora_ref" / "ranks_laptop.csv").read_text(encoding="utf-8")
    assert {name: text for name, text in inside.items() if ".dist-info/" not in name} == package


def functions(source: str) -> dict[str, str]:
    """What each function and class of a module does, less its docstring and layout; a one-liner says nothing."""
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            code = [
                part for part in node.body if not (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
            ]
            text = "\n".join(ast.unparse(part) for part in code)
            if len(text) > 60:
                found[text] = node.name
    return found


def test_no_judge_mutant_or_hidden_test_is_in_it(real):
    texts = dict(names_and_texts(real))
    shown = {text for name, source in texts.items() if name.endswith(".py") for text in functions(source)}
    graders = [path for path in ROOT.glob("autograder/**/*.py") if "alternates" not in path.parts]
    private = {text: f"{path}: {name}" for path in graders for text, name in functions(path.read_text()).items()}
    assert len(private) > 200
    assert [private[text] for text in private.keys() & shown] == []

    stages = [stage for stage in STAGES if stage != STAGE]
    seen = {check.id for stage in stages for exercise in STAGES[stage] for check in visible_checks(exercise.id)}
    judged = [
        check.id for stage in stages for row in STAGES[stage] if not row.manual for check in hidden_checks(row.id)
    ]
    # a mutant may bear the name of the visible check that finds it
    secret = {name for name in judged if name not in seen} | {m.id for stage in stages for m in mutants(stage)} - seen
    assert len(secret) > 350
    pattern = re.compile("(?:" + "|".join(map(re.escape, sorted(secret))) + r")(?![\w-])")
    assert pattern.search(f"as {sorted(secret)[0]} says")
    for name, text in texts.items():
        assert not pattern.search(text), f"{name} has {pattern.search(text)[0]}"
