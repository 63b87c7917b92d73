"""Exercise 2.7, spot the bug."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from lora_ref.checks.exercise import Exercise
from lora_ref.checks.probing import Names, array, attempt
from lora_ref.checks.stage02.shared import (
    LEADING,
    TINY,
    build_linear,
    draw_layer,
    draw_wrapped,
    factor,
    factor_of,
    forward_expected,
    leading,
    scale_cause,
    set_factors,
    shape_error,
    tensor,
    transposed,
    uninitialised_is_nan,
)
from lora_ref.checks.stage02.walks import SIZES, draw_layers
from lora_ref.checks.verdicts import Check, Fault, Inputs, Observation, close
from lora_ref.rounding import number


def probe_project_up(names: Names, **inputs: Any) -> dict:
    """project_up where rank and out_features differ, and where they are the same; h of one to four dimensions."""

    def outputs(B: np.ndarray) -> list[dict]:
        return [
            attempt(lambda h: {"y": array(names.project_up(transposed(h), tensor(B)))}, h) for h in leading(inputs["h"])
        ]

    h, B = (torch.tensor(inputs[key], requires_grad=True) for key in ("h", "B"))  # in float64
    seen = {"h": outputs(inputs["B"]), "square": outputs(inputs["square"])}
    return seen | {"double": attempt(lambda: in_double(names, h, B))}


def in_double(names: Names, h: torch.Tensor, B: torch.Tensor) -> dict:
    """The result for numbers that float32 does not hold, its dtype, and the gradient that h gets; B was zero before."""
    with torch.no_grad():
        values = B.clone()
        names.project_up(h, B.zero_())
        h *= SIZES[0]
        B.copy_(values)
    y = names.project_up(h, B)
    kind = str(y.dtype).removeprefix("torch.")
    gradient = torch.autograd.grad(y.sum(), h, allow_unused=True)[0] if y.requires_grad else None
    return {"y": array(y) / SIZES[0], "dtype": kind, "gradient": None if gradient is None else array(gradient)}


def draw_project_up(rng: np.random.Generator) -> Inputs:
    rank, out_features = (int(n) for n in rng.choice(np.arange(3, 9), size=2, replace=False))
    return {
        "h": rng.normal(size=(2, 5, rank)),
        "B": rng.normal(size=(out_features, rank)),
        "square": rng.normal(size=(rank, rank)),
    }


def draw_fold(rng: np.random.Generator) -> Inputs:
    """A layer with bias, a square one without, and one with a rank above its smaller side."""
    layers = draw_layers(rng)
    layers["a"]["bias"] = False
    others = [{**layers[name], "x": rng.normal(size=(4, layers[name]["in_features"]))} for name in "ac"]
    return {"layers": [{**draw_wrapped(rng), "bias": True}, *others]}


def probe_fold_in(names: Names, **inputs: Any) -> dict:
    """Layers and their adapters after fold_in and after a second one, and whether an adapter can still train.

    With the student's own LoRALayer, which may have methods that fold_in uses, and with one that has the contract's
    names alone.
    """
    return {"layers": [folded(names, layer) for layer in inputs["layers"]]}


def folded(names: Names, inputs: Inputs) -> dict:
    sizes = inputs["in_features"], inputs["out_features"], inputs["rank"], inputs["alpha"]
    x = tensor(inputs["x"])

    lora = names.LoRALayer(*sizes)
    set_factors(lora, inputs)
    linear = build_linear(inputs, inputs["bias"]).requires_grad_(False)
    with torch.no_grad():
        before = array(lora(x))
    names.fold_in(linear, lora)
    with torch.no_grad():
        seen: dict[str, Any] = {"W": array(linear.weight), "update": array(lora(x)), "before": before}
    seen["b"] = None if linear.bias is None else array(linear.bias)
    seen["training"] = bool(lora.training and linear.training)
    seen["asleep"] = [key for key in ("lora_A", "lora_B") if not factor(lora, key).requires_grad]
    seen["trains"] = [name for name, p in linear.named_parameters() if p.requires_grad]
    (lora(x) * torch.linspace(-1, 2, inputs["out_features"])).sum().backward()
    gradients = [p.grad for p in (factor(lora, "lora_A"), factor(lora, "lora_B")) if p.grad is not None]
    seen["gradient"] = max((float(g.abs().max()) for g in gradients), default=0.0)
    names.fold_in(linear, lora)
    return {**seen, "again": array(linear.weight), "scaling": float(lora.scaling)}


def probe_make_factors(names: Names, **inputs: Any) -> dict:
    """What make_factors registers beside layers of two dtypes, twice, and what it asks a layer's parameters for."""
    sizes, seen = (inputs["in_features"], inputs["out_features"]), {}
    for dtype in (torch.float32, torch.float64):
        linear = nn.Linear(*sizes).to(dtype)
        with uninitialised_is_nan():
            factors, others = (names.make_factors(linear, inputs["rank"]) for _ in range(2))
            wide = names.make_factors(linear, max(sizes) + 1)
        seen[str(dtype).removeprefix("torch.")] = {
            "registered": {name: list(p.shape) for name, p in factors.named_parameters() if p.requires_grad},
            "dtypes": {name: str(getattr(factors, name).dtype) for name in ("lora_A", "lora_B")},
            "A": array(factors.lora_A),
            "again": array(others.lora_A),
            "B": array(factors.lora_B),
            "wide": len(wide.lora_A),
            "frozen": not all(p.requires_grad for p in linear.parameters()),
            "training": linear.training,
        }
    asked: list[str] = []
    linear = nn.Linear(*sizes)
    for name, parameter in list(linear.named_parameters()):
        setattr(linear, name, watched(parameter, asked))
    asked.clear()  # registering asks too
    names.make_factors(linear, inputs["rank"])
    return {**seen, "asked": sorted(set(asked))}


