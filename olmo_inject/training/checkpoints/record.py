"""The record of a checkpoint: size and sha256 of every file, checked before the file is read.

Hashing takes about a second per GB and core. Each rank hashes what it wrote, and full checkpoints are rare. That is
cheaper than one run lost to a file that a disk or a copy has shortened.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from olmo_inject.errors import UserError
from olmo_inject.runs.checkpoints import MODEL_CONFIGS, RECORD, weight_files
from olmo_inject.utils.files import read_fields, sha256_of, write_json
from olmo_inject.utils.json_shape import check_shape
from olmo_inject.utils.owned_folder import sync

FORMAT = 1
_RECORD = {
    "step": int,
    "kind": str,
    "sharded": bool,
    "world_size": int,
    "files": {str: {"bytes": int, "sha256": str}},
}


def identifying_files(path: Path) -> list[Path]:
    """The files whose bytes tell one model from another: the record, or else the weights and the configuration."""
    if (path / RECORD).is_file():
        return [path / RECORD]
    return [*weight_files(path), *(path / name for name in MODEL_CONFIGS if (path / name).is_file())]


def save_tensors(tensors: Mapping[str, Any], path: Path) -> None:
    """Write torch tensors to a safetensors file, with the permissions that the umask gives to other files."""
    from safetensors.torch import save_file  # imports torch: seconds

    path.touch()  # has the umask's mode; safetensors' own file is readable by its owner only
    mode = path.stat().st_mode
    save_file(dict(tensors), path)
    share(path, mode)


def share(path: Path, mode: int) -> None:
    """Give a file the permissions `mode`. If the file system refuses, nothing happens."""
    with suppress(OSError):
        path.chmod(stat.S_IMODE(mode))


def file_record(path: Path) -> dict[str, Any]:
    """Flush a file to disk and return its size and sha256."""
    sync(path)
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write the record into a folder whose files are complete, and flush the folder to disk.

    Raises:
        UserError: a file in `record["files"]` is missing, because another machine wrote it to its own disk.
    """
    for name, written in record["files"].items():
        if not (folder / name).is_file() or (folder / name).stat().st_size != written["bytes"]:
            raise UserError(f"{folder.parent} is not on a disk that all ranks share: rank 0 does not see {name}")
    write_json(folder / RECORD, {"format": FORMAT, **record})
    for place in [*(path for path in folder.iterdir() if path.is_dir()), folder]:
        sync(place)


def read_record(folder: Path) -> dict[str, Any]:
    """Read a folder's record.

    Raises:
        UserError: there is none, or it is damaged or of another version.
    """
    if not (folder / RECORD).is_file():
        raise UserError(f"{folder} is not a checkpoint of this project: it has no {RECORD}")
    record = read_fields(folder / RECORD, FORMAT, "checkpoints")
    check_shape(record, _RECORD, str(folder / RECORD))
    return record


def files_of_weights(record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The files of a record that hold the model's weights."""
    return {name: written for name, written in record["files"].items() if name.startswith("model")}


def verify(folder: Path, files: dict[str, dict[str, Any]], part: int = 0, parts: int = 1) -> None:
    """Check sizes and hashes of files.

    Args:
        folder: of the checkpoint.
        files: size and sha256 by name, from the record.
        part: which share of the files this process checks, from 0.
        parts: number of shares.

    Raises:
        UserError: a file is missing or was changed; the message names the first one.
    """
    for name in sorted(files)[part::parts]:
        verify_length(folder, {name: files[name]})
        if sha256_of(folder / name) != files[name]["sha256"]:
            raise UserError(f"{folder} is damaged: {name} is not as it was written")


def verify_length(folder: Path, files: dict[str, dict[str, Any]]) -> None:
    """Check sizes of files, without reading them.

    Raises:
        UserError: a file is missing, shorter or longer; the message names the first one.
    """
    for name in sorted(files):
        if not (folder / name).is_file():
            raise UserError(f"{folder} is damaged: {name} is missing")
        if (folder / name).stat().st_size != files[name]["bytes"]:
            raise UserError(f"{folder} is damaged: {name} is not as long as it was written")
