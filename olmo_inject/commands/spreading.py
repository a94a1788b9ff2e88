"""Divide a command's work among processes: `--part`, `--submit`, `--merge` and their companions, the same everywhere.

A command lists its independent items and asks `Spread.to_do` for those that it has to do now. What one process has
finished is kept, so the command without these options, or with `--merge`, finds it.
"""

from __future__ import annotations

import functools
import inspect
import os
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from olmo_inject.commands.shared import print_json, stoppable
from olmo_inject.errors import UserError
from olmo_inject.utils.files import sha256_of_json
from olmo_inject.utils.number_ranges import MOST_PARTS
from olmo_inject.utils.options import check_options
from olmo_inject.utils.parts_of_work import Compute, Item, KeptResults, Part, in_one_process
from olmo_inject.utils.words import counted

if TYPE_CHECKING:
    from launch.parts import Parts

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
PANEL = "Over several processes, or a cluster"
JOBS = "jobs"  # folder for scripts and logs, beside the results
OPTIONS: dict[str, Any] = {
    "submit": Annotated[
        str | None,
        typer.Option(
            help="slurm: submit what is missing as a job array and return; the same command again submits what is "
            "missing then. local: do it in several processes here, and go on.",
            show_default=False,
            rich_help_panel=PANEL,
        ),
    ],
    "site": Annotated[
        Path | None,
        typer.Option(help="The cluster's settings, as for `sweep submit`.", show_default=False, rich_help_panel=PANEL),
    ],
    "parts": Annotated[
        int | None,
        typer.Option(
            help=f"How many parts, at most {MOST_PARTS:,}; default one per item; with local one per GPU or core.",
            show_default=False,
            rich_help_panel=PANEL,
        ),
    ],
    "part": Annotated[
        str | None,
        typer.Option(
            help="Do only part i of n and keep its results, e.g. 0/8; jobs of --submit do this.",
            show_default=False,
            rich_help_panel=PANEL,
        ),
    ],
    "merge": Annotated[
        bool,
        typer.Option(
            "--merge", help="Compute nothing: deliver what is kept, or name what is missing.", rich_help_panel=PANEL
        ),
    ],
}


def jobs_folder(paths: Sequence[Path]) -> Path:
    """The folder for scripts, logs and results of jobs, in the folder that all runs or models have in common.

    Args:
        paths: run folders, folders of runs, checkpoints of runs, or folders of weights.
    """
    from olmo_inject.runs.checkpoints import run_and_step

    resolved = [path.resolve() for path in paths]
    folders = [path if (place := run_and_step(path)) is None else place[0] for path in resolved]
    return Path(os.path.commonpath(folders), "analysis", JOBS)


