"""Sources of shards: a local folder, a web server or S3, read by byte ranges through one interface."""

from __future__ import annotations

from pathlib import Path

from olmo_inject.corpus.sources.local import LocalSource
from olmo_inject.corpus.sources.source import Source
from olmo_inject.errors import UserError

__all__ = ["LocalSource", "Source", "is_remote", "open_source"]


def is_remote(root: str) -> bool:
    """Whether `root` is an address and not a folder of this machine."""
    return root.startswith(("http://", "https://", "s3://"))


def open_source(root: str) -> Source:
    """The source for `root`: a folder, http(s)://... or s3://bucket/prefix.

    Raises:
        UserError: the folder does not exist, or the address names no bucket.
    """
    if root.startswith(("http://", "https://")):
        from olmo_inject.corpus.sources.http import HttpSource

        return HttpSource(root)
    if root.startswith("s3://"):
        from olmo_inject.corpus.sources.s3 import S3Source

        return S3Source(root)
    if not Path(root).is_dir():
        raise UserError(f"corpus.root: {root} is not a folder of this machine")
    return LocalSource(root)
