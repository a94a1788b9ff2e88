"""What is to be staged, and what of it the folder holds already."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.filesize import decimal

from olmo_inject.corpus.folder import STAGING, TOKENIZER, foreign_entry
from olmo_inject.corpus.order import Order
from olmo_inject.corpus.shards import TokenShards
from olmo_inject.corpus.staged import STAGE, RankShard, StagePart, StageRecord, read_stage
from olmo_inject.errors import UserError
from olmo_inject.files import read_json
from olmo_inject.locks import locked, remove_with_lock
from olmo_inject.vocabulary import Vocabulary
from olmo_inject.words import counted

WORK = STAGING
# The files of a stage, those that a kill may leave among them: what `--overwrite` may remove.
OWN_FILES = re.compile(r"(stage|tokenizer)\.json|part-\d{5,}\.npy|\.(stage\.json|part-\d{5,}\.npy)\.\d+\.tmp")


class Staged(Exception):
    """The folder holds this very stage already, complete."""


def make_record(
    shards: TokenShards, order: Order, vocabulary: Vocabulary, steps: range, to: Path, ranks: RankShard | None
) -> StageRecord:
    """What `stage.json` will say, but for the parts.

    Raises:
        UserError: steps or ranks that cannot be, or that the corpus itself does not hold.
    """
    _check_asked(order, steps, ranks)
    own = vocabulary.tokenizer is not None and Path(vocabulary.identifier).is_file()
    record = StageRecord(
        folder=to,
        corpus=shards.fingerprint(),
        corpus_sequences=order.n_sequences,
        batch_size=order.batch_size,
        seed=order.seed,
        first_step=steps.start,
        beyond_step=steps.stop,
        ranks=ranks,
        sequence_length=shards.sequence_length,
        dtype=shards.dtype.name,
        tokenizer=None if vocabulary.tokenizer is None else TOKENIZER if own else vocabulary.identifier,
        vocabulary=vocabulary.fingerprint,
        vocab_size=vocabulary.size,
        eos_token_id=vocabulary.eos_id,
        pad_token_id=vocabulary.pad_id,
        contents=shards.contents(),
    )
    order.require(steps, record.rows, "--steps")
    return record


def check_extent(order: Order, steps: range, ranks: RankShard | None) -> None:
    """Refuse a stage of more than the corpus: the last step is a slip, or the corpus itself is the thing to copy.

    Raises:
        UserError: it is; steps or ranks that cannot be.
    """
    _check_asked(order, steps, ranks)
    count, world = (1, 1) if ranks is None else (ranks.last - ranks.first + 1, ranks.world)
    if len(steps) * count > order.epoch_steps * world:
        most = order.epoch_steps * world // count
        raise UserError(
            f"--steps: {steps.start}:{steps.stop} is more than the whole corpus, which ends after "
            f"{counted(order.epoch_steps, 'step')} and is then read again: stage at most {counted(most, 'step')}"
        )


def _check_asked(order: Order, steps: range, ranks: RankShard | None) -> None:
    if not len(steps) or steps[0] < 0:
        raise UserError(f"--steps: {steps.start}:{steps.stop} are not steps; give first:beyond, such as 0:50000")
    if ranks is not None:
        if not 0 <= ranks.first <= ranks.last < ranks.world:
            raise UserError(f"--rank-shard: {ranks.first}-{ranks.last}/{ranks.world} are not ranks of {ranks.world}")
        if order.batch_size % ranks.world:
            raise UserError(f"--rank-shard: {ranks.world} ranks do not share a batch of {order.batch_size}")


def check_room(folder: Path, needed: int, here: int = 0) -> None:
    """Refuse a disk that is too small.

    Args:
        folder: to write into; it need not exist yet.
        needed: bytes.
        here: bytes of the folder that count towards them, or will be removed.

    Raises:
        UserError: it is.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free + here < needed:
        raise UserError(f"{folder}: needs {decimal(needed - here)} of disk, {decimal(free)} are free")


def bytes_here(folder: Path) -> int:
    """Of the parts in a folder, whether they will be kept or replaced."""
    return sum(path.stat().st_size for path in folder.glob("part-*.npy"))


