"""Read a run folder, checking the shape of its files and executing no code of the run.

The run folder may come from another user. So its tasks are read from `tasks/NAME.json`, and never built by the code
file that its experiment names as their kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from olmo_inject.config import CorpusConfig, Described, StreamExperiment, load_described
from olmo_inject.corpus.folder import DESCRIPTION
from olmo_inject.corpus.sources import is_remote
from olmo_inject.corpus.staged import STAGE
from olmo_inject.data import ExperimentData, TaskPlan, build_data, build_plan
from olmo_inject.errors import UserError
from olmo_inject.tasks import Task
from olmo_inject.tasks.registry import is_own_code
from olmo_inject.utils.files import read_json, read_lines
from olmo_inject.utils.json_shape import NUMBER, check_shape

EXPERIMENT = "experiment.yaml"
PLAN = "plan.json"
METRICS = "metrics.jsonl"
EVIDENCE_FILE = "evidence.jsonl"
TASKS = "tasks"
TASK_FINGERPRINT = "task "  # begins the names of the tasks' fingerprints in `plan.json`
INDICES = "data-indices"  # positions seen, as ai2-olmo writes them, a file a rank
LISTS = "lists"  # of injections, as entries of schedule `at` gave them, by number of the entry
EXPORT = "export.json"  # describes a stream that was written to files
SAVED = "saved.json"  # for trainers other than ai2-olmo's: the step of the last checkpoint
AUDIT = Path("analysis", "audit.json")  # the record of the last audit

_PLAN = {
    "run_id": str,
    "fingerprints": {str: str},
    "first_step?": int,
    "indices_from?": int,  # the first step of which ai2-olmo's lists of positions are kept
    "made_in?": str,
    "injections": {
        str: {
            "instances": NUMBER,
            "instances_are": str,
            "instances_per_batch": str,
            "per_sequence": NUMBER,
            "per_token": NUMBER,
            "most_in_a_batch": int,
            "steps_between_observations": (None, {"least": int, "mean": NUMBER, "most": int}),
            "mean_steps_between_sightings_of_one_instance": (None, *NUMBER),
        }
    },
}
_METRIC = {"step": int, "name": str, "value": (None, *NUMBER), "count?": int}
_EVIDENCE = {
    **{"step": int, "tokens": str, "rows": int, "targets": int, "overrides": int, "labels": {str: int}},
    "injected?": str,
}
_SAVED = {"step": int, "weights": {str: str}}
_AUDIT = {"verdict": str, "passed": bool, "steps": int}


@dataclass(frozen=True)
class SavedRun:
    """A run as its folder describes it.

    Attributes:
        folder: the run folder.
        experiment: the resolved configuration; relative paths are resolved from where the run was made.
        tasks: the tasks as they were built.
        plan: contents of `plan.json`.
    """

    folder: Path
    experiment: Described
    tasks: list[Task]
    plan: dict[str, Any]

    @property
    def own_steps(self) -> range:
        """The steps that the run itself trains: all, or of a branch those from where it begins."""
        return range(self.plan.get("first_step", 0), self.experiment.steps)

    @property
    def has_own_code(self) -> bool:
        """Whether the kind of one of its tasks is a class in a code file."""
        return any(is_own_code(task.kind) for task in self.experiment.tasks)

    @property
    def has_host(self) -> bool:
        """Whether its rows come from our corpus. Rows that another loader read cannot be recomputed."""
        return not isinstance(self.experiment, StreamExperiment) or self.experiment.has_host

    def build_plan(self) -> TaskPlan:
        """Call `data.build_plan` with the saved tasks."""
        return build_plan(self.experiment, self.tasks)

    def build_data(self) -> ExperimentData:
        """Call `data.build_data` with the saved tasks."""
        return build_data(self.experiment, tasks=self.tasks)


def is_run(path: Path) -> bool:
    """Whether the path is a run folder."""
    return (path / EXPERIMENT).is_file() and (path / PLAN).is_file()


def expand(paths: Sequence[Path]) -> list[Path]:
    """Each run folder, and in place of a folder of runs or of a sweep the runs below it.

    Raises:
        UserError: a path does not exist, or a run is given twice.
    """
    folders: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist")
        below = (
            [] if is_run(path) else sorted(path.glob(f"*/{EXPERIMENT}")) or sorted(path.glob(f"runs/*/{EXPERIMENT}"))
        )
        folders += [file.parent for file in below] or [path]
    resolved = [path.resolve() for path in folders]
    if twice := [path for path in folders if resolved.count(path.resolve()) > 1]:
        raise UserError(f"{twice[0]} is given twice")
    return folders


def load_run(folder: Path, corpus: Path | None = None) -> SavedRun:
    """Read a run's experiment, tasks and plan.

    Args:
        folder: the run folder.
        corpus: where its corpus is now, if it has moved.

    Raises:
        UserError: the folder is not a run, or a file of it is damaged.
    """
    if not folder.exists():
        raise UserError(f"{folder} does not exist")
    if not is_run(folder):
        raise UserError(f"{folder} is not a run folder: it has no {EXPERIMENT} and {PLAN}")
    plan = read_plan(folder)
    experiment = read_experiment(folder)
    experiment.folder = str(folder)  # a run may have been moved
    for number, entry in enumerate(experiment.injections):  # the user's file may have moved or changed
        if entry.file is not None and (kept := list_path(folder, number)).is_file():
            entry.file = str(kept)
    _find_where_made(experiment, plan.get("made_in"))
    if corpus is not None:
        experiment.corpus = moved_corpus(experiment.corpus, corpus)
    return SavedRun(folder, experiment, load_tasks(folder, [task.name for task in experiment.tasks]), plan)


def run_of(file: Path | str) -> SavedRun | None:
    """The run that an `experiment.yaml` belongs to; None if the file belongs to no run."""
    path = Path(file)
    return load_run(path.parent) if path.name == EXPERIMENT and is_run(path.parent) else None


def saved_tasks(file: Path | str, experiment: Described) -> list[Task] | None:
    """The saved tasks of a run, so that no code and no file of texts is read that may have changed since.

    Args:
        file: the file that the experiment was loaded from.
        experiment: the experiment with the changes of the command line.

    Returns:
        The saved tasks; None if they are to be built: the file is in no run, or the command line changes its tasks.

    Raises:
        UserError: as in `load_run`, or the command line changes a task of such a run.
    """
    run = run_of(file)
    if run is None:
        return None
    if run.experiment.tasks != experiment.tasks:
        if not run.has_own_code:
            return None
        raise UserError(
            f"{file} is in a run folder, whose task code is not executed: copy the file to change its tasks"
        )
    return run.tasks


def list_path(folder: Path, number: int) -> Path:
    """Where a run keeps the list of injections of one of its entries."""
    return folder / LISTS / f"{number}.parquet"


def read_experiment(folder: Path) -> Described:
    """A run's `experiment.yaml`."""
    return load_described(folder / EXPERIMENT)


