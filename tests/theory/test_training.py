from dataclasses import replace

import numpy as np
import pytest
import torch

from olmo_inject.errors import UserError
from olmo_inject.theory.forms import closed_forms
from olmo_inject.theory.mixtures.features import FeatureBank, orthonormalised, random_encoder, retracted
from olmo_inject.theory.mixtures.task_mixture import TaskMixture
from olmo_inject.theory.training.dynamics import descended
from olmo_inject.theory.training.gradients import population_gradient, sampled_gradient
from olmo_inject.theory.training.streams import Bursts, MassStream, SampleStream
from olmo_inject.theory.training.train import Recipe, train

pytestmark = pytest.mark.slow

# Not the golden problem: unequal tasks, spectra that are no power laws, no ties.
SMALL = TaskMixture(
    np.array([0.55, 0.3, 0.15]),
    (np.array([1.0, 0.6, 0.1]), np.array([0.9, 0.35]), np.array([1.2, 0.8, 0.5, 0.05])),
    null_directions=5,
)
TURNED = TaskMixture(SMALL.frequencies, SMALL.spectra, null_directions=5, basis="random", basis_seed=3)


@pytest.mark.parametrize(
    ("problem", "dtype"), [(SMALL, torch.float64), (TURNED, torch.float32)], ids=["axis-64", "random-32"]
)
@pytest.mark.parametrize(
    ("recipe", "excess"),
    [
        ({"learning_rate": 1e-2}, 1e-6),
        ({"learning_rate": 1e-2, "decoders": "learned"}, 1e-6),
        ({"learning_rate": 1.0, "optimizer": "gd"}, 1e-4),
        ({"learning_rate": 0.3, "optimizer": "gd", "decoders": "learned"}, 1e-3),
        ({"learning_rate": 1e-2, "batch": 64}, 1e-2),
        ({"learning_rate": 1e-2, "batch": 64, "decoders": "learned"}, 0.15),
    ],
    ids=["adam", "adam-learned", "gd", "gd-learned", "sampled", "sampled-learned"],
)
def test_every_way_to_train_reaches_the_predicted_features(problem, dtype, recipe, excess) -> None:
    result = train(problem, 4, Recipe(steps=700, dtype=dtype, **recipe), seeds=(0, 1))
    assert result.encoder.dtype is dtype
    assert (result.overlap == 1).all()
    assert result.excess.max() < excess
    assert result.excess.min() > -1e-12
    expected = closed_forms.task_losses(problem, [4])[0]
    assert np.abs(result.task_losses - expected).max() < 2 * excess


def test_the_excess_of_a_width_for_every_feature_is_its_loss() -> None:
    result = train(SMALL, SMALL.features, Recipe(steps=60), seeds=(0, 1))
    assert result.excess == pytest.approx(result.task_losses @ SMALL.frequencies, abs=1e-15)
    assert 0 < result.excess.min() <= result.excess.max() < 0.1


def test_a_width_that_loses_a_rare_task_in_the_mixture_learns_it_alone() -> None:
    rare, width = 2, 2
    assert closed_forms.critical_widths(SMALL)[SMALL.starts[rare]] > width
    mixed = train(SMALL, width, Recipe(steps=500), seeds=(0,))
    alone = train(SMALL.alone(rare), width, Recipe(steps=500), seeds=(0,))
    assert mixed.signals[0, 0, rare] < 1e-6
    assert alone.signals[0, 0, 0] == pytest.approx(2.0 / 2.55, abs=1e-6)


@pytest.mark.parametrize(("schedule", "rates"), [("cosine", (0.4, 0.2)), ("constant", (0.4, 0.4))])
def test_gd_is_plain_descent_at_the_rates_of_its_schedule(schedule, rates) -> None:
    recipe = Recipe(steps=2, learning_rate=0.4, optimizer="gd", schedule=schedule, dtype=torch.float64)
    result = train(TURNED, 3, recipe, seeds=(6,))
    encoder = random_encoder(3, TURNED.dimension, 6)
    for rate in rates:
        encoder = descended(encoder, [torch.tensor(TURNED.gram())], rate)
    assert torch.allclose(result.encoder[0, 0], encoder, atol=1e-12)


