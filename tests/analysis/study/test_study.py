"""From a sweep's run folders to parts, tables, figures and verdicts; from parts alone, after the runs are gone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ranks import alone
from runs import series, train_on_rank, write_experiment

from analysis.methods import das
from analysis.stats import student_reach
from analysis.study import claims, judges, statistics
from analysis.study.__main__ import not_collected
from analysis.study.claims import NOT_RUN
from analysis.study.collect import BLOCK, collect, read_cells, read_metrics
from analysis.study.measures import _forgotten, _often, bursts_of, collected, over_seeds, retained
from analysis.study.report import BEGIN, END, _failures, _write_between_marks, write_study
from analysis.study.shuffled import ShuffledComparison
from analysis.study.statistics import NOT, OPEN, REPRODUCED
from analysis.study.theory import slopes, utilities
from launch.cells import files
from launch.sweep import Sweep, load_sweep
from olmo_inject.errors import UserError
from olmo_inject.tasks.comparison import Comparison

SWEEP = """
name: study-ladder
folder: {folder}/sweep
experiment: {experiment}
set:
  tasks.0.name: tcmp
  injections: [{{task: tcmp, schedule: burst, instances: 4, every: 6}}]
  evaluation.also.windows: [{{start: 0, stop: 12}}]
  gradients.at.windows: [{{start: 6, stop: 12}}]
axes:
  - {{name: seed, cases: {{s1: {{train.seed: 1}}, s2: {{train.seed: 2}}}}}}
  - {{name: text, cases: {{t128: {{corpus.sequences: 40}}, whole: {{}}}}}}
  - {{name: model, key: model.name, values: [tiny-8]}}
resources: {{gpus_per_node: 0, time: "01:00:00"}}
"""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Four cells, three of them trained."""
    folder = tmp_path_factory.mktemp("study")
    path = folder / "sweep.yaml"
    experiment = write_experiment(folder / "data")
    path.write_text(SWEEP.format(folder=folder, experiment=experiment))
    sweep = load_sweep(path)
    for cell in sweep.cells[:3]:
        with alone():
            assert "trained to step 12" in train_on_rank(experiment, *cell.overrides)
    return sweep


