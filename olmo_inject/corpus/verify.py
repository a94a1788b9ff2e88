"""Compare the files of a corpus folder or a stage with their recorded SHA-256s."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from olmo_inject.corpus.folder import BUILDING, DESCRIPTION, STAGING, CorpusDescription, read_corpus_folder
from olmo_inject.corpus.staged import STAGE, read_stage
from olmo_inject.errors import UserError
from olmo_inject.utils.files import sha256_of
from olmo_inject.utils.options import check_options


@dataclass(frozen=True)
class RecordedFile:
    """A file and its recorded SHA-256."""

    path: Path
    sha256: str

    @property
    def nbytes(self) -> int:
        """Size on disk; 0 if it is missing."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def is_sound(self, advance: Callable[[int], None] = lambda n: None) -> bool:
        """Whether its bytes have the recorded SHA-256; `advance` is called with numbers of bytes read."""
        try:
            return sha256_of(self.path, advance, past_cache=True) == self.sha256
        except OSError:
            return False


def recorded_files(folder: Path, *, provenance: bool = False) -> list[RecordedFile]:
    """The files of a stage or a corpus folder with their recorded SHA-256s.

    Args:
        folder: of the stage or the corpus.
        provenance: also the provenance files of a corpus that `corpus build` wrote.

    Raises:
        UserError: the folder is neither a stage nor a corpus; a shard of a corpus is missing or of another size.
    """
    if (folder / STAGE).is_file():
        stage = read_stage(folder)
        return [RecordedFile(stage.folder / file.name, file.sha256) for file in stage.files]
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder" if folder.exists() else f"{folder} does not exist")
    if not any((folder / name).exists() for name in (DESCRIPTION, BUILDING, STAGING)):
        raise UserError(f"{folder} is neither a corpus folder nor a stage: no {DESCRIPTION}, no {STAGE}")
    corpus = read_corpus_folder(folder)
    shards = [RecordedFile(shard.path, shard.sha256) for shard in corpus.shards]
    return shards + (_provenance(corpus) if provenance else [])


def damaged(files: Sequence[RecordedFile], advance: Callable[[int], None], at_once: int = 4) -> list[str]:
    """The names of the files that are missing or differ from their record.

    Args:
        files: the files to read.
        advance: called with numbers of bytes read.
        at_once: files read at once.

    Raises:
        UserError: `at_once` is below 1.
    """
    check_options(at_once=at_once)
    with ThreadPoolExecutor(at_once) as pool:
        are_sound = pool.map(lambda file: file.is_sound(advance), files)
        return [file.path.name for file, is_sound in zip(files, are_sound, strict=True) if not is_sound]


def _provenance(corpus: CorpusDescription) -> list[RecordedFile]:
    """The provenance files of a corpus; only `corpus build` writes them."""
    return [
        RecordedFile(corpus.folder / record["provenance"], record["sha256"])
        for source in corpus.sources.values()
        for record in source.get("shards", {}).values()
    ]
