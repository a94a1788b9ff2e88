"""Patching and alignment search on models whose workings are known, and on others that have none."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from known_models import KnownModel, known_addition, known_comparison, random_model, shuffled
from pandas.testing import assert_frame_equal

from analysis import das, patching
from analysis.alignment import Options, Site, Streams, align, interchange_accuracy, random_basis
from analysis.counterfactuals import draw_pairs
from analysis.upper_part import UpperPart
from olmo_inject.errors import UserError

OPTIONS = Options(updates=60, pairs=400)


@pytest.fixture(scope="module")
def comparison() -> KnownModel:
    return known_comparison(60)  # few values could also be told apart by their tokens' noise


@pytest.fixture(scope="module")
def addition() -> KnownModel:
    return known_addition(61)


def searched(known: KnownModel, site: Site, dimension: int, model: torch.nn.Module | None = None, task=None):
    """Accuracy on held-out pairs, and the basis."""
    model, task = model or known.model, task or known.task
    upper, train = model_and_pairs(model, task, site, task.train_ids, 1600, "a")
    start = random_basis(known.own.shape[1], dimension, "test")
    [basis] = align(upper, task, [site], [train], [start], OPTIONS)
    return accuracy_of(model, task, site, basis), basis


def model_and_pairs(model, task, site: Site, ids, n: int, purpose: str) -> tuple[UpperPart, Streams]:
    model.requires_grad_(False)
    pairs = draw_pairs(task, site.variable, ids, n, purpose)
    upper = UpperPart(model, task.label_tokens, task.instances[:, 0])
    return upper, Streams.of(upper, pairs, site.position)


def accuracy_of(model, task, site: Site, basis: torch.Tensor) -> float:
    """On held-out pairs."""
    upper, held_out = model_and_pairs(model, task, site, task.test_ids, 400, "b")
    return interchange_accuracy(upper, site, held_out, basis)


def test_the_first_block_does_everything_and_the_second_nothing(comparison: KnownModel, addition: KnownModel) -> None:
    for known in (comparison, addition):
        table = patching.layer_table(known.model, known.task, 40).set_index("layer")
        assert table["rank"].tolist() == [1, 2]
        assert table.loc[0, "effect"] == pytest.approx(table.loc[0, "whole"], rel=0.02)
        assert table.loc[0, "recovery"] == pytest.approx(table.loc[0, "whole"], rel=0.02)
        assert (table.loc[1, ["effect", "recovery", "surprise"]] == 0).all()
        assert table.loc[0, "effect_low"] < table.loc[0, "effect"] < table.loc[0, "effect_high"]
        assert table.loc[0, "surprise"] > 1
        assert (table["answered"] == 1).all()


def test_patching_a_model_that_knows_nothing_has_no_effect(comparison: KnownModel) -> None:
    known = patching.layer_table(comparison.model, comparison.task, 40)
    nothing = patching.layer_table(random_model(comparison), comparison.task, 40)
    assert nothing["effect"].abs().max() < 0.01 * known["effect"].max()
    assert 0.2 < nothing["answered"].iloc[0] < 0.8


def test_the_direction_of_an_operand_is_found_in_one_dimension(comparison: KnownModel) -> None:
    accuracy, basis = searched(comparison, Site(0, 0, "first"), 1)
    assert accuracy > 0.95
    assert abs(float(basis[0] @ comparison.own[0])) > 0.95
    assert searched(comparison, Site(0, 1, "second"), 1)[0] > 0.95


def test_modes_take_two_dimensions_each(addition: KnownModel) -> None:
    site = Site(0, 0, "first")
    both, basis = searched(addition, site, 4)
    one, _ = searched(addition, site, 2)
    assert both > 0.97
    assert one < 0.7
    # The subspace is that of the two modes: all of their directions lie in it.
    assert float((addition.own @ basis.T).norm(dim=1).min()) > 0.85


def test_the_result_is_found_only_after_it_was_computed(comparison: KnownModel) -> None:
    assert searched(comparison, Site(1, 1, "result"), 1)[0] > 0.95
    assert searched(comparison, Site(0, 1, "result"), 1)[0] < 0.8  # TOK2's own value says something of it
    assert searched(comparison, Site(1, 0, "first"), 1)[0] == pytest.approx(0.5, abs=0.01)  # nobody reads TOK1 again


def test_nothing_is_found_in_controls(comparison: KnownModel) -> None:
    site = Site(0, 0, "first")
    other = shuffled(comparison.task)
    wrong = dataclasses.replace(other, instances=_relabelled(other))
    assert searched(comparison, site, 1, task=wrong)[0] < 0.75
    assert searched(comparison, site, 1, model=random_model(comparison))[0] < 0.75
    random = random_basis(comparison.own.shape[1], 1, "test")
    assert accuracy_of(comparison.model, comparison.task, site, random) < 0.6


def _relabelled(task) -> np.ndarray:
    """The comparison of the values that `task.tokens` now stand for."""
    n = task.config.options["n_values"]
    value = {int(token): number for number, token in enumerate(task.tokens[:n])}
    rows = [[a, b, task.tokens[n if value[int(a)] < value[int(b)] else n + 1]] for a, b in task.instances[:, :2]]
    return np.array(rows, np.uint32)


def test_a_basis_is_orthonormal_and_the_model_left_alone(addition: KnownModel) -> None:
    before = {name: weight.clone() for name, weight in addition.model.named_parameters()}
    _, basis = searched(addition, Site(1, 1, "result"), 3)
    torch.testing.assert_close(basis @ basis.T, torch.eye(3), atol=1e-5, rtol=0)
    assert all(torch.equal(before[name], weight) for name, weight in addition.model.named_parameters())
    assert not addition.model.model.embed_tokens._forward_hooks
    start = random_basis(64, 3, "test")
    torch.testing.assert_close(start @ start.T, torch.eye(3), atol=1e-5, rtol=0)


def test_searches_together_are_searches_alone(addition: KnownModel) -> None:
    model, task, width = addition.model, addition.task, addition.own.shape[1]
    sites = [Site(1, 1, "second"), Site(1, 1, "result"), Site(1, 1, "result")]
    starts = [random_basis(width, dimension, "test") for dimension in (1, 2, 3)]
    found = [model_and_pairs(model, task, site, task.train_ids, 200, "a") for site in sites]
    few = dataclasses.replace(OPTIONS, updates=5)
    upper, pairs = found[0][0], [streams for _, streams in found]
    together = align(upper, task, sites, pairs, starts, few)
    for site, streams, start, basis in zip(sites, pairs, starts, together, strict=True):
        [alone] = align(upper, task, [site], [streams], [start], few)
        torch.testing.assert_close(basis, alone, rtol=1e-4, atol=1e-4)
        assert float((basis - start).abs().max()) > 0.01


@pytest.mark.parametrize("cores", [2, 3])
def test_the_same_bits_on_any_number_of_cores(comparison: KnownModel, cores: int) -> None:
    options, before = Options((1, 2), updates=3, pairs=50), torch.get_num_threads()
    model = random_model(comparison)  # where the least difference grows fastest
    found = []
    try:
        for number in (1, cores):
            torch.set_num_threads(number)
            found.append(das.search(model, comparison.task, options))
    finally:
        torch.set_num_threads(before)
    assert_frame_equal(*found, check_exact=True)
    assert found[0].query("subspace == 'found'")["accuracy"].nunique() > 3


def test_changing_nothing_is_measured_in_the_model_itself(comparison: KnownModel) -> None:
    site, task = Site(0, 0, "first"), comparison.task
    pairs = draw_pairs(task, "first", task.test_ids, 400, "b")
    upper = UpperPart(comparison.model, task.label_tokens, task.instances[:, 0])
    known = Streams.of(upper, pairs, 0).nothing
    assert known == pytest.approx(pairs.nothing, abs=0.02)  # it knows the task, so only the label is another
    nowhere = torch.zeros(1, comparison.own.shape[1])
    for model in (comparison.model, random_model(comparison)):
        upper, streams = model_and_pairs(model, task, site, task.test_ids, 400, "b")
        assert interchange_accuracy(upper, site, streams, nowhere) == streams.nothing


def test_the_table_has_every_site_and_control(comparison: KnownModel) -> None:
    shares: list[float] = []
    table = das.search(comparison.model, comparison.task, Options((1, 2), updates=1, pairs=20), shares.append)
    assert len(shares) == 3 * 2  # a layer and token each
    assert max(shares) == 1
    assert len(table) == 4 * 3 * 2 * 2
    assert (table["low"] <= table["accuracy"]).all()
    assert (table["accuracy"] <= table["high"]).all()


def test_impossible_options_are_refused(comparison: KnownModel) -> None:
    with pytest.raises(UserError, match="65 is more than the model's width 64"):
        das.search(comparison.model, comparison.task, Options((65,)))
    with pytest.raises(UserError, match="--dimensions"):
        das.method(Options((0,)))
    with pytest.raises(UserError, match="--updates: 0"):
        das.method(Options(updates=0))
    with pytest.raises(UserError, match="--dimensions: '1;2'"):
        das.parse_dimensions("1;2")
    with pytest.raises(UserError, match="--pairs: 1 must be at least 2"):
        patching.method(1)