@pytest.fixture(scope="module")
def results(sweep: Sweep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("collected") / "results"
    with pytest.MonkeyPatch.context() as quick:
        quick.setattr("analysis.study.collect.SEARCH", das.SearchOptions((1,), updates=10, batch=16, pairs=32))
        quick.setattr("analysis.study.collect.PATCHED_PAIRS", 32)
        assert collect(str(sweep.folder.parent / "sweep.yaml"), results) == 3
    return results


@pytest.mark.slow
def test_finished_cells_are_collected_once(sweep: Sweep, results: Path) -> None:
    folder = results / "study-ladder"
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert collect(str(sweep.folder.parent / "sweep.yaml"), results) == 0
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    cells = read_cells(folder)
    assert [cell["cell"] for cell in cells] == [cell.name for cell in sweep.cells[:3]]
    assert all(cell["audit"]["passed"] and cell["audit"]["comparisons"] > 0 for cell in cells)
    assert cells[0]["labels"] == {"seed": "s1", "text": "t128", "model": "tiny-8"}


@pytest.mark.slow
def test_collected_cells_are_not_trained_again(sweep: Sweep, results: Path, tmp_path: Path) -> None:
    assert not_collected(sweep, "s1", results) == []
    assert not_collected(sweep, "s2", results) == sweep.cells[3:]
    assert not_collected(sweep, "s1", tmp_path) == sweep.cells[:2]


@pytest.mark.slow
def test_what_is_collected_is_what_was_measured(sweep: Sweep, results: Path) -> None:
    metrics = read_metrics(results / "study-ladder")
    for cell in sweep.cells[:3]:
        run = files(sweep, cell).run
        mine = metrics[metrics["cell"] == cell.name]
        for name in ("eval/tcmp/test/auc_unmirrored", "gradient/tcmp/null_rest"):
            found = mine[mine["name"] == name].set_index("step")["value"]
            assert found.to_dict() == pytest.approx(series(run, name), rel=1e-6)
        [loss] = mine.loc[mine["name"] == "train/lm_loss", "value"]  # 12 steps are one block
        assert BLOCK > 12
        assert loss == pytest.approx(np.mean(list(series(run, "train/lm_loss").values())), rel=1e-6)


@pytest.mark.slow
def test_a_cell_is_one_row_of_its_task(results: Path) -> None:
    table = collected(results)["study-ladder"]
    less = table[table["task"] == "tcmp"]
    assert len(less) == 3
    assert set(less["width"]) == {8}
    assert less["often"].tolist() == [4 / 6] * 3
    metrics = read_metrics(results / "study-ladder")
    first = metrics[(metrics["cell"] == less["cell"].iloc[0]) & (metrics["name"] == "gradient/tcmp/cos_rest")]
    assert less["rest_cos"].iloc[0] == pytest.approx(first["value"].mean(), rel=1e-5)
    assert less["rest_cos_rms"].iloc[0] == pytest.approx(np.sqrt((first["value"] ** 2).mean()), rel=1e-5)
    assert table.loc[table["task"] == "plus", "kept"].isna().all()  # it is not injected
    [cell, *_] = read_cells(results / "study-ladder")
    ahead = [one["accuracy"] - one["control"] for one in cell["alignment"] if one["task"] == "tcmp"]
    assert len(ahead) == len(das.QUESTIONS)
    assert less["alignment"].iloc[0] == pytest.approx(np.mean(ahead))
    effects = [one["effect"] for one in cell["patching"] if one["task"] == "tcmp"]
    assert less["layer"].iloc[0] == int(np.argmax(effects))


@pytest.mark.slow
def test_the_repository_alone_gives_figures_tables_and_verdicts(sweep: Sweep, results: Path, tmp_path: Path) -> None:
    alone = tmp_path / "results"
    shutil.copytree(results, alone)
    (tmp_path / "README.md").write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    lines = write_study(alone, tmp_path)
    assert len(lines) == len(claims.CLAIMS)
    page = (tmp_path / "README.md").read_text()
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    assert "old" not in page
    assert f"**{NOT_RUN}**" in page
    assert len(pd.read_parquet(tmp_path / "tables" / "study-ladder.parquet")) == 6
    assert (tmp_path / "figures" / "study-ladder-widths.svg").stat().st_size > 1000


def test_verdicts_follow_the_interval() -> None:
    rng = np.random.default_rng(1)

    def table(sign: float, noise: float) -> pd.DataFrame:
        cells = [
            {"seed": f"s{seed}", "text": text, "width": width, "cell": f"{seed}-{text}-{width}"}
            | {"auc_unmirrored": sign * np.log2(width) + noise * rng.normal()}
            for seed in range(3)
            for text in ("a", "b")
            for width in (8, 16, 32, 64, 128)
        ]
        return pd.DataFrame(cells)

    judge = judges.trend_of("width", "auc_unmirrored", 1, ["text"])
    assert judge(table(1, 0.1))[0] == REPRODUCED
    assert judge(table(-1, 0.1))[0] == NOT
    assert judge(table(0, 1))[0] == OPEN
    assert judge(table(1, 0.1)[lambda cells: cells["seed"] == "s1"])[0] == OPEN  # one seed has no interval


@pytest.fixture
def fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 100)


@pytest.mark.usefixtures("fewer_resamples")
def test_one_curve_is_told_from_two() -> None:
    rng = np.random.default_rng(2)
    widths = np.tile([8, 16, 32, 64, 128], 12)
    residual = rng.uniform(0, 3, len(widths))
    seeds = np.repeat(["s1", "s2", "s3"], 20)
    table = pd.DataFrame({"width": widths, "residual": residual, "seed": seeds, "y": -residual})
    assert judges.one_curve("y", "it")(table)[0] == REPRODUCED
    two = table.assign(y=np.log2(widths) - residual)
    assert judges.one_curve("y", "it")(two)[0] == NOT
    for judge in (judges.one_curve("y", "it"), judges.saturation("y", "it")):
        assert judge(two[seeds == "s1"])[0] == OPEN, "one seed has no interval"


def test_a_seed_is_judged_when_most_of_its_cells_are_there() -> None:
    sweep = load_sweep("study-layer")
    cells = [{"seed": cell.labels["seed"], "cell": cell.name} for cell in sweep.cells]
    table = pd.DataFrame([*cells[:5], *cells[5:8]])
    assert list(claims._nearly_whole(table, sweep)["seed"].unique()) == ["s1"]
    assert claims._nearly_whole(table[:1], sweep).empty


