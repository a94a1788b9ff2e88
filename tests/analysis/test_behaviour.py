"""Order of learning, retention and scores: against closed forms, real runs and training's own evaluation."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from copies import Copies
from pages import sections_of
from scipy.stats import spearmanr

from analysis.figures.behaviour import retention_curves
from analysis.methods.learning_order import learned_from, learning_order, order_correlation, order_table
from analysis.methods.retention import Retention, retention
from analysis.methods.scores import scores_method, unmeasured, with_scores
from analysis.read.checkpoints import select_checkpoints
from analysis.read.runs import Run, read_run
from analysis.read.skipped import Skipped
from analysis.read.store import analyze
from analysis.report.behaviour import behaviour_section
from analysis.stats import rank_correlation
from olmo_inject.cli import main
from olmo_inject.runs.same_run import CONTENTS

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


def measured(run: Run, name: str, values: dict[int, float], count: int = 1000) -> Run:
    """The run with nothing measured but this."""
    lines = [{"step": step, "name": name, "value": value, "count": count} for step, value in values.items()]
    return replace(run, metrics=pd.DataFrame(lines))


@pytest.mark.parametrize(
    ("accuracies", "step"),
    [
        ({0: 0.5, 4: 0.9, 8: 0.95}, 4),
        ({0: 0.5, 4: 0.9, 8: 0.5, 12: 0.95}, 12),
        ({0: 0.9, 4: 0.9}, 0),
        ({0: 0.5, 4: 0.86}, None),  # the interval's lower end is below 0.85
        ({4: 0.9, 8: 0.8}, None),
        ({}, None),
    ],
)
def test_learned_from(trained: Path, accuracies: dict[int, float], step: int | None) -> None:
    run = read_run(trained)
    if accuracies:
        run = measured(run, "eval/less/test/accuracy_unmirrored", accuracies)
    else:
        run = replace(run, metrics=run.metrics.iloc[:0])
    assert learned_from(run, "less") == step


def order(*pairs: tuple[float, float]) -> pd.DataFrame:
    frequencies, steps = zip(*pairs, strict=True)
    return pd.DataFrame({"per_batch": frequencies, "learned_from": steps})


def correlation(table: pd.DataFrame) -> float:
    found = order_correlation(table)
    assert found is not None
    return found[0]


def test_how_often_chance_gives_a_rank_correlation_as_large() -> None:
    assert rank_correlation(np.arange(4.0), np.array([1.0, 3, 4, 9])) == (pytest.approx(1), pytest.approx(2 / 24))
    assert rank_correlation(np.arange(3.0), np.array([2.0, 3, 1]))[1] == 1
    many = np.random.default_rng(0).normal(size=(2, 9))
    theirs = spearmanr(*many)
    assert rank_correlation(*many) == (pytest.approx(theirs.statistic), pytest.approx(theirs.pvalue))
    few = [rank_correlation(*pair)[1] for pair in np.random.default_rng(1).normal(size=(300, 2, 5))]
    assert np.mean(np.array(few) <= 0.1) == pytest.approx(0.083, abs=0.04)  # 10 of 120 orders are that extreme


def test_rank_correlations() -> None:
    assert correlation(order((1, 900), (2, 500), (8, 10))) == pytest.approx(1)
    assert correlation(order((1, 10), (2, 500), (8, 900))) == pytest.approx(-1)
    # The two that were never learned share the last place: by hand, ranks 1 2 3 4 against 1.5 1.5 3 4.
    assert correlation(order((1, np.nan), (2, np.nan), (4, 50), (8, 10))) == pytest.approx(0.948683)
    assert order_correlation(order((1, 10), (8, 5))) is None
    assert order_correlation(order((1, np.nan), (2, np.nan), (8, np.nan))) is None
    assert order_correlation(order((1, np.nan), (2, np.nan), (8, 10))) is None  # one alone is no order
    assert order_correlation(order((1, 10), (2, 10), (8, 10))) is None


def test_order_over_runs(copies: Copies) -> None:
    runs = []
    for rate, step in (("1", None), ("2", 8), ("4", 4)):
        folder = copies.make(f"at-{rate}", ("instances_per_batch: 5/2", f"instances_per_batch: {rate}"))
        values = {s: 0.95 if step is not None and s >= step else 0.5 for s in (0, 4, 8, 12)}
        runs.append(measured(read_run(folder), "eval/less/test/accuracy_unmirrored", values))
    found = learning_order(runs)
    assert found["learned_from"].fillna(-1).tolist() == [-1, 8, 4]
    [row] = order_table(found).to_dict("records")
    assert row == {
        **{"model": "tiny-8", "kind": "comparison", "tasks": 3, "frequencies": 3, "learned": 2},
        **{"correlation": pytest.approx(1), "p": pytest.approx(1 / 3)},
    }
    for steps in ([np.nan, np.nan, 4], 4):  # one that is learned, or all at one step: no order
        assert np.isnan(order_table(found.assign(learned_from=steps))["correlation"]).all()


def bursts(trained: Path, every: int, intervals: int, gain: np.ndarray, noise: float = 0.0) -> Run:
    """A run with bursts every `every` steps, whose loss falls by `gain` after each; gain[0] is one step after."""
    run = read_run(trained)
    entry = run.injection("plus")
    assert entry is not None
    entry.every, run.experiment.train.max_duration = every, every * (intervals + 1)
    rng = np.random.default_rng(0)
    losses = {0: 5.0}
    for k in range(intervals):
        for u in range(1, every + 1):
            losses[k * every + u] = losses[k * every] - gain[u - 1] * (1 + noise * rng.normal() if u < every else 1)
    return measured(run, "eval/plus/test/loss_among_labels", losses)


def test_an_exponential_is_found(trained: Path) -> None:
    u = np.arange(1, 41)
    gain = np.where(u < 5, 2.0 * u / 5, 0.3 + 1.7 * np.exp(-(u - 5) / 8.0))
    exact = retention(bursts(trained, 40, 4, gain), "plus")
    assert exact is not None
    assert exact.decay == pytest.approx((1.7, 8.0, 0.3), rel=1e-3)
    assert exact.r2 == pytest.approx(1)
    assert exact.peak == 5
    assert exact.kept == pytest.approx((0.3 + 1.7 * np.exp(-35 / 8)) / 2)
    assert exact.half_life == pytest.approx(-8 * np.log(0.7 / 1.7), abs=0.1)
    assert exact.error.max() < 1e-9
    noisy = retention(bursts(trained, 40, 8, gain, noise=0.1), "plus")
    assert noisy is not None
    assert noisy.tau_interval is not None
    assert noisy.tau_interval[0] < 8 < noisy.tau_interval[1]
    assert noisy.tau_interval[1] - noisy.tau_interval[0] < 8
    assert noisy.error.max() > 0.01


def test_what_is_kept_for_good_and_what_cannot_be_told(trained: Path) -> None:
    kept = retention(bursts(trained, 30, 3, np.full(30, 1.0)), "plus")
    assert kept is not None
    assert kept.kept == pytest.approx(1)
    assert kept.half_life is None
    run = bursts(trained, 30, 3, np.full(30, 1.0))
    assert retention(run, "less") is None
    sparse = replace(run, metrics=run.metrics.loc[run.metrics["step"] % 15 == 0])
    assert retention(sparse, "plus") is None


def test_each_model_and_text_has_a_line_of_its_own_in_the_figure(trained: Path) -> None:
    gain = np.exp(-np.arange(30) / 8.0)

    def beside(folder: str | None, sequences: int | None = None) -> Run:
        run = bursts(trained, 30, 3, gain)
        run.experiment.corpus.folder, run.experiment.corpus.sequences = folder, sequences
        run.plan["fingerprints"].pop(CONTENTS, None)
        return run

    runs = [beside(None, sequences) for sequences in range(1, 9)] + [beside("/a/english"), beside("/b/english")]
    for several in (runs[8:], runs, [*runs, beside(None, 8)]):  # the last differs in nothing that has a name
        figure = retention_curves(several, "plus")
        assert figure is not None
        drawn = [line for line in figure.axes[0].lines if len(line.get_xdata()) > 2]
        assert len(drawn) == len(several)
        looks = {(line.get_color(), line.get_marker()) for line in drawn}
        [shown] = figure.legends
        named = [text.get_text() for text in shown.get_texts()]
        assert len(looks) == len(set(named)) - 1 == min(len(several), 10)  # and the fitted decay
        assert {name.rpartition(" beside ")[2] for name in named} >= {"a/english", "b/english"}
        assert {(line.get_color(), line.get_marker()) for line in shown.get_lines()} >= looks


def test_of_noise_no_share_is_kept() -> None:
    rng, after = np.random.default_rng(0), np.arange(1, 41)

    def kept(gain: float, intervals: int = 10) -> list[float]:
        noise = rng.normal(size=(200, intervals, 40))
        return [Retention(np.arange(intervals), after, gain + each).kept for each in noise]

    assert np.mean(np.isnan(kept(0.0))) > 0.8  # the maximum of noise is above zero in nearly all
    clear = kept(25.0)
    assert np.mean(clear) == pytest.approx(1, abs=0.03)
    assert np.isnan(kept(25.0, 2)).all()


def test_what_is_left_says_its_step(trained: Path) -> None:
    """Bursts every 52 steps, evaluated every 8: the last common evaluation is four steps before the next burst."""
    run = bursts(trained, 52, 6, np.full(52, 1.0))
    section = behaviour_section([replace(run, metrics=run.metrics.loc[run.metrics["step"] % 8 == 0])])
    assert section is not None
    [row] = section.tables[-1].rows
    assert row["left at the last evaluation"].startswith("100%")
    assert row["its step after the burst"] == "48"
    short = bursts(trained, 30, 2, np.full(30, 1.0))
    section = behaviour_section([short])
    assert section is not None
    assert section.tables[-1].rows[0]["left at the last evaluation"] == "-"


def test_scores_are_those_of_training(copies: Copies) -> None:
    run = copies.make("scored")
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    kept_lines = [line for line in lines if not (json.loads(line)["step"] == 8 and "eval/" in line)]
    (run / "metrics.jsonl").write_text("".join(kept_lines))
    skipped = Skipped()
    missing = unmeasured(select_checkpoints([run], "all", skipped))
    assert [checkpoint.step for checkpoint in missing] == [8]
    tables = analyze(missing, scores_method(), CPU, skipped)
    again, before = with_scores(read_run(run), tables), read_run(copies.trained)
    for task in ("less", "plus"):
        for half in ("train", "test"):
            for measure in ("loss", "accuracy", "accuracy_among_labels", *["accuracy_unmirrored"] * (half == "test")):
                name = f"eval/{task}/{half}/{measure}"
                assert again.series(name)[8] == pytest.approx(before.series(name)[8], rel=1e-5)
                assert len(again.series(name)) == len(before.series(name))
        assert again.accuracies(task)[8].n == before.accuracies(task)[8].n
    assert not skipped.messages


def test_the_command_and_the_report(copies: Copies, capsys: pytest.CaptureFixture[str]) -> None:
    run = copies.make("drawn", accuracy={"less": (9, 10)})
    with (run / "metrics.jsonl").open("a") as file:
        for step in (0, 4, 8, 12):
            file.write(json.dumps({"step": step, "name": "eval/R_cmp/reference/loss", "value": 3.0, "count": 9}) + "\n")
    for step in (4, 8, 12):
        shutil.rmtree(run / f"step{step}")
    with pytest.raises(SystemExit) as end:
        main(["analyze", "behaviour", str(run), "--json"])
    assert end.value.code == 0
    said = json.loads(capsys.readouterr().out)
    assert said["left_out"] == []
    assert all(Path(file).is_file() for file in said["files"])
    names = {Path(file).name for file in said["files"]}
    assert {"behaviour-train-loss-less.svg", "behaviour-curves-less.png", "behaviour-scores.parquet"} <= names
    section = behaviour_section([read_run(run), bursts(run, 30, 3, np.full(30, 1.0))])
    assert section is not None
    [of_plus] = [drawing.data for drawing in section.drawings if drawing.name == "retention-plus"]
    assert set(of_plus["task"]) == {"plus"}
    titles = [section.title for section in sections_of([run])]
    assert "Learning and retention" in titles
    assert "Task features in activations" not in titles


def test_a_step_that_is_not_there(trained: Path, copies: Copies, capsys: pytest.CaptureFixture[str]) -> None:
    run = copies.make("asked")
    with pytest.raises(SystemExit) as end:
        main(["analyze", "behaviour", str(run), "--steps", "5", "--out", str(copies.folder / "to")])
    assert end.value.code == 1
    assert f"left out: {run} has no checkpoint step5" in capsys.readouterr().err