def watched(parameter: nn.Parameter, asked: list[str]) -> nn.Parameter:
    """A parameter that writes down what it is asked for.

    A grader's machine has no second device on which a forgotten one would show: torch's own stand-in, `meta`, takes
    more than a second to be loaded.
    """

    class Watched(nn.Parameter):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = func.__name__
            asked.append(func.__self__.__name__ if name == "__get__" else name)
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))

    return torch.Tensor._make_subclass(Watched, parameter.data, parameter.requires_grad)


TRANSPOSED = "h is multiplied by B, not by B^T: F.linear transposes its weight by itself, @ does not"


def judge_project_up(inputs: Inputs, seen: Observation) -> Fault | None:
    for case, matrix in (("h", "B"), ("square", "square")):
        B = inputs[matrix]
        # three dimensions first: an error there is none of their number
        works = any("error" not in outcome for outcome in seen[case])
        cases = sorted(zip(leading(inputs["h"]), seen[case], strict=True), key=lambda pair: pair[0].ndim != 3)
        for h, outcome in cases:
            expected = h @ B.T
            sizes = f"rank {B.shape[1]}, out_features {B.shape[0]}, h of shape {h.shape}"
            if "error" in outcome:
                return shape_error(outcome["error"], sizes, LEADING if works else TRANSPOSED)
            if close(outcome["y"], expected):
                continue
            likely = ""
            if outcome["y"].shape == expected.shape and close(outcome["y"], h @ B):
                likely = TRANSPOSED
            return Fault(f"{sizes}: the result is not h B^T", likely)
    double = seen["double"]
    if "error" in double:
        return shape_error(double["error"], "h and lora_B in float64", "")
    if double["dtype"] != "float64":
        return Fault(f"h and lora_B are float64, the result is {double['dtype']}", "leave the dtype as it is")
    if not close(double["y"], inputs["h"] @ inputs["B"].T):
        if not np.any(double["y"]):
            likely = "a product of an earlier call is kept: lora_B has other values by now"
            return Fault("lora_B was zero, then got values: the result is still zero", likely)
        shown = f"h and lora_B in float64, h of a size of {SIZES[0]:g}: the result is not h B^T"
        return Fault(shown, "")
    if double["gradient"] is None:
        return Fault("no gradient comes back to h", "detach(), .data or no_grad() cuts the graph")
    if not close(double["gradient"], np.broadcast_to(inputs["B"].sum(0), inputs["h"].shape)):
        return Fault("the gradient of h is not the formula's", "")
    return None


def judge_fold_in(inputs: Inputs, seen: Observation) -> Fault | None:
    for layer, outcome in zip(inputs["layers"], seen["layers"], strict=True):
        if fault := fold_fault(layer, outcome):
            kind = "a square layer" if layer["in_features"] == layer["out_features"] else f"rank {layer['rank']}"
            kind = "" if layer["bias"] else f"{kind}, without bias: "
            return replace(fault, seen=kind + fault.seen)
    return None


