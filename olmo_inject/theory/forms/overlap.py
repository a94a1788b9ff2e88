"""Gradients and gaps of overlapping tasks: conflict and transfer, cycles of the flow, and floors.

Without overlap tasks only compete: no two gradients agree, all are zero at the optimum, and under gradient flow gaps
have no effect. With overlap all three change, as the closed forms here show.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from olmo_inject.errors import UserError
from olmo_inject.theory.arguments import kind, number, numbers, whole, wholes
from olmo_inject.theory.mixtures.mixture import Mixture
from olmo_inject.theory.mixtures.overlapping import OverlappingMixture

Encoder = Float[np.ndarray, "N d"]
STEEP = 30.0
"""If one period's exponent is larger, its map is applied in pieces, since the product would lose small directions."""


def task_gradients(mixture: Mixture, encoder: Encoder) -> Float[np.ndarray, "K N d"]:
    """g_k = -2 (I - P) C_k U of every task, one row per latent, not weighted by frequency.

    Raises:
        UserError: the encoder has no orthonormal rows of d numbers.
    """
    kind("mixture", mixture, Mixture)
    encoder = _orthonormal(encoder, mixture.dimension)
    captured = encoder @ mixture.directions
    outside = mixture.directions - encoder.T @ captured
    parts = []
    for k in range(mixture.tasks):
        own = slice(mixture.starts[k], mixture.starts[k + 1])
        parts.append(-2 * (captured[:, own] * mixture.eigenvalues[own]) @ outside[:, own].T)
    return np.stack(parts)


def gradient_products(mixture: Mixture, encoder: Encoder) -> Float[np.ndarray, "K K"]:
    """<g_k, g_l> = 4 [tr(U^T C_k C_l U) - tr(S_k S_l)]: overlap transfers, shared slots compete.

    Without overlap the first term is zero between tasks, so their gradients never agree.

    Raises:
        UserError: the encoder has no orthonormal rows of d numbers.
    """
    flat = task_gradients(mixture, encoder).reshape(mixture.tasks, -1)
    return flat @ flat.T


def gradient_cosines(mixture: Mixture, encoder: Encoder) -> Float[np.ndarray, "K K"]:
    """The cosines of the tasks' gradients at an encoder; 0 if a gradient is zero.

    Raises:
        UserError: the encoder has no orthonormal rows of d numbers.
    """
    products = gradient_products(mixture, encoder)
    norms = np.sqrt(np.diag(products))
    felt = norms > 1e-12 * mixture.eigenvalues.max()
    scale = np.where(felt, norms, 1.0)
    return np.where(felt[:, None] & felt, products / scale / scale[:, None], 0.0)


def cosine_at_random(mixture: Mixture, first: int, second: int) -> float:
    """The expected cosine of two tasks' gradients at a random encoder, of any width.

    It is the cosine of the matrices C_k - tr(C_k) I / d: positive if the tasks overlap more than by chance.

    Args:
        mixture: the tasks.
        first: index of a task.
        second: index of another task.

    Raises:
        UserError: a task is not among the mixture's.
    """
    kind("mixture", mixture, Mixture)
    pair = wholes("task", [first, second], 0, mixture.tasks - 1)
    features = [slice(mixture.starts[k], mixture.starts[k + 1]) for k in pair]

    def product(a: slice, b: slice) -> float:
        squares = (mixture.directions[:, a].T @ mixture.directions[:, b]) ** 2
        traces = mixture.eigenvalues[a].sum() * mixture.eigenvalues[b].sum() / mixture.dimension
        return float(mixture.eigenvalues[a] @ squares @ mixture.eigenvalues[b] - traces)

    one, two = features
    return product(one, two) / np.sqrt(product(one, one) * product(two, two))


def gradient_norms(mixture: OverlappingMixture, width: int) -> Float[np.ndarray, " K"]:
    """|g_k| at the mixture's optimum: zero only if the task has no gradient there, as without overlap.

    Raises:
        UserError: the width is not from 1 to d.
    """
    kind("mixture", mixture, OverlappingMixture)
    return np.linalg.norm(task_gradients(mixture, mixture.encoder(width)), axis=(1, 2))


def conflict(mixture: OverlappingMixture, width: int) -> float:
    """Omega_N = sum pi_k |g_k|^2 at the optimum: zero only if no task has a gradient there.

    Raises:
        UserError: the width is not from 1 to d.
    """
    kind("mixture", mixture, OverlappingMixture)
    return float(mixture.frequencies @ gradient_norms(mixture, width) ** 2)


def floor(mixture: OverlappingMixture, task: int, width: int) -> float:
    """The signal of a task that is left after a long gap: what the best encoder for the other tasks holds of it.

    Args:
        mixture: the tasks.
        task: from 0.
        width: N.

    Raises:
        UserError: the task is not in the mixture, or the width is not from 1 to d.
    """
    rare = _Rare(mixture, task)
    return rare.signal(rare.top(rare.common, whole("width", width, 1, mixture.dimension)))


