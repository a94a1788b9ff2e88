"""Distributed alignment search at one site: train subspaces of the residual stream that hold a value.

A search starts from two subspaces: the one whose exchange lowers the loss most to first order, and a random one among
the differences between bases and sources. Each start is trained by gradient descent whose step sizes are angles (see
`analysis.methods.subspaces`), so that they mean the same at every width. After each round of updates the loss is judged
on separate pairs. If it no longer falls, the angle is halved; once the angle is small, the search has converged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float

from analysis.methods.forward_from import ROWS_PER_PASS, ForwardFrom
from analysis.methods.interchange import Alignment, Streams, interchange
from analysis.methods.subspaces import Basis, Descent, gaussian, lowest, orthonormal
from olmo_inject.errors import UserError
from olmo_inject.randomness import integers, key
from olmo_inject.tasks import Task
from olmo_inject.utils.options import check_options

ROUND = 10  # updates between two evaluations on the judging pairs
TRIAL = 2  # rounds after which only the better of the two starts continues
ANGLE, SMALL_ANGLE = 0.2, 0.02  # radians of an update: at the start, and at convergence
GAIN, LEAST_GAIN = 0.01, 0.001  # smallest fall of the loss that counts: a fraction of it, or nats
GOLDEN = 0.6180339887498949  # its multiples modulo 1 are evenly spread, however many there are


@dataclass(frozen=True)
class SearchOptions:
    """Options of the search.

    Attributes:
        dimensions: dimensions of the subspaces to search for.
        updates: maximum of optimizer steps per subspace. A search that has not converged by then is reported as such.
        batch: pairs per update.
        pairs: number of train pairs, and largest number of held-out pairs.
        controls: whether to search in an untrained model too.
    """

    dimensions: tuple[int, ...] = (1, 2)
    updates: int = 200
    batch: int = 64
    pairs: int = 1024
    controls: bool = True

    def check(self) -> None:
        """Validate the options.

        Raises:
            UserError: an option is out of its range.
        """
        if not self.dimensions or min(self.dimensions) < 1:
            raise UserError(f"--dimensions: {','.join(map(str, self.dimensions))} must be whole numbers from 1 on")
        check_options(updates=self.updates, pairs=self.pairs)


@dataclass(frozen=True)
class Fitting:
    """The pairs that the search for one variable uses.

    Attributes:
        train: pairs to train on.
        judge: other train pairs, which choose between starts and decide convergence.
    """

    train: Streams
    judge: Streams


@dataclass(frozen=True)
class SearchResult:
    """The best subspace of a search.

    Attributes:
        basis: orthonormal rows that span the subspace.
        accuracy: interchange accuracy on the judging pairs.
        loss: mean loss on the judging pairs, in nats.
        updates: number of optimizer steps taken.
        converged: whether the loss stopped falling.
    """

    basis: Basis
    accuracy: float
    loss: float
    updates: int = 0
    converged: bool = False


class _Candidate:
    """The descent from one start, and its best subspace."""

    def __init__(self, start: Basis) -> None:
        self.descent, self.best = Descent(start, ANGLE), SearchResult(start, 0.0, float("inf"))

    def judge(self, upper: ForwardFrom, site: Alignment, pairs: Streams) -> None:
        accuracy, loss = interchange(upper, site, pairs, self.descent.basis)
        if loss > self.best.loss - max(GAIN * self.best.loss, LEAST_GAIN):
            self.descent.angle /= 2
        if loss < self.best.loss:
            self.best = SearchResult(self.descent.basis, accuracy, loss)


class _Search:
    """The search for one subspace at one site: its candidates that are still trained."""

    def __init__(
        self, upper: ForwardFrom, task: Task, site: Alignment, dimension: int, fitting: Fitting, options: SearchOptions
    ):
        self.site, self.fitting = site, fitting
        self.candidates = [_Candidate(start) for start in starts(upper, task, site, dimension, fitting.train)]
        n, device = options.updates * options.batch, fitting.train.label.device
        drawn = integers(key("das updates", task.name, str(site)), n, len(fitting.train.label))
        self.batches = torch.from_numpy(drawn).to(device).split(options.batch)
        self.result: SearchResult | None = None  # set when the search ends

    def judge(self, upper: ForwardFrom, updates: int) -> None:
        """Evaluate the candidates, drop the worse one after the trial rounds, and end the search at convergence."""
        for candidate in self.candidates:
            candidate.judge(upper, self.site, self.fitting.judge)
        best, over = min(self.candidates, key=lambda candidate: candidate.best.loss), updates == len(self.batches)
        if updates >= TRIAL * ROUND or over:
            self.candidates = [best]
            converged = best.descent.angle < SMALL_ANGLE
            if converged or over:
                self.result = replace(best.best, updates=updates, converged=converged)


def align(
    upper: ForwardFrom,
    task: Task,
    asked: Sequence[tuple[Alignment, int]],
    fittings: Sequence[Fitting],
    options: SearchOptions,
    check: Callable[[], None] = lambda: None,
) -> list[SearchResult]:
    """Search for several subspaces independently, in shared forward passes.

    Args:
        upper: the model; its weights need no gradients.
        task: supplies the labels and keys the random draws.
        asked: sites, all at one layer, each with a number of dimensions.
        fittings: the pairs of each search.
        options: updates and batch size.
        check: called before every update; an exception that it raises ends the search.

    Returns:
        One result per search, in the order of `asked`.
    """
    searches = [
        _Search(upper, task, site, dimension, fitting, options)
        for (site, dimension), fitting in zip(asked, fittings, strict=True)
    ]
    active = searches
    for update in range(options.updates + 1):
        check()
        if update % ROUND == 0 or update == options.updates:
            for search in active:
                search.judge(upper, update)
            active = [search for search in active if search.result is None]
        if not active:
            break
        _update(upper, [(search, candidate) for search in active for candidate in search.candidates], update)
    return [search.result for search in searches if search.result is not None]


def _update(upper: ForwardFrom, active: Sequence[tuple[_Search, _Candidate]], number: int) -> None:
    """One update of every candidate, all in one forward pass."""
    rows = [search.batches[number] for search, _ in active]
    bases = [candidate.descent.basis.clone().requires_grad_(True) for _, candidate in active]
    exchanged = [
        search.fitting.train.exchanged(search.site, chosen, basis)
        for (search, _), chosen, basis in zip(active, rows, bases, strict=True)
    ]
    tokens, streams = (torch.cat(parts) for parts in zip(*exchanged, strict=True))
    labels = torch.cat([search.fitting.train.label[chosen] for (search, _), chosen in zip(active, rows, strict=True)])
    # The sum of the candidates' mean losses: each subspace's gradient depends on its own pairs alone.
    loss = F.cross_entropy(upper.scores(active[0][0].site.layer, tokens, streams), labels) * len(active)
    for (_, candidate), gradient in zip(active, torch.autograd.grad(loss, bases), strict=True):
        candidate.descent.step(gradient)


def starts(upper: ForwardFrom, task: Task, site: Alignment, dimension: int, pairs: Streams) -> list[Basis]:
    """The two subspaces that a search starts from: the best to first order, and a random one.

    To first order, exchanging a subspace with projection P changes the loss by the trace of P M. M is the mean over
    pairs of the symmetric part of the outer product of the gradient and the difference of source and base. The
    eigenvectors of M with the lowest eigenvalues span the best subspace. Each pair's gradient is taken at a point
    between base and source, since it may vanish at either end.

    Args:
        upper: the model.
        task: keys the random start.
        site: where the subspace is sought.
        dimension: of the subspace.
        pairs: streams of the train pairs.
    """
    difference = pairs.source_stream[site.layer] - pairs.base_stream[site.layer][:, 0]
    gradient = _gradients(upper, site, pairs, difference)

    def form(rows: Float[torch.Tensor, "k d"]) -> Float[torch.Tensor, "k d"]:
        return rows @ difference.T @ gradient + rows @ gradient.T @ difference

    mixed = gaussian(dimension, len(difference), f"{task.name} {site}").to(difference.device) @ difference
    return [lowest(form, mixed), orthonormal(mixed)]


def _gradients(
    upper: ForwardFrom, site: Alignment, pairs: Streams, difference: Float[torch.Tensor, "n d"]
) -> Float[torch.Tensor, "n d"]:
    """The gradient of each pair's loss with respect to the stream at the site, at a point between base and source."""
    share = (torch.arange(len(difference), device=difference.device) * GOLDEN % 1)[:, None]
    parts = []
    for rows in torch.arange(len(difference), device=difference.device).split(ROWS_PER_PASS):
        stream = pairs.base_stream[site.layer, rows]
        moved = (stream[:, 0] + share[rows] * difference[rows]).requires_grad_(True)
        logits = upper.scores(site.layer, pairs.base[rows], torch.cat([moved[:, None], stream[:, 1:]], dim=1))
        parts += torch.autograd.grad(F.cross_entropy(logits, pairs.label[rows], reduction="sum"), moved)
    return torch.cat(parts)
