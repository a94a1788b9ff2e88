import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import mixtures, permuted

from olmo_inject.errors import UserError
from olmo_inject.theory.forms import closed_forms as forms
from olmo_inject.theory.mixtures.task_mixture import TIE, TaskMixture

few = settings(max_examples=60, deadline=None)


def widths_of(mixture: TaskMixture) -> np.ndarray:
    return np.arange(1, mixture.dimension + 1)


@few
@given(mixtures() | mixtures(tied=True))
def test_losses_sum_to_the_mixture_loss_and_fall_with_width(mixture: TaskMixture) -> None:
    widths = widths_of(mixture)
    losses, total = forms.task_losses(mixture, widths), forms.mixture_losses(mixture, widths)
    assert np.allclose(losses @ mixture.frequencies, total, rtol=0, atol=1e-12)
    assert (np.diff(losses, axis=0) <= 0).all()
    assert (np.diff(total) <= 0).all()
    assert losses[-1] == pytest.approx(np.zeros(mixture.tasks))


@few
@given(mixtures() | mixtures(tied=True))
def test_a_task_is_held_by_a_prefix_of_its_features(mixture: TaskMixture) -> None:
    widths = widths_of(mixture)
    counts = forms.retained_features(mixture, widths)
    assert (counts.sum(1) == np.minimum(widths, mixture.features)).all()
    for width, row in zip(widths, counts, strict=True):
        held = mixture.learning_order[:width]
        for task, count in enumerate(row):
            assert sorted(mixture.rank_of[held[mixture.task_of[held] == task]]) == list(range(1, count + 1))


@few
@given(mixtures(), st.randoms(use_true_random=False))
def test_the_order_in_which_tasks_are_named_does_not_matter(mixture: TaskMixture, random) -> None:
    order = list(range(mixture.tasks))
    random.shuffle(order)
    other = permuted(mixture, order)
    widths = widths_of(mixture)
    assert np.allclose(forms.mixture_losses(mixture, widths), forms.mixture_losses(other, widths), atol=1e-12)
    untied = ~forms.tied_boundary(mixture, widths)
    ours, theirs = forms.task_losses(mixture, widths), forms.task_losses(other, widths)
    assert np.allclose(ours[:, order][untied], theirs[untied], atol=1e-12)
    mine = {(mixture.names[k], j): n for k, j, n in _critical(mixture)}
    assert mine == {(other.names[k], j): n for k, j, n in _critical(other)}


def _critical(mixture: TaskMixture) -> list[tuple[int, int, int]]:
    return list(zip(mixture.task_of, mixture.rank_of, forms.critical_widths(mixture), strict=True))


@few
@given(mixtures() | mixtures(tied=True), st.data())
def test_critical_widths_count_what_must_come_first(mixture: TaskMixture, data) -> None:
    against = data.draw(st.sets(st.integers(0, mixture.tasks - 1)))
    every = forms.critical_widths(mixture, sorted(against))
    some = forms.critical_widths(mixture, sorted(against), some_minimiser=True)
    for f in range(mixture.features):
        others = [
            utility
            for utility, task in zip(mixture.utilities, mixture.task_of, strict=True)
            if task in against and task != mixture.task_of[f]
        ]
        level = mixture.utilities[f]
        assert every[f] == mixture.rank_of[f] + sum(utility >= level * (1 - TIE) for utility in others)
        assert some[f] == mixture.rank_of[f] + sum(utility >= level * (1 + TIE) for utility in others)


@few
@given(mixtures())
def test_a_feature_is_held_from_its_critical_width_on(mixture: TaskMixture) -> None:
    critical = forms.critical_widths(mixture)
    counts = forms.retained_features(mixture, widths_of(mixture))
    for f in range(mixture.features):
        held = counts[:, mixture.task_of[f]] >= mixture.rank_of[f]
        # Own later features of equal utility never come first; those of others may, and are counted.
        assert held[critical[f] - 1 :].all()
        if not forms.tied_boundary(mixture, [max(1, int(critical[f]) - 1)])[0] and critical[f] > 1:
            assert not held[critical[f] - 2]


