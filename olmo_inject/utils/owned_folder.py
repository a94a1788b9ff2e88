"""Folders that a command writes: new ones appear whole or not at all; replaced ones lose only the command's own files.

`new_folder` writes a folder under a temporary name and renames it. A long job that continues after a kill writes in
place instead. Its `FolderKind` says which files belong to it, and holds the folder for one process.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from olmo_inject.errors import UserError
from olmo_inject.utils.files import replacing
from olmo_inject.utils.locks import InUse, locked, remove_with_lock

LOCK, READY = "lock", "ready"  # in the work folder; `ready` shows that parts of the work may begin
PATIENCE = 60  # attempts, each of about a second, to share a folder that another process holds for itself


@contextmanager
def new_folder(
    to: Path, *, overwrite: bool = False, check: Callable[[Path], object] = lambda _: None
) -> Iterator[Path]:
    """Yield an empty folder beside `to`. At the end it is renamed to `to`; after an error it is removed.

    Args:
        to: the folder to write.
        overwrite: replace an existing folder.
        check: called with `to` before it is replaced: whether it may be, since others may have written there meanwhile.

    Raises:
        UserError: `to` exists already, or the disk is full or cannot be written.
    """
    if not overwrite:
        _check_absent(to)
    temporary = to.parent / f".{to.name}.{os.getpid()}.tmp"
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for path in (*temporary.rglob("*"), temporary):
            sync(path)
        if overwrite:
            check(to)
            install(temporary, to)
        else:
            temporary.rename(to)
    except OSError as error:
        raise UserError(f"cannot write {to}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_new(to: Path) -> None:
    """Check, before long work, that `new_folder` can write a folder.

    Raises:
        UserError: it exists already, or cannot be written.
    """
    _check_absent(to)
    check_writable(to.parent)


def _check_absent(to: Path) -> None:
    if to.exists():
        raise UserError(f"{to} exists already")


def install(temporary: Path, to: Path) -> None:
    """Rename a folder to `to`. An existing folder there is first moved aside and afterwards removed."""
    old = to.parent / f".{to.name}.{os.getpid()}.old"
    replaces = to.exists()
    if replaces:
        to.rename(old)
    try:
        temporary.rename(to)
    except OSError:
        if replaces:
            old.rename(to)
        raise
    sync(to.parent)
    if replaces:
        shutil.rmtree(old)


def discard(folder: Path) -> None:
    """Remove a folder. It is renamed first, so a crash never leaves half of it under its name."""
    old = folder.parent / f".{folder.name}.{os.getpid()}.old"
    folder.rename(old)
    shutil.rmtree(old)


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder that a long job writes in place.

    Attributes:
        name: in words, such as `corpus`.
        files: names of its files, including those that a kill leaves half-written.
        work: folder inside it that exists while it is written; it holds the lock.
        marks: names of files, any of which shows that a folder is of this kind; the first shows that it is complete.
        busy: what another process that holds the folder is doing, such as `building it`.
    """

    name: str
    files: re.Pattern[str]
    work: str
    marks: tuple[str, ...]
    busy: str

    def foreign_entry(self, folder: Path) -> str | None:
        """The first entry of the folder that does not belong to this kind; None if there is none."""

        def is_own(path: Path) -> bool:
            return path.is_dir() if path.name == self.work else path.is_file() and bool(self.files.fullmatch(path.name))

        return min((path.name for path in folder.iterdir() if not is_own(path)), default=None)

    def check_replaceable(self, folder: Path) -> None:
        """Check that a folder is of this kind and holds nothing else.

        Raises:
            UserError: it does not, so it is not overwritten.
        """
        if foreign := self.foreign_entry(folder):
            raise UserError(f"{folder} is not overwritten: it holds {foreign}, which is no part of a {self.name}")
        entries = sorted(path.name for path in folder.iterdir() if path.name != self.work)
        if entries and not any((folder / mark).exists() for mark in self.marks):
            raise UserError(
                f"{folder} is not overwritten: it holds {entries[0]}, but no {self.name}: no {self.marks[0]}"
            )

    def clear(self, folder: Path) -> None:
        """Remove the files of this kind from a folder that this process holds. The lock and all other files stay.

        The first mark is removed first and the other marks last, so that after a kill the folder is still of this kind.
        """
        (folder / self.marks[0]).unlink(missing_ok=True)
        for path in (folder / self.work).iterdir():
            if path.name != LOCK:
                path.unlink()
        own = [path for path in folder.iterdir() if path.is_file() and self.files.fullmatch(path.name)]
        for path in sorted(own, key=lambda path: path.name in self.marks):
            path.unlink()

    def held(self, folder: Path, *, shared: bool = False) -> AbstractContextManager[None]:
        """Hold a folder, as `locks.locked` does; its work folder is created."""
        busy = f"{folder} is in use: another process is {self.busy}"
        return locked(folder / self.work / LOCK, lambda: busy, str(folder), shared=shared)

    @contextmanager
    def held_together(self, folder: Path, is_begun: Callable[[], bool], begin: Callable[[], None]) -> Iterator[None]:
        """Hold a folder with other processes that do parts of the same work. The first of them begins it.

        Args:
            folder: to hold.
            is_begun: whether the folder holds the beginning of this work.
            begin: checks the folder and writes what all parts need; called while this process alone holds the folder.

        Raises:
            UserError: a process that does the whole work holds the folder; as `begin`.
        """
        ready = folder / self.work / READY
        waited = 0
        while True:
            with suppress(InUse), self.held(folder):
                if not (ready.is_file() and is_begun()):
                    begin()
                    ready.touch()
            shared = self.held(folder, shared=True)
            try:
                shared.__enter__()
            except InUse:  # another part may be beginning
                waited += 1
                if waited == PATIENCE:
                    raise
                continue
            try:
                if ready.is_file() and is_begun():
                    yield
                    return
            finally:
                shared.__exit__(None, None, None)

    def remove_work(self, folder: Path) -> None:
        """Remove the work folder, for the process that holds it."""
        remove_with_lock(folder / self.work / LOCK)


def absent(folder: Path) -> list[Path]:
    """The folder and its parents, as far as they do not exist. `remove_empty` removes them if nothing was written."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def remove_empty(folders: Sequence[Path]) -> None:
    """Remove empty folders, given from the innermost outwards; stop at the first that is not empty."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def check_writable(folder: Path) -> None:
    """Check, before long work, that a file can be written to a folder. Neither file nor new folder remains.

    Raises:
        UserError: it cannot be written.
    """
    made = absent(folder)
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir():
        raise UserError(f"cannot write {folder}: {nearest} is not a folder")
    with replacing(folder / ".writable") as temporary:
        temporary.touch()
    (folder / ".writable").unlink(missing_ok=True)
    remove_empty(made)
