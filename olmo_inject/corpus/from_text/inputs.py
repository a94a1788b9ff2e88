"""Find the inputs among a user's sources: files of known formats and Hugging Face datasets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from olmo_inject.errors import UserError, in_one_line

DATASET = "hf:"  # before the name of a Hugging Face dataset
TEXT_UNITS = ("file", "line")
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}
_KINDS = {".jsonl": "json", ".json": "json", ".ndjson": "json", ".parquet": "parquet", ".txt": "text"}
FORMATS = "JSON lines (.jsonl, .json), .txt, each also .gz or .zst, and .parquet"


@dataclass(frozen=True)
class TextOptions:
    """How documents are found in an input.

    Attributes:
        text_field: key or column of the text.
        id_field: key or column of the document's id, if there is one.
        text_unit: what a document is in plain text, one of `TEXT_UNITS`.
        dataset_config: configuration of a Hugging Face dataset.
        dataset_split: split of a Hugging Face dataset.
    """

    text_field: str = "text"
    id_field: str = "id"
    text_unit: str = "file"
    dataset_config: str | None = None
    dataset_split: str = "train"


@dataclass(frozen=True)
class Input:
    """A file, or one shard of a dataset; one process reads it from beginning to end.

    Attributes:
        source: the user's source that it belongs to.
        path: of the file, or the dataset's name with `hf:` before it.
        kind: `json`, `text`, `parquet`, `saved` (a dataset folder) or `dataset`.
        size: bytes of the file; 1 if unknown.
        shard: number of the dataset's shard.
        of: number of shards that the dataset has.
        modified: when the file, or a file of the dataset's folder, was last modified, in ns; 0 if unknown.
    """

    source: str
    path: str
    kind: str
    size: int
    shard: int = 0
    of: int = 1
    modified: int = 0

    def check_unchanged(self) -> None:
        """Check that it is as it was found.

        Raises:
            UserError: it has changed.
        """
        path = Path(self.path)
        try:
            now = _folder_modified(path) if self.kind == "saved" else path.stat().st_mtime_ns
            size = self.size if self.kind == "saved" else path.stat().st_size
        except OSError:
            now = size = -1
        if self.kind != "dataset" and (now, size) != (self.modified, self.size):
            raise UserError(f"{self.path} has changed while the corpus was built: --overwrite builds it anew")


def find_inputs(sources: Sequence[str], options: TextOptions) -> list[Input]:
    """The inputs of `sources` in order; within a folder they are sorted, so the order is the same on every machine.

    Raises:
        UserError: a source does not exist, has no known format, or is a dataset that cannot be opened.
    """
    if options.text_unit not in TEXT_UNITS:
        raise UserError(f"text unit {options.text_unit!r}: allowed are {', '.join(TEXT_UNITS)}")
    inputs: list[Input] = []
    for source in sources:
        path = Path(source)
        _check_name(source)
        if source.startswith(DATASET):
            count = getattr(open_dataset(source, options), "num_shards", 1)
            inputs += [Input(source, source, "dataset", 1, i, count) for i in range(count)]
        elif path.is_file():
            if (kind := _kind(path)) is None:
                raise UserError(f"{path}: not a known format; there are {FORMATS}")
            inputs.append(_file_input(source, path, kind))
        elif _is_saved(path):
            inputs += _saved_inputs(source, options)
        elif path.is_dir():
            inputs += _folder_inputs(source)
        else:
            raise UserError(f"{source} is neither a file nor a folder; a Hugging Face dataset is written {DATASET}NAME")
    return inputs


def skipped_files(sources: Sequence[str]) -> list[str]:
    """Files in the folders among `sources` that are not read: unknown formats and broken links, except hidden files."""
    folders = [Path(source) for source in sources if not source.startswith(DATASET)]
    return [
        str(path)
        for folder in folders
        if folder.is_dir() and not _is_saved(folder)
        for path in _visible_files(folder)
        if not _is_read(path)
    ]


def _is_saved(folder: Path) -> bool:
    """Whether `datasets` saved the folder."""
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def _visible_files(folder: Path) -> list[Path]:
    """All files below `folder`, sorted and without hidden ones. Links are followed; each folder is read once.

    Raises:
        UserError: a folder that cannot be read.
    """
    files: list[Path] = []
    folders, seen = [folder], set[tuple[int, int]]()
    try:
        while folders:
            status = (directory := folders.pop()).stat()
            if (status.st_dev, status.st_ino) in seen:  # reached by another link, perhaps one inside the folder
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = sorted(entry for entry in directory.iterdir() if not entry.name.startswith("."))
            files += [entry for entry in entries if not entry.is_dir()]
            folders += [entry for entry in reversed(entries) if entry.is_dir()]
    except OSError as error:
        raise UserError(f"{error.filename or folder}: cannot be read: {error.strerror}") from None
    return sorted(files)


def _is_read(path: Path) -> bool:
    return _kind(path) is not None and path.is_file()


def _check_name(path: str) -> None:
    """Check that a name is UTF-8, since provenance and records are."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UserError(f"{path}: the name is not UTF-8; rename it") from None


def _kind(path: Path) -> str | None:
    compressed = path.suffix in COMPRESSIONS
    kind = _KINDS.get(path.with_suffix("").suffix if compressed else path.suffix)
    return None if compressed and kind == "parquet" else kind


def _folder_inputs(source: str) -> list[Input]:
    inputs: list[Input] = []
    for path in _visible_files(Path(source)):
        if _is_read(path) and (kind := _kind(path)) is not None:
            _check_name(str(path))
            inputs.append(_file_input(source, path, kind))
    if not inputs:
        raise UserError(f"{source}: no file of a known format in it; there are {FORMATS}")
    return inputs


def _saved_inputs(source: str, options: TextOptions) -> list[Input]:
    """One input per Arrow file of a folder that `datasets` saved."""
    count = max(1, len(open_dataset(source, options).cache_files))
    modified = _folder_modified(Path(source))
    return [Input(source, source, "saved", 1, i, count, modified) for i in range(count)]


def _folder_modified(folder: Path) -> int:
    return max(path.stat().st_mtime_ns for path in folder.rglob("*"))


def _file_input(source: str, path: Path, kind: str) -> Input:
    status = path.stat()
    return Input(source, str(path), kind, status.st_size, modified=status.st_mtime_ns)


def open_dataset(source: str, options: TextOptions) -> Any:
    """Open the dataset `source`; one given by name is streamed.

    Raises:
        UserError: it cannot be opened, or lacks the split.
    """
    import datasets

    try:
        if source.startswith(DATASET):
            name = source.removeprefix(DATASET)
            return datasets.load_dataset(
                name, options.dataset_config, split=options.dataset_split, streaming=True, trust_remote_code=False
            )
        dataset = datasets.load_from_disk(source)
    except Exception as error:  # many types: of names, configurations, the network
        raise UserError(f"{source}: cannot be opened: {in_one_line(error)}") from None
    if isinstance(dataset, datasets.DatasetDict):
        if options.dataset_split not in dataset:
            raise UserError(f"{source}: no split {options.dataset_split}; there are {', '.join(map(str, dataset))}")
        return dataset[options.dataset_split]
    return dataset
