"""README's first minutes, on a fresh clone; and that what README says there is what there is."""

from __future__ import annotations

import pytest

from benchmarks.first_minutes import commands, walk


def test_readme_has_the_commands():
    words = [command.split() for command in commands()]
    assert words[0] == ["make", "setup"]
    assert any("jupyter" in command for command in commands())
    assert words[-1][-3:] == ["-m", "lora_ref", "train"]


@pytest.mark.slow
def test_a_newcomer_gets_to_the_first_passed_check_and_to_a_trained_model(tmp_path):
    steps = [step for step, _ in walk(tmp_path)]
    assert len(steps) == len(commands()) + 2
    written = {path.name for path in (tmp_path / "course" / "runs" / "train").iterdir()}
    assert {"adapter.safetensors", "metrics.csv", "loss.png"} <= written
