"""A small named corpus with a shard that stands twice, and a web server that can be told to misbehave."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

LENGTH, BATCH = 16, 8
CATALOG = """
root: {root}
dtype: uint16
tokenizer: allenai_gpt-neox-olmo-dolma-v1_5
eos_token_id: 50279
pad_token_id: 1
seed: 7
sequence_length: 16
batch_size: 8
shards: "{{path}}/part-{{part}}-{{piece:03d}}.npy"
folders:
  - {{path: books, parts: 2, digits: 1, pieces: {{2: 1}}}}
  - {{path: wiki/all, parts: 1, digits: 2, times: 2}}
"""
NAMES = [
    "books/part-0-000.npy",
    "books/part-1-000.npy",
    "books/part-1-001.npy",
    "wiki/all/part-00-000.npy",
    "wiki/all/part-00-000.npy",
]
SEQUENCES = (60, 33, 7, 41)  # of the four files, and a remainder each


def write_named(folder: Path, scale: int = 1) -> Path:
    """Shards under `folder`/root, and beside it the corpus's file, which is returned."""
    rng = np.random.default_rng(3)
    for name, sequences in zip(dict.fromkeys(NAMES), SEQUENCES, strict=True):
        path = folder / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rng.integers(2, 50279, sequences * scale * LENGTH + 5).astype(np.uint16).tofile(path)
    catalog = folder / "small.yaml"
    catalog.write_text(CATALOG.format(root=folder / "root"))
    return catalog


class Faults:
    """What the server does wrong; each request of bytes asks `next_fault` with its number and its range.

    Attributes:
        requests: (method, name, range or None) in order.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, tuple[int, int] | None]] = []
        self.next_fault: Callable[[int], str | None] = lambda number: None
        self.met: Counter[str] = Counter()
        self.nth = 0  # how often what is asked now was asked before, up to the same byte
        self._asked: Counter[tuple[str, int]] = Counter()

    def ask(self, method: str, name: str, span: tuple[int, int] | None) -> str | None:
        """Note a request; the fault it meets."""
        self.requests.append((method, name, span))
        key = (name, span[1] if span else 0)
        self.nth = self._asked[key]
        self._asked[key] += 1
        fault = self.next_fault(len(self.requests) - 1)
        if fault:
            self.met[fault] += 1
        return fault

    @property
    def bytes_asked(self) -> int:
        return sum(span[1] - span[0] for method, _, span in self.requests if method == "GET" and span is not None)


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, Faults]]:
    """Serve a folder with byte ranges on the loopback; yields its URL and its faults."""
    faults, lock = Faults(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = folder / self.path.lstrip("/")
            match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            span = (int(match[1]), int(match[2]) + 1) if match else None
            with lock:
                fault = faults.ask(self.command, self.path.lstrip("/"), span)
            if fault == "close":  # before a word
                self.close_connection = True
                return
            if fault and fault.isdecimal():
                self.send_response(int(fault))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if not path.is_file():
                self.send_error(404)
                return
            content = path.read_bytes()
            if fault == "grown":
                content += b"\0\0"
            if span is None or fault == "no ranges":
                self.send_response(200)
            else:
                self.send_response(206)
                if fault == "another range":  # and says so
                    span = (span[0] + 32, span[1] + 32) if span[1] + 32 <= len(content) else (0, span[1] - span[0])
                self.send_header("Content-Range", f"bytes {span[0]}-{span[1] - 1}/{len(content)}")
                content = content[span[0] : span[1]]
            self.send_header("ETag", '"another"' if fault == "other tag" else '"one"')
            if fault == "compressed":
                self.send_header("Content-Encoding", "gzip")
            if fault == "page":
                self.send_header("Content-Type", "text/html; charset=utf-8")
            announced = len(content)
            if fault == "short":  # an honest, complete answer of less than was asked for
                content = content[: len(content) // 2]
                announced = len(content)
            if fault == "drop":  # cut off in the middle
                content = content[: len(content) // 2]
                self.close_connection = True
            self.send_header("Content-Length", str(announced))
            self.end_headers()
            if body:
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", faults
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
