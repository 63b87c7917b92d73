"""Figures and widgets for readers who see no colours, see no pictures, or use no mouse."""

import ast
import itertools
import re

import jupytext
import numpy as np
import pytest

from autograder.exercises import ROOT, STAGES
from lora_ref import plots
from lora_ref.plots import base

#: Machado, Oliveira and Fernandes (2009), "A physiologically-based model for simulation of color vision deficiency",
#: severity 1.0, on linear RGB.
SIMULATIONS = {
    "full colour vision": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
PALETTE = {name: getattr(base, name) for name in ("BLUE", "VERMILION", "GREEN", "ORANGE", "PURPLE")}


def linear(colour):
    """Linear RGB of a colour like #0072B2 (the sRGB standard's curve)."""
    srgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """CIELAB of linear RGB, for daylight (D65)."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ np.clip(rgb, 0, 1) / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast_with_white(colour):
    """WCAG 2's contrast ratio of a text's colour on white, from 1 to 21."""
    luminance = np.array([0.2126, 0.7152, 0.0722]) @ linear(colour)
    return 1.05 / (luminance + 0.05)


@pytest.mark.parametrize("vision", SIMULATIONS)
def test_any_two_colours_of_the_palette_are_told_apart(vision):
    """A distance of 2.3 in CIELAB is just noticeable. Shapes and hatches differ as well."""
    seen = {name: lab(SIMULATIONS[vision] @ linear(colour)) for name, colour in PALETTE.items()}
    distances = {(one, two): np.linalg.norm(seen[one] - seen[two]) for one, two in itertools.combinations(seen, 2)}
    assert min(distances.values()) > 15, min(distances.items(), key=lambda item: item[1])


@pytest.mark.parametrize("name", ["INK", "GREY"])
def test_text_stands_out_from_the_page(name):
    """WCAG 2.2, success criterion 1.4.3: 4.5 to 1 for text of ordinary size."""
    assert contrast_with_white(getattr(base, name)) >= 4.5


@pytest.mark.parametrize("colour", PALETTE.values(), ids=PALETTE)
def test_a_lines_name_in_its_colour_stands_out_as_well(colour):
    assert contrast_with_white(base.for_text(colour)) >= 4.5
    assert np.linalg.norm(lab(linear(base.for_text(colour))) - lab(linear(colour))) < 45  # still that colour


def test_no_figure_has_colours_of_its_own():
    """But for greys, and the yellow that stands behind one digit."""
    for path in sorted((ROOT / "lora_ref" / "plots").glob("*.py")):
        if path.name != "base.py":
            for colour in re.findall(r"#[0-9A-Fa-f]{6}", path.read_text(encoding="utf-8")):
                assert len({colour[1:3], colour[3:5], colour[5:7]}) == 1 or colour == "#F0E442", (path.name, colour)


# --- the notebooks --------------------------------------------------------------------------------------------------


def code_cells(stage):
    """Sources of a master's code cells."""
    master = ROOT / "solutions" / stage / f"{stage}.py"
    return [cell.source for cell in jupytext.read(master, fmt="py:percent").cells if cell.cell_type == "code"]


@pytest.mark.parametrize("stage", STAGES)
def test_every_figure_is_shown_with_its_text(stage):
    shown = 0
    for source in code_cells(stage):
        lines = [line.strip() for line in source.splitlines()]
        for number, line in enumerate(lines):
            if line.startswith("figure = plots."):
                closing = next(n for n in range(number, len(lines)) if lines[n].endswith(")"))
                rest = lines[closing + 1 :]
                assert rest[:2] == ["display(figure)", "print(describe(figure))"], source
                shown += 1
        assert source.count("display(figure)") == source.count("figure = plots."), source
    assert shown >= 4


def test_every_kind_of_figure_has_a_text_which_does_not_repeat_its_title():
    """A function that draws ends by writing down what is seen; `test_notebooks.py` looks at the texts themselves."""
    for path in sorted((ROOT / "lora_ref" / "plots").glob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and ast.unparse(node.returns or node) == "Figure":
                calls = [call for call in ast.walk(node) if isinstance(call, ast.Call)]
                written = [c for c in calls if ast.unparse(c.func) in ("set_alt", "sheet.described")]
                assert written or node.name.startswith("_"), f"{path.name}: {node.name} gives a figure no text"
                repeated = [c for c in written if "finding" in ast.unparse(c)]
                assert not repeated, f"{path.name}: the text of {node.name} repeats its title"


def test_a_notebook_gets_a_figure_with_its_title_text_and_caption_as_alternative():
    figure = plots.rounding([3.0, 2.0, 1e-7], threshold=1e-6)
    data, metadata = figure._repr_mimebundle_(include=None, exclude=None)
    assert data["image/png"].startswith("iVBOR")
    alt = metadata["image/png"]["alt"]
    assert alt.startswith("2 singular values count; ")
    assert plots.describe(figure) in alt
    assert alt.endswith(figure.get_supxlabel())


#: Controls that the Tab key reaches and the arrow keys move, whatever shows them.
BY_KEYBOARD = {"IntSlider", "FloatSlider", "SelectionSlider", "Dropdown"}


@pytest.mark.parametrize("stage", STAGES)
def test_widgets_have_names_and_need_no_mouse(stage):
    for source in code_cells(stage):
        if "widgets" not in source:
            continue
        for node in ast.walk(ast.parse(source)):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if getattr(node.func.value, "id", "") not in ("widgets", "ipywidgets"):
                continue
            if node.func.attr in ("VBox", "HTML"):  # what holds the controls, and what they show
                continue
            assert node.func.attr in BY_KEYBOARD, f"{node.func.attr}: can it be moved by keys?"
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            assert given["description"].value.strip(), "a screen reader reads the description"
            assert "disabled" not in given
            assert "tabbable" not in given, "ipywidgets' default lets the Tab key reach it"


def test_a_control_is_reached_by_the_tab_key_and_named():
    """What the browser is sent: no control is taken out of the Tab order, and each has its label."""
    import ipywidgets

    slider = ipywidgets.IntSlider(1, 1, 8, description="rank k")
    box = plots.with_controls(lambda k: plots.images_at_rank(plots.picture(), [k]), k=slider)
    assert box.children[0] is slider
    assert getattr(slider, "tabbable", None) is not False  # ipywidgets 7 takes no control out
    assert slider.description == "rank k"
    assert re.search(r'<img alt="[^"]{40,}"', box.children[-1].value)
