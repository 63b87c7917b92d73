"""What README and the site's first page show is what the package gives: the diagram, light and dark, and a check."""

import re

import pytest
import torch

from autograder.exercises import ROOT
from lora_ref.checks import check
from lora_ref.layers import LoRALayer
from lora_ref.plots.schematics import front_page

STATIC = ROOT / "docs" / "_static"


def outlines(path):
    """How many shapes a drawing has; their digits depend on matplotlib's version."""
    return len(re.findall(r"<(?:path|use)\b", path.read_text(encoding="utf-8")))


def test_the_committed_drawings_are_what_the_code_draws(tmp_path):
    front_page(tmp_path)
    for name in ("lora.svg", "lora-dark.svg"):
        assert outlines(tmp_path / name) == outlines(STATIC / name), "run lora_ref.plots.schematics.front_page"


def test_both_pages_show_it_with_a_text():
    for page in ("README.md", "docs/index.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        for name in ("lora.svg", "lora-dark.svg"):
            assert f"_static/{name}" in text, page
        assert "through two thin matrices" in text


@pytest.mark.parametrize("page", ["README.md", "autograder/results/templates/start.html"])
def test_the_check_that_they_show_reads_so(page, capsys):
    class Unscaled(LoRALayer):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return len(self.lora_A) * super().forward(x)

    check("2.2", {"LoRALayer": Unscaled})
    said = " ".join(capsys.readouterr().out.split())
    sample = re.search(r"2\.2 LoRALayer\.forward: .*?is missing\.", (ROOT / page).read_text(encoding="utf-8"), re.S)
    assert " ".join(sample[0].split()) in said
