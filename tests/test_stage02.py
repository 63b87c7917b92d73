"""Stage 02's checks against the bank: right answers pass whatever their style, wrong ones lose points and learn why."""

import contextlib
import dataclasses
import io
import json

import numpy as np
import pytest
import torch
from autograder.judges import stage02 as judges
from stage_answers import POINTS, earned, faults_of_visible, release
from torch import nn

from autograder import evaluate
from autograder.answers import load_answer, run_cells
from autograder.exercises import ROOT, STAGES, alternates, mutants
from autograder.exercises.mutant import worked_cells
from lora_ref.checks import stage02 as visible
from lora_ref.checks import visible_checks
from lora_ref.checks.gaps import after
from lora_ref.checks.verdicts import draw, judge, run_check

STAGE = "02_lora_layer"
AUTOMATIC = [e.id for e in STAGES[STAGE] if not e.manual]
MASTER = ROOT / "solutions" / STAGE / f"{STAGE}.py"


@pytest.fixture(scope="module")
def worked():
    with contextlib.redirect_stdout(io.StringIO()):
        answer = run_cells(worked_cells(STAGE))
    assert answer.errors == []
    return answer.namespace


# --- right answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_worked_solution_has_full_marks(worked, seed):
    report = evaluate(STAGE, worked, seed)
    assert report.score == report.max_score == 22, str(report)


def test_worked_solution_passes_the_visible_checks(worked):
    assert [fault for exercise in AUTOMATIC for fault in faults_of_visible(exercise, worked)] == []


@pytest.mark.parametrize("path", alternates(STAGE), ids=lambda path: path.stem)
def test_alternates_have_full_marks(path):
    answer = load_answer(path)
    assert answer.errors == []
    for seed in range(5):
        report = evaluate(STAGE, answer.namespace, seed)
        assert report.score == report.max_score, str(report)
    assert [fault for exercise in AUTOMATIC for fault in faults_of_visible(exercise, answer.namespace)] == []


def test_the_reference_package_passes_its_own_checks(worked):
    import lora_ref
    from lora_ref.parametrize import LoRAParametrization

    names = {"LoRALayer": lora_ref.LoRALayer, "LinearWithLoRA": lora_ref.LinearWithLoRA}
    report = evaluate(STAGE, {**worked, **names, "LoRAParametrization": LoRAParametrization}, 0)
    assert report.score == report.max_score, str(report)


# --- wrong answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mutant", mutants(STAGE), ids=lambda mutant: mutant.id)
def test_mutant_loses_points_where_it_is_wrong_and_learns_why(mutant):
    with contextlib.redirect_stdout(io.StringIO()):
        answer = mutant.answer(STAGE)
    assert answer.errors == []
    report = evaluate(STAGE, answer.namespace, 0)
    points = earned(report)
    assert points.pop(mutant.exercise) < POINTS[mutant.exercise], "survives"
    assert points == {exercise: POINTS[exercise] for exercise in points}, str(report)
    hidden = next(result.message for result in report.results if result.id == mutant.exercise)
    seen = "\n".join(faults_of_visible(mutant.exercise, answer.namespace))
    assert mutant.says in hidden, hidden
    # the visible checks alone find it, and explain it as well as the hidden ones
    assert mutant.says in seen, seen


def test_every_published_mistake_has_a_mutant():
    seeds = {mutant.seed for mutant in mutants(STAGE)}
    assert {"S0", "S1", "S2", "S3", "S4"} <= seeds
    assert {mutant.exercise for mutant in mutants(STAGE)} == set(AUTOMATIC)


def test_untouched_notebook_scores_nothing():
    with contextlib.redirect_stdout(io.StringIO()):
        answer = run_cells([release(cell) for cell in worked_cells(STAGE)])
    assert answer.errors == []
    report = evaluate(STAGE, answer.namespace, 0)
    assert report.score == 0, str(report)
    assert all(not verdict.passed for result in report.results for verdict in result.verdicts)
    for exercise in AUTOMATIC:
        assert len(faults_of_visible(exercise, answer.namespace)) == len(visible_checks(exercise))


@pytest.mark.parametrize("exercise", AUTOMATIC[:6])
def test_one_open_gap_costs_its_own_exercise_alone(exercise):
    """A student who skips an exercise can still get every point of the others."""
    cells = []
    for cell in worked_cells(STAGE):
        for label in AUTOMATIC:
            if label != exercise:
                cell = cell.replace(f"### BEGIN SOLUTION {label}", "### kept").replace("### GIVEN", "### kept")
        # a kept gap's END marker has no BEGIN before it any more
        parts, open_gap = [], False
        for line in cell.splitlines():
            open_gap = open_gap or "### BEGIN SOLUTION" in line
            if "### END SOLUTION" in line and not open_gap:
                continue
            open_gap = open_gap and "### END SOLUTION" not in line
            parts.append(line)
        cells.append(release("\n".join(parts)))
    with contextlib.redirect_stdout(io.StringIO()):
        points = earned(evaluate(STAGE, run_cells(cells).namespace, 0))
    assert points.pop(exercise) == 0
    expected = {name: POINTS[name] for name in points}
    if exercise == "2.4":  # the output of a merged layer needs a forward: merge and unmerge alone keep their points
        assert points.pop("2.5") == POINTS["2.5"] - 0.75
        expected.pop("2.5")
    assert points == expected


