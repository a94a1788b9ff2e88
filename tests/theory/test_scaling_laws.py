import numpy as np
import pytest

from olmo_inject.errors import UserError
from olmo_inject.theory.scaling.fit import fit_power_law, fit_scaling_law
from olmo_inject.theory.scaling.laws import PowerLaw, Regimes, ScalingLaw

CHINCHILLA = ScalingLaw(1.69, 406.4, 410.7, 0.34, 0.28)
QUOTED = ScalingLaw(0.0, 10.0, 20.0, 0.46, 0.51)


def points(count: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.Generator(np.random.Philox(key=count))
    return 10 ** generator.uniform(7, 10, count), 10 ** generator.uniform(9, 12, count)


def test_the_law_forces_its_own_frontier_exponent() -> None:
    frontier = QUOTED.frontier()
    assert frontier.gamma == QUOTED.alpha
    for compute in (1e12, 1e16, 1e20):
        size, data = QUOTED.optimal_size(compute), QUOTED.optimal_data(compute)
        assert 6 * size * data == pytest.approx(compute)
        assert QUOTED.loss(size, data) == pytest.approx(frontier.loss(size))
        for other in (0.9, 1.1):
            assert QUOTED.loss(size * other, data / other) > QUOTED.loss(size, data)


@pytest.mark.parametrize(("law", "share"), [(QUOTED, 0.247), (CHINCHILLA, 0.0965)])
def test_small_limit_is_a_fixed_share_of_the_large_model(law: ScalingLaw, share: float) -> None:
    regimes = Regimes(law, law.frontier())
    for large in (1e8, 1e10):
        assert regimes.small_limit(large) / large == pytest.approx(share, rel=2e-3)


def test_an_independent_frontier_moves_the_limit_by_the_ratio_of_exponents() -> None:
    regimes = Regimes(QUOTED, PowerLaw(0.0, 15.0, 0.34))
    slope = np.log(regimes.small_limit(1e10) / regimes.small_limit(1e8)) / np.log(100)
    assert slope == pytest.approx(0.34 / 0.46)
    assert QUOTED.asymptotic_loss(regimes.sound_from()) == pytest.approx(regimes.frontier.loss(regimes.sound_from()))


@pytest.mark.parametrize("frontier", [QUOTED.frontier(), PowerLaw(0.0, 12.0, 0.34)])
def test_the_two_definitions_part_the_sizes_below_the_large_one(frontier: PowerLaw) -> None:
    regimes, large = Regimes(QUOTED, frontier), 2000.0
    for small in np.arange(1.0, large):
        if small > regimes.sound_from():
            assert regimes.data_suffices(small, large) != regimes.needs_size(small, large)


def test_whole_numbers_at_the_supremum_are_left_out() -> None:
    # L_inf(4) equals the target exactly: 4 itself does not need size, 3 does.
    regimes = Regimes(ScalingLaw(0.0, 1.0, 1.0, 0.5, 0.5), PowerLaw(0.0, 0.5, 0.0))
    assert regimes.largest_small(1000) == 3
    assert Regimes(QUOTED, PowerLaw(0.0, 1e9, 0.1)).largest_small(50) == 0


@pytest.mark.parametrize(("limit", "found"), [(4 - 1e-9, 3), (4 + 1e-9, 3), (3.0, 3), (500.0, 498), (1.5, 2)])
def test_only_rounding_is_corrected(monkeypatch: pytest.MonkeyPatch, limit: float, found: int) -> None:
    regimes = Regimes(ScalingLaw(0.0, 1.0, 1.0, 0.5, 0.5), PowerLaw(0.0, 0.5, 0.0))
    monkeypatch.setattr(Regimes, "small_limit", lambda *_: limit)
    assert regimes.largest_small(1000) == found


def test_fit_finds_the_law_behind_exact_points() -> None:
    sizes, data = points(40)
    fit = fit_scaling_law(sizes, data, CHINCHILLA.loss(sizes, data))
    for name in ("irreducible", "size_coefficient", "data_coefficient", "alpha", "beta"):
        assert getattr(fit.law, name) == pytest.approx(getattr(CHINCHILLA, name), rel=1e-6)
    frontier = fit_power_law(sizes, CHINCHILLA.frontier().loss(sizes))
    assert frontier.law.gamma == pytest.approx(0.34, rel=1e-6)
    assert frontier.law.coefficient == pytest.approx(CHINCHILLA.frontier().coefficient, rel=1e-5)


@pytest.mark.slow
def test_standard_errors_cover_the_truth() -> None:
    sizes, data = points(30)
    generator = np.random.Generator(np.random.Philox(key=5))
    inside, shifts = 0, []
    for _ in range(12):
        noisy = CHINCHILLA.loss(sizes, data) * np.exp(0.003 * generator.standard_normal(30))
        fit = fit_scaling_law(sizes, data, noisy)
        assert fit.residual == pytest.approx(0.003, rel=0.35)
        inside += abs(fit.law.alpha - 0.34) < 2 * fit.errors["alpha"]
        shifts.append((fit.law.alpha - 0.34) / fit.errors["alpha"])
    assert inside >= 9
    assert 0.6 < np.std(shifts) < 1.6


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (np.full(60, np.nan), "sizes must be a finite number above 0"),
        (np.full(60, -1.0), "sizes must be a finite number above 0"),
        (np.ones(4), "needs more points, got 4 sizes"),
        (np.ones(59), "one number each"),
    ],
)
def test_bad_points(sizes: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit_scaling_law(sizes, np.ones(60), np.ones(60))


def test_what_never_varies_is_refused_rather_than_fitted() -> None:
    sizes, data = points(40)
    flat = np.full(40, 1e10)
    with pytest.raises(UserError, match="data must take three or more different values.*got 1"):
        fit_scaling_law(sizes, flat, CHINCHILLA.loss(sizes, flat))
    with pytest.raises(UserError, match="sizes must take three or more different values.*got 2"):
        fit_scaling_law(np.where(sizes > 1e8, 1e9, 1e7), data, CHINCHILLA.loss(sizes, data))
    with pytest.raises(UserError, match="move together"):
        fit_scaling_law(sizes, 20 * sizes, CHINCHILLA.loss(sizes, 20 * sizes))
    with pytest.raises(UserError, match="quantity must take three"):
        fit_power_law(np.repeat([1.0, 2.0], 5), np.linspace(3, 2, 10))


@pytest.mark.slow
def test_a_term_that_is_not_there_has_no_exponent() -> None:
    sizes, data = points(40)
    generator = np.random.Generator(np.random.Philox(key=8))
    losses = (1.7 + 40 * sizes**-0.4) * np.exp(1e-9 * generator.standard_normal(40))
    fit = fit_scaling_law(sizes, data, losses)
    assert fit.law.irreducible == pytest.approx(1.7, rel=1e-6)
    assert fit.law.alpha == pytest.approx(0.4, rel=1e-4)
    assert fit.unidentified == ("data_coefficient", "beta")
    assert fit_scaling_law(sizes, data, losses, resamples=2).intervals["beta"] == (0.0, np.inf)


def test_bootstrap_intervals_cover_the_truth_and_have_the_errors_size() -> None:
    sizes, data = points(30)
    generator = np.random.Generator(np.random.Philox(key=6))
    noisy = CHINCHILLA.loss(sizes, data) * np.exp(0.003 * generator.standard_normal(30))
    fit = fit_scaling_law(sizes, data, noisy, resamples=40)
    low, high = fit.intervals["alpha"]
    assert low < 0.34 < high
    assert (high - low) / (4 * fit.errors["alpha"]) == pytest.approx(1, abs=0.5)
    assert len(fit.band) == 40
    again = fit_scaling_law(sizes, data, noisy, resamples=40)
    assert again.intervals == fit.intervals