def request_of(record: StageRecord, part_sequences: int) -> dict[str, Any]:
    """What must be the same for a begun staging to go on."""
    fields = asdict(record)
    del fields["folder"], fields["parts"]
    return json.loads(json.dumps(fields | {"part_sequences": part_sequences}))


def look_at_folder(record: StageRecord, part_sequences: int, overwrite: bool) -> list[int] | None:
    """The files that a begun staging of the same request streams; None where the folder is free, or was made so.

    Raises:
        UserError: something else is in the folder.
        Staged: the stage itself is.
    """
    folder, request = record.folder, request_of(record, part_sequences)
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    present = sorted(entry.name for entry in folder.iterdir())
    if not present:
        return None
    what = f"{foreign_entry(folder, OWN_FILES, WORK) or present[0]}, but no stage"
    if (folder / STAGE).is_file():
        there = read_stage(folder)
        of_parts = there.parts[0].sequences if there.parts else 0
        if of_parts == min(part_sequences, there.sequences):  # then it is what was asked for
            of_parts = part_sequences
        if request_of(there, of_parts) == request:
            missing = _missing(there)
            if not missing:
                _remove_work(folder)
                raise Staged
            if not overwrite:
                raise UserError(f"{folder / missing[0]} is missing or of another size; --overwrite stages anew")
        what = _differences(request_of(there, of_parts), request)
    elif (folder / WORK / "request.json").is_file():
        begun = read_json(folder / WORK / "request.json")
        if {key: begun.get(key) for key in request} == request:
            return begun["streamed"]
        what = f"the beginning of {_differences(begun, request)}"
    if not overwrite:
        raise UserError(f"{folder} holds {what}; --overwrite replaces a stage")
    _delete(folder, present)
    return None


def _differences(there: dict[str, Any], asked: dict[str, Any]) -> str:
    """A stage that is not the one that is asked for, and in what they differ."""
    theirs, ours = _told(there), _told(asked)
    differ = [key for key in ours if theirs[key] != ours[key]]
    if not differ:
        return "another stage"
    found, wanted = (", ".join(told[key] for key in differ) for told in (theirs, ours))
    return f"a stage of {found}, not {wanted}"


def _told(request: dict[str, Any]) -> dict[str, str]:
    """What a stage is of, for people, by what it is called in a request."""
    ranks = request.get("ranks")
    return {
        "steps": f"steps {request.get('first_step')}:{request.get('beyond_step')}",
        "ranks": "all rows" if ranks is None else f"the rows of {RankShard(**ranks)}",
        "parts": f"parts of {request.get('part_sequences')} sequences",
        "corpus": f"corpus {str(request.get('corpus'))[:12]}",
        "contents": f"contents {str(request.get('contents'))[:12]}",
        "vocabulary": f"tokenizer {str(request.get('vocabulary'))[:12]}",
        **{key: f"{key.replace('_', ' ')} {request.get(key)}" for key in ("batch_size", "sequence_length", "seed")},
    }


def _missing(there: StageRecord) -> list[str]:
    width = there.sequence_length * np.dtype(there.dtype).itemsize

    def is_there(part: StagePart) -> bool:
        path = there.folder / part.name
        return path.is_file() and path.stat().st_size == part.sequences * width

    return [part.name for part in there.parts if not is_there(part)]


def _delete(folder: Path, present: Sequence[str]) -> None:
    if foreign := foreign_entry(folder, OWN_FILES, WORK):
        raise UserError(f"{folder} is not overwritten: it holds {foreign}, which is no part of a stage")
    if not (folder / STAGE).is_file() and not (folder / WORK).is_dir():
        raise UserError(f"{folder} is not overwritten: it holds {present[0]}, but no stage: no {STAGE}")
    with held(folder):
        for name in (STAGE, *present):  # first what vouches for the rest
            if name != WORK:
                (folder / name).unlink(missing_ok=True)
        remove_with_lock(folder / WORK / "lock")


def _remove_work(folder: Path) -> None:
    """What a kill has left of a stage that is complete, unless another process is about to."""
    if (folder / WORK).is_dir():
        with suppress(UserError), held(folder):
            remove_with_lock(folder / WORK / "lock")


def held(folder: Path) -> AbstractContextManager[None]:
    """Hold the folder of a stage for this process alone, as `locks.locked`."""
    return locked(folder / WORK / "lock", lambda: f"{folder} is in use: another process is staging there", str(folder))