def test_students_interval() -> None:
    assert student_reach(np.array([1.0, 2.0, 3.0])) == pytest.approx(2.4841, abs=1e-3)  # 4.303 / sqrt(3)
    assert np.isnan(student_reach(np.array([1.0])))
    table = pd.DataFrame({"seed": ["a", "b", "c"], "width": [8, 8, 8], "y": [1.0, 2.0, 3.0]})
    [row] = over_seeds(table, ["width"], ["y"]).to_dict("records")
    assert (row["seeds"], row["y"], row["y_low"]) == (3, 2.0, pytest.approx(2 - 2.4841, abs=1e-3))


def test_shuffled_labels_keep_pairs_and_shares_and_lose_the_order() -> None:
    tokens = np.arange(18, dtype=np.uint32)
    ordered, shuffled = Comparison(16).instances(tokens), ShuffledComparison(16).instances(tokens)
    assert (ordered[:, :2] == shuffled[:, :2]).all()
    assert sorted(ordered[:, 2]) == sorted(shuffled[:, 2])
    assert 0.4 < (ordered[:, 2] == shuffled[:, 2]).mean() < 0.6
    assert json.dumps(shuffled.tolist()) == json.dumps(ShuffledComparison(16).instances(tokens).tolist())


def test_utility_is_what_the_task_gives_a_slot_against_what_the_text_gives() -> None:
    # L = 1 + 8 / N at widths a factor of two apart: the slope over log N is 8 / N, so -dL/dN is about 8 / N^2.
    widths = np.array([8, 16, 32, 64, 128])
    table = pd.DataFrame({"width": np.tile(widths, 2), "residual": np.tile(1 + 8 / widths, 2), "often": 2.0})
    table["kind"] = ["comparison"] * 5 + ["modular_addition"] * 5
    found = slopes(table)
    central = (8 / 8 - 8 / 32) / (2 * np.log(2)) / 16
    assert found[1] == found[6] == pytest.approx(central)
    assert utilities(table)[1] == pytest.approx(2 * np.log(2) / 1024 / central)
    assert utilities(table)[6] == pytest.approx(2 * np.log(23) / 1024 / central)
    flat = slopes(table.assign(residual=1.0))
    assert (flat > 0).all()
    two = pd.concat([table.assign(text="a"), table.assign(text="b", residual=3.0)], ignore_index=True)
    assert slopes(two, "text")[1] == pytest.approx(central)
    assert slopes(two, "text")[11] == flat[0]


