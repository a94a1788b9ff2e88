"""Ask a model a task's probes (continuations, choices, exposure), and average by probe, group and half."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int64
from rich.box import SIMPLE
from rich.table import Table
from torch import nn

from olmo_inject.injection import Plan, sightings
from olmo_inject.runs.checkpoints import checkpoint_labels
from olmo_inject.tasks import Probe, Task
from olmo_inject.tasks.halves import chosen_ids
from olmo_inject.tasks.material import continuation_probe
from olmo_inject.training.evaluation.continuations import score_items, score_with_trainer
from olmo_inject.training.evaluation.tasks import Mean

if TYPE_CHECKING:
    from olmo_inject.training.trainer import InjectionTrainer

MOST_GROUPS = 64  # maximum groups in metrics; with more, only the halves' means are logged
Scorer = Callable[[Sequence["Option"]], Float[np.ndarray, "n 2"]]


class Option(NamedTuple):
    """One option of a probe after its context, as an item to score."""

    context: tuple[int, ...]
    answer: tuple[int, ...]


def probes_of(task: Task, ids: Int64[np.ndarray, " n"]) -> list[Probe]:
    """The task's probes for some instances. If the task has none, one probe per instance: its continuation."""
    wanted = set(ids.tolist())
    if task.probes:
        return [probe for probe in task.probes if probe.instance in wanted]
    probes = []
    for number in ids.tolist():
        tokens = tuple(task.instances[number].tolist())
        context = max(1, len(tokens) - int(task.continuation[number]))
        probes.append(continuation_probe(number, tokens, context))
    return probes


def answers(probes: Sequence[Probe], scorer: Scorer, row_length: int) -> list[dict[str, float]]:
    """What a model answers to each probe, by name of the measure.

    `loss` is that of the correct option, in nats per token. A continuation also has `exact`: whether greedy decoding
    gives it. A choice has `accuracy` (the correct option is the most likely) and `accuracy_normalized` (it is the most
    likely per token). Exposure has `exposure`: log2 of the number of options minus log2 of the correct one's rank.

    Args:
        probes: what to ask.
        scorer: returns summed losses and greedy matches of options.
        row_length: the model's maximum; longer items are cut to their first tokens.
    """
    options = [
        Option(probe.context[-row_length + 1 :], option[: max(1, row_length - len(probe.context))])
        for probe in probes
        for option in probe.options
    ]
    scored = scorer(options)
    lengths = np.array([len(option.answer) for option in options])
    answers, first = [], 0
    for probe in probes:
        mine = slice(first, first + len(probe.options))
        first = mine.stop
        answers.append(
            {_name(probe, name): value for name, value in _values(probe, scored[mine], lengths[mine]).items()}
        )
    return answers


def _values(probe: Probe, scored: Float[np.ndarray, "o 2"], lengths: Int64[np.ndarray, " o"]) -> dict[str, float]:
    losses, by_token = scored[:, 0], scored[:, 0] / lengths
    values = {"loss": float(by_token[probe.right])}
    if probe.kind == "continuation":
        return values | {"exact": float(scored[0, 1])}
    if probe.kind == "choice":
        best = {"accuracy": losses, "accuracy_normalized": by_token}
        return values | {name: float(of.argmin() == probe.right) for name, of in best.items()}
    others = np.delete(losses, probe.right)
    # A tie counts half, so that a model that knows nothing has the middle rank.
    rank = 1 + int((others < losses[probe.right]).sum()) + int((others == losses[probe.right]).sum()) / 2
    return values | {"exposure": math.log2(len(losses)) - math.log2(rank)}


def _name(probe: Probe, measure: str) -> str:
    return f"{probe.measure}_{measure}" if probe.measure else measure


def means(task: Task, probes: Sequence[Probe], answers: Sequence[Mapping[str, float]]) -> dict[str, Mean]:
    """The mean of each measure and, as MEASURE/GROUP, the means of the task's groups if there are few.

    Args:
        task: supplies the groups.
        probes: the probes that were asked.
        answers: the answers to each.
    """
    groups = task.groups if 1 < len(set(task.groups)) <= MOST_GROUPS else ()
    values: dict[str, list[float]] = {}
    for probe, of_probe in zip(probes, answers, strict=True):
        for name, value in of_probe.items():
            values.setdefault(name, []).append(value)
            if groups:
                values.setdefault(f"{name}/{groups[probe.instance]}", []).append(value)
    return {name: Mean(sum(of) / len(of), len(of)) for name, of in sorted(values.items())}


