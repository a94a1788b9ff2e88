"""`analyze gradients|patching|das` from the command line to the report, on one real run of two tasks."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from copies import Copies
from pages import sections_of, write_text
from runs import LENGTH

from analysis.methods.gradients import batch_of, run_data
from analysis.read.runs import read_run
from analysis.read.samples import sample
from olmo_inject.cli import main
from olmo_inject.corpus import kinds
from olmo_inject.corpus import order as orders

pytestmark = pytest.mark.slow

OPTIONS = {
    "patching": ["--pairs", "8"],
    "das": ["--updates", "2", "--pairs", "12", "--dimensions", "1"],
    "gradients": ["--neurons", "4"],
}
COMMANDS = sorted(OPTIONS)
TABLE = {"patching": "layers", "das": "sites", "gradients": "cosines"}
OWN = {
    "patching": {"weights", "layer", "rank", "pairs", "whole", "answered"}
    | {f"{name}{end}" for name in ("effect", "recovery", "logprob_drop") for end in ("", "_low", "_high")},
    "das": {"weights", "subspace", "layer", "position", "variable", "dimension", "accuracy", "low", "high", "pairs"}
    | {"no_swap", "one_operand", "full_swap", "judged", "updates", "converged"}
    | {"unseen", "unseen_low", "unseen_high", "unseen_pairs"},
    "gradients": {"kind", "of", "cosine", "norm", "null", "among", "instances", "proven", "mlp", "neurons"}
    | {"targets", "precision"},
}
FIGURES = {
    "patching": {f"layers-{task}-{{run}}-step12" for task in ("less", "plus")}
    | {f"layers-steps-{task}-{{run}}" for task in ("less", "plus")},
    "das": {f"sites-{task}-{{run}}-step12" for task in ("less", "plus")}
    | {f"sites-steps-{task}-{{run}}" for task in ("less", "plus")},
    "gradients": {f"{name}-{task}" for name in ("steps", "means") for task in ("less", "plus")} | {"tasks-{run}"},
}
TITLES = {
    "patching": "Which layers' MLPs the task depends on",
    "das": "Where the values are held",
    "gradients": "Gradient interference",
}

RESULTS = {
    "patching": {"The MLP with the largest effect (95% CI)"},
    "das": {"Best place of each value, chosen on train pairs"},
    "gradients": {"Mean cosines over steps (95% CI from 8 steps on)", "Rebuilt batches against the run's evidence"},
}

STEPS = (8, 12)  # the checkpoints that are analyzed

Call = Callable[..., tuple[int, str, str]]


def run_command(*arguments: object) -> tuple[int, str, str]:
    """The command line's status, and what it said."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    assert isinstance(end.value.code, int)
    return end.value.code, out.getvalue(), err.getvalue()


@pytest.fixture
def call() -> Call:
    return run_command


def analyze(method: str, *runs: Path, steps: str = "all") -> list[object]:
    return ["analyze", method, *runs, "--steps", steps, *OPTIONS[method]]


def table_of(method: str, folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / f"{method}-{TABLE[method]}.parquet")


def when_written(run: Path, method: str) -> dict[str, int]:
    """Of each folder of results; reading them touches `about.json` alone."""
    return {path.parent.name: path.stat().st_mtime_ns for path in (run / "analysis" / method).glob("*/*.parquet")}


class Analyzed(NamedTuple):
    """A method's results of a run, computed for its first checkpoint and then for both."""

    method: str
    run: Path
    first: dict[str, int]  # of `when_written`, with one checkpoint
    second: dict[str, int]
    out: str
    err: str

    @property
    def table(self) -> pd.DataFrame:
        return table_of(self.method, self.run / "analysis")


