"""The folder of a build: whose it is, what of an earlier build goes on in it, and what a failed one leaves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from olmo_inject.corpus.folder import DESCRIPTION
from olmo_inject.corpus.sample import check_free
from olmo_inject.corpus.shard_writer import WORK
from olmo_inject.errors import UserError
from olmo_inject.files import locked, read_json, write_json

PLAN = "build.json"
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
    plan = json.loads(json.dumps({"format": FORMAT} | plan))
    begun = read_json(folder / PLAN) if (folder / PLAN).is_file() else None
    anew, is_new = overwrite or begun != plan, not folder.exists()
    if anew:
        _check_unfinished(folder, begun, plan, overwrite)
        check_free(folder, overwrite or _is_unfinished(folder))
    in_use = f"{folder} is in use: another process is building it"
    with locked(folder / WORK / "lock", lambda: in_use, str(folder)):
        if anew:
            _clear(folder)
            write_json(folder / PLAN, plan)
        done = (folder / DESCRIPTION).is_file()
        try:
            yield done
        except BaseException:
            if not done and not _has_shards(folder):
                _clear(folder)
                shutil.rmtree(folder / WORK)
                if is_new:
                    with suppress(OSError):  # something else came in the meantime
                        folder.rmdir()
            raise
        shutil.rmtree(folder / WORK)


def _has_shards(folder: Path) -> bool:
    """Whether an unfinished build has finished any."""
    return any((folder / WORK).glob("part-*.json"))


def _is_unfinished(folder: Path) -> bool:
    return (folder / WORK).is_dir() and not (folder / DESCRIPTION).is_file()


def _clear(folder: Path) -> None:
    """Remove all but the folder of markers and the lock in it, which this process holds."""
    for path in (*folder.iterdir(), *(folder / WORK).iterdir()):
        if path.name not in (WORK, "lock"):
            path.unlink()


def _check_unfinished(folder: Path, begun: Any, plan: dict[str, Any], overwrite: bool) -> None:
    """Refuse to lose the finished shards of another build."""
    if overwrite or not (_is_unfinished(folder) and _has_shards(folder)):
        return
    differ = _differences(begun, plan) if isinstance(begun, dict) else "other sources"
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