@dataclass
class Spread:
    """How a command's work is divided. By default this process does all of it.

    Attributes:
        submit: `slurm` or `local`.
        site: file with the cluster's settings.
        parts: how many to submit.
        part: what this process is to do.
        merge: whether to use only what is kept.
        command: words of the command, such as `analyze patching`.
        arguments: options and arguments as given, without those of this class and --json.
        as_json: whether to print JSON.
        wants_gpu: whether the command computes on a GPU if there is one.
    """

    submit: str | None = None
    site: Path | None = None
    parts: int | None = None
    part: Part | None = None
    merge: bool = False
    command: list[str] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)
    as_json: bool = False
    wants_gpu: bool = False

    def __post_init__(self) -> None:
        given = {"--submit": self.submit, "--part": self.part, "--merge": self.merge}
        if len(both := [name for name, value in given.items() if value]) > 1:
            raise UserError(f"{both[0]} and {both[1]}: give one of them")
        check_options(submit=self.submit)
        if self.site is not None and self.submit != "slurm":
            raise UserError("--site: only with --submit slurm")
        if self.parts is not None and self.submit is None:
            raise UserError("--parts: only with --submit")

    @property
    def is_spread(self) -> bool:
        """Whether results are exchanged with other processes."""
        return bool(self.submit or self.part or self.merge)

    def to_do(
        self, items: Sequence[T], is_kept: Callable[[T], bool], name: Callable[[T], str], noun: str, folder: Path
    ) -> list[T]:
        """The items that this process has to do, or whose kept results it has to deliver.

        Args:
            items: all of the command's items, which do not depend on each other.
            is_kept: whether the result of an item is kept.
            name: of an item, for messages.
            noun: what an item is; its plural ends in s.
            folder: for scripts and logs of jobs.

        Raises:
            UserError: with `merge`, an item is not kept; as in `submit_parts` and `run_parts`.
            typer.Exit: the rest was submitted.
        """
        if self.part is not None:
            return self.part.of(items)
        if self.is_spread:
            missing = [number for number, item in enumerate(items) if not is_kept(item)]
            if missing and self.submit is not None:
                self._submit(len(items), missing, noun, folder)
            elif missing:
                few = ", ".join(name(items[number]) for number in missing[:3])
                raise UserError(
                    f"--merge: {len(missing):,} of {counted(len(items), noun)} not kept: {few}"
                    + (", ..." if len(missing) > 3 else "")
                    + "; --submit or --part does them"
                )
        return list(items)

    def results(
        self, items: Sequence[Item[Any]], compute: Compute, noun: str, folder: Path, name: str
    ) -> Iterable[Any]:
        """The results of all items: computed here, or by several processes that keep them in `folder`.

        Args:
            items: all of the command's items.
            compute: from values of items to their results, in order and in JSON types.
            noun: what an item is; its plural ends in s.
            folder: for scripts, logs and kept results.
            name: of this work in the folder.

        Raises:
            UserError: as in `to_do`; a kept result is damaged or foreign.
            typer.Exit: a part was done, or parts were submitted.
        """
        if not self.is_spread:
            return in_one_process(items, compute)
        kept = KeptResults(folder / name)

        def do(mine: Sequence[Item[Any]]) -> None:
            for item, result in zip(mine, compute([item.value for item in mine]), strict=True):
                kept.write(item, result)

        self.step(items, kept.has, lambda item: item.name, noun, folder, do)
        return (kept.read(item) for item in items)

    def step(
        self,
        items: Sequence[T],
        is_kept: Callable[[T], bool],
        name: Callable[[T], str],
        noun: str,
        folder: Path,
        do: Callable[[list[T]], None],
    ) -> None:
        """One step of a command whose items are divided among processes. Without division nothing is done here.

        A part whose step is finished already returns, so that it goes on to the next step.

        Args:
            items: as in `to_do`.
            is_kept: as in `to_do`.
            name: as in `to_do`.
            noun: as in `to_do`.
            folder: as in `to_do`.
            do: does items and keeps their results.

        Raises:
            UserError: as in `to_do` and `do`.
            typer.Exit: a part was done, or parts were submitted.
        """
        if self.part is None:
            self.to_do(items, is_kept, name, noun, folder)
            if self.submit == "local" and (missing := [name(item) for item in items if not is_kept(item)]):
                raise UserError(f"{counted(len(missing), noun)} not done, {missing[0]}: see the logs in {folder}")
        elif not all(map(is_kept, items)):
            mine = self.part.of(items)
            if todo := [item for item in mine if not is_kept(item)]:
                do(todo)
            self.end_of_part(len(mine), noun)

    def check_overwrite(self, overwrite: bool) -> None:
        """Check that no part replaces what the others do.

        Raises:
            UserError: it would.
        """
        if overwrite and self.is_spread:
            raise UserError("--overwrite: not with --submit, --part or --merge; delete the folder first")

    def end_of_part(self, done: int = 0, noun: str = "item", status: int = 0) -> None:
        """End here if this process does a part, or has only to submit what is missing.

        Args:
            done: number of items.
            noun: what an item is; its plural ends in s.
            status: exit status.
        """
        if self.part is not None:
            line = f"part {self.part}: {counted(done, noun)} done"
            self._end({"part": str(self.part), "done": done}, line, status)
        if self.submit == "slurm":
            line = "nothing is missing; the same command with --merge delivers the results"
            self._end({"missing": 0}, line)

    def _submit(self, total: int, missing: Sequence[int], noun: str, folder: Path) -> None:
        """Do or submit the parts with missing items.

        Raises:
            typer.Exit: after they were submitted.
        """
        from launch.job_arrays import load_site, most_elements
        from launch.parts import processes_here, run_parts, submit_parts

        left = f"{total - len(missing):,} of {counted(total, noun)} kept"
        if self.submit == "local":
            at_once = processes_here(self.wants_gpu)
            with stoppable():
                run_parts(self._parts(min(self.parts or at_once, total), missing, folder), at_once)
            return
        parts = self._parts(min(self.parts or min(MOST_PARTS, most_elements()), total), missing, folder)
        submitted = submit_parts(parts, load_site(self.site))
        self._end({"kept": total - len(missing), "of": total, "submitted": submitted}, f"{left}; {submitted}")

    def _parts(self, count: int, missing: Sequence[int], folder: Path) -> Parts:
        from launch.parts import Parts

        key = sha256_of_json([str(Path.cwd()), *self.command, *self.arguments])[:8]
        place = folder / f"{'-'.join(self.command)}-{key}"
        of_missing = sorted({number % count for number in missing})
        return Parts(self.command, self.arguments, place, count, of_missing, self.wants_gpu)

    def _end(self, record: dict[str, Any], line: str, status: int = 0) -> NoReturn:
        print_json(record) if self.as_json else print(line, flush=True)
        raise typer.Exit(status)