@pytest.fixture(scope="module", params=COMMANDS)
def analyzed(request: pytest.FixtureRequest, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Analyzed:
    """Of both tasks; the tests change nothing but the weights."""
    method, copies = request.param, Copies(trained, tmp_path_factory.mktemp(request.param))
    run = copies.make("whole")
    shutil.rmtree(run / "step4")
    shutil.move(run / "step12", copies.folder / "away")
    status, _, err = run_command(*analyze(method, run))
    assert status == 0
    first = when_written(run, method)
    shutil.move(copies.folder / "away", run / "step12")
    status, out, _ = run_command(*analyze(method, run))
    assert status == 0
    return Analyzed(method, run, first, when_written(run, method), out, err)


def test_tables_figures_cache_and_report(analyzed: Analyzed, call: Call) -> None:
    method, run, first, second, out, err = analyzed
    assert all(line.startswith(f"{method}: ") for line in err.splitlines())  # the progress, after ten seconds
    assert {name.split("-")[0] for name in first} == {"step8"}
    # A further checkpoint computes itself alone: what is kept is not written again.
    assert {name.split("-")[0] for name in second.keys() - first.keys()} == {"step12"}
    assert first.items() <= second.items()

    # What the command prints is tables, and files that are there.
    files = [Path(line) for line in out.splitlines() if line.startswith(str(run))]
    assert out.splitlines()[0].strip() in RESULTS[method]
    assert all(file.stat().st_size > 100 for file in files)
    names = {name.format(run="whole") for name in FIGURES[method]}
    wanted = {f"{method}-{name}.{ending}" for name in names for ending in ("png", "svg")}
    assert {file.name for file in files} == wanted | {f"{method}-{TABLE[method]}.parquet"}
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files if file.suffix == ".png")

    table = analyzed.table
    assert set(table) == {"run", "folder", "model", "step", "task"} | OWN[method]
    assert set(table["step"]) == set(STEPS)
    assert set(table["task"]) == {"less", "plus"}

    # Nothing is computed a third time: the weights could not even be read.
    for step in STEPS:
        weights = run / f"step{step}" / "model.pt"
        weights.write_bytes(bytes(weights.stat().st_size))
    status, out, _ = call(*analyze(method, run), "--json")
    assert status == 0
    said = json.loads(out)
    assert set(said["results"]) == RESULTS[method]
    cells = {cell for rows in said["results"].values() for row in rows for cell in row.values()}
    assert said["left_out"] == []
    assert when_written(run, method) == second
    pd.testing.assert_frame_equal(table_of(method, run / "analysis"), table)

    assert call("report", run, "--out", run / "page.html")[0] == 0
    page = (run / "page.html").read_text()
    for text in (TITLES[method], *RESULTS[method], *cells):
        assert text.replace("'", "&#39;").replace("<", "&lt;") in page
    heading = f"<h2>{TITLES[method]}</h2>".replace("'", "&#39;")
    [section] = [part for part in page.split("<section")[1:] if heading in part]
    assert section.count("<img") == len(names)


def test_what_a_method_says_holds_together(analyzed: Analyzed, trained: Path) -> None:
    {"patching": check_patching, "das": check_das, "gradients": check_gradients}[analyzed.method](analyzed, trained)


def check_patching(analyzed: Analyzed, trained: Path) -> None:
    table = analyzed.table
    for _, of in table.groupby(["step", "task", "weights"]):
        assert sorted(of["rank"]) == list(range(1, len(of) + 1))
        assert of.sort_values("rank")["effect"].is_monotonic_decreasing
    for name in ("effect", "recovery", "logprob_drop"):
        assert (table[f"{name}_low"] <= table[name]).all()
        assert (table[name] <= table[f"{name}_high"]).all()
    untrained = table[table["weights"] == "untrained"].groupby(["task", "layer"])["effect"]
    assert (untrained.nunique() == 1).all()  # the same random weights at every checkpoint
    trained_effects = table[table["weights"] == "trained"].groupby(["task", "layer"])["effect"]
    assert (trained_effects.nunique() == len(STEPS)).all()


def check_das(analyzed: Analyzed, trained: Path) -> None:
    table = analyzed.table
    depth = read_run(trained).experiment.model.n_layers + 1
    assert len(table) == len(STEPS) * 2 * depth * 4 * (2 + 2)  # tasks, layers, questions, subspaces of both models
    assert (table["low"] <= table["accuracy"]).all()
    assert (table["accuracy"] <= table["high"]).all()
    assert table["accuracy"].between(0, 1).all()
    assert (table.groupby(["step", "task", "weights", "position", "variable"])["no_swap"].nunique() == 1).all()
    # TOK1's stream after the last block is read by nothing.
    unread = table[(table["layer"] == depth - 1) & (table["position"] == 0)]
    assert (unread["accuracy"] == unread["no_swap"]).all()


