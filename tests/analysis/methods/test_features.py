"""Probes and counts find what hand-made models are made of, exactly that, and nothing in controls."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from copies import Copies
from hypothesis import given
from hypothesis import strategies as st
from known_models import KnownModel, known_addition, known_comparison, random_model, shuffled
from memorizing import memorizing, solved, task_of
from transformers import GPT2Config, GPT2LMHeadModel

from analysis.methods.activations import Activations, activations, recorded, sites_of, values_of
from analysis.methods.feature_amounts import amounts, distinct_modes, trends
from analysis.methods.features import features_method
from analysis.methods.fourier import circle, spectrum
from analysis.methods.order_probe import order_fits
from analysis.read.checkpoints import StoredModel
from analysis.read.runs import read_run
from olmo_inject.cli import main
from olmo_inject.errors import UserError
from olmo_inject.tasks import Task
from olmo_inject.training.checkpoints.load import load_model
from olmo_inject.training.structure import residual_points


def at(found: list[Activations], site: str) -> np.ndarray:
    [only] = [one.balanced for one in found if one.site.name == site]
    return only


def order_of(points: np.ndarray, separable: np.ndarray) -> float:
    values = np.flatnonzero(separable)
    return order_fits(points[values], [len(values) // 2], 100, values=values)[0].held_out


def modes_of(points: np.ndarray, seed: int = 0) -> list[set[int]]:
    return [set((np.flatnonzero(layer) + 1).tolist()) for layer in spectrum(points, 200, seed).present]


def cloud(n: int, d: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


# Activations


def test_activations_are_the_means_of_a_plain_loop() -> None:
    known = known_addition(5, (1,))
    found = activations(known.model, known.task)
    assert [one.site.name for one in found] == ["TOK1 at TOK1", "TOK1 at TOK2", "TOK2 at TOK2", "LABEL at LABEL"]
    values = values_of(known.task)
    with torch.no_grad():
        streams = known.model(torch.from_numpy(known.task.triples.astype(np.int64)), output_hidden_states=True)
    for one in found:
        for layer in range(2):  # transformers' last one is behind the final norm
            stream = streams.hidden_states[layer][:, one.site.position].double().numpy()
            for value in range(5):
                mean = stream[values[:, one.site.variable] == value].mean(axis=0)
                np.testing.assert_allclose(one.means[layer, value], mean, atol=1e-6)
        # All labels meet all operands equally often: there is nothing to balance.
        np.testing.assert_allclose(one.balanced, one.means, atol=1e-9)
        assert one.separable.all()


def test_balanced_activations_are_a_plain_regression() -> None:
    task = task_of("comparison", 7)
    model, values = memorizing(task, 16, order=1.0), values_of(task)
    labels = (values[:, 0] < values[:, 1]).astype(int)
    with torch.no_grad(), recorded(residual_points(model)) as outputs:
        model(torch.from_numpy(task.triples[:, :2].astype(np.int64)))
    streams = [output[:, 1].double().numpy() for output in outputs if output is not None]
    design = np.concatenate([np.eye(7)[values[:, 0]], np.eye(7)[values[:, 1]], np.eye(2)[labels]], axis=1)
    for variable, one in enumerate(activations(model, task)[1:]):
        assert np.flatnonzero(~one.separable).tolist() == [6 * (1 - variable)]  # none is above 6 or below 0
        for layer, stream in enumerate(streams):
            part = np.linalg.lstsq(design, stream, rcond=None)[0][7 * variable : 7 * (variable + 1)]
            expected = part - part.mean(axis=0) + stream.mean(axis=0)
            np.testing.assert_allclose(one.balanced[layer], expected, atol=1e-6)


def test_a_comparison_s_label_is_no_value() -> None:
    task = known_comparison(6).task
    assert len(sites_of(task)) == 3
    assert set(values_of(task)[:, 2]) == {-1}
    assert values_of(task)[:, :2].tolist() == [[a, b] for a in range(6) for b in range(6)]


def test_all_layers_in_one_pass_are_those_of_a_pass_for_each() -> None:
    known = known_comparison(8)
    points = residual_points(known.model)
    together = activations(known.model, known.task)
    for layer, point in enumerate(points):
        for one, alone in zip(together, activations(known.model, known.task, [point]), strict=True):
            assert np.array_equal(one.means[layer], alone.means[0])


def outputs_after(points: list[torch.nn.Module], model: GPT2LMHeadModel) -> list[torch.Tensor | None]:
    """What is recorded by a pass that comes after the recording."""
    with recorded(points) as outputs:
        pass
    model(torch.arange(6)[None])
    return outputs


def test_other_architectures_and_no_traces_left() -> None:
    model = GPT2LMHeadModel(GPT2Config(n_layer=3, n_head=2, n_embd=8, vocab_size=200, n_positions=8)).eval()
    points = residual_points(model)
    assert len(points) == 4
    with recorded(points) as outputs, torch.no_grad():
        hidden = model(torch.arange(6)[None], output_hidden_states=True).hidden_states
    assert all(output is not None for output in outputs)
    assert torch.equal(outputs[1], hidden[1])  # pyright: ignore[reportArgumentType]
    assert outputs_after(points, model) == [None] * 4
    with pytest.raises(UserError, match="known has token .*, the model's vocabulary ends at 9"):
        activations(GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=1, n_embd=4, vocab_size=10)), known_comparison(5).task)


# Order


@pytest.mark.parametrize("n", [20, 50])
def test_the_known_direction_is_found(n: int) -> None:
    known = known_comparison(n)
    found = activations(known.model, known.task)
    for site in ("TOK1 at TOK1", "TOK2 at TOK2"):
        for layer, points in enumerate(at(found, site)):
            [one, half] = order_fits(points, [1, n // 2], 100)
            assert one.held_out > 0.98
            assert half.held_out > 0.98
            assert one.rank_correlation > 0.99
            assert half.shuffled_held_out < (0.1 if n > 20 else 0.2)  # half as many components as tokens: 10 of 20
            if layer:
                continue
            # The direction found is the known one; after block 0 there are more of them.
            centred = points - points.mean(axis=0)
            direction = np.linalg.svd(centred)[2][0]
            assert abs(direction @ known.own[0].double().numpy()) > 0.95
    assert order_fits(at(found, "TOK1 at TOK2")[0], [5], 100)[0].held_out == 0  # not there before attention
    assert order_fits(at(found, "TOK1 at TOK2")[1], [5], 100)[0].held_out > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("n", [20, 50])
def test_no_order_in_controls(n: int) -> None:
    known = known_comparison(n)
    other = KnownModel(known.model, shuffled(known.task), known.own, known.both, [])
    for model, task in ((other.model, other.task), (random_model(known), known.task)):
        for one in activations(model, task):
            for points in one.balanced:
                fit = order_fits(points, [n // 2], 100)[0]
                assert fit.held_out < 0.2
                assert fit.low <= max(0.0, fit.shuffled_held_out)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "n"), [(64, 32), (2048, 20)])
def test_pairs_learned_by_heart_have_no_order(width: int, n: int) -> None:
    """The labels' shares alone put the plain means in order; the balanced activations show what embeddings hold."""
    task = task_of("comparison", n)
    for order in (0.0, 2.0):
        model = memorizing(task, width, order)
        assert solved(model, task) == 1
        for one in activations(model, task)[1:]:
            assert order_of(one.means[1], one.separable) > 0.95
            assert (order_of(one.balanced[1], one.separable) > 0.7) is bool(order)
            if one.site.variable == 0:  # TOK1 is not to be seen in TOK2's embedding
                assert order_of(one.balanced[0], one.separable) == 0