def fold_fault(inputs: Inputs, seen: Observation) -> Fault | None:
    if not close(seen["before"], forward_expected(inputs)):
        return Fault("lora(x) is not the update even before", "see exercise 2.2", "section 2.2")
    if seen["b"] is not None and not inputs["bias"]:
        return Fault("the layer has a bias now", "the update is the weight's alone")
    if inputs["bias"] and not close(seen["b"], inputs["b"], 1e-6):
        return Fault("the bias changed", "")
    update = inputs["alpha"] / inputs["rank"] * inputs["B"] @ inputs["A"]
    if not close(seen["W"], inputs["W"] + update):
        ratio = factor_of(seen["W"] - inputs["W"], update)
        likely = "" if ratio is None else scale_cause(inputs, ratio)
        if close(seen["W"], inputs["W"]):
            return Fault("the weight is unchanged", "the sum is not written back, or A and B were emptied before it")
        return Fault("the weight is not W + scaling * B A", likely)
    if seen["trains"]:
        likely = "the layer was frozen and stays so; a new nn.Parameter trains unless it is told requires_grad=False"
        return Fault(
            f"afterwards requires_grad is True for linear.{' and linear.'.join(seen['trains'])}",
            likely,
        )
    if not close(seen["update"], np.zeros_like(seen["update"]), 1e-6):
        same = close(seen["update"], seen["before"])
        likely = "the update counts twice: in the weight and in the adapter" if same else ""
        return Fault("afterwards lora(x) is not zero", likely)
    if seen["asleep"]:
        likely = "the adapter learns something new next: both of its factors train"
        return Fault(f"afterwards {' and '.join(seen['asleep'])} of the adapter can't train", likely)
    if not seen["training"]:
        return Fault("afterwards the adapter or the layer is in evaluation mode", "that is eval()'s and train()'s")
    if 0 < seen["gradient"] < TINY:
        shown = f"afterwards the largest gradient of A and B is {number(seen['gradient'], 1, tolerance=0)}"
        return Fault(shown, "A is all but zero: B's gradient is a multiple of it, and nothing is learned any more")
    if not 0 < seen["gradient"] < np.inf:
        return Fault(
            "afterwards the gradients of A and of B are both zero",
            "A and B are both zero (or the scale is, or what is left does not train): the adapter can never train "
            "again; one zero factor is enough",
        )
    if not close(seen["scaling"], inputs["alpha"] / inputs["rank"]):
        likely = "what the adapter learns next is scaled as before: B alone goes back to zero"
        return Fault(f"afterwards lora.scaling is {number(seen['scaling'])}", likely)
    if not close(seen["again"], seen["W"], 1e-6):
        return Fault("a second fold_in, of an update that is zero, changes the weight", "")
    return None


def judge_make_factors(inputs: Inputs, seen: Observation) -> Fault | None:
    expected = {"lora_A": [inputs["rank"], inputs["in_features"]], "lora_B": [inputs["out_features"], inputs["rank"]]}
    for dtype in ("float32", "float64"):
        outcome = seen[dtype]
        if outcome["registered"] != expected:
            shown = ", ".join(f"{name} {tuple(shape)}" for name, shape in outcome["registered"].items()) or "nothing"
            return Fault(
                f"for a {dtype} layer, what is registered is {shown}",
                "nn.Parameter(...).to(...) makes a plain tensor wherever it converts, and a module registers none",
            )
        wrong = [name for name, kind in outcome["dtypes"].items() if kind != f"torch.{dtype}"]
        if wrong:
            return Fault(f"beside a {dtype} layer {wrong[0]} is {outcome['dtypes'][wrong[0]]}", "")
        A = outcome["A"]
        broken = [name for name, factor in (("A", A), ("B", outcome["B"])) if not np.isfinite(factor).all()]
        if broken:
            return Fault(
                f"{' and '.join(broken)} hold{'s' if len(broken) == 1 else ''} nan or inf",
                "torch.empty is uninitialised memory",
                "section 2.1",
            )
        if np.any(outcome["B"]) or not np.any(A):
            likely = "with A at zero too nothing ever learns"
            if np.any(outcome["B"]):
                likely = "" if np.any(A) else "it is the other way round"
            holds = ["random numbers" if np.any(factor) else "zeros" for factor in (A, outcome["B"])]
            said = f"A holds {holds[0]} and B {holds[1]}; A must start random and B at zero"
            return Fault(said, likely, "section 2.1")
        if np.ptp(A) == 0:
            return Fault("A is not random: each entry is the same number", "torch.randn draws each", "section 2.1")
        if np.array_equal(outcome["again"], A):
            likely = "torch.randn draws new values, unless a seed is set before it"
            return Fault("A is not random: a second call gives the same one", likely, "section 2.1")
        wide = max(inputs["in_features"], inputs["out_features"]) + 1
        if outcome["wide"] != wide:
            likely = "a rank above the smaller side is allowed: it is taken as it is given"
            return Fault(f"asked for rank {wide}, lora_A has {outcome['wide']} rows", likely)
        if outcome["frozen"]:
            return Fault("linear does not train any more", "make_factors reads linear, and leaves it as it is")
        if not outcome["training"]:
            return Fault("linear is in evaluation mode now", "make_factors reads linear, and leaves it as it is")
    asked = set(seen["asked"])
    if "dtype" in asked and asked <= {"dtype", "shape", "size", "ndim", "dim", "numel"}:
        return Fault(
            f"of the layer's weight it reads {' and '.join(sorted(asked))} alone",
            "take linear.weight's device as well as its dtype; on a GPU the product would fail",
        )
    return None


EXERCISE = Exercise(
    "2.7",
    "spot the bug",
    names=("project_up", "fold_in", "make_factors"),
    checks=[
        Check(
            "2.7/project_up",
            "project_up(h, lora_B) is h B^T at any rank",
            probe_project_up,
            judge_project_up,
            draw_project_up,
            seed=11,
        ),
        Check(
            "2.7/fold_in",
            "fold_in leaves W + update in the layer, a zero update in the adapter, and the adapter able to train",
            probe_fold_in,
            judge_fold_in,
            draw_fold,
            seed=12,
            builds_on=("LoRALayer",),
        ),
        Check(
            "2.7/make_factors",
            "make_factors registers both factors, in the layer's dtype and on its device",
            probe_make_factors,
            judge_make_factors,
            draw_layer,
            seed=13,
        ),
    ],
)
