"""A stage against its own record: every byte read again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from olmo_inject.corpus.stage import StagePart, StageRecord, read_stage
from olmo_inject.corpus.staging.parts import sha256_on_disk
from olmo_inject.corpus.staging.runs import Advance
from olmo_inject.errors import UserError


def verify_stage(folder: Path, advance: Advance, jobs: int = 4) -> tuple[StageRecord, list[str]]:
    """The stage's record, and the names of its parts that are missing or not what was staged.

    Raises:
        UserError: the folder is no stage.
    """
    stage = read_stage(folder)

    def damaged(part: StagePart) -> bool:
        try:
            return sha256_on_disk(stage.folder / part.name, advance) != part.sha256
        except OSError:
            return True

    if jobs < 1:
        raise UserError(f"--jobs: {jobs} must be at least 1")
    with ThreadPoolExecutor(jobs) as pool:
        return stage, [part.name for part, bad in zip(stage.parts, pool.map(damaged, stage.parts), strict=True) if bad]