def test_the_same_seeds_give_the_same_run_bit_for_bit() -> None:
    recipe = Recipe(steps=40, batch=16)
    first, again = (train(TURNED, 3, recipe, seeds=(4, 9), bursts=Bursts(2, (1, 5, 20))) for _ in range(2))
    assert torch.equal(first.encoder, again.encoder)
    assert (first.trace == again.trace).all()
    assert not torch.allclose(first.encoder[0], first.encoder[1])


def test_a_run_goes_on_from_where_another_ended() -> None:
    recipe = Recipe(steps=3, optimizer="gd", schedule="constant", dtype=torch.float64)
    whole = train(TURNED, 3, replace(recipe, steps=6), (4,))
    first = train(TURNED, 3, recipe, (4,)).encoder[:, 0]
    kept = first.clone()
    assert torch.allclose(train(TURNED, 3, recipe, (4,), start=first).encoder, whole.encoder, atol=1e-12)
    assert torch.equal(first, kept), "the start is the caller's"


def test_batched_seeds_and_gaps_equal_single_runs() -> None:
    recipe = Recipe(steps=60, learning_rate=1e-2, dtype=torch.float64)
    together = train(TURNED, 3, recipe, seeds=(4, 9), bursts=Bursts(2, (1, 5, 20)))
    assert together.encoder.shape == (2, 3, 3, TURNED.dimension)
    assert together.trace.shape == (61, 2, 3)
    for s, seed in enumerate((4, 9)):
        for g, gap in enumerate((1, 5, 20)):
            single = train(TURNED, 3, recipe, seeds=(seed,), bursts=Bursts(2, (gap,)))
            assert torch.allclose(together.encoder[s, g], single.encoder[0, 0], atol=1e-9)
            assert together.trace[:, s, g] == pytest.approx(single.trace[:, 0, 0], abs=1e-9)


@pytest.mark.parametrize("decoders", ["optimal", "learned"])
def test_bursts_every_step_are_the_plain_mixture(decoders) -> None:
    recipe = Recipe(steps=80, decoders=decoders, dtype=torch.float64)
    plain = train(TURNED, 3, recipe, seeds=(0,))
    bursts = train(TURNED, 3, recipe, seeds=(0,), bursts=Bursts(1, (1,)))
    assert torch.allclose(plain.encoder, bursts.encoder, atol=1e-10)
    assert bursts.trace[-1, 0, 0] == pytest.approx(plain.signals[0, 0, 1], abs=1e-10)


@pytest.mark.parametrize("problem", [SMALL, TURNED], ids=["axis", "random"])
def test_the_mass_of_a_period_does_not_depend_on_the_gap(problem) -> None:
    bank = FeatureBank(problem, torch.float64, "cpu")
    bursts = Bursts(2, (1, 4, 12))
    stream = MassStream(bank, bursts)
    encoder = torch.stack([random_encoder(3, problem.dimension, seed) for seed in (0, 1)])[:, None]
    moved = sum(stream.moved(step, encoder.expand(-1, 3, -1, -1)) for step in range(12))
    expected = 12 * encoder @ torch.tensor(problem.gram())
    assert torch.allclose(torch.as_tensor(moved), expected.expand(-1, 3, -1, -1), atol=1e-12)
    weights = sum(stream.weights(step).expand(3, -1) for step in range(12))
    assert torch.allclose(torch.as_tensor(weights), (12 * bank.frequencies[bank.task_of]).expand(3, -1), atol=1e-12)
    assert float(stream.weights(0)[1][bank.task_of == 2].max()) == 0


def test_sampled_bursts_are_unbiased_and_weigh_what_they_should() -> None:
    bank = FeatureBank(TURNED, torch.float64, "cpu")
    bursts = Bursts(2, (1, 4))
    masses, samples = MassStream(bank, bursts), SampleStream(bank, bursts, 4001, seeds=range(8))
    encoder = random_encoder(3, TURNED.dimension, 5).expand(8, 2, -1, -1)
    for step in range(4):
        drawn = samples.draw(step)
        rare = drawn.weights[..., 4001:].sum(-1) / 4001
        assert rare[0].tolist() == pytest.approx([0.15, 0.6 if step == 3 else 0])
        exact = population_gradient(encoder, masses.moved(step, encoder))
        estimates = sampled_gradient(encoder, bank, drawn)
        assert (estimates @ encoder.mT).abs().max() < 1e-12, "tangent, as each sample by itself is not"
        error = estimates.mean(0) - exact[0]
        assert float(error.norm() / exact[0].norm()) < 0.05