# --- hostile answers ------------------------------------------------------------------------------------------------


class Rude(Exception):
    def __str__(self):
        raise RuntimeError("no text for you")


class Liar(torch.Tensor):
    """A tensor that claims to equal, and to be close to, everything."""

    def __eq__(self, other):
        return True

    __hash__ = torch.Tensor.__hash__

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func in (torch.allclose, torch.equal):
            return True
        return super().__torch_function__(func, types, args, kwargs or {})


def hangs(*_, **__):
    while True:
        pass


def rude(*_, **__):
    raise Rude


class NaNLayer(nn.Module):
    def __init__(self, in_features, out_features, rank, alpha, dropout=0.0):
        super().__init__()
        self.lora_A = nn.Parameter(torch.full((rank, in_features), float("nan")))
        self.lora_B = nn.Parameter(torch.full((out_features, rank), float("nan")))
        self.scaling = float("nan")

    def forward(self, x):
        return torch.full((*x.shape[:-1], len(self.lora_B)), float("nan"))


class LyingLayer(NaNLayer):
    def __init__(self, in_features, out_features, rank, alpha, dropout=0.0):
        super().__init__(in_features, out_features, rank, alpha)
        self.lora_A, self.lora_B = (nn.Parameter(p.data.as_subclass(Liar)) for p in (self.lora_A, self.lora_B))

    def forward(self, x):
        return super().forward(x).as_subclass(Liar)


class Strange:
    """Answers every attribute with itself."""

    def __init__(self, *args, **kwargs):
        pass

    def __call__(self, *args, **kwargs):
        return self

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self


def quits(*_, **__):
    raise SystemExit(0)


HOSTILE = {
    "nothing": None,
    "a number": 7,
    "a text": "LoRALayer",
    "returns None": lambda *args, **kwargs: None,
    "returns nan": lambda *args, **kwargs: float("nan"),
    "rude exception": rude,
    "quits": quits,
    "nan layer": NaNLayer,
    "lying tensors": LyingLayer,
    "strange object": Strange,
    "the wrong class": nn.Linear,
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_names_get_a_verdict_and_hardly_a_point(what):
    names = {name for exercise in STAGES[STAGE] for name in exercise.names}
    report = evaluate(STAGE, dict.fromkeys(names, HOSTILE[what]), 0)
    # a layer full of NaN has the right shapes
    assert report.score == (1 if what in ("nan layer", "lying tensors") else 0), str(report)
    json.dumps(report.to_dict())


@pytest.mark.parametrize("name", ["LoRALayer", "LinearWithLoRA", "LoRAParametrization", "project_up"])
def test_a_hang_is_a_verdict_and_the_others_keep_their_points(worked, monkeypatch, name):
    monkeypatch.setattr(judges, "HIDDEN", [dataclasses.replace(check, seconds=0.15) for check in judges.HIDDEN])
    lost = {e.id for e in STAGES[STAGE] if name in e.names}
    for check in judges.HIDDEN:
        if check.exercise in lost and check.id not in ("2.7/fold_in", "2.7/make_factors"):
            verdict = run_check(check, {**worked, name: hangs}, 0)
            assert not verdict.passed
            assert "still running" in verdict.message


def test_missing_names_say_so():
    report = evaluate(STAGE, {}, 0)
    assert report.score == 0
    assert all("is not defined" in result.message for result in report.results)


# --- judges alone ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", judges.HIDDEN, ids=lambda check: check.id)
def test_no_judge_passes_an_observation_that_a_sandbox_made_up(check):
    """In hardened grading the observation comes from the student's side, so anything may be in it."""
    from lora_ref.checks.verdicts import judge

    inputs = check.draw(np.random.default_rng(0))
    made_up = [
        {},
        {"own": {}, "mended": {}},
        {"own": [], "mended": None},
        {"error": {}},
        {"y": "right"},
        {"states": []},
    ]
    for seen in made_up:
        fault = judge(check, inputs, seen)
        assert fault is not None, f"{seen} passes"
        assert str(fault)


def test_uninitialised_memory_is_seen_even_where_it_holds_good_values():
    with visible.uninitialised_is_nan():
        assert torch.empty(3).isnan().all()
    assert not torch.are_deterministic_algorithms_enabled()


# --- the notebook ---------------------------------------------------------------------------------------------------


def test_demonstrations_wait_for_their_exercise(capsys):
    with after("2.2", "a picture"):
        raise NotImplementedError("Exercise 2.2")
    assert "After exercise 2.2" in capsys.readouterr().out
    with pytest.raises(ZeroDivisionError), after("2.2", "a picture"):
        1 / 0  # noqa: B018


def test_an_update_added_twice_does_not_hide_beside_a_huge_weight():
    check = next(c for c in judges.HIDDEN if c.id == "2.5/twice")
    inputs = draw(check, 0)
    huge = np.full_like(inputs["W"], 1e30)
    update = inputs["B"] @ inputs["A"]
    states = [{"W": (huge + n * update).astype(np.float32), "merged": n > 0} for n in range(3)]
    assert judge(check, inputs, {"own": {"states": states}, "mended": {"states": states}})
