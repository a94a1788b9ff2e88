"""Shards on a web server, by HTTP range requests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

import requests

from olmo_inject.corpus.sources.source import NETWORK_CHUNK, Source, Transient
from olmo_inject.errors import UserError

TIMEOUT_S = (10.0, 60.0)  # seconds to connect, and between two bytes


class HttpSource(Source):
    """A web server; a shard's URL is the root URL and its name."""

    connections = 32

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self._of_thread = threading.local()  # a requests.Session must not be shared

    def _size(self, name: str) -> int:
        with self._request("HEAD", name) as answer:
            if answer.status_code not in (405, 501):
                self._check_answer(name, answer)
                return self._length(name, answer)
        with self._request("GET", name, 0, 1) as answer:  # for a server without HEAD
            self._check_answer(name, answer)
            if answer.status_code == 200:
                return self._length(name, answer)
            total = answer.headers.get("Content-Range", "").rpartition("/")[2]
            if not total.isdecimal():
                raise UserError(f"{self.where(name)}: the server does not say how large it is")
            return int(total)

    def _open(self, name: str, start: int, stop: int, size: int) -> Iterator[bytes]:
        with self._request("GET", name, start, stop) as answer:
            self._check_answer(name, answer)
            if whole := answer.status_code == 200:
                self.check_size(name, self._length(name, answer), size)
                if start > 0:
                    raise UserError(f"{self.where(name)}: the server ignores byte ranges and sends whole files")
            else:
                length = answer.headers.get("Content-Length", "")
                range_sent = answer.headers.get("Content-Range")
                self.check_range(name, range_sent, (start, stop), int(length) if length.isdecimal() else None, size)
            left = stop - start
            for chunk in answer.iter_content(NETWORK_CHUNK):
                yield chunk[:left] if whole else chunk
                left -= len(chunk)
                if left <= 0 and whole:  # a server that ignored the range sends more
                    return

    @contextmanager
    def _request(self, method: str, name: str, start: int = 0, stop: int = 0) -> Iterator[requests.Response]:
        session = getattr(self._of_thread, "session", None)
        if session is None:
            session = self._of_thread.session = requests.Session()
        headers = {"Accept-Encoding": "identity"}
        if stop:
            headers["Range"] = f"bytes={start}-{stop - 1}"
        try:
            with session.request(
                method, self._url(name), headers=headers, stream=True, timeout=TIMEOUT_S, allow_redirects=True
            ) as answer:
                yield answer
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
            raise UserError(f"{self.where(name)}: {error}") from None
        except requests.RequestException as error:
            raise Transient(f"{type(error).__name__}: {error}") from error

    def _check_answer(self, name: str, answer: requests.Response) -> None:
        """Check that an answer holds the shard's own bytes."""
        status = answer.status_code
        if status not in (200, 206):
            message = f"the server answers {status} {answer.reason}"
            if status >= 500 or status in (408, 425, 429):
                raise Transient(message)
            if status == 416:
                message += ": it is shorter than the manifest records; it has changed"
            raise UserError(f"{self.where(name)}: {message}")
        if (kind := answer.headers.get("Content-Type", "").partition(";")[0]) == "text/html":
            raise UserError(f"{self.where(name)}: the server sends a web page ({kind}), not a shard")
        if (encoding := answer.headers.get("Content-Encoding", "identity")) != "identity":
            raise UserError(f"{self.where(name)}: the server sends it compressed ({encoding}), not as it is")
        self.check_tag(name, answer.headers.get("ETag"))

    def _length(self, name: str, answer: requests.Response) -> int:
        """Size in bytes of the whole shard."""
        if (length := answer.headers.get("Content-Length", "")).isdecimal():
            return int(length)
        raise UserError(f"{self.where(name)}: the server does not say how large it is")

    def _url(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{quote(name)}"
