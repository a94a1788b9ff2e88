"""Checks 8, 9, 10, 12 and 15: what gaps between observations do under flow, plain steps and Adam."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from olmo_inject.theory.checks.measure import AcceptanceMeasure, Effort
from olmo_inject.theory.forms import gaps, kept
from olmo_inject.theory.forms.closed_forms import critical_widths, retained_features
from olmo_inject.theory.mixtures.features import FeatureBank, random_encoder
from olmo_inject.theory.mixtures.task_mixture import TaskMixture
from olmo_inject.theory.training.dynamics import descended, flow_span, flowed, rotated
from olmo_inject.theory.training.streams import Bursts
from olmo_inject.theory.training.train import Recipe, train


def flow_order(effort: Effort) -> Iterator[AcceptanceMeasure]:
    """Check 8: under gradient flow the gap leaves no mark at the end of a period."""
    mixture = TaskMixture.power_law(4, 3, null_directions=4)
    rare = mixture.tasks - 1
    steady, burst = torch.tensor(mixture.gram(range(rare))), torch.tensor(mixture.gram([rare]))
    steps, per_step = effort.choose(1000, 200), 0.02
    start = random_encoder(5, mixture.dimension, seed=4)
    bank = FeatureBank(mixture, torch.float64, "cpu").only(rare)
    share = bank.eigenvalues / bank.eigenvalues.sum()

    def signal(encoder: torch.Tensor) -> float:
        return float((bank.project(encoder).square() * share).sum())

    expected = signal(flow_span(start, steps * per_step * (steady + burst)))
    ends = []
    for gap in (1, 10, 100, steps // 2):
        period = [(steady, (gap - 1) * per_step), (steady + gap * burst, per_step)]
        ends.append(signal(flowed(start, period * (steps // gap), longest_step=0.02)))
    yield AcceptanceMeasure(8, f"flow: spread of s over T = 1 to {steps // 2}", max(ends) - min(ends), "<=", 1e-8)
    worst = max(abs(end - expected) for end in ends)
    yield AcceptanceMeasure(8, "flow against the exponential form", worst, "<=", 1e-8)


def gap_growth(effort: Effort) -> Iterator[AcceptanceMeasure]:
    """Check 9: one period of plain descent near the common solution against exp(Gamma)."""
    mixture = TaskMixture.power_law(5, 4, null_directions=4, basis="axis")
    common = torch.tensor(np.diag(np.append(mixture.utilities, np.zeros(4))))
    identity = torch.eye(mixture.dimension, dtype=torch.float64)
    rare = identity[-1]
    generator = np.random.Generator(np.random.Philox(key=9))
    worst, wrong, signs, large = 0.0, 0, 0, 0
    for _ in range(effort.choose(160, 60)):
        width = int(generator.integers(1, mixture.features + 1))
        slots = mixture.learning_order[:width]
        eigenvalue = float(mixture.utilities[slots[-1]])
        step_size = generator.uniform(0.02, 0.45) / mixture.utilities.max()
        gap = int(np.exp(generator.uniform(0, np.log(200))))
        utility = eigenvalue * np.exp(generator.uniform(-1.5, 2.5))
        large += 2 * step_size * gap * utility > 1
        start = rotated(identity[torch.tensor(slots.copy())], width - 1, rare, 1e-5)
        moments = [common] * (gap - 1) + [common + gap * utility * torch.outer(rare, rare)]
        end = descended(start, moments, step_size)
        growth = float(gaps.period_growth(gap, eigenvalue, utility, step_size))
        factor = np.tan(np.arcsin(float((end @ rare).norm()))) / np.tan(1e-5)
        worst = max(worst, abs(factor / np.exp(growth) - 1))
        if abs(growth) > 1e-3:
            signs += 1
            wrong += (factor > 1) != (growth > 0)
    yield AcceptanceMeasure(9, f"growth per period against exp(Gamma), {large} with 2 eta T nu > 1", worst, "<=", 1e-6)
    yield AcceptanceMeasure(9, "cases with 2 eta T nu > 1", large, ">=", 1)
    yield AcceptanceMeasure(9, f"sign of Gamma wrong, {signs} cases", wrong, "==", 0)

    periods = np.arange(1, 3001)
    rises = 0
    for eigenvalue, utility in ((0.05, 0.02), (0.05, 0.1), (0.001, 0.01), (0.3, 0.3)):
        rate = gaps.period_growth(periods, eigenvalue, utility, 0.5) / periods
        rises += int((np.diff(rate) >= 0).sum())
    yield AcceptanceMeasure(9, "rises of Gamma(T)/T over T = 1 to 3000", rises, "==", 0)


def kept_state(effort: Effort) -> Iterator[AcceptanceMeasure]:
    """Check 15: a small tilt away from a learned state, and whether plain descent keeps what it learned."""
    mixture = TaskMixture.power_law(5, 4, null_directions=4, basis="axis")
    identity = torch.eye(mixture.dimension, dtype=torch.float64)
    generator = np.random.Generator(np.random.Philox(key=15))
    worst, wrong, tried, cases = 0.0, 0, 0, effort.choose(200, 60)
    for _ in range(cases):
        task, width = int(generator.integers(1, mixture.tasks)), int(generator.integers(1, mixture.features + 1))
        step_size = generator.uniform(0.02, 0.45) / mixture.utilities.max()
        gap = int(np.exp(generator.uniform(0, np.log(150))))
        start = int(mixture.starts[task])
        own = max(1, int(retained_features(mixture, [width])[0, task]))
        others = mixture.learning_order[mixture.task_of[mixture.learning_order] != task]
        held = [*range(start, start + own), *others[: width - own]]
        unheld, rare = float(kept.unheld_utilities(mixture, [width])[0, task]), float(mixture.utilities[start])
        in_gap = (gap - 1) * np.log1p(2 * step_size * unheld)
        growth = float(kept.tilt_growth(gap, unheld, rare, step_size))
        if width - own >= len(others) or max(in_gap, growth) > 4:
            continue  # nothing unheld, or no longer a small tilt
        tilted = rotated(identity[torch.tensor(held)], 0, identity[int(others[width - own])], 1e-6)
        common, burst = mixture.gram(np.delete(np.arange(mixture.tasks), task)), gap * mixture.gram([task])
        moments = [torch.tensor(common)] * (gap - 1) + [torch.tensor(common + burst)]
        end = descended(tilted, moments, step_size)
        away, there = float((end @ identity[int(others[width - own])]).norm()), float((end @ identity[start]).norm())
        worst = max(worst, abs(away / there / np.tan(1e-6) / np.exp(growth) - 1)) if np.exp(growth) > 1e-3 else worst
        tried += 1
        wrong += (away / there > np.tan(1e-6)) != (growth > 0)
    yield AcceptanceMeasure(15, f"tilt per period against exp(Gamma_held), {tried} cases", worst, "<=", 1e-5)
    yield AcceptanceMeasure(15, "sign of Gamma_held wrong", wrong, "==", 0)

    rises = 0
    for unheld, rare in ((0.02, 0.05), (0.0, 0.1), (0.3, 0.31)):
        growth = kept.tilt_growth(np.arange(1, 3001), unheld, rare, 0.5)
        rises += int(np.diff(growth < 0).sum() != 1)
    yield AcceptanceMeasure(15, "learned states that do not end at one gap", rises, "==", 0)
    yield from _long_runs(effort)


def _long_runs(effort: Effort) -> Iterator[AcceptanceMeasure]:
    """Plain steps over many periods, from a trace of the rare feature and from the learned state."""
    mixture, task = TaskMixture.power_law(8, 1, null_directions=4, basis="axis"), 4
    step_size, rare = 0.2 / float(mixture.utilities.max()), float(mixture.utilities[task])
    periods = (1, 10, 30, 70, 100) if effort.quick else (1, 3, 10, 20, 30, 40, 50, 60, 70, 80, 100, 150)
    recipe = Recipe(effort.choose(3_000, 600), step_size, "gd", "constant", dtype=torch.float64)
    identity = torch.eye(mixture.dimension, dtype=torch.float64)
    slots = torch.tensor([*mixture.learning_order[mixture.learning_order != task], *range(8, mixture.dimension)])
    utilities = np.append(mixture.utilities, np.zeros(mixture.null_directions))
    grown, kept_wrong, judged = 0, 0, 0
    for width in (4, 6) if effort.quick else range(3, 9):
        nothing = rotated(identity[slots[:width]], width - 1, identity[task], 1e-2)
        unheld = identity[slots[width - 1]]
        learned = rotated(torch.cat([identity[task : task + 1], identity[slots[: width - 1]]]), 0, unheld, 1e-2)
        rival = float(utilities[slots[width - 1]])
        run = train(mixture, width, recipe, (0, 1), Bursts(task, periods), torch.stack([nothing, learned])).troughs()
        count = recipe.steps / np.array(periods)
        growth = count * gaps.period_growth(np.array(periods), rival, rare, step_size)
        tilt = count * kept.tilt_growth(np.array(periods), rival, rare, step_size)
        # A run tells what grows by e^12 or more; from 1e-2 that is either all or nothing.
        sure, held = np.abs(growth) > 12, np.abs(tilt) > 12
        grown += int(((run.high[0] > 0.01) != (growth > 0))[sure].sum())
        kept_wrong += int(((run.low[1] > 0.99) != (tilt < 0))[held].sum())
        judged += int(sure.sum() + held.sum())
    yield AcceptanceMeasure(
        15, f"learned from nothing against the sign of Gamma, {judged} long runs, wrong", grown, "==", 0
    )
    yield AcceptanceMeasure(15, "kept once learned against the sign of Gamma_held, wrong", kept_wrong, "==", 0)


def adam_displacement(effort: Effort) -> Iterator[AcceptanceMeasure]:
    """Check 10: torch's Adam on gradients that come once in T steps."""
    periods = (1, 2, 5, 10, 30, 100, 300) + (() if effort.quick else (1000, 3000, 10_000))
    # Long enough for the second moment to settle, and whole periods of every gap.
    steps = effort.choose(30_000, 3_000)
    position = torch.zeros(len(periods), dtype=torch.float64)
    optimizer = torch.optim.Adam([position], lr=1e-3, fused=True)
    gradients = (torch.arange(1, steps + 1)[:, None] % torch.tensor(periods) == 0).to(torch.float64)
    before = {}
    for step in range(steps):
        if steps - step in periods:
            before[steps - step] = position.clone()
        position.grad = gradients[step]
        optimizer.step()
    measured = np.array([abs(float(position[i] - before[period][i])) for i, period in enumerate(periods)])
    expected = gaps.adam_displacement(np.array(periods), 1e-3)
    worst = float(np.abs(measured / expected - 1).max())
    yield AcceptanceMeasure(10, f"Adam's displacement per period, T = 1 to {periods[-1]}, relative", worst, "<=", 0.01)