def spreads(command: F) -> F:
    """Give a command the options of this module in place of its parameter `spread`, a `Spread`."""
    hints = typing.get_type_hints(command, include_extras=True)
    signature = inspect.signature(command)

    @functools.wraps(command)
    def called(typer_context: typer.Context, **given: Any) -> Any:
        own = {name: given.pop(name) for name in OPTIONS}
        own["part"] = None if own["part"] is None else Part.parse(own["part"])
        words, arguments = _command_line(typer_context)
        wants_gpu = given.get("device", "cpu") != "cpu"
        spread = Spread(
            **own, command=words, arguments=arguments, as_json=given.get("as_json", False), wants_gpu=wants_gpu
        )
        return command(**given, spread=spread)

    keyword = inspect.Parameter.KEYWORD_ONLY
    kept = [p.replace(annotation=hints[p.name]) for p in signature.parameters.values() if p.name != "spread"]
    added = [
        inspect.Parameter(name, keyword, default=False if name == "merge" else None, annotation=annotation)
        for name, annotation in OPTIONS.items()
    ]
    first = inspect.Parameter("typer_context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    parameters = [first, *(p.replace(kind=keyword) for p in kept), *added]
    vars(called)["__signature__"] = signature.replace(parameters=parameters)
    called.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": hints.get("return")}
    return typing.cast("F", called)


def _command_line(context: typer.Context) -> tuple[list[str], list[str]]:
    """The words of the command, and its options and arguments as the user gave them, without those of `OPTIONS`."""
    options, arguments = list[str](), list[str]()
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is None or source.name != "COMMANDLINE" or parameter.name in {*OPTIONS, "as_json"}:
            continue
        value: Any = context.params[parameter.name or ""]
        values = [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]
        if parameter.param_type_name == "argument":
            arguments += values
        elif isinstance(value, bool):
            options.append((parameter.opts if value else parameter.secondary_opts)[0])
        else:
            options += [word for one in values for word in (parameter.opts[0], one)]
    return context.command_path.split()[1:], [*options, *(["--", *arguments] if arguments else [])]
