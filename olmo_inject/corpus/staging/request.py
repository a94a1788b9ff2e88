"""The record of a stage, the checks of a request, and the state of its folder."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.filesize import decimal

from olmo_inject.corpus.folder import STAGING, TOKENIZER
from olmo_inject.corpus.order import Order
from olmo_inject.corpus.shards import TokenShards
from olmo_inject.corpus.staged import STAGE, STAGE_FOLDER, RankRange, StageFile, StageRecord, read_stage
from olmo_inject.errors import UserError
from olmo_inject.utils.files import read_json
from olmo_inject.utils.number_ranges import check_ranks_share
from olmo_inject.utils.words import counted
from olmo_inject.vocabulary import Vocabulary

REQUEST = f"{STAGING}/request.json"
SHARDS = "shards"  # its key for `TokenShards.identity`


class Staged(Exception):
    """Raised if the folder already holds the complete stage."""


def make_record(
    shards: TokenShards, order: Order, vocabulary: Vocabulary, steps: range, to: Path, ranks: RankRange | None
) -> StageRecord:
    """The content of `stage.json`, without the files.

    Args:
        shards: of the corpus.
        order: of the corpus.
        vocabulary: of its token ids.
        steps: to stage.
        to: the stage's folder.
        ranks: whose rows to stage; None: all rows.

    Raises:
        UserError: impossible steps or ranks, or steps or rows that the corpus does not hold.
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


def check_extent(order: Order, steps: range, ranks: RankRange | None) -> None:
    """Check that a stage is not larger than the corpus. If it is, copying the corpus is better, or the step is a typo.

    Args:
        order: of the corpus.
        steps: to stage.
        ranks: whose rows to stage; None: all rows.

    Raises:
        UserError: it is larger; impossible steps or ranks.
    """
    _check_asked(order, steps, ranks)
    count, world = (1, 1) if ranks is None else (ranks.last - ranks.first + 1, ranks.world)
    if len(steps) * count > order.epoch_steps * world:
        most = order.epoch_steps * world // count
        raise UserError(
            f"--steps: {steps.start}:{steps.stop} is more than the whole corpus, which is read again after "
            f"{counted(order.epoch_steps, 'step')}: stage at most {counted(most, 'step')}"
        )


def _check_asked(order: Order, steps: range, ranks: RankRange | None) -> None:
    if not len(steps) or steps[0] < 0:
        raise UserError(f"--steps: {steps.start}:{steps.stop} holds no step; give first:beyond, such as 0:50000")
    if ranks is not None:
        if not 0 <= ranks.first <= ranks.last < ranks.world:
            raise UserError(f"--ranks: {ranks.first}-{ranks.last}/{ranks.world} are not ranks of {ranks.world}")
        check_ranks_share(order.batch_size, ranks.world, "--ranks")


def check_room(folder: Path, needed: int, here: int = 0) -> None:
    """Check that the disk has room.

    Args:
        folder: to write to; it need not exist yet.
        needed: bytes.
        here: bytes in the folder that count towards `needed` or will be removed.

    Raises:
        UserError: the disk is too small.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free + here < needed:
        raise UserError(f"{folder}: needs {decimal(needed - here)} of disk, {decimal(free)} are free")


def bytes_here(folder: Path) -> int:
    """Bytes of the files in a folder, whether they will be kept or replaced."""
    return sum(path.stat().st_size for path in folder.glob("part-*.npy"))


def request_of(record: StageRecord, file_sequences: int) -> dict[str, Any]:
    """The values that must be equal for an interrupted staging to continue."""
    fields = asdict(record)
    del fields["folder"], fields["files"]
    return json.loads(json.dumps(fields | {"part_sequences": file_sequences}))


def claim_folder(record: StageRecord, file_sequences: int, identity: str, overwrite: bool) -> list[int] | None:
    """Check the folder of a stage, and clear it of another stage if it may be overwritten.

    Args:
        record: the stage to write.
        file_sequences: sequences of a file.
        identity: `TokenShards.identity` of the corpus: the rest is not taken from another one of equal sizes.
        overwrite: delete another stage that is there.

    Returns:
        The numbers of the files that an interrupted staging of the same request streams; None: the folder is free.

    Raises:
        UserError: something else is in the folder.
        Staged: the stage itself is in the folder.
    """
    folder, request = record.folder, request_of(record, file_sequences)
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    present = sorted(entry.name for entry in folder.iterdir())
    if not present:
        return None
    what = f"{STAGE_FOLDER.foreign_entry(folder) or present[0]}, but no stage"
    if (folder / STAGE).is_file():
        there = read_stage(folder)
        of_files = there.files[0].sequences if there.files else 0
        if of_files == min(file_sequences, there.sequences):  # it is the requested stage
            of_files = file_sequences
        if request_of(there, of_files) == request:
            missing = _missing(there)
            if not missing and not (overwrite and there.contents is None):  # without checksums it may be another corpus
                with suppress(UserError), STAGE_FOLDER.held(folder):  # another process may be doing the same
                    STAGE_FOLDER.remove_work(folder)
                raise Staged
            if not overwrite:
                raise UserError(f"{folder / missing[0]} is missing or of another size; --overwrite stages anew")
        what = _differences(request_of(there, of_files), request)
    elif (folder / REQUEST).is_file():
        begun = read_json(folder / REQUEST)
        if {key: begun.get(key) for key in request} == request:
            if begun.get(SHARDS) == identity:
                return begun["streamed"]
            what = "the beginning of a stage of shards in another place"
        else:
            what = f"the beginning of {_differences(begun, request)}"
    if not overwrite:
        raise UserError(f"{folder} holds {what}; --overwrite replaces a stage")
    STAGE_FOLDER.check_replaceable(folder)
    with STAGE_FOLDER.held(folder):
        STAGE_FOLDER.clear(folder)
        STAGE_FOLDER.remove_work(folder)
    return None


def _differences(there: dict[str, Any], asked: dict[str, Any]) -> str:
    """How the stage in the folder differs from the one asked for, in words."""
    theirs, ours = _in_words(there), _in_words(asked)
    differing = [key for key in ours if theirs[key] != ours[key]]
    if not differing:
        return "another stage"
    present, wanted = (", ".join(words[key] for key in differing) for words in (theirs, ours))
    return f"a stage of {present}, not {wanted}"


def _in_words(request: dict[str, Any]) -> dict[str, str]:
    """What decides the content of a stage, by name."""
    ranks = request.get("ranks")
    return {
        "steps": f"steps {request.get('first_step')}:{request.get('beyond_step')}",
        "ranks": "all rows" if ranks is None else f"the rows of {RankRange(**ranks)}",
        "files": f"files of {request.get('part_sequences')} sequences",
        "corpus": f"corpus {str(request.get('corpus'))[:12]}",
        "contents": f"contents {str(request.get('contents'))[:12]}",
        "vocabulary": f"tokenizer {str(request.get('vocabulary'))[:12]}",
        **{key: f"{key.replace('_', ' ')} {request.get(key)}" for key in ("batch_size", "sequence_length", "seed")},
    }


def _missing(there: StageRecord) -> list[str]:
    width = there.sequence_length * np.dtype(there.dtype).itemsize

    def is_there(file: StageFile) -> bool:
        path = there.folder / file.name
        return path.is_file() and path.stat().st_size == file.sequences * width

    return [file.name for file in there.files if not is_there(file)]