def test_orthonormal_rows_are_the_q_of_a_qr() -> None:
    generator = torch.Generator().manual_seed(0)
    near = random_encoder(4, 9, 0) + 0.05 * torch.randn(4, 9, generator=generator, dtype=torch.float64)
    far = near * torch.tensor([1.0, 1e-6, 1e3, 1.0], dtype=torch.float64)[:, None] + near[:1]
    for rows in (near, far, torch.stack([near, far])):
        basis, triangle = torch.linalg.qr(rows.mT)
        expected = (basis * torch.diagonal(triangle, dim1=-2, dim2=-1).sign()[..., None, :]).mT
        assert torch.allclose(orthonormalised(rows), expected, atol=1e-12)
    dependent = near.clone()
    dependent[3] = dependent[2]
    for rows in (near, dependent):
        spanned = retracted(rows)
        assert torch.allclose(spanned @ spanned.mT, torch.eye(4, dtype=torch.float64), atol=1e-7)


def test_a_bank_of_one_task_is_that_task() -> None:
    for problem in (SMALL, TURNED):
        bank = FeatureBank(problem, torch.float64, "cpu").only(1)
        rows = random_encoder(2, problem.dimension, 7)
        features = torch.tensor(problem.directions[:, 3:5])
        assert torch.allclose(bank.project(rows), rows @ features)
        assert torch.allclose(bank.lift(bank.project(rows)), rows @ features @ features.T)
        assert bank.eigenvalues.tolist() == [0.9, 0.35]


def test_troughs_and_peaks_are_read_around_the_bursts() -> None:
    result = train(
        SMALL,
        5,
        Recipe(steps=50, learning_rate=0.3, optimizer="gd", schedule="constant"),
        seeds=(0,),
        bursts=Bursts(2, (10, 20)),
    )
    last = result.troughs(periods=1)
    assert last.median[0].tolist() == [result.trace[49, 0, 0], result.trace[39, 0, 1]]
    # The second half holds the bursts of steps 29, 39 and 49; and of 39 alone at twice the gap.
    several = result.troughs()
    assert several.periods == (3, 1)
    assert several.median[0, 0] == np.median(result.trace[[29, 39, 49], 0, 0])
    assert several.low[0, 0] == result.trace[[29, 39, 49], 0, 0].min() < several.high[0, 0]
    assert result.peaks()[0, 0] == result.trace[40:50, 0, 0].max()
    # Plain steps jump at the burst and decay in the gap.
    assert result.trace[40, 0, 0] > result.trace[39, 0, 0]
    assert (np.diff(result.trace[40:50, 0, 0]) <= 1e-7).all()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("more", [{}, {"decoders": "learned"}, {"batch": 32}])
def test_cuda_reaches_the_same_optimum(more) -> None:
    result = train(TURNED, 4, Recipe(steps=700, device="cuda", **more), bursts=None)
    assert result.encoder.is_cuda
    assert (result.overlap == 1).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: train(SMALL, 15, Recipe()),
            "width must be a whole number from 1 to 14, got 15",
        ),
        (
            lambda: train(SMALL, 2, Recipe(steps=10), bursts=Bursts(2, (1, 11))),
            "gap must be a whole number from 1 to 10, got 11",
        ),
        (
            lambda: train(SMALL, 2, Recipe(steps=10), bursts=Bursts(3, (1,))),
            "task must be a whole number from 0 to 2, got 3",
        ),
        (lambda: Recipe(learning_rate=float("nan")), "learning rate must be a finite number above 0, got nan"),
        (lambda: Recipe(batch=0), "batch must be a whole number of 1 or more, got 0"),
        (lambda: Recipe(optimizer="Adam"), "optimizer must be one of adam, gd, muon, got 'Adam'"),  # type: ignore[arg-type]
        (lambda: Recipe(schedule="linear"), "schedule must be one of cosine, constant, got"),  # type: ignore[arg-type]
        (lambda: Recipe(decoders="free"), "decoders must be one of optimal, learned, got"),  # type: ignore[arg-type]
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()
