"""Figures of stage 01 say what their numbers say."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from lora_ref import plots


def _title(figure) -> str:
    return figure.get_suptitle().replace("\n", " ")


def test_the_pictures_parts_have_the_ranks_that_the_course_tells():
    ranks = {name: int(np.linalg.matrix_rank(part)) for name, part in plots.picture_parts().items()}
    assert ranks == {"sky": 1, "fence": 1, "windows": 1, "roof": 31, "sun": 16}
    figure = plots.parts_and_ranks(plots.picture_parts(), ranks)
    assert _title(figure) == "Sky, fence and windows have rank 1, the roof rank 31"
    assert [ax.get_title() for ax in figure.axes] == [f"{name}: rank {rank}" for name, rank in ranks.items()]
    assert "sun 16" in plots.describe(figure)


def test_the_picture_is_a_matrix_of_brightness():
    image = plots.picture()
    assert image.shape == (120, 160)
    assert image.min() >= 0
    assert image.max() <= 1
    assert np.array_equal(image, plots.picture()), "drawn by formula"


def test_images_at_rank_tell_what_they_miss_and_cost():
    image = np.outer(np.linspace(0.1, 1, 8), np.ones(10))
    image[0, 0] = 0.9  # rank 2
    figure = plots.images_at_rank(image, [1, 2])
    S = np.linalg.svd(image, compute_uv=False)
    missed = S[1] ** 2 / (S**2).sum()
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[0] == "original\n8 x 10 = 80 numbers"
    assert titles[1] == f"rank 1, misses {missed:.2%}\n18 numbers (22%)"
    assert "Rank 2 keeps 100.00% of this picture's squared norm in 45% of its numbers" in _title(figure)
    assert f"rank 1 misses {missed:.2%}" in plots.describe(figure)


def test_rounding_counts_what_stands_above_the_threshold():
    figure = plots.rounding([3.0, 2.0, 1e-7, 1e-8], 1e-6)
    assert _title(figure) == "2 singular values count; rounding alone left the other 2"
    assert "above a line at 1e-06, 2 below it, at most 1e-07" in plots.describe(figure)


@pytest.mark.parametrize(("rival", "where"), [(0.3, "At every rank"), (0.05, "At most ranks")])
def test_truncation_errors_follow_the_numbers(rival, where):
    best = {1: 0.5, 2: 0.2, 4: 0.1}
    figure = plots.truncation_errors({"SVD": best, "columns": {1: 0.6, 2: 0.4, 4: rival}}, best)
    assert _title(figure).startswith(
        f"{where} the SVD is closest; at rank 2 it misses 20.0% of the norm, columns 40.0%"
    )
    assert "every distance agrees" in figure.get_supxlabel()
    assert "columns: 1: 60.0%" in plots.describe(figure)


def test_a_wrong_best_rank_k_is_not_called_the_svd():
    best = {1: 0.5, 2: 0.2, 4: 0.1}
    figure = plots.truncation_errors({"SVD": {1: 0.9, 2: 0.8, 4: 0.7}, "columns": {1: 0.6, 2: 0.4, 4: 0.3}}, best)
    assert _title(figure).startswith("The matrix called SVD is not the closest here, so it is not the SVD's: at rank 2")


@pytest.mark.parametrize(
    ("extra", "scale", "words"),
    [
        (0, 10**6, "to the byte"),
        (40, 10**6, "within 0.00006%"),
        (10**7, 10**6, "within 15%"),
        (0, 1_000, "to the byte"),
    ],
)
def test_memory_check_follows_the_numbers(extra, scale, words):
    rows = [
        {
            "method": "full",
            "predicted": 160 * scale,
            "weights": 40 * scale,
            "gradients": 40 * scale,
            "optimizer": 80 * scale,
        },
        {
            "method": "LoRA",
            "predicted": 70 * scale,
            "weights": 40 * scale,
            "gradients": 10 * scale,
            "optimizer": 20 * scale,
        },
    ]
    rows[1]["optimizer"] += extra
    frame = pd.DataFrame([row | {"activations": share * scale} for row, share in zip(rows, (50, 49), strict=True)])
    figure = plots.memory_check(frame)
    assert words in _title(figure)
    assert "activations to 98%" in _title(figure)
    unit = "MB" if scale == 10**6 else "kB"
    assert f"Bars of {unit} kept in training. full: predicted 160.0, measured 160.0" in plots.describe(figure)
    assert figure.axes[0].get_xlabel().startswith(unit)


def test_controls_redraw_the_figure_and_its_text():
    import ipywidgets

    slider = ipywidgets.IntSlider(1, 1, 8, description="rank k")
    box = plots.with_controls(lambda k: plots.images_at_rank(plots.picture(), [k]), k=slider)
    first = box.children[-1].value
    assert first.startswith('<img alt="Rank 1 keeps 94.37% of this picture')
    assert "<p>A grey picture of a house" in first
    assert "rank 1 misses" in first
    slider.value = 4
    assert "rank 4 misses" in box.children[-1].value
    # nbclient must not have to answer: see with_controls
    assert not any(isinstance(child, ipywidgets.Output) for child in box.children)
    with pytest.raises(ValueError, match="description"):
        plots.with_controls(lambda k: None, k=ipywidgets.IntSlider())


def test_no_figure_stays_open():
    assert plt.get_fignums() == []