@dataclass(frozen=True)
class FlowCycle:
    """The limit cycle of gradient flow when one task comes in bursts.

    Args:
        peak: the task's signal after the burst.
        trough: the task's signal before the burst.
        swing: peak - trough to leading order in eta T mu_1: eta (T - 1) pi_r |g_r|^2 / tr C_r.
    """

    peak: float
    trough: float
    swing: float


def flow_cycle(mixture: OverlappingMixture, task: int, gap: int, width: int, step_size: float) -> FlowCycle:
    """Peak and trough of a task that comes once every T steps, where a step takes `step_size` of the flow's time.

    Args:
        mixture: the tasks.
        task: the one in bursts of matched frequency.
        gap: T.
        width: N.
        step_size: eta.

    Raises:
        UserError: a number is impossible.
    """
    rare = _Rare(mixture, task)
    gap, width = whole("gap", gap, 1), whole("width", width, 1, mixture.dimension)
    step_size = number("step size", step_size, above=0)
    without = 2 * step_size * (gap - 1) * rare.common
    burst = 2 * step_size * (rare.common + gap * rare.own)
    count = min(width, len(rare.common))
    steep = np.linalg.norm(without, 2) + np.linalg.norm(burst, 2)
    if steep <= STEEP:
        # e^X e^Y has the eigenvectors e^(X/2) w, with w those of the symmetric e^(X/2) e^Y e^(X/2).
        half = _exponential(burst / 2)
        values, vectors = np.linalg.eigh(half @ _exponential(without) @ half)
        after = np.linalg.qr(half @ vectors[:, np.argsort(-values)[:count]])[0]
        before = np.linalg.qr(_exponential(without) @ after)[0]
    else:
        after, before = _iterated(rare.top(rare.common + rare.own, count), without, burst)
    norm = gradient_norms(mixture, width)[rare.task]
    swing = step_size * (gap - 1) * mixture.frequencies[rare.task] * norm**2 / mixture.traces[rare.task]
    return FlowCycle(rare.signal(after), rare.signal(before), float(swing))


class _Rare:
    """One task against the others, in the space that features span. Outside of it nothing moves."""

    def __init__(self, mixture: OverlappingMixture, task: int) -> None:
        kind("mixture", mixture, OverlappingMixture)
        self.task = whole("task", task, 0, mixture.tasks - 1)
        space = mixture.encoder(mixture.dimension)
        columns = space @ mixture.directions
        mine = mixture.task_of == self.task
        self.own = (columns[:, mine] * mixture.utilities[mine]) @ columns[:, mine].T
        self.common = (columns[:, ~mine] * mixture.utilities[~mine]) @ columns[:, ~mine].T

    def top(self, moment: Float[np.ndarray, "r r"], width: int) -> Float[np.ndarray, "r N"]:
        values, vectors = np.linalg.eigh(moment)
        held = vectors[:, ::-1][:, :width]
        # Directions with eigenvalue zero are in no encoder.
        return held[:, values[::-1][:width] > 1e-12 * values[-1]]

    def signal(self, columns: Float[np.ndarray, "r N"]) -> float:
        return float(np.trace(columns.T @ self.own @ columns) / np.trace(self.own))


def _orthonormal(encoder: object, dimension: int) -> Encoder:
    rows = numbers("encoder", encoder)
    if rows.ndim != 2 or not len(rows) or rows.shape[1] != dimension:
        raise UserError(f"encoder must have one or more rows of {dimension} numbers, got the shape {rows.shape}")
    if np.abs(rows @ rows.T - np.eye(len(rows))).max() > 1e-4:
        raise UserError("encoder must have orthonormal rows")
    return rows


def _exponential(exponent: Float[np.ndarray, "r r"]) -> Float[np.ndarray, "r r"]:
    values, vectors = np.linalg.eigh(exponent)
    return (vectors * np.exp(values)) @ vectors.T


def _iterated(
    start: Float[np.ndarray, "r N"], without: Float[np.ndarray, "r r"], burst: Float[np.ndarray, "r r"]
) -> tuple[Float[np.ndarray, "r N"], Float[np.ndarray, "r N"]]:
    """The cycle by iteration, orthonormalised in pieces with exponents of at most `STEEP`."""

    def pieces(exponent: Float[np.ndarray, "r r"]) -> tuple[int, Float[np.ndarray, "r r"]]:
        count = max(1, int(np.ceil(np.linalg.norm(exponent, 2) / STEEP)))
        return count, _exponential(exponent / count)

    (waits, waiting), (bursts, bursting) = pieces(without), pieces(burst)
    after = before = start
    for _ in range(5000):
        previous, before = after, after
        for _ in range(waits):
            before = np.linalg.qr(waiting @ before)[0]
        after = before
        for _ in range(bursts):
            after = np.linalg.qr(bursting @ after)[0]
        if np.abs(after @ after.T - previous @ previous.T).max() < 1e-12:
            break
    return after, before
