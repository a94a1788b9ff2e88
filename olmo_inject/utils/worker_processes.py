"""What worker processes of corpus jobs and of data loaders share."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
from multiprocessing.connection import Listener, wait

from olmo_inject.errors import UserError


def end_with_parent() -> None:
    """End this process when its parent ends, even by SIGKILL."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def check_sockets() -> None:
    """Check that worker processes can create their sockets below TMPDIR; a path has at most 107 bytes.

    Raises:
        UserError: they cannot.
    """
    try:
        Listener(family="AF_UNIX").close()
    except OSError as error:
        raise UserError(
            f"TMPDIR: worker processes cannot make their sockets in {tempfile.gettempdir()}: "
            f"{error.strerror or error}; set TMPDIR to a folder with a shorter path"
        ) from None
