"""What all worker processes need, those of a corpus's jobs and those of a loader."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
from multiprocessing.connection import Listener, wait

from olmo_inject.errors import UserError


def end_with_parent() -> None:
    """End this process with the one that started it, however that ends, also by SIGKILL, at work or idle."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def check_sockets() -> None:
    """Try the sockets through which processes talk: their paths, below TMPDIR, may be 107 bytes long.

    Raises:
        UserError: none can be made there.
    """
    try:
        Listener(family="AF_UNIX").close()
    except OSError as error:
        raise UserError(
            f"TMPDIR: worker processes cannot make their sockets in {tempfile.gettempdir()}: "
            f"{error.strerror or error}; set TMPDIR to a folder with a shorter path"
        ) from None