@few
@given(mixtures() | mixtures(tied=True), st.integers(1, 5))
def test_minimal_width_holds_every_task_that_deep(mixture: TaskMixture, depth: int) -> None:
    depth = min(depth, int(mixture.rank_of.max()))
    width = int(forms.minimal_widths(mixture, [depth])[0])
    wanted = np.minimum(depth, np.diff(mixture.starts))
    assert (forms.retained_features(mixture, [width])[0] >= wanted).all()
    if width > 1 and not forms.tied_boundary(mixture, [width - 1])[0]:
        assert (forms.retained_features(mixture, [width - 1])[0] < wanted).any()


@few
@given(mixtures(), st.floats(0.05, 1.0), st.floats(0.0, 0.5))
def test_frequent_set_and_residual_width_are_the_least(mixture: TaskMixture, mass: float, share: float) -> None:
    frequent = forms.frequent_tasks(mixture, mass)
    shares = np.sort(mixture.frequencies[frequent])
    assert shares.sum() >= mass - 1e-9
    assert shares[1:].sum() < mass
    others = np.delete(mixture.frequencies, frequent)
    assert not len(others) or others.max() <= shares[0]
    width = forms.residual_width(mixture, share, frequent)
    total = mixture.utilities[np.isin(mixture.task_of, frequent)].sum()
    if width:
        assert forms.residuals(mixture, [width], frequent)[0] <= share * total * (1 + 1e-9)
    if width > 1:
        assert forms.residuals(mixture, [width - 1], frequent)[0] > share * total


def test_ties_are_told_and_counted_both_ways() -> None:
    # Utilities 0.5 (twice, of two tasks) and 0.25, with rounding that differs between the tasks.
    third = np.array([0.3, 0.15])
    mixture = TaskMixture(np.array([0.5, 0.5]), (third, third * (1 + 1e-14)), null_directions=1)
    assert forms.tied_boundary(mixture, [1, 2, 3, 4, 5]).tolist() == [True, False, True, False, False]
    assert forms.critical_widths(mixture).tolist() == [2, 4, 2, 4]
    assert forms.critical_widths(mixture, some_minimiser=True).tolist() == [1, 3, 1, 3]
    assert forms.minimal_widths(mixture, [1, 2]).tolist() == [2, 4]


def test_the_tie_that_a_sort_gets_wrong() -> None:
    # alpha = beta: k^-1.5 j^-1.5 depends on k * j alone, so that features of different tasks tie exactly.
    mixture = TaskMixture.power_law(32, 16, 1.5, 1.5, null_directions=0, basis="axis")
    assert forms.minimal_widths(mixture, [1])[0] == 103


def test_no_width_lets_a_random_encoder_beat_the_optimum() -> None:
    mixture = TaskMixture(np.array([0.7, 0.2, 0.1]), (np.array([1, 0.2]), np.array([2.0]), np.array([3.0, 3.0])))
    generator = np.random.Generator(np.random.Philox(key=1))
    moment = mixture.gram()
    for width in range(1, mixture.dimension + 1):
        best = forms.mixture_losses(mixture, [width])[0]
        for _ in range(200):
            rows, _ = np.linalg.qr(generator.standard_normal((mixture.dimension, width)))
            assert np.trace(moment) - np.trace(rows.T @ moment @ rows) >= best - 1e-12


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: forms.task_losses(m, [401]),
            "width must be a whole number from 1 to 400, got 401",
        ),
        (lambda m: forms.mixture_losses(m, [0]), "width must be a whole number.*, got 0"),
        (lambda m: forms.minimal_widths(m, [11]), "depth must be a whole number.*, got 11"),
        (lambda m: forms.frequent_tasks(m, 1.5), "at most 1, got 1.5"),
        (lambda m: forms.residual_width(m, -0.1, [0]), "got -0.1"),
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call(TaskMixture.power_law())