def test_verdicts_go_between_the_marks_of_a_page_or_into_a_new_one(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    for text in ("one", "two"):
        _write_between_marks(page, text)
        assert page.read_text() == f"# Verdicts\n\n{BEGIN}\n{text}\n{END}\n"
    page.write_text("another page")
    with pytest.raises(UserError, match=r"README.md.*must each stand in it once"):
        _write_between_marks(page, "three")
    assert page.read_text() == "another page"


def test_how_often_a_task_comes_under_every_schedule() -> None:
    phases = [
        {"start": 0, "stop": 600, "instances_per_batch": 10},
        {"start": 600, "stop": None, "instances_per_batch": "5/8"},
    ]
    for entry in (
        {"schedule": "uniform", "instances_per_batch": "5/2"},
        {"schedule": "burst", "instances": 100, "every": 40},
        {"schedule": "phases", "instances_per_batch": None, "phases": phases},
    ):
        assert _often({"steps": 3000, "injections": {"tcmp": entry}}, "tcmp") == 2.5
    assert _often({"steps": 3000, "injections": {}}, "tcmp") == 0


def test_what_is_kept_is_of_the_last_window_and_of_unmirrored_pairs() -> None:
    steps = np.arange(1, 401)
    gain = np.where(steps % 40, 0.5 ** ((steps % 40) / 10), 0.5**4)  # halves in ten steps; a sixteenth after a gap
    early = np.where(steps <= 280, 7.0, 0.0) * (steps % 2)  # of other windows: noise
    cell = {"steps": 400, "window": 120}
    cell["injections"] = {"less": {"schedule": "burst", "start": 0, "stop": None, "every": 40, "phase": 0}}
    losses = {
        "eval/less/test/loss_among_labels_unmirrored": pd.Series(2 - gain + early, steps),
        "eval/less/test/loss_among_labels": pd.Series(steps % 3, steps),
    }
    kept = retained(losses, cell, "less")
    assert kept is not None
    assert kept.bursts.tolist() == [280, 320, 360], "the last gap is closed by the last weights"
    assert kept.mean[:39] == pytest.approx(0.5 ** (np.arange(1, 40) / 10) - 0.5**4)
    assert kept.mean[-1] == pytest.approx(0)
    assert bursts_of(cell, "more") == []


def test_what_is_forgotten_is_what_is_lost_after_the_last_injection() -> None:
    cell = {"injections": {"tcmp": {"stop": 1500}, "other": {"stop": None}}, "steps": 2000}
    steps = np.arange(0, 2005, 5)
    for at_stop, forgotten in ((0.95, 0.35), (0.85, np.nan)):
        auc = pd.Series(np.where(steps <= 1500, at_stop, np.where(steps <= 1900, 0.5, 0.6)), steps)
        row = _forgotten({"eval/tcmp/test/auc_unmirrored": auc}, cell, "tcmp")
        assert row == pytest.approx({"at_stop": at_stop, "forgotten": forgotten}, nan_ok=True)
    assert np.isnan(_forgotten({}, cell, "other")["forgotten"])  # it is injected to the end


@pytest.mark.usefixtures("fewer_resamples")
def test_forgetting_is_judged_without_the_seed_that_suggested_it() -> None:
    rows = [
        {"seed": seed, "residual": residual, "forgotten": sign * residual}
        for seed, sign in (("s1", -1), ("s2", 1), ("s3", 1))
        for residual in np.linspace(0.1, 4, 10)
    ]
    table = pd.DataFrame(rows)
    verdict, number = judges.forgotten(table)
    assert verdict == REPRODUCED
    assert "+1.00" in number
    assert judges.forgotten(table[table["seed"] == "s1"])[0] == OPEN


@pytest.mark.usefixtures("fewer_resamples")
def test_the_theory_must_rank_better_than_frequency_or_width_alone() -> None:
    rng = np.random.default_rng(3)
    rows = [
        {"kind": "comparison", "seed": seed, "width": width, "often": often, "residual": 1 + 8 / width}
        for seed in ("s1", "s2", "s3")
        for width in (8, 16, 32, 64, 128)
        for often in (0.25, 1, 4, 16, 64)
    ]
    table = pd.DataFrame(rows)
    held = np.log(utilities(table)) + 0.1 * rng.normal(size=len(table))
    assert judges.theory_ranks("auc")(table.assign(auc=held))[0] == REPRODUCED
    assert judges.theory_ranks("auc")(table.assign(auc=table["often"]))[0] == NOT


def test_cells_left_out_are_predicted_where_frequency_and_width_act_as_one() -> None:
    rng = np.random.default_rng(5)
    table = pd.DataFrame(
        [
            {"seed": seed, "width": width, "often": often, "within": 0.1 + 0.6 / (1 + often * width / 32)}
            for seed in ("s1", "s2", "s3")
            for width in (8, 16, 32, 64, 128)
            for often in (0.25, 1, 4, 16, 64)
        ]
    )
    verdict, number = judges.predicted_from_others(
        table.assign(within=table["within"] + 0.02 * rng.normal(size=len(table)))
    )
    assert verdict == REPRODUCED
    assert float(number.split("predicted +")[1][:4]) > 0.9
    assert judges.predicted_from_others(table.assign(within=rng.normal(1, 0.1, len(table))))[0] != REPRODUCED
    assert judges.predicted_from_others(table.iloc[:5])[0] == OPEN


def test_tasks_together_and_schedules_are_compared_seed_by_seed() -> None:
    def cells(column: str, values: dict[str, float]) -> pd.DataFrame:
        return pd.DataFrame(
            [
                {"seed": f"s{seed}", "task": "tcmp", "width": width, column: case, "auc_unmirrored": auc + 0.01 * seed}
                for seed in range(3)
                for width in (16, 64)
                for case, auc in values.items()
            ]
        )

    assert judges.unchanged_together(cells("injected", {"one": 0.9, "two": 0.9, "three": 0.89}))[0] == REPRODUCED
    assert judges.unchanged_together(cells("injected", {"one": 0.9, "two": 0.9, "three": 0.7}))[0] == NOT
    assert judges.better_schedule(cells("schedule", {"uniform": 0.7, "bursts": 0.6, "early": 0.9}))[0] == REPRODUCED
    assert judges.better_schedule(cells("schedule", {"uniform": 0.9, "bursts": 0.6, "early": 0.8}))[0] == NOT
    assert judges.better_schedule(cells("schedule", {"uniform": 0.9, "bursts": 0.6}))[0] == OPEN


def test_interference_that_permuted_labels_show_too_is_not_reproduced() -> None:
    rng = np.random.default_rng(4)
    cells = [{"seed": f"s{seed}", "text": "a", "width": width} for seed in range(3) for width in (8, 16, 32, 64, 128)]
    table = pd.DataFrame(cells)
    falling = 1 / np.sqrt(table["width"])
    judge = judges.less_interference("rest_cos_rms")
    assert judge(table.assign(rest_cos_rms=falling, rest_null_rms=falling))[0] == NOT
    assert judge(table.assign(rest_cos_rms=falling, rest_null_rms=rng.normal(size=len(table))))[0] == REPRODUCED


def test_smaller_steps_must_help_in_more_cells_and_at_every_width() -> None:
    def cells(slow: dict[int, float], usual: dict[int, float]) -> pd.DataFrame:
        rows = [
            {"seed": seed, "width": width, "control": control, "auc_unmirrored": auc}
            for seed in ("s1", "s2")
            for control, of_widths in (("alone3e-4", slow), ("alone", usual))
            for width, auc in of_widths.items()
        ]
        return pd.DataFrame(rows)

    assert judges.smaller_steps(cells({32: 0.95, 64: 0.85}, {32: 0.6, 64: 0.7, 8: 0.99}))[0] == REPRODUCED
    assert judges.smaller_steps(cells({32: 0.95, 64: 0.65}, {32: 0.6, 64: 0.7}))[0] == NOT
    assert judges.smaller_steps(cells({32: 0.85, 64: 0.85}, {32: 0.6, 64: 0.7}))[0] == NOT
    assert judges.smaller_steps(cells({}, {32: 0.6}))[0] == OPEN


def test_the_cause_of_a_failure_is_judged_seed_by_seed_by_the_controls_beside_its_text() -> None:
    def each(*rows: tuple, columns: list[str]) -> pd.DataFrame:
        of_seeds = [(seed, *row[:-1], auc) for row in rows for seed, auc in zip(("s1", "s2"), row[-1], strict=True)]
        return pd.DataFrame(of_seeds, columns=["seed", *columns, "auc_unmirrored"])

    narrow = [(8, text, (0.6, 0.5)) for text in ("whole", "t128", "t1024")]
    controls = [
        (8, "alone", (0.95, 0.85)),
        (8, "long", (0.6, 0.6)),
        (8, "lr1e-2", (0.7, 0.5)),
        (8, "lr1e-3", (0.4, 0.6)),
    ]
    texts = [(8, "t128", "long", (0.93, 0.93)), (8, "t128", "lr1e-2", (0.5, 0.5))]
    tables = {
        "study-ladder": each(*narrow, (64, "whole", (0.95, 0.95)), columns=["width", "text"]),
        "study-controls": each(*controls, columns=["width", "control"]),
        "study-further": each((8, (0.7, 0.9)), columns=["width"]),
        "study-further-texts": each((8, "t1024", (0.8, 0.9)), columns=["width", "text"]),
        "study-texts": each(*texts, columns=["width", "text", "control"]),
    }
    (table,) = _failures(tables)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert {row[1]: row[2:] for row in rows} == {  # AUC, alone, then alone, 12,000 steps, best other rate, cases
        "1,024": ["0.55", "0.90", "0.85", "", "", "?, expressivity"],
        "128 sequences": ["0.55", "0.90", "", "0.93", "0.50", "under-training, expressivity"],
        "the whole corpus": ["0.55", "0.90", "0.80", "0.60", "0.60", "competition, expressivity"],
    }