def matched_frequency(effort: Effort) -> Iterator[AcceptanceMeasure]:
    """Check 12: bursts of the thirteenth task at matched frequency, and the task on its own."""
    if effort.quick:
        yield from _matched_frequency_quick()
        return
    mixture, task = TaskMixture.power_law(), 12
    periods = (1, 10, 100, 300, 1000, 2000)
    recipe = Recipe(steps=6_000, learning_rate=1e-3, schedule="constant")
    critical = int(critical_widths(mixture)[mixture.starts[task]])
    troughs = {}
    for width in (16, 32, 96):
        troughs[width] = train(mixture, width, recipe, (0,), Bursts(task, periods)).troughs().median[0]
        rise = float(np.diff(troughs[width]).max())
        yield AcceptanceMeasure(12, f"N={width}: rise of the trough with T", rise, "<=", 0.02)
        if width < critical:
            yield AcceptanceMeasure(12, f"N={width} < N_crit: signal at any T", float(troughs[width].max()), "<", 0.02)
    yield AcceptanceMeasure(12, "N=32: least signal at T <= 10", float(troughs[32][:2].min()), ">=", 0.7)
    yield AcceptanceMeasure(12, "N=32: most signal at T >= 1000", float(troughs[32][4:].max()), "<", 0.05)
    yield AcceptanceMeasure(12, "N=96: signal at T = 300", float(troughs[96][3]), ">=", 0.6)
    alone = train(mixture.alone(task), 16, replace(recipe, steps=2_000), (0,)).signals
    yield AcceptanceMeasure(12, "N=16 trained on the task alone: signal", float(alone.min()), ">=", 0.99)