@pytest.mark.slow
@given(n=st.integers(20, 60), seed=st.integers(0, 100))
def test_noise_fits_in_sample_and_not_held_out(n: int, seed: int) -> None:
    fit = order_fits(cloud(n, 200, seed), [n // 2], 20)[0]
    assert fit.in_sample > 0.15
    assert fit.held_out < 0.3
    assert abs(fit.shuffled_in_sample - (n // 2) / (n - 1)) < 0.1  # its expectation


def test_held_out_is_a_plain_cross_validation() -> None:
    """Least squares by numpy, fold by fold."""
    points = cloud(30, 6, 0) + np.linspace(-2, 2, 30)[:, None]
    fit = order_fits(points, [6], 20)[0]
    from analysis.methods.order_probe import FOLDS
    from olmo_inject.randomness import key, permutation

    fold_of = permutation(key("order probe", "folds", 0), 30) % FOLDS
    predicted = np.empty(30)
    for fold in range(FOLDS):
        held = fold_of == fold
        design = np.c_[points, np.ones(30)]
        solution = np.linalg.lstsq(design[~held], np.arange(30.0)[~held], rcond=None)[0]
        predicted[held] = design[held] @ solution
    np.testing.assert_allclose(fit.predicted, predicted, atol=1e-8)


# Fourier


@pytest.mark.parametrize(("n", "modes"), [(23, (3, 7)), (59, (1, 10, 21))])
def test_exactly_the_known_modes_are_found(n: int, modes: tuple[int, ...]) -> None:
    known = known_addition(n, modes)
    found = activations(known.model, known.task)
    both = set(modes) | {min(2 * mode % n, n - 2 * mode % n) for mode in modes}
    assert modes_of(at(found, "TOK2 at TOK2")) == [set(modes)] * 3
    assert modes_of(at(found, "TOK1 at TOK2")) == [set(), set(modes), set(modes)]
    # Alone, TOK1 is added to itself: twice each mode appears.
    first = modes_of(at(found, "TOK1 at TOK1"))
    assert first[0] == set(modes)
    assert first[1]
    assert first[1] <= both


@pytest.mark.parametrize("seed", [0, 1])
def test_no_modes_in_controls(seed: int) -> None:
    known = known_addition(23, (3, 7), seed)
    for model, task in ((known.model, shuffled(known.task, seed)), (random_model(known, seed), known.task)):
        for one in activations(model, task):
            assert modes_of(one.balanced) == [set()] * 3


@given(n=st.integers(5, 40), seed=st.integers(0, 100))
def test_powers_share_out_the_variance(n: int, seed: int) -> None:
    points = np.stack([cloud(n, 7, seed), np.ones((n, 7))])
    power = spectrum(points, 100).power
    assert power[0].sum() == pytest.approx(1)
    assert (power >= -1e-12).all()
    assert not power[1].any()
    angle = 2 * np.pi * np.arange(n) / n
    waves = np.stack([np.cos(angle), np.sin(angle)], axis=1) * (2 / n) ** 0.5
    centred = points[0] - points[0].mean(axis=0)
    assert power[0, 0] == pytest.approx(((waves.T @ centred) ** 2).sum() / (centred**2).sum())


def test_an_answer_s_circle_is_no_mode_of_an_operand() -> None:
    """Answers written around a circle by a model that has learned all sums by heart, from random embeddings."""
    task = task_of("modular_addition", 23)
    model = memorizing(task, 64)
    assert solved(model, task) == 1
    found = activations(model, task)
    for site in ("TOK1 at TOK2", "TOK2 at TOK2"):
        assert modes_of(at(found, site)) == [set()] * 2
    # The circle is there, by the value of the answer.
    with torch.no_grad(), recorded(residual_points(model)) as outputs:
        model(torch.from_numpy(task.triples[:, :2].astype(np.int64)))
    assert outputs[1] is not None
    stream, answers = outputs[1][:, 1].double().numpy(), values_of(task)[:, 2]
    assert 1 in modes_of(np.stack([stream[answers == value].mean(axis=0) for value in range(23)])[None])[0]


@pytest.mark.slow
def test_false_modes_are_as_rare_as_promised() -> None:
    found = [bool(spectrum(cloud(15, 30, seed)[None], 100).present.any()) for seed in range(100)]
    assert sum(found) <= 5  # 1 expected


def test_a_circle_is_one_only_where_there_is_a_mode() -> None:
    angle = 2 * np.pi * 3 * np.arange(31) / 31
    plane = np.linalg.qr(cloud(500, 2, 0))[0].T
    real = circle(np.stack([np.cos(angle), np.sin(angle)], 1) @ plane + 0.003 * cloud(31, 500, 1), 3)
    np.testing.assert_allclose(np.linalg.norm(real, axis=1), 1, atol=0.15)
    assert np.abs(np.angle(real @ [1, 1j] * np.exp(-1j * angle))).max() < 0.1
    noise = circle(cloud(31, 500, 1), 3)
    assert np.linalg.norm(noise, axis=1).mean() < 0.6
    assert not circle(np.ones((31, 5)), 3).any()


# The method


def subject_of(task: Task, folder: Path) -> StoredModel:
    return StoredModel(folder, None, None, [task], folder)


@pytest.mark.slow
def test_the_method_s_tables(tmp_path: Path) -> None:
    method = features_method(components=5, permutations=100)
    known, shares = known_comparison(12), []
    tables = method.compute(known.model, subject_of(known.task, tmp_path), shares.append)
    assert set(tables) == {"order", "line"}
    order = tables["order"]
    # Trained and random, sites, layers; components 1, 2 and 5 and plain means.
    assert len(order) == 2 * 3 * 3 * 4
    assert order.groupby("means")["components"].unique().map(sorted).to_dict() == {"balanced": [1, 2, 5], "plain": [5]}
    headline = order[order["headline"] & (order["site"] == "TOK2 at TOK2")]
    assert headline[headline["weights"] == "trained"]["held_out"].min() > 0.99
    assert headline[headline["weights"] == "untrained"]["held_out"].max() < 0.2
    known = known_addition(11, (2,))
    modes = method.compute(known.model, subject_of(known.task, tmp_path), shares.append)["modes"]
    present = modes[modes["present"]]
    assert set(present[present["site"] == "TOK2 at TOK2"]["mode"]) == {2}
    assert set(present["weights"]) == {"trained"}
    assert shares == [1, 1]  # of one task each
    with pytest.raises(UserError, match="known: 4 values of TOK1 have more than one LABEL, a feature needs at least 5"):
        method.compute(known.model, subject_of(known_comparison(5).task, tmp_path), shares.append)
    with pytest.raises(UserError, match="known has 4 values: a feature needs at least 5"):
        method.compute(known.model, subject_of(known_comparison(4).task, tmp_path), shares.append)


def test_rank_correlations_are_within_one_frequency_or_one_size() -> None:
    """Runs whose amounts rise with size at either frequency, and fall with frequency at either size."""
    grid = [(size, rate, True, 0.1 * size - 0.05 * rate) for size in (1, 2, 3, 4) for rate in (1, 8)]
    table = pd.DataFrame([*grid, (1, 8, False, 0.9)], columns=pd.Index(["parameters", "per_batch", "evenly", "amount"]))
    names = [f"r{number}" for number in range(len(table))]
    found = table.assign(
        **dict.fromkeys(("run", "folder"), names),
        **dict.fromkeys(
            ("low", "high", "untrained", "shuffled", "plain", "fewer", "of_fewer", "shuffled_of_fewer"), 0.0
        ),
        model=table["parameters"].map("{} wide".format),
        schedule=table["per_batch"].map("{} per batch".format).where(table["evenly"], "burst"),
        text="",
        step=12,
        task="less",
        feature="order",
    )
    table = trends(found)
    assert table[["against", "at", "runs"]].to_numpy().tolist() == [
        ["model size", "1 per batch", 4],
        ["model size", "8 per batch", 4],
    ]
    assert table["correlation"].to_list() == pytest.approx([1, 1])
    assert table["p"].to_list() == pytest.approx([2 / 24, 2 / 24])
    assert trends(found.head(6)).empty  # three sizes


def test_distinct_modes_do_not_grow_with_depth() -> None:
    """Two modes that 8 layers hold and that 16 layers hold: the total over layers doubles, the distinct ones do not."""
    cells = [
        {"run": f"r{depth}", "layer": layer, "mode": mode, "weights": weights}
        for depth in (8, 16)
        for layer in range(depth)
        for mode in range(1, 6)
        for weights in ("trained", "untrained")
    ]
    modes = pd.DataFrame(cells).assign(model="m", step=1, task="plus", site="TOK2 at TOK2", present_shuffled=False)
    modes["folder"] = modes["run"]
    modes["present"] = modes["mode"].isin([2, 5]) & (modes["weights"] == "trained")
    found = amounts({"modes": modes}, "fourier")
    assert found["amount"].tolist() == [16, 32]
    assert found["distinct"].tolist() == distinct_modes(found)["amount"].tolist() == [2, 2]
    assert found["distinct_shuffled"].tolist() == [0, 0]
    assert found["modes"].tolist() == [[2, 5], [2, 5]]


@pytest.mark.slow
def test_the_command_s_files_and_its_status(copies: Copies, capsys: pytest.CaptureFixture[str]) -> None:
    run = copies.make("whole")
    shutil.rmtree(run / "step4")
    to = copies.folder / "to"
    arguments = ["analyze", "features", str(run), "--steps", "all", "--out", str(to), "--permutations", "100"]
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert "less: order of TOK2 after the first block" in said
    assert "plus: Fourier modes at TOK2" in said
    assert all(Path(line).is_file() for line in said.splitlines() if line.startswith(str(to)))
    assert {path.suffix for path in to.iterdir()} == {".parquet", ".png", ".svg"}
    assert set(pd.read_parquet(to / "features-order.parquet")["step"]) == {8, 12}
    (run / "step8" / "model.pt").write_bytes(b"")
    [of_step8] = (run / "analysis" / "features").glob("step8-*")
    shutil.rmtree(of_step8)
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 1
    captured = capsys.readouterr()
    assert "left out: " in captured.err
    assert set(pd.read_parquet(to / "features-order.parquet")["step"]) == {12}


@pytest.mark.slow
def test_models_on_their_own(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_model(trained / "step12").save_pretrained(tmp_path / "alone")
    task = str(trained / "tasks" / "less.json")
    with pytest.raises(SystemExit) as end:
        main(["analyze", "features", str(tmp_path / "alone"), "--tasks", task, "--permutations", "100", "--json"])
    assert end.value.code == 0
    assert '"left_out": []' in capsys.readouterr().out
    order = pd.read_parquet(tmp_path / "alone" / "analysis" / "features-order.parquet")
    assert set(order["task"]) == {"less"}
    assert read_run(trained).tasks[0].name == "less"


@pytest.mark.parametrize(
    ("options", "message"), [(["--components", "0"], "--components: 0"), (["--permutations", "9"], "--permutations: 9")]
)
def test_options_that_make_no_sense(
    trained: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["analyze", "features", str(trained), *options])
    assert end.value.code == 2
    assert message in capsys.readouterr().err
