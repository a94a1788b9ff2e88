"""Asks a model what a task's probes ask: continuations, choices, exposure; by probe, group and half."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from rich.box import SIMPLE
from rich.table import Table

from olmo_inject.injection import Plan
from olmo_inject.tasks import Probe, Task
from olmo_inject.training.compat import quiet_autocast
from olmo_inject.training.evaluation.continuations import score_items
from olmo_inject.training.evaluation.tasks import Mean

if TYPE_CHECKING:
    from olmo.model import OLMo

    from olmo_inject.training.trainer import InjectionTrainer

MOST_GROUPS = 64  # in metrics; of more, only the halves' means are logged
Scorer = Callable[[Sequence["Option"]], Float[np.ndarray, "n 2"]]


class Option(NamedTuple):
    """One of a probe's options after its context, as an item to score."""

    context: tuple[int, ...]
    answer: tuple[int, ...]


def probes_of(task: Task, ids: Int64[np.ndarray, " n"]) -> list[Probe]:
    """The task's probes of some instances; of a task that has none, one for what each instance is to continue with."""
    wanted = set(ids.tolist())
    if task.probes:
        return [probe for probe in task.probes if probe.instance in wanted]
    found = []
    for number in ids.tolist():
        tokens = tuple(task.instances[number].tolist())
        context = max(1, len(tokens) - int(task.continuation[number]))
        found.append(Probe(number, "continuation", "", tokens[:context], (tokens[context:],)))
    return found


def answers(probes: Sequence[Probe], scorer: Scorer, row_length: int) -> list[dict[str, float]]:
    """What a model answers to each probe, by name of the measure.

    `loss` is of the right option, nats per token. A continuation also has `exact`, whether greedy decoding gives it; a
    choice `accuracy`, whether the right option is the likeliest, and `accuracy_normalized`, whether it is by token;
    exposure `exposure`, log2 of the number of options less log2 of the right one's rank.

    Args:
        probes: what to ask.
        scorer: sums of losses and greedy matches of options.
        row_length: the model's; of what is longer, the first tokens are asked for.
    """
    options = [
        Option(probe.context[-row_length + 1 :], option[: max(1, row_length - len(probe.context))])
        for probe in probes
        for option in probe.options
    ]
    scored = scorer(options)
    lengths = np.array([len(option.answer) for option in options])
    found, first = [], 0
    for probe in probes:
        mine = slice(first, first + len(probe.options))
        first = mine.stop
        found.append({_name(probe, name): value for name, value in _values(probe, scored[mine], lengths[mine]).items()})
    return found


def _values(probe: Probe, scored: Float[np.ndarray, "o 2"], lengths: Int64[np.ndarray, " o"]) -> dict[str, float]:
    losses, by_token = scored[:, 0], scored[:, 0] / lengths
    values = {"loss": float(by_token[probe.right])}
    if probe.kind == "continuation":
        return values | {"exact": float(scored[0, 1])}
    if probe.kind == "choice":
        best = {"accuracy": losses, "accuracy_normalized": by_token}
        return values | {name: float(of.argmin() == probe.right) for name, of in best.items()}
    others = np.delete(losses, probe.right)
    # A tie counts half, so a model that knows nothing is in the middle.
    rank = 1 + int((others < losses[probe.right]).sum()) + int((others == losses[probe.right]).sum()) / 2
    return values | {"exposure": math.log2(len(losses)) - math.log2(rank)}


def _name(probe: Probe, measure: str) -> str:
    return f"{probe.measure}_{measure}" if probe.measure else measure


def means(task: Task, probes: Sequence[Probe], found: Sequence[Mapping[str, float]]) -> dict[str, Mean]:
    """The mean of each measure, and as MEASURE/GROUP those of the task's groups, if they are few."""
    groups = task.groups if 1 < len(set(task.groups)) <= MOST_GROUPS else ()
    values: dict[str, list[float]] = {}
    for probe, of_probe in zip(probes, found, strict=True):
        for name, value in of_probe.items():
            values.setdefault(name, []).append(value)
            if groups:
                values.setdefault(f"{name}/{groups[probe.instance]}", []).append(value)
    return {name: Mean(sum(of) / len(of), len(of)) for name, of in sorted(values.items())}