def _matched_frequency_quick() -> Iterator[AcceptanceMeasure]:
    mixture, task = TaskMixture.power_law(8, 6, null_directions=16), 5
    periods = (1, 10, 100, 333)
    recipe = Recipe(steps=1_000, learning_rate=4e-3, schedule="constant")
    critical = int(critical_widths(mixture)[mixture.starts[task]])
    narrow, middle, wide = critical - 3, critical + 2, 2 * critical
    troughs = {
        width: train(mixture, width, recipe, (0,), Bursts(task, periods)).troughs().median[0]
        for width in (narrow, middle, wide)
    }
    rise = max(float(np.diff(trough).max()) for trough in troughs.values())
    yield AcceptanceMeasure(12, "rise of the trough with T", rise, "<=", 0.02)
    yield AcceptanceMeasure(12, f"N={narrow} < N_crit: signal at any T", float(troughs[narrow].max()), "<", 0.02)
    yield AcceptanceMeasure(12, f"N={middle}: least signal at T <= 10", float(troughs[middle][:2].min()), ">=", 0.7)
    yield AcceptanceMeasure(12, f"N={middle}: signal at T = 333", float(troughs[middle][3]), "<", 0.05)
    yield AcceptanceMeasure(12, f"N={wide}: signal at T = 100", float(troughs[wide][2]), ">=", 0.6)
    alone = train(mixture.alone(task), narrow, replace(recipe, steps=400), (0,)).signals
    yield AcceptanceMeasure(12, f"N={narrow} trained on the task alone: signal", float(alone.min()), ">=", 0.99)
