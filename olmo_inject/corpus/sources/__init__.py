"""Where shards lie: a local folder, a web server, or S3; all read by byte ranges through one small interface."""

from __future__ import annotations

from olmo_inject.corpus.sources.local import LocalSource
from olmo_inject.corpus.sources.source import Source

__all__ = ["LocalSource", "Source", "is_remote", "open_source"]


def is_remote(root: str) -> bool:
    """Whether `root` is not a folder of this machine."""
    return root.startswith(("http://", "https://", "s3://"))


def open_source(root: str) -> Source:
    """The source for `root`: a folder, http(s)://... or s3://bucket/prefix."""
    if root.startswith(("http://", "https://")):
        from olmo_inject.corpus.sources.http import HttpSource

        return HttpSource(root)
    if root.startswith("s3://"):
        from olmo_inject.corpus.sources.s3 import S3Source

        return S3Source(root)
    return LocalSource(root)
