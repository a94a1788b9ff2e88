"""The folder of a build: check it, hold it, and clear it after a failure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from olmo_inject.corpus.folder import BUILDING, CORPUS_FOLDER, DESCRIPTION, PLAN
from olmo_inject.corpus.from_text.sample import check_free
from olmo_inject.errors import UserError
from olmo_inject.utils.files import read_json, write_json
from olmo_inject.utils.owned_folder import absent, remove_empty

FORMAT = 1


@contextmanager
def prepared(folder: Path, plan: dict[str, Any], overwrite: bool) -> Iterator[bool]:
    """Hold the folder for this build, cleared of any other build. Yields whether this build is already finished.

    A build that fails before it has finished a shard leaves nothing, so that a corrected command finds the folder free.

    Args:
        folder: absolute.
        plan: sources and options; an interrupted build of the same plan is continued.
        overwrite: replace a corpus or an unfinished build in the folder.

    Raises:
        UserError: the folder holds something else, or another process builds there.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    plan, made = _with_format(plan), absent(folder)
    with CORPUS_FOLDER.held(folder):  # first, since until then another build may fill the folder
        with _cleaned_up(folder, plan, made):
            _begin(folder, plan, overwrite)
            yield (folder / DESCRIPTION).is_file()
        CORPUS_FOLDER.remove_work(folder)


@contextmanager
def prepared_for_parts(folder: Path, plan: dict[str, Any], first: Callable[[], object]) -> Iterator[None]:
    """Hold the folder together with other processes that do parts of this build.

    Args:
        folder: absolute.
        plan: as in `prepared`.
        first: what the first of them does for all.

    Raises:
        UserError: as in `prepared`, and as `first`.
    """
    plan, made = _with_format(plan), absent(folder)

    def begin() -> None:
        with _cleaned_up(folder, plan, made):
            _begin(folder, plan, overwrite=False)
            first()

    with CORPUS_FOLDER.held_together(folder, lambda: _is_begun(folder, plan), begin):
        yield


def is_of(folder: Path, plan: dict[str, Any]) -> bool:
    """Whether the folder holds this build, finished or not."""
    return _is_begun(folder, _with_format(plan))


def _with_format(plan: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps({"format": FORMAT} | plan))


@contextmanager
def _cleaned_up(folder: Path, plan: dict[str, Any], made: Sequence[Path]) -> Iterator[None]:
    """Clean up after a failure in the body."""
    try:
        yield
    except BaseException:
        _leave(folder, plan, made)
        raise


def _begin(folder: Path, plan: dict[str, Any], overwrite: bool) -> None:
    """Clear the folder for this build, unless it has begun there."""
    if overwrite or not _is_begun(folder, plan):
        _check_unfinished(folder, plan, overwrite)
        _check_finished(folder, plan, overwrite)
        check_free(folder, overwrite or _is_unfinished(folder))
        CORPUS_FOLDER.clear(folder)
        write_json(folder / PLAN, plan)


def _begun(folder: Path) -> dict[str, Any] | None:
    """The plan of the build in the folder, if there is one."""
    with suppress(UserError):
        plan = read_json(folder / PLAN)
        return plan if isinstance(plan, dict) and "inputs" in plan else None


def _is_begun(folder: Path, plan: dict[str, Any]) -> bool:
    """Whether the folder holds this build. Where it did not record when inputs were modified, sizes decide."""
    begun = _begun(folder)
    if begun is not None and not any("modified" in one for one in begun["inputs"]):
        plan = plan | {"inputs": [{key: one[key] for key in one if key != "modified"} for one in plan["inputs"]]}
    return begun == plan


def _leave(folder: Path, plan: dict[str, Any], made: Sequence[Path]) -> None:
    """Clean up after a failure: keep finished shards and foreign files, remove the rest and the folders made."""
    if _has_shards(folder):
        return
    if _is_unfinished(folder) and _is_begun(folder, plan):
        CORPUS_FOLDER.clear(folder)
    if not _is_unfinished(folder):
        CORPUS_FOLDER.remove_work(folder)
    remove_empty(made)


def _has_shards(folder: Path) -> bool:
    """Whether an unfinished build has finished a shard."""
    return any((folder / BUILDING).glob("part-*.json"))


def _is_unfinished(folder: Path) -> bool:
    return _begun(folder) is not None and not (folder / DESCRIPTION).is_file()


def _check_unfinished(folder: Path, plan: dict[str, Any], overwrite: bool) -> None:
    """Check that no finished shards of another build would be lost."""
    if overwrite or not (_is_unfinished(folder) and _has_shards(folder)):
        return
    begun = _begun(folder)
    assert begun is not None
    raise UserError(
        f"{folder} holds finished shards of an interrupted build with {_differences(begun, plan)}: continue with "
        "that, or give --overwrite to start again"
    )


def _check_finished(folder: Path, plan: dict[str, Any], overwrite: bool) -> None:
    """Check that the folder does not hold the corpus of this build with inputs as they were before."""
    begun = _begun(folder)
    if overwrite or begun is None or not (folder / DESCRIPTION).is_file():
        return
    changed = [i["path"] for i in plan["inputs"] if i not in begun["inputs"]]
    if changed and begun.get("options") == plan["options"]:
        raise UserError(
            f"{folder} holds a corpus that has not read {changed[0]} as it is now; --overwrite builds it anew"
        )


def _differences(begun: dict[str, Any], plan: dict[str, Any]) -> str:
    """How the interrupted build differs from this one, in a few words."""
    theirs, ours = ({**p.get("options", {}), **p.get("options", {}).get("text", {})} for p in (begun, plan))
    options = [f"{key} {value}" for key, value in theirs.items() if key != "text" and ours.get(key) != value]
    if options:
        return ", ".join(options)
    here = [i for i in plan["inputs"] if i not in begun.get("inputs", [])]
    return f"other sources (it has not read {here[0]['path']} as it is now)" if here else "more sources"
