"""Patching and alignment search on models whose workings are known, and on others that have none."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from known_models import KnownModel, known_addition, known_comparison, random_model, shuffled
from pandas.testing import assert_frame_equal

from analysis.methods import das, das_search, patching
from analysis.methods.counterfactuals import by_tokens, draw_pairs, one_operand_accuracy
from analysis.methods.das_search import Fitting, SearchOptions, align
from analysis.methods.forward_from import ForwardFrom
from analysis.methods.interchange import Alignment, Streams, interchange
from analysis.methods.subspaces import random_basis
from analysis.report.interventions import das_section
from analysis.stats import clustered_interval, mean_intervals
from olmo_inject.errors import UserError
from olmo_inject.tasks.ragged import Ragged

pytestmark = pytest.mark.slow

OPTIONS = SearchOptions()


@pytest.fixture(scope="module")
def comparison() -> KnownModel:
    return known_comparison(60)  # few values could also be told apart by their tokens' noise


@pytest.fixture(scope="module")
def addition() -> KnownModel:
    return known_addition(61)


def searched(known: KnownModel, site: Alignment, dimension: int, model: torch.nn.Module | None = None, task=None):
    """Accuracy on held-out pairs, and the basis."""
    model, task = model or known.model, task or known.task
    upper, fitting = fitting_of(model, task, site, 1024)
    [found] = align(upper, task, [(site, dimension)], [fitting], OPTIONS)
    assert found.converged
    return accuracy_of(model, task, site, found.basis), found.basis


def fitting_of(model, task, site: Alignment, n: int) -> tuple[ForwardFrom, Fitting]:
    upper, train = model_and_pairs(model, task, site, task.train_ids, n, "a")
    return upper, Fitting(train, model_and_pairs(model, task, site, task.train_ids, n // 4, "c")[1])


def model_and_pairs(model, task, site: Alignment, ids, n: int, purpose: str) -> tuple[ForwardFrom, Streams]:
    model.requires_grad_(False)
    pairs = draw_pairs(task, site.variable, ids, n, purpose)
    upper = ForwardFrom(model, task.label_tokens, task.triples[:, 0])
    return upper, Streams.of(upper, pairs, site.position)


def accuracy_of(model, task, site: Alignment, basis: torch.Tensor) -> float:
    """On held-out pairs."""
    upper, held_out = model_and_pairs(model, task, site, task.test_ids, 400, "b")
    return interchange(upper, site, held_out, basis)[0]


def test_the_first_block_does_everything_and_the_second_nothing(comparison: KnownModel, addition: KnownModel) -> None:
    for known in (comparison, addition):
        table = patching.layer_table(known.model, known.task, 40).set_index("layer")
        assert table["rank"].tolist() == [1, 2]
        assert table.loc[0, "effect"] == pytest.approx(table.loc[0, "whole"], rel=0.02)
        assert table.loc[0, "recovery"] == pytest.approx(table.loc[0, "whole"], rel=0.02)
        assert (table.loc[1, ["effect", "recovery", "logprob_drop"]] == 0).all()
        assert table.loc[0, "effect_low"] < table.loc[0, "effect"] < table.loc[0, "effect_high"]
        assert table.loc[0, "logprob_drop"] > 1
        assert (table["answered"] == 1).all()


def test_patching_a_model_that_knows_nothing_has_no_effect(comparison: KnownModel) -> None:
    known = patching.layer_table(comparison.model, comparison.task, 40)
    nothing = patching.layer_table(random_model(comparison), comparison.task, 40)
    assert nothing["effect"].abs().max() < 0.01 * known["effect"].max()
    assert 0.2 < nothing["answered"].iloc[0] < 0.8


def test_the_direction_of_an_operand_is_found_in_one_dimension(comparison: KnownModel) -> None:
    accuracy, basis = searched(comparison, Alignment(0, 0, "first"), 1)
    assert accuracy > 0.95
    assert abs(float(basis[0] @ comparison.own[0])) > 0.95
    assert searched(comparison, Alignment(0, 1, "second"), 1)[0] > 0.95


def test_modes_take_two_dimensions_each(addition: KnownModel) -> None:
    site = Alignment(0, 0, "first")
    both, basis = searched(addition, site, 4)
    one, _ = searched(addition, site, 2)
    assert both > 0.97
    assert one < 0.7
    # The subspace is that of the two modes: all of their directions lie in it.
    assert float((addition.own @ basis.T).norm(dim=1).min()) > 0.85


def test_the_result_is_found_only_after_it_was_computed(comparison: KnownModel) -> None:
    assert searched(comparison, Alignment(1, 1, "result"), 1)[0] > 0.95
    assert searched(comparison, Alignment(0, 1, "result"), 1)[0] < 0.8  # TOK2's own value says something of it
    assert searched(comparison, Alignment(1, 0, "first"), 1)[0] == pytest.approx(
        0.5, abs=0.01
    )  # nobody reads TOK1 again


def test_nothing_is_found_in_controls(comparison: KnownModel) -> None:
    site = Alignment(0, 0, "first")
    other = shuffled(comparison.task)
    wrong = dataclasses.replace(other, instances=Ragged.of(_relabelled(other)))
    assert searched(comparison, site, 1, task=wrong)[0] < 0.75
    assert searched(comparison, site, 1, model=random_model(comparison))[0] < 0.75
    random = random_basis(comparison.own.shape[1], 1, "test")
    assert accuracy_of(comparison.model, comparison.task, site, random) < 0.6


def _relabelled(task) -> np.ndarray:
    """The comparison of the values that `task.tokens` now stand for."""
    n = task.config.options["n_values"]
    value = {int(token): number for number, token in enumerate(task.tokens[:n])}
    rows = [[a, b, task.tokens[n if value[int(a)] < value[int(b)] else n + 1]] for a, b in task.triples[:, :2]]
    return np.array(rows, np.uint32)


def test_a_basis_is_orthonormal_and_the_model_left_alone(addition: KnownModel) -> None:
    before = {name: weight.clone() for name, weight in addition.model.named_parameters()}
    _, basis = searched(addition, Alignment(1, 1, "result"), 3)
    torch.testing.assert_close(basis @ basis.T, torch.eye(3), atol=1e-5, rtol=0)
    assert all(torch.equal(before[name], weight) for name, weight in addition.model.named_parameters())
    assert not addition.model.model.embed_tokens._forward_hooks
    start = random_basis(64, 3, "test")
    torch.testing.assert_close(start @ start.T, torch.eye(3), atol=1e-5, rtol=0)


def test_searches_together_are_searches_alone(addition: KnownModel) -> None:
    model, task = addition.model, addition.task
    asked = [(Alignment(1, 1, "second"), 1), (Alignment(1, 1, "result"), 2), (Alignment(1, 1, "result"), 3)]
    fittings = [fitting_of(model, task, site, 200) for site, _ in asked]
    few = dataclasses.replace(OPTIONS, updates=5)
    upper = fittings[0][0]
    together = align(upper, task, asked, [fitting for _, fitting in fittings], few)
    for one, (_, fitting), found in zip(asked, fittings, together, strict=True):
        [alone] = align(upper, task, [one], [fitting], few)
        torch.testing.assert_close(found.basis, alone.basis, rtol=1e-4, atol=1e-4)
        assert (found.updates, found.converged) == (5, False)
        assert len(found.basis) == one[1]


@pytest.mark.parametrize("width", [64, 2048])
def test_a_planted_direction_is_found_at_every_width(width: int) -> None:
    """By default options; exchanging the direction itself gives 1."""
    known = known_comparison(60, width=width)
    accuracy, basis = searched(known, Alignment(0, 0, "first"), 1)
    assert accuracy > 0.97
    assert abs(float(basis[0] @ known.own[0])) > 0.97


@pytest.mark.parametrize("width", [8, 512])
@pytest.mark.parametrize(("site", "least"), [(Alignment(0, 1, "second"), 0.88), (Alignment(1, 1, "result"), 0.97)])
def test_what_tok2_holds_is_found_at_every_width(width: int, site: Alignment, least: float) -> None:
    assert searched(known_comparison(60, width=width), site, 1)[0] > least


@pytest.mark.parametrize(("modes", "width"), [((3,), 64), ((3, 7), 64), ((3, 7), 2048)])
def test_planted_planes_are_found_at_every_width(modes: tuple[int, ...], width: int) -> None:
    known = known_addition(31, modes, width=width)
    accuracy, basis = searched(known, Alignment(0, 0, "first"), 2 * len(modes))
    assert accuracy > 0.97
    assert float((known.own @ basis.T).norm(dim=1).min()) > 0.8


def test_either_start_suffices(comparison: KnownModel, monkeypatch: pytest.MonkeyPatch) -> None:
    both = das_search.starts
    for which in (0, 1):
        monkeypatch.setattr(das_search, "starts", lambda *given, which=which: [both(*given)[which]])
        assert searched(comparison, Alignment(0, 0, "first"), 1)[0] > 0.95


def test_tokens_told_apart_are_no_value(comparison: KnownModel) -> None:
    """An untrained model's searches do not carry over to tokens that they did not see; the known direction does."""
    options, task = SearchOptions((1,), controls=False), comparison.task
    known = das.search(comparison.model, task, options)
    noise = das.search(random_model(comparison), task, options)
    best = known.query("subspace == 'found' and layer == 0 and position == 0").iloc[0]
    assert best["accuracy"] > 0.97
    assert best["unseen"] > 0.97
    fooled = noise.query("subspace == 'found'")
    assert fooled["accuracy"].max() > 0.6
    assert fooled["unseen"].max() < 0.6
    train, unseen = by_tokens(task, np.arange(len(task.instances)))
    tokens = [set(task.triples[ids, :2].ravel().tolist()) for ids in (train, unseen)]
    assert [len(of) for of in tokens] == [45, 15]
    assert not tokens[0] & tokens[1]


