"""Checks of what experiments of all trainers have in common: corpus, tasks, injections and references."""

from __future__ import annotations

from collections.abc import Sequence

from olmo_inject.config.parts import DRAWS, SCHEDULES, CorpusConfig, Described, InjectionConfig
from olmo_inject.errors import UserError
from olmo_inject.injection.frequency import UNITS
from olmo_inject.tasks import SPLICED_TOKENS, check_name


def check_stream(experiment: Described, length: str) -> None:
    """Check tasks, injections and references.

    Args:
        experiment: what to check.
        length: the key of its sequence length.

    Raises:
        UserError: one line that names the key, the value and what is allowed.
    """
    names = [task.name for task in experiment.tasks]
    for name in names:
        check_name(name, "tasks")
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"tasks: two are named {twice[0]}")
    for injection in experiment.injections:
        _check_injection(experiment, injection, names)
    _check_references(experiment, names)
    injected = [injection.task for injection in experiment.injections]
    if len(set(injected)) != len(injected):
        raise UserError("injections: a task stands twice; give each task one entry")
    if experiment.injections and experiment.sequence_length < SPLICED_TOKENS + 1:
        raise UserError(
            f"{length}: {experiment.sequence_length} leaves no host text after the {SPLICED_TOKENS} spliced tokens"
        )


def check_folder(where: str, path: str) -> None:
    """Refuse an address for a folder.

    Raises:
        UserError: it is one.
    """
    if "://" in path:
        raise UserError(f"{where}: {path} is an address; it must be a folder of this machine")


def check_corpus(experiment: Described, *, may_be_none: bool = False) -> None:
    """Check that run folder and corpus are named in one way that can be.

    Args:
        experiment: what to check.
        may_be_none: whether somebody else may load the rows.

    Raises:
        UserError: one line that names the key, the value and what is allowed.
    """
    check_folder("folder", experiment.folder)
    corpus = experiment.corpus
    for path in [corpus.folder or "", *corpus.paths]:
        if "://" in path:
            where = "folder" if path == corpus.folder else "paths"
            raise UserError(
                f"corpus.{where}: {path} is an address; write shards that lie elsewhere as corpus.name with corpus.root"
            )
    given = [key for key in ("name", "folder", "paths") if getattr(corpus, key)]
    if len(given) != 1 and not (may_be_none and not given):
        raise UserError(f"corpus: give one of name, folder and paths, not {' and '.join(given) or 'none'}")
    for name in ("dtype", "tokenizer", "vocab_size"):
        if given not in ([], ["paths"]) and getattr(corpus, name) != getattr(CorpusConfig(), name):
            raise UserError(f"corpus.{name}: not with corpus.{given[0]}, which says it itself")
    for name in ("root", "manifest"):
        if given != ["name"] and getattr(corpus, name) is not None:
            raise UserError(f"corpus.{name}: only with corpus.name")


def _check_injection(experiment: Described, injection: InjectionConfig, names: Sequence[str]) -> None:
    where = f"injections: {injection.task}"
    if injection.task not in names:
        raise UserError(f"injections: task {injection.task!r} is not one of {', '.join(names) or 'none declared'}")
    if injection.schedule not in SCHEDULES:
        raise UserError(f"{where}: schedule {injection.schedule!r} is not one of {', '.join(SCHEDULES)}")
    if injection.draw not in DRAWS:
        raise UserError(f"{where}: draw {injection.draw!r} is not one of {', '.join(DRAWS)}")
    units = [unit for unit in UNITS if getattr(injection, unit) is not None]
    burst_keys = [name for name in ("instances", "every") if getattr(injection, name) is not None]
    if injection.schedule == "burst":
        if units or len(burst_keys) != 2:
            raise UserError(f"{where}: a burst takes instances and every (and phase), no rate")
        _positive(f"{where}: instances", injection.instances)
        _positive(f"{where}: every", injection.every)
        if not 0 <= injection.phase < (injection.every or 1):
            raise UserError(f"{where}: phase {injection.phase} is not in 0..{(injection.every or 1) - 1}")
    else:
        if burst_keys or injection.phase:
            raise UserError(f"{where}: instances, every and phase belong to schedule burst")
        if len(units) != 1:
            raise UserError(f"{where}: give exactly one of {', '.join(UNITS)}")
        rate = experiment.frequency(injection).per_batch
        if rate > experiment.batch_size:
            raise UserError(
                f"{where}: {float(rate):g} instances per batch are more than its {experiment.batch_size} rows"
            )
    if injection.start < 0 or (injection.stop is not None and injection.stop <= injection.start):
        raise UserError(f"{where}: steps {injection.start} to {injection.stop} are not a window")
    if injection.start >= experiment.steps:
        raise UserError(f"{where}: start {injection.start} is beyond the run's {experiment.steps} steps")


def _check_references(experiment: Described, tasks: Sequence[str]) -> None:
    taken = set(tasks)
    for reference in experiment.references:
        check_name(reference.name, "references")
        if reference.name in taken:
            raise UserError(f"references: name {reference.name!r} stands twice, or is a task's; names must differ")
        if not reference.path:
            raise UserError(f"references: {reference.name}: path is missing: a file of `corpus scan --references`")
        taken.add(reference.name)


def _positive(where: str, value: int | None) -> None:
    if value is None or value < 1:
        raise UserError(f"{where}: {value} must be at least 1")
