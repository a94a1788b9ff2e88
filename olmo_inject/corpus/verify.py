"""The bytes of a corpus folder or a stage against the SHA-256s that it records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from olmo_inject.corpus.folder import BUILDING, DESCRIPTION, STAGING, CorpusDescription, read_corpus_folder
from olmo_inject.corpus.staged import STAGE, read_stage
from olmo_inject.errors import UserError
from olmo_inject.files import sha256_of


@dataclass(frozen=True)
class RecordedFile:
    """A file and the SHA-256 that its folder records of it."""

    path: Path
    sha256: str

    @property
    def nbytes(self) -> int:
        """On disk; 0 where it is missing."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def is_sound(self, advance: Callable[[int], None] = lambda n: None) -> bool:
        """Whether it is there and what was recorded; every byte is read, and `advance` told of."""
        try:
            return sha256_of(self.path, advance, past_cache=True) == self.sha256
        except OSError:
            return False


def recorded_files(folder: Path, *, provenance: bool = False) -> list[RecordedFile]:
    """What the folder's own description vouches for: a stage's parts, or a corpus's shards, and where these come from.

    Raises:
        UserError: no folder; neither a stage nor a corpus; a corpus's shard that is missing or of another size.
    """
    if (folder / STAGE).is_file():
        stage = read_stage(folder)
        return [RecordedFile(stage.folder / part.name, part.sha256) for part in stage.parts]
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder" if folder.exists() else f"{folder} does not exist")
    if not any((folder / name).exists() for name in (DESCRIPTION, BUILDING, STAGING)):
        raise UserError(f"{folder} is neither a corpus folder nor a stage: no {DESCRIPTION}, no {STAGE}")
    corpus = read_corpus_folder(folder)
    shards = [RecordedFile(shard.path, shard.sha256) for shard in corpus.shards]
    return shards + (_provenance(corpus) if provenance else [])


def damaged(files: Sequence[RecordedFile], advance: Callable[[int], None], jobs: int = 4) -> list[str]:
    """The names of those that are missing or not what was recorded; `jobs` are read at once.

    Raises:
        UserError: no jobs.
    """
    if jobs < 1:
        raise UserError(f"--at-once: {jobs} must be at least 1")
    with ThreadPoolExecutor(jobs) as pool:
        sound = pool.map(lambda file: file.is_sound(advance), files)
        return [file.path.name for file, good in zip(files, sound, strict=True) if not good]


def _provenance(corpus: CorpusDescription) -> list[RecordedFile]:
    """Of a corpus that `corpus build` made; others have none."""
    return [
        RecordedFile(corpus.folder / record["provenance"], record["sha256"])
        for source in corpus.sources.values()
        for record in source.get("shards", {}).values()
    ]