def test_knowing_one_operand_is_measured_on_the_very_pairs(comparison: KnownModel) -> None:
    task = comparison.task
    pairs = draw_pairs(task, "first", task.test_ids, 4000, "b")
    value = {int(token): number for number, token in enumerate(task.tokens[:60])}
    less = pairs.label.numpy() == np.searchsorted(task.label_tokens, task.tokens[60])
    of_first = np.array([value[int(token)] for token in pairs.source[:, 0]]) < 29.5
    assert one_operand_accuracy(task, pairs) == pytest.approx((of_first == less).mean(), abs=0.01)
    assert 0.7 < one_operand_accuracy(task, pairs) < 0.85


def test_intervals_hold_for_all_layers_at_once() -> None:
    """The largest of means that are all zero lies above zero about as rarely as promised; plain ones far more often."""
    rng, several, single = np.random.default_rng(0), 0, 0
    for number in range(100):
        values = rng.normal(size=(16, 60))
        mean, low, _ = mean_intervals(values, str(number))
        largest = int(mean.argmax())
        several += low[largest] > 0
        single += clustered_interval(values[largest], range(60), str(number))[1] > 0
    assert several <= 8
    assert single > 20
    mean, low, high = mean_intervals(np.stack([np.zeros(9), np.arange(9.0)]), "zero")
    assert (mean[0], low[0], high[0]) == (0, 0, 0)
    assert low[1] < mean[1] == 4 < high[1]


