"""Lock files: one process at a time in a folder. All locks of the project are here.

They are flock's, and so go with the process that holds them, however it ends. `filelock` will not do: its flock is
exclusive only, while a reader must look at a lock without write permission (`is_held`, and flock(1) in a batch script);
and where a file system cannot lock it falls back to a file that a killed process leaves behind.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from olmo_inject.errors import UserError

ATTEMPTS = 5  # a tenth of a second apart: a process that only looks holds a lock for a moment


@contextmanager
def locked(path: Path, in_use: Callable[[], str], what: str) -> Iterator[None]:
    """Hold the lock file `path`, made if need be, for this process alone.

    Args:
        path: of an empty file.
        in_use: the message where another process holds it after all attempts.
        what: the name of the thing that is locked, for messages.

    Raises:
        UserError: another process holds it, or it cannot be made or locked.
    """
    with _acquired(path, in_use, what):
        yield


def is_held(path: Path) -> bool:
    """Whether a process of this machine (or of a shared file system that locks) holds the lock file."""
    try:
        with path.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def remove_with_lock(lock: Path) -> None:
    """Remove the folder of a lock file that this process holds, the file last: from then on it may be another's."""
    for path in lock.parent.iterdir():
        if path != lock:
            path.unlink(missing_ok=True)
    lock.unlink(missing_ok=True)
    with suppress(OSError):  # another process has made its own lock there
        lock.parent.rmdir()


def _acquired(path: Path, in_use: Callable[[], str], what: str) -> IO[str]:
    for attempt in range(ATTEMPTS):
        time.sleep(0.1 if attempt else 0)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a")
        except FileNotFoundError:  # another process has just removed the folder
            continue
        except OSError as error:
            raise UserError(f"cannot write {what}: {error.strerror}") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(file, path):
                return file
        except BlockingIOError:
            pass
        except OSError as error:
            file.close()
            raise UserError(f"cannot lock {what}: {error.strerror}") from None
        file.close()
    raise UserError(in_use())


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether an open file is still the one at `path`: its last holder may have removed it meanwhile."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
