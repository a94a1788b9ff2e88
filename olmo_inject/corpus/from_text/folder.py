"""The folder of a build: whose it is, what of an earlier build goes on in it, and what a failed one leaves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from olmo_inject.corpus.folder import DESCRIPTION, OWN_FILES, PLAN
from olmo_inject.corpus.from_text.sample import check_free
from olmo_inject.corpus.from_text.shard_writer import WORK
from olmo_inject.errors import UserError
from olmo_inject.files import absent, read_json, remove_empty, write_json
from olmo_inject.locks import locked, remove_with_lock

FORMAT = 1


@contextmanager
def prepared(folder: Path, plan: dict[str, Any], overwrite: bool) -> Iterator[bool]:
    """Hold the folder for this build, cleared of what is not its own; whether it is finished already.

    A build that fails before a shard is finished leaves nothing, so that a corrected command finds the folder free.

    Args:
        folder: absolute.
        plan: what is built from what; a build of the same plan goes on.
        overwrite: replace a corpus, or an unfinished build, that is there.

    Raises:
        UserError: something else is in the folder, or another process builds there.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    plan, made = json.loads(json.dumps({"format": FORMAT} | plan)), absent(folder)
    lock = folder / WORK / "lock"
    with locked(lock, lambda: f"{folder} is in use: another process is building it", str(folder)):
        # Only now: until the lock was ours, another build may have filled the folder.
        try:
            if _begun(folder) != plan or overwrite:
                _check_unfinished(folder, plan, overwrite)
                check_free(folder, overwrite or _is_unfinished(folder))
                _clear(folder)
                write_json(folder / PLAN, plan)
            yield (folder / DESCRIPTION).is_file()
        except BaseException:
            _leave(folder, plan, made)
            raise
        remove_with_lock(lock)


def _begun(folder: Path) -> dict[str, Any] | None:
    """The plan of the build that the folder is of, if it is of any."""
    with suppress(UserError):
        plan = read_json(folder / PLAN)
        return plan if isinstance(plan, dict) and "inputs" in plan else None


def _leave(folder: Path, plan: dict[str, Any], made: Sequence[Path]) -> None:
    """After a failure: what is another's stays, and finished shards; else nothing, nor the folders made for it."""
    if _has_shards(folder):
        return
    if _is_unfinished(folder) and _begun(folder) == plan:
        _clear(folder)
    if not _is_unfinished(folder):
        remove_with_lock(folder / WORK / "lock")
    remove_empty(made)


def _has_shards(folder: Path) -> bool:
    """Whether an unfinished build has finished any."""
    return any((folder / WORK).glob("part-*.json"))


def _is_unfinished(folder: Path) -> bool:
    return _begun(folder) is not None and not (folder / DESCRIPTION).is_file()


def _clear(folder: Path) -> None:
    """Remove a corpus or the beginning of one, first what vouches for the rest; the lock stays, and all else too."""
    (folder / DESCRIPTION).unlink(missing_ok=True)
    for path in (folder / WORK).iterdir():
        if path.name != "lock":
            path.unlink()
    for path in folder.iterdir():
        if path.is_file() and path.name != PLAN and OWN_FILES.fullmatch(path.name):
            path.unlink()
    (folder / PLAN).unlink(missing_ok=True)


def _check_unfinished(folder: Path, plan: dict[str, Any], overwrite: bool) -> None:
    """Refuse to lose the finished shards of another build."""
    if overwrite or not (_is_unfinished(folder) and _has_shards(folder)):
        return
    begun = _begun(folder)
    assert begun is not None
    differ = _differences(begun, plan)
    raise UserError(
        f"{folder} holds finished shards of a build that was interrupted, of {differ}: the command with those goes on "
        "with it, --overwrite builds anew"
    )


def _differences(begun: dict[str, Any], plan: dict[str, Any]) -> str:
    """What another build has that this one has not, in a few words."""
    theirs, ours = ({**p.get("options", {}), **p.get("options", {}).get("text", {})} for p in (begun, plan))
    options = [f"{key} {value}" for key, value in theirs.items() if key != "text" and ours.get(key) != value]
    if options:
        return ", ".join(options)
    here = [i for i in plan["inputs"] if i not in begun.get("inputs", [])]
    return f"other sources (it has not read {here[0]['path']} as it is now)" if here else "more sources"