def check_gradients(analyzed: Analyzed, trained: Path) -> None:
    table = analyzed.table
    plan = run_data(trained)[1].plan
    for step, task in ((step, number) for step in STEPS for number in (0, 1)):
        name = plan.tasks[task].name
        of = table[(table["step"] == step) & (table["task"] == name)].set_index(["kind", "of"])
        assert of.loc[("reference", name), "cosine"] == pytest.approx(1)
        assert (of["instances"] == (plan.at(step).task == task).sum()).all()
        # g = g_t + g_nt, in projection on g_r too.
        projected = (of["cosine"].fillna(0) * of["norm"]).to_dict()
        whole, parts = projected["batch", ""], projected["injected", ""] + projected["rest", ""]
        assert whole == pytest.approx(parts, rel=1e-5, abs=1e-7 * of["norm"].max())
    silent = table[(table["kind"] == "injected") & (table["of"] == "plus") & (table["step"] % 3 != 0)]
    assert len(silent) == 2  # at step 8, on the neurons of both tasks: no burst
    assert silent["cosine"].isna().all()
    assert set(table[table["proven"]]["step"]) == {8}
    lines = [line.split() for line in analyzed.out.splitlines()]
    assert ["whole", "1", "step", "12"] in lines


def test_a_corrupt_checkpoint_is_named_and_left_out(copies: Copies, call: Call) -> None:
    method = "patching"
    run = copies.make("spoilt")
    with (run / "step8" / "model.pt").open("r+b") as file:
        file.seek(2000)
        file.write(b"spoilt")
    status, out, err = call(*analyze(method, run), "--json")
    assert status == 1
    assert err.count("olmo-inject: left out: ") == 1
    [problem] = json.loads(out)["left_out"]
    assert "spoilt/step8 is damaged: model.pt is not as it was written" in problem
    assert set(table_of(method, run / "analysis")["step"]) == {4, 12}
    assert {name.split("-")[0] for name in when_written(run, method)} == {"step4", "step12"}


def test_runs_of_one_name_stay_apart(copies: Copies, call: Call) -> None:
    method = "patching"  # the one that draws a figure of all models together
    run = copies.make("twin")
    runs = [Path(shutil.copytree(run, copies.folder / place / "twin")) for place in ("a", "b")]
    shutil.rmtree(runs[1] / "step12")
    to = copies.folder / "figures"
    status, out, _ = call(*analyze(method, *runs, steps="last"), "--out", to)
    assert status == 0
    table = table_of(method, to)
    assert dict(zip(table["run"], table["step"], strict=True)) == {"a/twin": 12, "b/twin": 8}
    assert dict(zip(table["run"], table["folder"], strict=True)) == {"a/twin": str(runs[0]), "b/twin": str(runs[1])}
    for name in ("a/twin", "b/twin"):
        assert any(name in line for line in out.splitlines() if not line.startswith(str(to)))
    drawn = {path.name for path in to.glob("*.png")}
    one = {name for name in FIGURES[method] if "steps-" not in name}  # of one checkpoint
    both = {name.format(run=run).replace("step12", step) for name in one for run, step in TWINS}
    across = {f"layers-models-{task}" for task in ("less", "plus")}
    assert drawn == {f"{method}-{name}.png" for name in both | across}
    assert "a/twin" in write_text(runs, to / "page.html").read_text()


def test_results_of_another_version_are_not_shown(copies: Copies, call: Call) -> None:
    method = "gradients"
    run = copies.make("older")
    assert call(*analyze(method, run, steps="last"))[0] == 0
    [about] = (run / "analysis" / method).glob("*/about.json")
    about.write_text(json.dumps(json.loads(about.read_text()) | {"version": 0}))
    (about.parent / f"{TABLE[method]}.parquet").write_bytes(b"of a kind that is no longer read")
    assert TITLES[method] not in [section.title for section in sections_of([run])]


TWINS = (("a-twin", "step12"), ("b-twin", "step8"))


def with_its_own_corpus(copies: Copies) -> tuple[Path, list[Path]]:
    """A copy of the run, and of the two shards that it reads."""
    pattern = re.search(r"- (.*)/part-\*\.npy", (copies.trained / "experiment.yaml").read_text())
    assert pattern is not None
    corpus = copies.folder / "corpus"
    corpus.mkdir(parents=True)
    shards = [Path(shutil.copy(path, corpus)) for path in sorted(Path(pattern[1]).glob("part-*.npy"))]
    return copies.make("moved", (pattern[0][2:], f"{corpus}/part-*.npy")), shards


