"""Evaluate checkpoints on downstream suites through lm-eval, EleutherAI's evaluation harness (extra `suites`)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE
from rich.table import Table

from olmo_inject.errors import UserError, in_one_line
from olmo_inject.runs.checkpoints import checkpoint_labels
from olmo_inject.training.checkpoints.convert import fast_tokenizer, find_vocabulary
from olmo_inject.training.checkpoints.on_disk import step_of
from olmo_inject.utils.extras import require
from olmo_inject.utils.files import sha256_of


@dataclass(frozen=True)
class SuiteResult:
    """One measure of one checkpoint on one task of lm-eval.

    Attributes:
        checkpoint: folder of the checkpoint.
        step: completed steps; None if the checkpoint does not say.
        suite: name of the task or group in lm-eval.
        measure: its name there, such as `acc` or `acc_norm`.
        value: its value.
        stderr: its standard error, if lm-eval gives one.
    """

    checkpoint: str
    step: int | None
    suite: str
    measure: str
    value: float
    stderr: float | None

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Suites:
    """Tasks of lm-eval.

    Attributes:
        names: of tasks or groups.
        manager: lm-eval's own, which knows them.
        folder: of further tasks, if there are any.
    """

    names: list[str]
    manager: Any
    folder: Path | None

    @classmethod
    def find(cls, names: Sequence[str], folder: Path | None) -> Suites:
        """The suites of these names.

        Args:
            names: of lm-eval's tasks or groups, or of tasks in `folder`.
            folder: YAML files of further tasks.

        Raises:
            UserError: lm-eval is not installed, there is no such folder, or a name is unknown.
        """
        require("lm_eval")
        from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        if folder is not None and not folder.is_dir():
            raise UserError(f"--suites-in: {folder} is not a folder")
        given = None if folder is None else str(folder)
        manager = TaskManager(include_path=given, include_defaults=folder is None)
        if folder is not None and not set(names) <= set(manager.all_tasks):  # reading its own thousands takes a while
            manager = TaskManager(include_path=given)
        known = set(manager.all_tasks)
        if unknown := [name for name in names if name not in known]:
            where = "" if folder is None else f" nor in {folder}"
            raise UserError(f"--suite: {unknown[0]!r} is no task or group of lm-eval{where}")
        return cls(list(names), manager, folder)

    def identity(self) -> dict[str, Any]:
        """What decides the results beside the checkpoint, in JSON types."""
        files = sorted(self.folder.rglob("*.yaml")) if self.folder is not None else []
        return {"suites": self.names, "lm_eval": version("lm-eval"), "files": [sha256_of(file) for file in files]}

    def evaluate(self, checkpoint: Path, device: torch.device, batch_size: int, most: int | None) -> list[SuiteResult]:
        """Evaluate a checkpoint on the suites.

        Args:
            checkpoint: a checkpoint of any kind, in a run whose corpus has a tokenizer.
            device: where to compute, in float32.
            batch_size: sequences per forward pass.
            most: maximum items of each suite; None: all.

        Raises:
            UserError: as in `load_model`; no tokenizer; or a suite failed, for example since its data are not here.
        """
        from lm_eval.evaluator import simple_evaluate  # pyright: ignore[reportMissingImports]
        from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]

        from olmo_inject.training.checkpoints.load import load_model

        vocabulary, why_none = find_vocabulary(checkpoint, None)
        if vocabulary is None:
            raise UserError(f"{checkpoint}: a suite needs a tokenizer: {why_none}")
        model: Any = load_model(checkpoint)
        longest = model.config.max_position_embeddings
        tokenizer: Any = fast_tokenizer(vocabulary, longest)
        try:
            with torch.no_grad():
                harness = HFLM(model.to(device), tokenizer=tokenizer, batch_size=batch_size, max_length=longest)
                evaluated = simple_evaluate(
                    harness, tasks=self.names, limit=most, task_manager=self.manager, log_samples=False
                )
        except Exception as error:  # whatever lm-eval, a task's code or the loading of its data raises
            message = in_one_line(error)[:300]
            raise UserError(f"--suite {', '.join(self.names)}: {type(error).__name__}: {message}") from error
        assert evaluated is not None
        return [
            SuiteResult(
                str(checkpoint),
                step_of(checkpoint),
                suite,
                key.removesuffix(",none"),
                float(value),
                _stderr(values, key),
            )
            for suite, values in evaluated["results"].items()
            for key, value in values.items()
            if isinstance(value, float | int) and "," in key and not key.partition(",")[0].endswith("_stderr")
        ]


def _stderr(values: dict[str, Any], key: str) -> float | None:
    measure, _, filtered = key.partition(",")
    error = values.get(f"{measure}_stderr,{filtered}")
    return float(error) if isinstance(error, float | int) else None


def suites_table(results: Sequence[SuiteResult]) -> Table:
    """A table with a row for each measure."""
    table = Table(box=SIMPLE, padding=0, show_edge=False)
    for name in ("checkpoint", "suite", "measure", "value", "stderr"):
        table.add_column(name, justify="right" if name in ("value", "stderr") else "left", overflow="fold")
    labels = checkpoint_labels(result.checkpoint for result in results)
    for result in results:
        table.add_row(
            labels[result.checkpoint],
            result.suite,
            result.measure,
            f"{result.value:.4f}",
            "" if result.stderr is None else f"{result.stderr:.4f}",
        )
    return table
