"""What a batch's gradient does to a task: an MLP's gradient by neuron, split by the tokens whose losses it comes from.

All gradients are at the weights before a step (docs/study.md, Gradient analysis, Fig. 9):

    g_r    gradient of a task's mean LABEL loss over all its instances
    null   the same with labels permuted among instances: keeps which tokens are labels, loses which pair has which
    among  gradient of the loss if only the task's labels are possible: keeps only which pair has which label
    g      gradient of the step's batch, as the trainer's: summed loss over rows times tokens
    g_t    the part of g from the losses of injected tokens, wherever they stand in their rows
    g_nt   the rest, g - g_t

Tasks of pairs have references. A task of texts has none, but its tokens are injected ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int64
from torch import nn

from olmo_inject.config import GradientConfig
from olmo_inject.config.olmo_settings import TrainConfig
from olmo_inject.errors import UserError
from olmo_inject.injection.layout import InjectedSpans
from olmo_inject.randomness import key, permutation
from olmo_inject.tasks import LABEL_POSITION, Task
from olmo_inject.training.loss import IGNORED, batch_targets
from olmo_inject.training.mlp_gradients import MlpGradients, NeuronGradient

if TYPE_CHECKING:
    from olmo.config import TrainConfig as OlmoTrainConfig

ROWS_PER_PASS = 8  # where no configuration says the micro-batch
Z_LOSS = 1e-4  # ai2-olmo's trainer always uses this value, whatever its configuration says


def top_neurons(gradient: NeuronGradient, k: int) -> Int64[torch.Tensor, " k"]:
    """The `k` neurons with the largest gradient (Euclidean norm over all weights of a neuron), ascending by index.

    Raises:
        UserError: the MLP has fewer neurons.
    """
    if not 1 <= k <= len(gradient):
        raise UserError(f"neurons: {k} is not in 1..{len(gradient)}, the MLP's neurons")
    return gradient.norm(dim=1).topk(k).indices.sort().values


def tokens_per_pass(train: TrainConfig | OlmoTrainConfig | None, rows: int | None, length: int) -> int:
    """The number of tokens of one forward and backward pass.

    Args:
        train: of the run, whose micro-batch is known to fit in memory; None where there is none.
        rows: of a pass; None or 0: as many as the micro-batch has.
        length: tokens of a row.
    """
    return (rows or (ROWS_PER_PASS if train is None else train.device_train_microbatch_size)) * length


def injected_targets(
    spans: InjectedSpans, tokens: Int64[torch.Tensor, "n t"], targets: str = "injected"
) -> Int64[torch.Tensor, "n u"]:
    """The task of every injected target, by its number in the plan, and -1 for the host's, [n, t - 1].

    Args:
        spans: what is injected into the rows.
        tokens: the rows; target j is token j + 1.
        targets: `injected` (TOK2, LABEL and EOS) or `label` (the tokens to be predicted).
    """
    of_target = torch.full_like(tokens[:, 1:], -1)
    chosen = spans.is_target & spans.answer if targets == "label" else spans.is_target
    places = torch.from_numpy(spans.row[chosen]), torch.from_numpy(spans.column[chosen] - 1)
    of_target[places] = torch.from_numpy(spans.task[spans.span[chosen]].astype("int64"))
    return of_target


def with_references(tasks: Sequence[Task]) -> list[Task]:
    """The tasks that have references: those of pairs.

    Raises:
        UserError: none has.
    """
    if not (of_pairs := [task for task in tasks if task.is_triples]):
        named = ", ".join(task.name for task in tasks) or "none"
        raise UserError(f"gradients need a task of pairs, with instances TOK1, TOK2, LABEL; the tasks here: {named}")
    return of_pairs


@dataclass(frozen=True)
class StepGradients:
    """The gradients of one step at one MLP, over all its neurons.

    Attributes:
        batch: g.
        injected: g_t of each task that the run injects.
        reference: g_r of each task.
        permuted: the reference `null` of each task.
        among: the reference `among` of each task.
    """

    batch: NeuronGradient
    injected: dict[str, NeuronGradient]
    reference: dict[str, NeuronGradient]
    permuted: dict[str, NeuronGradient]
    among: dict[str, NeuronGradient]

    @property
    def all_injected(self) -> NeuronGradient:
        """g_t of all tasks together."""
        return sum(self.injected.values(), torch.zeros_like(self.batch))

    @property
    def rest(self) -> NeuronGradient:
        """g_nt, the part of every token that was not injected."""
        return self.batch - self.all_injected

    def parts(self) -> Iterator[tuple[str, str, NeuronGradient]]:
        """Each gradient that is compared with references: its kind, its one task (or empty), and the gradient."""
        yield "batch", "", self.batch
        yield "injected", "", self.all_injected
        yield "rest", "", self.rest
        for name, gradient in self.injected.items():
            yield "injected", name, gradient
        for name, gradient in self.reference.items():
            yield "reference", name, gradient


@dataclass(frozen=True)
class Cosine:
    """The cosine of a gradient with a task's reference, on that task's neurons.

    Attributes:
        task: the task whose reference is used.
        kind: of the gradient: `batch` (g), `injected` (g_t), `rest` (g_nt) or `reference` (g_r).
        of: the one task that the gradient belongs to; empty if it covers the batch.
        cosine: with g_r; None if a gradient is zero, as g_t in a step without an injection.
        norm: norm of the gradient.
        null: cosine with `null` in place of g_r, on the neurons where `null` is largest.
        among: cosine with `among` in place of g_r, on the neurons where `among` is largest.
    """

    task: str
    kind: str
    of: str
    cosine: float | None
    norm: float
    null: float | None
    among: float | None


def cosines(step: StepGradients, neurons: int) -> list[Cosine]:
    """Cosines of all gradients of a step with each task's references, on the `neurons` where the reference is largest.

    Raises:
        UserError: the MLP has fewer neurons.
    """
    about, numbers = [], []
    for task in step.reference:
        references = [step.reference[task], step.permuted[task], step.among[task]]
        chosen = [top_neurons(reference, neurons) for reference in references]
        own_parts = [reference[own].double() for reference, own in zip(references, chosen, strict=True)]
        for kind, of, gradient in step.parts():
            parts = [gradient[own].double() for own in chosen]
            about.append((task, kind, of))
            numbers += [
                value
                for part, reference in zip(parts, own_parts, strict=True)
                for value in ((part * reference).sum(), part.norm() * reference.norm())
            ]
            numbers.append(parts[0].norm())
    if not about:
        return []
    columns = torch.stack(numbers).view(len(about), -1).tolist()  # one copy from the device for all of them
    cosines_of = ((*map(_quotient, row[:-1:2], row[1:-1:2]), row[-1]) for row in columns)
    return [
        Cosine(task, kind, of, whole, norm, null, among)
        for (task, kind, of), (whole, null, among, norm) in zip(about, cosines_of, strict=True)
    ]


def _quotient(dot: float, norms: float) -> float | None:
    """The cosine of two gradients; None if one of them is zero."""
    return dot / norms if norms else None


def batch_gradients(
    model: nn.Module,
    config: GradientConfig,
    batch: Mapping[str, torch.Tensor],
    spans: InjectedSpans,
    injected: Sequence[Task],
    tasks: Sequence[Task],
    train: TrainConfig | OlmoTrainConfig | None = None,
    share: tuple[int, int] = (0, 1),
    reduce: Callable[[torch.Tensor], object] | None = None,
) -> StepGradients:
    """The gradients of a batch, as configured.

    Args:
        model: as in `MlpGradients`, before the step.
        config: layer, targets, rows of a pass and precision.
        batch: as in `step_gradients`.
        spans: what is injected into the batch.
        injected: the plan's tasks.
        tasks: as in `step_gradients`.
        train: says the micro-batch and the z-loss; None: the loss is the cross-entropy.
        share: as in `step_gradients`.
        reduce: as in `step_gradients`.

    Raises:
        UserError: as in `MlpGradients`.
    """
    tokens = batch["input_ids"]
    in_a_pass = tokens_per_pass(train, config.rows_per_pass, tokens.shape[1])
    z_loss = Z_LOSS if train is not None and train.softmax_auxiliary_loss else 0.0
    mlp = MlpGradients(model, config.layer, in_a_pass, z_loss, config.precision)
    of_target = injected_targets(spans, tokens, config.targets)
    return step_gradients(mlp, batch, of_target, [task.name for task in injected], tasks, share, reduce)


def step_gradients(
    mlp: MlpGradients,
    batch: Mapping[str, torch.Tensor],
    of_target: Int64[torch.Tensor, "n u"],
    names: Sequence[str],
    tasks: Sequence[Task],
    share: tuple[int, int] = (0, 1),
    reduce: Callable[[torch.Tensor], object] | None = None,
) -> StepGradients:
    """g, g_t and g_r of one step, from this process's rows and instances.

    Args:
        mlp: the MLP, in the model before the step.
        batch: `input_ids` [n, T] and masks.
        of_target: index into `names` of the task that each target of g_t belongs to; -1 for all others.
        names: the tasks that the run injects.
        tasks: tasks of pairs, whose references are computed.
        share: index of this process and number of processes, which together hold the batch.
        reduce: adds a tensor up over processes, in place.
    """
    process, processes = share
    reduce = reduce or (lambda tensor: tensor)
    tokens, wanted = batch["input_ids"], batch_targets(batch)
    tokens_in_batch = tokens.numel() * processes

    def gradient(
        tokens: torch.Tensor, wanted: torch.Tensor, count: int, among: torch.Tensor | None = None
    ) -> NeuronGradient:
        summed = mlp.summed(tokens, wanted, among)
        reduce(summed)
        return summed / count

    parts = {
        name: gradient(tokens, wanted.where(of_target == number, IGNORED), tokens_in_batch)
        for number, name in enumerate(names)
    }
    references, permuted, among = {}, {}, {}
    for task in tasks:
        instances = torch.from_numpy(task.triples.astype("int64"))
        count, labels = len(instances), torch.from_numpy(task.label_tokens.astype("int64"))
        operands = instances[process::processes, :LABEL_POSITION]
        order = torch.from_numpy(permutation(key("gradient null", task.name, task.config.seed), count))
        own, others = (_label_targets(given[process::processes]) for given in (instances, instances[order]))
        references[task.name] = gradient(operands, own, count)
        permuted[task.name] = gradient(operands, others, count)
        among[task.name] = gradient(operands, own, count, labels)
    return StepGradients(gradient(tokens, wanted, tokens_in_batch), parts, references, permuted, among)


def _label_targets(instances: Int64[torch.Tensor, "n 3"]) -> Int64[torch.Tensor, "n 2"]:
    """The targets after the two operands: none after the first, LABEL after the second."""
    targets = torch.full((len(instances), LABEL_POSITION), IGNORED)
    targets[:, -1] = instances[:, LABEL_POSITION]
    return targets