def test_figures_and_tables_tell_what_a_search_is_compared_with(comparison: KnownModel) -> None:
    table = das.search(comparison.model, comparison.task, SearchOptions((1,), updates=5, pairs=200)).assign(
        weights="trained"
    )
    control = table.assign(weights="untrained", converged=True)  # its searches do not count as the model's
    section = das_section(pd.concat([table, control]).assign(run="r", step=12, folder="r"))
    assert section is not None
    one, [first, *_] = table["one_operand"].iloc[0], section.tables[0].rows
    assert first["one operand"] == f"{one:.3f}"
    assert first["on tokens not searched with"]
    assert first["searches converged"] == "0 of 3"
    texts = [text.get_text() for axes in section.drawings[0].figure.axes for text in (axes.title, *axes.texts)]
    assert any(f"one operand: {one:.2f}" in text for text in texts)
    assert sum(text.endswith("*") for text in texts) == 24  # those found, on tokens of the search and on others


def test_the_same_bits_on_any_number_of_cores(comparison: KnownModel) -> None:
    options, before = SearchOptions((1, 2), updates=3, pairs=64), torch.get_num_threads()
    model = random_model(comparison)  # where the least difference grows fastest
    found = []
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            found.append(das.search(model, comparison.task, options))
    finally:
        torch.set_num_threads(before)
    assert_frame_equal(*found, check_exact=True)
    assert found[0].query("subspace == 'found'")["accuracy"].nunique() > 3


def test_changing_nothing_is_measured_in_the_model_itself(comparison: KnownModel) -> None:
    site, task = Alignment(0, 0, "first"), comparison.task
    pairs = draw_pairs(task, "first", task.test_ids, 400, "b")
    upper = ForwardFrom(comparison.model, task.label_tokens, task.triples[:, 0])
    known = Streams.of(upper, pairs, 0).no_swap
    assert known == pytest.approx(pairs.no_swap, abs=0.02)  # it knows the task, so only the label is another
    nowhere = torch.zeros(1, comparison.own.shape[1])
    for model in (comparison.model, random_model(comparison)):
        upper, streams = model_and_pairs(model, task, site, task.test_ids, 400, "b")
        assert interchange(upper, site, streams, nowhere)[0] == streams.no_swap


def test_the_table_has_every_site_and_control(comparison: KnownModel) -> None:
    shares: list[float] = []
    table = das.search(comparison.model, comparison.task, SearchOptions((1, 2), updates=1, pairs=20), shares.append)
    assert len(shares) == 3 * 2  # a layer and token each
    assert max(shares) == 1
    assert len(table) == 4 * 3 * 2 * 2
    assert (table["low"] <= table["accuracy"]).all()
    assert (table["accuracy"] <= table["high"]).all()


def test_impossible_options_are_refused(comparison: KnownModel) -> None:
    with pytest.raises(UserError, match="65 is more than the model's width 64"):
        das.search(comparison.model, comparison.task, SearchOptions((65,)))
    with pytest.raises(UserError, match="--dimensions"):
        das.method(SearchOptions((0,)))
    with pytest.raises(UserError, match="--updates: 0"):
        das.method(SearchOptions(updates=0))
    with pytest.raises(UserError, match="--dimensions: '1;2'"):
        das.parse_dimensions("1;2")
    with pytest.raises(UserError, match="--pairs: 1 must be at least 2"):
        patching.method(1)
