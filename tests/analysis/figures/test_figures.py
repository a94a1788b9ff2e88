"""What figures show of tables whose values are known."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pandas as pd
import pytest

from analysis.figures import features
from analysis.figures.features import LOWEST_R2
from analysis.figures.gradients import means, over_steps, unbroken
from analysis.figures.patching_sizes import across_models
from analysis.figures.style import svg
from analysis.methods.features import BALANCED, ORDER, PLAIN
from analysis.report.interventions import patching_section


def cosine_table(steps: list[int]) -> pd.DataFrame:
    kinds = ("batch", "injected", "rest")
    found = [
        {"run": "a", "kind": kind, "step": step, "cosine": 0.1 * number, "instances": step % 2, "mlp": 0, "neurons": 4}
        for number, kind in enumerate(kinds)
        for step in steps
    ]
    return pd.DataFrame(found)


def test_no_line_crosses_steps_that_were_not_measured() -> None:
    figure = over_steps(cosine_table([20, 22, 24, 120, 122, 240]))
    [axes] = figure.axes
    joined = {tuple(line.get_xdata()) for line in axes.lines if line.get_marker() != "|" and len(line.get_xdata())}
    assert joined - {(0, 1)} == {(20, 22, 24), (120, 122), (240,)}


@pytest.mark.parametrize(
    ("steps", "expected"),
    [([0, 5, 10], [[0, 5, 10]]), ([0, 50, 60, 70], [[0], [50, 60, 70]]), ([7], [[7]]), ([], [[]])],
)
def test_stretches_are_of_the_densest_spacing(steps: list[int], expected: list[list[int]]) -> None:
    found = [stretch.tolist() for stretch, _ in unbroken(np.array(steps, int), np.zeros(len(steps)))]
    assert found == expected


def test_means_of_one_run_keep_the_height_of_a_row() -> None:
    def summary(runs: int) -> pd.DataFrame:
        whole = {"task": "less", "kind": "batch", "injected": True, "steps": 9, "mean": 0.1, "low": 0.0, "high": 0.2}
        return pd.DataFrame([{"run": f"run {number}", **whole} for number in range(runs)])

    heights = {}
    for runs in (1, 3, 6):
        figure = means(summary(runs), "cosine")
        low, high = figure.axes[0].get_ylim()
        heights[runs] = (figure.get_figheight() - 1.5) / (low - high)
        assert (low + high) / 2 == (runs - 1) / 2
    assert heights[1] == heights[3] == heights[6]


def order_table() -> pd.DataFrame:
    sites, layers = ("TOK1 at TOK1", "TOK1 at TOK2", "TOK2 at TOK2"), range(3)
    common = {"run": "a", "in_sample": 0.9, "high": 0.6}
    return pd.DataFrame(
        [
            {"site": site, "layer": layer, "weights": weights, "held_out": held, "low": held - 5, "means": means}
            | {"headline": means == BALANCED, **common}
            for site, layer, weights in itertools.product(sites, layers, ("trained", "untrained"))
            for means, held in ((BALANCED, -4.0 if layer == 1 else 0.5), (PLAIN, -3.0 if layer == 2 else 0.9))
        ]
    )


def test_sites_of_a_layer_stand_side_by_side_and_nothing_leaves_the_axis() -> None:
    table = order_table()
    [axes] = features.order_by_layer(table).axes
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a layout that fails warns and is left out
        svg(features.order_by_layer(table.assign(held_out=0.5)))
    low, high = axes.get_ylim()
    points = [line for line in axes.lines if line.get_marker() in ("o", "s", "^", "v")]
    places = [x for line in points for x in line.get_xdata()]
    assert len(places) == len(set(places)) == 9
    bars = [segment for bars in axes.collections if hasattr(bars, "get_segments") for segment in bars.get_segments()]
    drawn = [y for line in axes.lines for y in line.get_ydata()] + [y for segment in bars for _, y in segment]
    assert bars
    assert low < min(drawn) == pytest.approx(LOWEST_R2)
    assert max(drawn) <= high
    below = [line for line in points if line.get_marker() == "v"]
    assert sorted(round(x) for line in below for x in line.get_xdata()) == [1, 1, 1]
    plain = [line.get_ydata().tolist() for line in axes.lines if line.get_linestyle() == ":"]
    assert plain == [[0.9, 0.9, LOWEST_R2]] * 3


def test_models_at_one_frequency_stand_side_by_side() -> None:
    found = pd.DataFrame(
        [
            {
                **{
                    "folder": f"{model} {rate}",
                    "run": f"{model} {rate}",
                    "model": model,
                    "step": 9,
                    "evenly": True,
                    "text": "",
                },
                **{"per_batch": rate, "amount": 0.5, "low": 0.4, "high": 0.6, "shuffled": 0.1},
                "parameters": 10 * number,
                "text": "",
            }
            for number, model in enumerate(("small", "large"))
            for rate in (1.0, 8.0)
        ]
    )
    figure = features.amount_by_frequency(found, ORDER)
    assert figure is not None
    places = [x for line in figure.axes[0].lines if line.get_marker() in "os" for x in line.get_xdata()]
    assert len(places) == len(set(places)) == 4
    assert figure.axes[0].get_xticks().tolist() == [1, 8]


def patching_table(models: dict[str, list[str]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                **{"model": model, "run": run, "folder": f"/{run}", "step": 9, "task": "less", "weights": weights},
                **{"layer": layer, "rank": layer + 1, "whole": 2.0 + 10 * scale, "answered": 0.9, "pairs": 50},
                **{f"{name}{end}": scale + shift for name in NAMES for end, shift in ENDS.items()},
            }
            for scale, (model, runs) in enumerate(models.items(), 1)
            for run in runs
            for weights in ("trained", "untrained")
            for layer in range(3)
        ]
    )


NAMES = ("effect", "recovery", "logprob_drop")
ENDS = {"": 0.0, "_low": -0.5, "_high": 0.5}


@pytest.mark.slow
def test_patching_of_all_models_has_one_scale() -> None:
    table = patching_table({"4M": ["a", "b"], "20M": ["c"]})
    figure = across_models(table.loc[table["weights"] == "trained"])
    assert figure is not None
    assert [axes.get_title() for axes in figure.axes] == ["4M", "20M"]
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["a", "b"]
    section = patching_section(table)
    assert section is not None
    drawn = {drawing.name: drawing.figure for drawing in section.drawings}
    assert list(drawn) == ["layers-models-less", *(f"layers-less-{run}-step9" for run in "abc")]
    scales = {drawn[f"layers-less-{run}-step9"].axes[0].get_ylim() for run in "abc"}
    assert len(scales) == 1
    [(low, high)] = scales
    assert low < 0
    assert high > 22  # exchanging all of the input of the largest
    alone = patching_section(patching_table({"4M": ["a"]}))
    assert alone is not None
    assert [drawing.name for drawing in alone.drawings] == ["layers-less-a-step9"]