def read_plan(folder: Path) -> dict[str, Any]:
    """A run's `plan.json`."""
    plan = read_json(folder / PLAN)
    check_shape(plan, _PLAN, str(folder / PLAN))
    return plan


def load_tasks(folder: Path, names: Iterable[str] | None = None) -> list[Task]:
    """The tasks of a run as they were built.

    Args:
        folder: the run folder.
        names: which; None: all that its plan names, which is much quicker than reading its experiment.
    """
    if names is None:
        recorded = read_plan(folder)["fingerprints"]
        names = [name.removeprefix(TASK_FINGERPRINT) for name in recorded if name.startswith(TASK_FINGERPRINT)]
    return [Task.load(folder / TASKS / f"{name}.json") for name in names]


def read_metrics(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of a run's measurements."""
    return _lines(folder / METRICS, _METRIC)


def read_evidence(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of a run's evidence."""
    return _lines(folder / EVIDENCE_FILE, _EVIDENCE)


def read_saved(folder: Path) -> dict[str, Any] | None:
    """For a trainer other than ai2-olmo's: its last checkpoint's step, and checksums of all checkpoints' weights."""
    path = folder / SAVED
    if not path.exists():
        return None
    saved = read_json(path)
    check_shape(saved, _SAVED, str(path))
    return saved


def read_audit(folder: Path) -> dict[str, Any] | None:
    """The record of a run's last audit, or None."""
    path = folder / AUDIT
    if not path.exists():
        return None
    audit = read_json(path)
    check_shape(audit, dict, str(path))
    if "verdict" not in audit:  # older records have no verdict
        return None
    check_shape(audit, _AUDIT, str(path))
    return audit


def moved_corpus(corpus: CorpusConfig, folder: Path) -> CorpusConfig:
    """The configuration of a corpus that has moved to `folder`; fingerprints show later whether it is the same."""
    if not folder.is_dir():
        raise UserError(f"--corpus: {folder} is not a folder")
    if (folder / STAGE).is_file():  # of the sequences of certain steps
        return CorpusConfig(folder=str(folder), seed=corpus.seed)
    if (folder / DESCRIPTION).is_file():
        return CorpusConfig(folder=str(folder), seed=corpus.seed, sequences=corpus.sequences)
    if corpus.name is not None:
        return replace(corpus, root=str(folder))
    if corpus.paths:
        return replace(corpus, paths=[str(folder / Path(path).name) for path in corpus.paths])
    raise UserError(f"--corpus: {folder} is not a corpus folder: it has no {DESCRIPTION} and no {STAGE}")


def _lines(path: Path, shape: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    for number, line in enumerate(read_lines(path), 1):
        check_shape(line, shape, f"{path}: line {number}")
        yield line


def _find_where_made(experiment: Described, made_in: str | None) -> None:
    """Resolve relative paths of data from the folder where the run was made, if they exist there."""
    if made_in is None:  # older runs do not record it
        return
    corpus = experiment.corpus

    def resolved(path: str | None) -> str | None:
        if path is None or is_remote(path) or Path(path).is_absolute():
            return path
        there = Path(made_in, path)
        return str(there) if there.exists() or any(there.parent.glob(there.name)) else path

    for name in ("name", "root", "manifest", "folder", "tokenizer"):
        setattr(corpus, name, resolved(getattr(corpus, name)))
    corpus.paths = [str(resolved(path)) for path in corpus.paths]
    if (masks := experiment.loading.label_mask_paths) is not None:
        masks[:] = [str(resolved(path)) for path in masks]