def test_a_shard_that_changed_leaves_out_the_steps_that_it_is_in(copies: Copies, call: Call) -> None:
    run, shards = with_its_own_corpus(copies)
    data = run_data(run)[1]
    in_step = {step: set(data.order[np.arange(12 * step, 12 * step + 12)].tolist()) for step in (4, 8, 12)}
    sequence = min(in_step[8] - in_step[4] - in_step[12])
    shard, place = (shards[0], sequence) if sequence < 60 else (shards[1], sequence - 60)
    with shard.open("r+b") as file:  # the last token of the row: never an injected one
        file.seek(2 * (place * LENGTH + LENGTH - 1))
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    status, out, err = call(*analyze("gradients", run))
    assert status == 1
    _, line = err.splitlines()
    assert "the batch of step 8 is not what the run's model was given: its tokens differ from evidence.jsonl" in line
    assert set(table_of("gradients", run / "analysis")["step"]) == {4, 12}
    assert any(line.split() == ["moved", "1", "step", "12"] for line in out.splitlines())


@pytest.mark.parametrize("cache", ["written", "refused"])
@pytest.mark.parametrize("reader", ["gradients", "report"])
def test_of_several_readers_of_a_long_order_one_shuffles(
    copies: Copies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str, cache: str
) -> None:
    """Each reader is a process of its own, and nothing is stored yet."""
    run = copies.make("reader")
    monkeypatch.setattr(kinds, "SHARED_FROM", 1)
    monkeypatch.setenv("OLMO_INJECT_CACHE", str(tmp_path / "cache"))
    if cache == "refused":  # then the run's own folder holds the order
        (tmp_path / "cache").write_text("")
    shuffled: list[int] = []
    plain = orders._shuffled
    monkeypatch.setattr(orders, "_shuffled", lambda n, seed: (shuffled.append(n), plain(n, seed))[1])
    for shuffles in (1 if reader == "report" else 2, 0):  # of a run of one and a half epochs
        shuffled.clear()
        if reader == "report":
            sample(read_run(run))
        else:
            run_data.cache_clear()
            batch_of(run_data(run)[1], 12)
        assert shuffled.count(100) == shuffles


def test_evidence_that_says_otherwise(copies: Copies, call: Call) -> None:
    run = copies.make("other")
    lines = (run / "evidence.jsonl").read_text().splitlines()
    lines[4] = lines[4].replace('"targets": ', '"targets": 1')
    (run / "evidence.jsonl").write_text("\n".join(lines) + "\n")
    status, _, err = call(*analyze("gradients", run, steps="4"))
    assert status == 1
    assert "its count of targets differ" in err
    (run / "evidence.jsonl").unlink()
    status, out, err = call(*analyze("gradients", run, steps="4,8"))
    assert status == 0
    assert err == (
        "gradients: 2 checkpoints to compute, each forwards and backwards over 12 rows of 16 tokens and over all 61 "
        "instances; --steps takes fewer\n"
    )
    assert call(*analyze("gradients", run, steps="4,8"))[2] == ""  # both are stored
    assert any(line.split() == ["other", "0", "step", "4,", "step", "8"] for line in out.splitlines())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gradients", "--neurons", "0"], "--neurons: 0 must be at least 1"),
        (["gradients", "--targets", "all"], "--targets: 'all' is not one of injected, label"),
        (["gradients", "--layer", "-1"], "--layer: -1 must be at least 0"),
        (["das", "--dimensions", "1;2"], "--dimensions: '1;2' is not numbers joined by commas"),
        (["das", "--steps", "first"], "--steps: 'first' is not a step"),
        (["das", "--tasks", "none.json"], "--tasks is only for models that belong to no run"),
        (["das", "--out", "/dev/null/figures"], "/dev/null"),
    ],
)
def test_wrong_options_are_one_line(trained: Path, arguments: list[str], message: str, call: Call) -> None:
    status, out, err = call("analyze", arguments[0], trained, *arguments[1:])
    assert (status, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (trained / "analysis" / arguments[0]).exists()


def test_what_the_model_does_not_have_is_left_out(copies: Copies, call: Call) -> None:
    run = copies.make("whole")
    for option, message in ((["--layer", "2"], "layer 2 is not in 0..1"), (["--neurons", "999"], "neurons: 999")):
        status, out, err = call("analyze", "gradients", run, *option, "--json")
        assert status == 1
        assert len(json.loads(out)["left_out"]) == 3
        assert message in err