def ask_trainer(trainer: InjectionTrainer, probes: Sequence[Probe]) -> list[dict[str, float]]:
    """The answers of the trainer's model, in its training precision (collective).

    Every rank scores its share. The model is left in evaluation mode.
    """

    def logits(rows: torch.Tensor) -> torch.Tensor:
        with quiet_autocast(), torch.autocast("cuda", dtype=trainer.cfg.autocast_precision):
            return trainer.dist_model(input_ids=rows).logits

    def scorer(options: Sequence[Option]) -> np.ndarray:
        budget = trainer.cfg.device_train_microbatch_size * trainer.cfg.model.max_sequence_length
        results = score_items(logits, options, budget, trainer.device, dist.get_rank(), dist.get_world_size())
        dist.all_reduce(results)
        return results.cpu().numpy()

    trainer.dist_model.eval()
    return answers(probes, scorer, trainer.cfg.model.max_sequence_length)


def ask_model(model: OLMo, probes: Sequence[Probe], batch_size: int) -> list[dict[str, float]]:
    """The answers of a plain model, in the precision of its weights.

    Args:
        model: any.
        probes: what to ask.
        batch_size: options at once, of the longest.
    """
    model.eval()
    device = next(model.parameters()).device

    def scorer(options: Sequence[Option]) -> np.ndarray:
        longest = max(len(option.context) + len(option.answer) for option in options)
        return (
            score_items(lambda rows: model(input_ids=rows).logits, options, batch_size * longest, device).cpu().numpy()
        )

    return answers(probes, scorer, model.config.max_sequence_length)


@dataclass(frozen=True)
class ProbeResult:
    """What one checkpoint answers to one probe, in one measure.

    Attributes:
        checkpoint: its folder.
        step: completed steps; None for a checkpoint that does not say.
        task: the task's name.
        half: `train` or `test`.
        instance: its name.
        group: its group, if it has one.
        measure: as in metrics.
        value: measured.
        trained: whether the checkpoint's run was given this very task.
        seen: how often the run had injected the instance before the step; None where the run is not known.
        last_seen: the last such step.
    """

    checkpoint: str
    step: int | None
    task: str
    half: str
    instance: str
    group: str | None
    measure: str
    value: float
    trained: bool
    seen: int | None = None
    last_seen: int | None = None

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def sightings(plan: Plan, task: str, steps: int) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """How often each instance of a task is injected before step `steps`, and the last step that does; -1 for never."""
    number = next((n for n, each in enumerate(plan.tasks) if each.name == task), -1)
    n = len(plan.tasks[number].instances) if number >= 0 else 0
    seen, last = np.zeros(n, np.int64), np.full(n, -1)
    for step in range(steps if n else 0):
        injections = plan.at(step)
        mine = injections.instance[(injections.task == number) & (injections.piece == 0)]
        np.add.at(seen, mine, 1)
        last[mine] = step
    return seen, last


def results_table(results: Sequence[ProbeResult]) -> Table:
    """The means over each half and group as rows; a task that the checkpoint's run was not given has a star."""
    table = Table(box=SIMPLE, padding=0, show_edge=False)
    for name in ("checkpoint", "task", "half", "group", "measure", "mean", "n"):
        table.add_column(name, justify="right" if name in ("mean", "n") else "left", overflow="fold")
    rows: dict[tuple[str, ...], list[float]] = {}
    for result in results:
        name = result.task if result.trained else f"{result.task}*"
        for group in dict.fromkeys(("", result.group or "")):
            key = ("/".join(result.checkpoint.split("/")[-2:]), name, result.half, group, result.measure)
            rows.setdefault(key, []).append(result.value)
    for key, values in rows.items():
        table.add_row(*key, f"{sum(values) / len(values):.4f}", str(len(values)))
    if not all(result.trained for result in results):
        table.caption = "* not trained with"
    return table
