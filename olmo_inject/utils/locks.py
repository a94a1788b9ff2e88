"""Lock files: one process at a time in a folder. All locks of the project are here.

They are flock's, so a lock ends with its process, however the process ends. The package `filelock` does not suffice:
its flock is exclusive only, but a reader must test a lock without write permission (`is_held`, and flock(1) in a batch
script). On a file system without locks it falls back to a file that a killed process leaves behind.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from olmo_inject.errors import UserError

LOCK = ".lock"  # name of a folder's lock file
ATTEMPTS = 5  # a tenth of a second apart, since a process that tests a lock holds it for a moment


class InUse(UserError):
    """Another process holds the lock."""


@contextmanager
def locked(path: Path, in_use: Callable[[], str], what: str, *, shared: bool = False) -> Iterator[None]:
    """Hold the lock file `path` for this process alone, or with others that share it; create it if necessary.

    Args:
        path: of an empty file.
        in_use: returns the message for the case that another process holds the lock.
        what: name of the locked thing, for messages.
        shared: let others hold it that share it too.

    Raises:
        InUse: another process holds it after all attempts.
        UserError: it cannot be created or locked.
    """
    with _acquired(path, in_use, what, fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
        yield


@contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Hold the lock file `path` after waiting for its holder. Where it cannot be written or locked, nobody waits."""
    with ExitStack() as stack:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            fcntl.flock(stack.enter_context(path.open("a")), fcntl.LOCK_EX)
        yield


def is_held(path: Path) -> bool:
    """Whether a process holds the lock file: on this machine, or on any machine if the shared file system has locks."""
    try:
        with path.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def remove_with_lock(lock: Path) -> None:
    """Remove the folder of a lock file that this process holds, the lock file last: after it the folder is free."""
    for path in lock.parent.iterdir():
        if path != lock:
            path.unlink(missing_ok=True)
    lock.unlink(missing_ok=True)
    with suppress(OSError):  # another process has made a lock there meanwhile
        lock.parent.rmdir()


def _acquired(path: Path, in_use: Callable[[], str], what: str, how: int) -> IO[str]:
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
            fcntl.flock(file, how | fcntl.LOCK_NB)
            if _is_at(file, path):
                return file
        except BlockingIOError:
            pass
        except OSError as error:
            file.close()
            raise UserError(f"cannot lock {what}: {error.strerror}") from None
        file.close()
    raise InUse(in_use())


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether the open file is still the one at `path`; its last holder may have removed it meanwhile."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