def ask_trainer(trainer: InjectionTrainer, probes: Sequence[Probe]) -> list[dict[str, float]]:
    """The answers of the trainer's model, in its training precision (collective).

    Every rank scores its share. The model is left in evaluation mode.
    """

    def scorer(options: Sequence[Option]) -> np.ndarray:
        return score_with_trainer(trainer, options).cpu().numpy()

    trainer.dist_model.eval()
    return answers(probes, scorer, trainer.cfg.model.max_sequence_length)


def ask_model(model: nn.Module, probes: Sequence[Probe], batch_size: int) -> list[dict[str, float]]:
    """The answers of a plain model, in the precision of its weights.

    Args:
        model: any model of ai2-olmo or transformers.
        probes: what to ask.
        batch_size: number of options per forward pass, if they have the longest length.
    """
    model.eval()
    device = next(model.parameters()).device

    def scorer(options: Sequence[Option]) -> np.ndarray:
        longest = max(len(option.context) + len(option.answer) for option in options)
        return (
            score_items(lambda rows: model(input_ids=rows).logits, options, batch_size * longest, device).cpu().numpy()
        )

    config: Any = model.config
    longest_row = getattr(config, "max_sequence_length", None) or config.max_position_embeddings
    return answers(probes, scorer, longest_row)


def ask_task(
    model: nn.Module, task: Task, batch_size: int, most: int | None, seen_before: tuple[Plan, range] | None
) -> Iterator[dict[str, Any]]:
    """The answers to a task's probes: half, instance, group, measure, value, seen and last_seen of each.

    Args:
        model: as in `ask_model`.
        task: a task with probes.
        batch_size: as in `ask_model`.
        most: instances of each half, the same ones each time; None for all.
        seen_before: the plan of the model's run, and the steps that it was trained on; None: `seen` and `last_seen` are
            None.
    """
    seen, last = (None, None) if seen_before is None else sightings(seen_before[0], task, seen_before[1])
    for half in ("train", "test"):
        asked = probes_of(task, chosen_ids(task, half, most))
        for probe, values in zip(asked, ask_model(model, asked, batch_size) if asked else [], strict=True):
            i = probe.instance
            about = {
                "half": half,
                "instance": task.instance_id(i),
                "group": task.groups[i] if task.groups else None,
                "seen": None if seen is None else int(seen[i]),
                "last_seen": None if last is None or last[i] < 0 else int(last[i]),
            }
            for measure, value in values.items():
                yield about | {"measure": measure, "value": value}


@dataclass(frozen=True)
class ProbeResult:
    """What one checkpoint answers to one probe, in one measure.

    Attributes:
        checkpoint: folder of the checkpoint.
        step: completed steps; None if the checkpoint does not say.
        task: name of the task.
        half: `train` or `test`.
        instance: name of the instance.
        group: its group, if it has one.
        measure: name of the measure, as in metrics.
        value: the measured value.
        trained: whether the checkpoint's run was given this very task.
        seen: how often the run itself had injected the instance before the step; None if the run is not known.
        last_seen: the last step that injected it; None if none has.
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


def results_table(results: Sequence[ProbeResult]) -> Table:
    """A table of means over each half and group. Tasks that the checkpoint's run was not trained on have a star."""
    table = Table(box=SIMPLE, padding=0, show_edge=False)
    for name in ("checkpoint", "task", "half", "group", "measure", "mean", "n"):
        table.add_column(name, justify="right" if name in ("mean", "n") else "left", overflow="fold")
    rows: dict[tuple[str, ...], list[float]] = {}
    for result in results:
        name = result.task if result.trained else f"{result.task}*"
        for group in dict.fromkeys(("", result.group or "")):
            key = (result.checkpoint, name, result.half, group, result.measure)
            rows.setdefault(key, []).append(result.value)
    labels = checkpoint_labels(result.checkpoint for result in results)
    for (checkpoint, *key), values in rows.items():
        table.add_row(labels[checkpoint], *key, f"{sum(values) / len(values):.4f}", str(len(values)))
    if not all(result.trained for result in results):
        table.caption = "* not trained with"
    return table
