"""What a batch's gradient does to a task: an MLP's gradient by neuron, split by which tokens' losses it is from.

For the weights before a step (docs/study.md, Gradient analysis, Fig. 9):

    g_r    gradient of a task's LABEL loss over all its instances, sum over count
    null   the same with the labels permuted among the instances: which tokens are labels, and not which is whose
    among  that of the loss when the task's labels alone are possible: which is whose, and not which tokens are labels
    g      gradient of the step's batch, as the trainer's: summed loss over rows times tokens
    g_t    the part of g from the losses of injected tokens
    g_nt   the rest, g - g_t

A neuron is its gate row, its up row and its down column, so a gradient is [neurons, 3 d_model]. Only the chosen
MLP's weights ask for one: the backward pass ends there, and no other weight's gradient is computed. Logits of a
part of the targets at a time are all that is held, since those of a whole pass would be most of its memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import nn

from olmo_inject.config.olmo_settings import TrainConfig
from olmo_inject.errors import UserError
from olmo_inject.randomness import key, permutation
from olmo_inject.tasks import LABEL_POSITION, SPLICED_TOKENS, Task

if TYPE_CHECKING:
    from olmo.config import TrainConfig as OlmoTrainConfig

IGNORED = -100  # a target that is not in the loss
LOGITS_AT_ONCE = 2**24  # 64 MiB in float32; their gradient and what a softmax needs is about three times as much
Z_LOSS = 1e-4  # ai2-olmo's trainer takes no other, whatever its configuration says
TARGETS: Mapping[str, tuple[int, int]] = {
    # Target j of a row is its token j + 1: from the first to before the last.
    "injected": (0, SPLICED_TOKENS - 1),  # TOK2, LABEL and EOS
    "label": (LABEL_POSITION - 1, LABEL_POSITION),
}
NeuronGradient = Float[torch.Tensor, "neurons three_d"]


class MlpGradients:
    """Gradients of one MLP of a model, in passes of at most so many tokens.

    Args:
        model: a transformers OlmoForCausalLM; all its weights but the MLP's stop asking for gradients.
        layer: of the MLP, from 0.
        tokens_per_pass: tokens of one forward and backward pass, which bounds memory; gradients add over rows, and a
            pass has at least one.
        z_loss: what the squared log-normalizer of each target is multiplied by in the loss, as ai2-olmo's.
        precision: of the matrix products, `fp32` or `bf16`; losses and sums are in the weights' own in either.

    Raises:
        UserError: the model has no such layer.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: int,
        tokens_per_pass: int,
        z_loss: float = 0.0,
        precision: str = "fp32",
    ) -> None:
        self.model: Any = model
        if not 0 <= layer < (layers := self.model.config.num_hidden_layers):
            raise UserError(f"layer {layer} is not in 0..{layers - 1}, the model's layers")
        mlp: Any = self.model.model.layers[layer].mlp
        self.tokens_per_pass = tokens_per_pass
        self.z_loss = z_loss
        self.half = precision == "bf16"
        self.parameters: list[torch.Tensor] = [mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight]
        model.requires_grad_(False)
        for parameter in self.parameters:
            parameter.requires_grad_(True)

    def summed(
        self,
        tokens: Int64[torch.Tensor, "n t"],
        targets: Int64[torch.Tensor, "n u"],
        among: Int64[torch.Tensor, " l"] | None = None,
    ) -> NeuronGradient:
        """Gradient of the summed loss of all targets.

        Rows without a target are left out, and so are, by causality, the tokens from the last target on: for
        the targets of injected tokens three tokens of the injected rows are all that is computed.

        Args:
            tokens: the rows, t > u or t = u.
            targets: what each token is to be followed by; -100 where no loss is asked for.
            among: the only tokens that are possible, ascending, all targets among them; None: the whole vocabulary.
        """
        total = torch.zeros_like(by_neuron(self.parameters))
        counted = targets != IGNORED
        rows = counted.any(dim=1).nonzero().flatten()
        if not len(rows):
            return total
        length = int(counted.any(dim=0).nonzero().max()) + 1
        device = total.device
        for chosen in rows.split(max(1, self.tokens_per_pass // length)):
            with torch.autocast(device.type, torch.bfloat16, enabled=self.half):
                hidden = self.model.model(input_ids=tokens[chosen, :length].to(device), use_cache=False)[0]
                wanted = targets[chosen, :length].to(device)
                upstream = loss_gradient(self.model.lm_head, hidden.detach(), wanted, self.z_loss, among)
            total += by_neuron(torch.autograd.grad(hidden, self.parameters, upstream))
        return total


def loss_gradient(
    head: nn.Linear,
    hidden: Float[torch.Tensor, "n u d"],
    targets: Int64[torch.Tensor, "n u"],
    z_loss: float = 0.0,
    among: Int64[torch.Tensor, " l"] | None = None,
) -> Float[torch.Tensor, "n u d"]:
    """Gradient of the summed loss of all targets with respect to what the head is given.

    A target's loss depends on its own position alone, so some positions at a time go through the head, forwards and
    backwards, and their logits are gone before the next ones'.

    Args:
        head: from hidden states to logits; its weights ask for no gradient.
        hidden: its input.
        targets: -100 where no loss is asked for; the gradient is zero there.
        z_loss: as `MlpGradients`'.
        among: as `MlpGradients.summed`'s; such a loss has no z-loss.
    """
    gradient = torch.zeros_like(hidden)
    counted = targets != IGNORED
    places, wanted = counted.nonzero(as_tuple=True), targets[counted]
    vocabulary = head.out_features
    for some in torch.arange(len(wanted), device=wanted.device).split(max(1, LOGITS_AT_ONCE // vocabulary)):  # pyright: ignore[reportArgumentType]
        where = tuple(place[some] for place in places)
        part = hidden[where].requires_grad_(True)
        logits = head(part)
        logits = logits.float() if logits.dtype == torch.bfloat16 else logits
        if among is not None:
            among = among.to(logits.device)
            loss = F.cross_entropy(logits[:, among], torch.searchsorted(among, wanted[some]), reduction="sum")
        else:
            loss = F.cross_entropy(logits, wanted[some], reduction="sum")
        if z_loss and among is None:
            loss = loss + z_loss * logits.logsumexp(-1).square().sum()
        [gradient[where]] = torch.autograd.grad(loss, part)
    return gradient


def by_neuron(parameters: Sequence[torch.Tensor]) -> NeuronGradient:
    """Gate and up rows and down columns, one neuron a row."""
    gate, up, down = parameters
    return torch.cat([gate.detach(), up.detach(), down.detach().T], dim=1)


def top_neurons(gradient: NeuronGradient, k: int) -> Int64[torch.Tensor, " k"]:
    """The `k` neurons with the largest gradient (Euclidean norm of all that belongs to one), ascending.

    Raises:
        UserError: there are not so many.
    """
    if not 1 <= k <= len(gradient):
        raise UserError(f"neurons: {k} is not in 1..{len(gradient)}, the MLP's neurons")
    return gradient.norm(dim=1).topk(k).indices.sort().values


def z_loss_of(train: TrainConfig | OlmoTrainConfig) -> float:
    """The z-loss multiplier a run trains with, 0 where it has none."""
    return Z_LOSS if train.softmax_auxiliary_loss else 0.0


def tokens_per_pass(train: TrainConfig | OlmoTrainConfig, rows: int | None) -> int:
    """The tokens of `rows` whole rows, by default of the run's micro-batch, whose memory is known to suffice."""
    return (rows or train.device_train_microbatch_size) * train.model.max_sequence_length


def batch_targets(batch: Mapping[str, torch.Tensor]) -> Int64[torch.Tensor, "n u"]:
    """What each token of a batch is to be followed by, -100 where the batch's masks take it out of the loss."""
    targets = batch["input_ids"].clone()
    if (mask := batch.get("label_mask")) is not None:
        targets.masked_fill_(~mask, IGNORED)
    if (mask := batch.get("instance_mask")) is not None:
        targets.masked_fill_(~mask[:, None], IGNORED)
    return targets[:, 1:]


@dataclass(frozen=True)
class StepGradients:
    """The gradients of one step at one MLP, all its neurons.

    Attributes:
        batch: g.
        injected: g_t of each task that the run injects.
        reference: g_r of each task.
        permuted: `null` of each task.
        among: `among` of each task.
    """

    batch: NeuronGradient
    injected: dict[str, NeuronGradient]
    reference: dict[str, NeuronGradient]
    permuted: dict[str, NeuronGradient]
    among: dict[str, NeuronGradient]

    @property
    def all_injected(self) -> NeuronGradient:
        """g_t: of all tasks together."""
        return sum(self.injected.values(), torch.zeros_like(self.batch))

    @property
    def rest(self) -> NeuronGradient:
        """g_nt: of every token that was not injected."""
        return self.batch - self.all_injected

    def parts(self) -> Iterator[tuple[str, str, NeuronGradient]]:
        """Each gradient that references are compared with: its kind, the one task it is of or nothing, and itself."""
        yield "batch", "", self.batch
        yield "injected", "", self.all_injected
        yield "rest", "", self.rest
        for name, gradient in self.injected.items():
            yield "injected", name, gradient
        for name, gradient in self.reference.items():
            yield "reference", name, gradient


@dataclass(frozen=True)
class Cosine:
    """How a gradient lies to a task's reference, on that task's neurons.

    Attributes:
        task: whose reference.
        kind: `batch` (g), `injected` (g_t), `rest` (g_nt) or `reference` (g_r).
        of: the one task that the gradient is of; empty for all of the batch's.
        cosine: None where the gradient is zero, as g_t in a step without an injection.
        norm: of the gradient.
        null: the cosine with the task's `null` in place of g_r, on the neurons that `null` is largest on.
        among: the cosine with `among`, likewise.
    """

    task: str
    kind: str
    of: str
    cosine: float | None
    norm: float
    null: float | None
    among: float | None


def cosines(step: StepGradients, neurons: int) -> list[Cosine]:
    """Cosines of all gradients of a step with each task's reference, on the `neurons` that it is largest on.

    Raises:
        UserError: the MLP has fewer neurons.
    """
    found = []
    for task in step.reference:
        references = [step.reference[task], step.permuted[task], step.among[task]]
        chosen = [top_neurons(reference, neurons) for reference in references]
        for kind, of, gradient in step.parts():
            parts = [gradient[own].double() for own in chosen]
            whole, null, among = (
                _cosine(part, reference[own].double())
                for part, reference, own in zip(parts, references, chosen, strict=True)
            )
            found.append(Cosine(task, kind, of, whole, parts[0].norm().item(), null, among))
    return found


def _cosine(a: NeuronGradient, b: NeuronGradient) -> float | None:
    """None where one of them is zero."""
    product = (a.norm() * b.norm()).item()
    return (a * b).sum().item() / product if product else None


def step_gradients(
    mlp: MlpGradients,
    batch: Mapping[str, torch.Tensor],
    of_row: Int64[torch.Tensor, " n"],
    names: Sequence[str],
    tasks: Sequence[Task],
    targets: str = "injected",
    share: tuple[int, int] = (0, 1),
    reduce: Callable[[torch.Tensor], object] | None = None,
) -> StepGradients:
    """g, g_t and g_r of one step, from this process's rows and instances.

    Args:
        mlp: the model before the step, and which MLP.
        batch: `input_ids` [n, T] and masks.
        of_row: which of `names` each row is injected with; -1 for none.
        names: of the tasks that the run injects.
        tasks: whose references to compute.
        targets: a key of `TARGETS`: which targets g_t is from.
        share: this process and of how many: all of them together hold the batch.
        reduce: adds a tensor up over them, in place.
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

    first, last = TARGETS[targets]
    injected = torch.full_like(wanted, IGNORED)
    injected[:, first:last] = wanted[:, first:last]
    parts = {}
    for number, name in enumerate(names):
        mine = of_row == number
        parts[name] = gradient(tokens[mine], injected[mine], tokens_in_batch)
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
    """What the operands are to be followed by: LABEL after the last, and nothing in particular before."""
    targets = torch.full((len(instances), LABEL_POSITION), IGNORED)
    targets[:, -1] = instances[:, LABEL_POSITION]
    return targets
