"""Local files, a web server and S3 read alike, whatever goes wrong on the way."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from named import LENGTH, NAMES, Faults, served, write_named

from olmo_inject.corpus.cache import BlockCache
from olmo_inject.corpus.remote import RemoteShards
from olmo_inject.corpus.shards import TokenShards
from olmo_inject.corpus.sources import Source, is_remote, open_source
from olmo_inject.errors import UserError
from olmo_inject.scan.chunks import stretches


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLMO_INJECT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Source, "pause_s", 0.001)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_named(tmp_path)
    return tmp_path / "root"


@pytest.fixture
def web(root: Path) -> Iterator[tuple[str, Faults]]:
    with served(root) as running:
        yield running


def remote(source: Source, root: Path) -> RemoteShards:
    sizes = source.sizes(NAMES)
    return RemoteShards(source, NAMES, [sizes[name] for name in NAMES], LENGTH, vocab_size=50280)


def local(root: Path) -> TokenShards:
    return TokenShards([root / name for name in NAMES], LENGTH, vocab_size=50280)


def test_which_roots_are_remote() -> None:
    roots = ("http://a/b", "https://a", "s3://bucket/x", "/data", "data", "httpd")
    assert [is_remote(each) for each in roots] == [True, True, True, False, False, False]


def test_a_server_gives_what_the_disk_gives(root: Path, web: tuple[str, Faults]) -> None:
    ours, theirs = remote(open_source(web[0]), root), local(root)
    assert (len(ours), ours.fingerprint()) == (len(theirs), theirs.fingerprint())
    everything = np.arange(len(theirs))
    np.testing.assert_array_equal(ours.read(everything), theirs.read(everything))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(ours)).read(everything), theirs.read(everything))
    ours.check_sample()
    assert ours.locate(150) == (Path(NAMES[4]), theirs.locate(150)[1])


def test_only_what_is_needed_is_fetched_and_only_once(root: Path, web: tuple[str, Faults]) -> None:
    url, faults = web
    shards = remote(open_source(url), root)
    assert [request[0] for request in faults.requests] == ["HEAD"] * 4, "the shard that stands twice is asked once"
    shards.read(np.array([3, 99, 3]))
    shards.read(np.array([99]))
    assert faults.bytes_asked in (2 * LENGTH * 2, 3 * LENGTH * 2), "sequence 3 may be under way when asked again"


@pytest.mark.parametrize("fault", ["drop", "short", "close", "500", "503", "429", "another range"])
def test_faults_that_pass_are_waited_out(root: Path, web: tuple[str, Faults], fault: str) -> None:
    url, faults = web
    faults.next_fault = lambda number: fault if number % 3 != 2 else None
    source = open_source(url)
    name, content = NAMES[0], (root / NAMES[0]).read_bytes()
    assert source.size(name) == len(content) or fault == "short"
    assert source.read(name, 100, 1700, len(content)) == content[100:1700]
    assert b"".join(source.stream(name, 0, len(content), len(content))) == content
    assert faults.met[fault] >= 3


def test_a_stream_goes_on_where_it_was_cut(tmp_path: Path, root: Path, web: tuple[str, Faults]) -> None:
    url, faults = web
    write_named(tmp_path, scale=1000)  # more than one chunk
    size = (root / NAMES[0]).stat().st_size
    faults.next_fault = lambda number: "drop" if number == 0 else None
    assert b"".join(open_source(url).stream(NAMES[0], 0, size, size)) == (root / NAMES[0]).read_bytes()
    (_, _, first), (_, _, second) = faults.requests
    assert first == (0, size)
    assert second is not None
    assert 0 < second[0] < size
    assert second[1] == size


@pytest.mark.parametrize("fault", ["500", "close", "drop", "another range"])
def test_a_fault_that_does_not_pass_is_told(root: Path, web: tuple[str, Faults], fault: str) -> None:
    url, faults = web
    faults.next_fault = lambda number: "500" if fault == "drop" and number else fault
    with pytest.raises(UserError, match=rf"{url}/{NAMES[0]}: .*\(6 attempts\)"):
        open_source(url).read(NAMES[0], 0, 32, (root / NAMES[0]).stat().st_size)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("grown", "has 1,932 bytes where the manifest records 1,930: it has changed"),
        ("no ranges", "the server ignores byte ranges and sends whole files"),
        ("416", "it is shorter than the manifest records; it has changed"),
        ("403", "the server answers 403"),
        ("compressed", r"the server sends it compressed \(gzip\)"),
        ("page", r"the server sends a web page \(text/html\), not a shard"),
        ("other tag", 'has changed while it was read: its ETag was "one" and is now "another"'),
    ],
)
def test_what_asking_again_cannot_mend_is_told_at_once(
    root: Path, web: tuple[str, Faults], fault: str, message: str
) -> None:
    url, faults = web
    source = open_source(url)
    assert source.size(NAMES[0]) == 1930
    faults.next_fault = lambda number: fault
    with pytest.raises(UserError, match=message):
        source.read(NAMES[0], 32, 64, 1930)
    assert len(faults.requests) == 2, "its size, and one answer"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("another range", r"asked for bytes 32 to 63, the server sends 64 to 95 \(6 attempts\)"),
        ("other tag", 'its ETag was "one" and is now "another"'),
        ("no ranges", "does not say how large it is, or which bytes it sends"),
    ],
)
def test_s3_answers_are_checked_too(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, fault: str, message: str
) -> None:
    pytest.importorskip("boto3", reason="the extra s3 is not installed")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with served(tmp_path) as (url, faults):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        source = open_source("s3://root/")
        assert source.read(NAMES[0], 32, 64, 1930) == (root / NAMES[0]).read_bytes()[32:64]
        faults.next_fault = lambda number: fault
        with pytest.raises(UserError, match=message):
            source.read(NAMES[0], 32, 64, 1930)


def test_a_server_without_ranges_still_gives_the_start(root: Path, web: tuple[str, Faults]) -> None:
    url, faults = web
    faults.next_fault = lambda number: "no ranges"
    content = (root / NAMES[0]).read_bytes()
    assert open_source(url).read(NAMES[0], 0, 64, len(content)) == content[:64]


def test_text_from_a_server_that_calls_it_something_else(root: Path, web: tuple[str, Faults]) -> None:
    (root / NAMES[0]).write_bytes(
        b"<html>This file has moved; ask the owner of its bucket for the new one.</html>\n" * 24
    )
    size, refused = (root / NAMES[0]).stat().st_size, rf"{web[0]}/{NAMES[0]} is not a shard of token ids but a web page"
    shards = RemoteShards(open_source(web[0]), NAMES[:1], [size], 40, vocab_size=50280)
    with pytest.raises(UserError, match=refused):
        shards.read(np.array([0]))
    with pytest.raises(UserError, match=refused):
        next(stretches(open_source(web[0]), NAMES[0], size, "uint16", 0, 40, 0, None))


def test_a_server_without_head(root: Path, web: tuple[str, Faults]) -> None:
    url, faults = web
    faults.next_fault = lambda number: "405" if number == 0 else None
    assert open_source(url).size(NAMES[0]) == (root / NAMES[0]).stat().st_size


def test_a_missing_shard_is_named(root: Path, web: tuple[str, Faults]) -> None:
    for source in (open_source(web[0]), open_source(str(root))):
        with pytest.raises(UserError, match=r"nothing\.npy"):
            source.size("nothing.npy")


def test_a_server_that_is_not_there(capfd: pytest.CaptureFixture[str]) -> None:
    begun = time.monotonic()
    with pytest.raises(UserError, match=r"http://127.0.0.1:9/x: ConnectionError.*6 attempts"):
        open_source("http://127.0.0.1:9").sizes(["x", "y", "z"])
    assert time.monotonic() - begun < 30
    [line] = capfd.readouterr().err.splitlines()  # said of one shard, while it is tried again
    assert "http://127.0.0.1:9/" in line
    assert "; trying again for " in line


def test_a_local_shard_that_changes(root: Path) -> None:
    source = open_source(str(root))
    with pytest.raises(UserError, match="has 1,930 bytes where the manifest records 1,940: it has changed"):
        source.read(NAMES[0], 0, 32, 1940)
    assert source.read(NAMES[0], 5, 50, 1930) == (root / NAMES[0]).read_bytes()[5:50]


def test_the_cache_is_bounded_and_mends_itself(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path / "blocks", limit=1000)
    for number in range(100):
        cache.put(f"k{number}", bytes([number]) * 96)
        assert sum(path.stat().st_size for path in cache.folder.iterdir()) <= 1000
    assert cache.get("k99") == bytes([99]) * 96
    assert cache.get("k0") is None
    path = cache.folder / "k99"
    path.write_bytes(path.read_bytes()[:50])
    assert cache.get("k99") is None
    again = BlockCache(tmp_path / "blocks", limit=1000)
    again.put("k100", b"x" * 96)
    assert sum(path.stat().st_size for path in cache.folder.iterdir()) <= 1000, "what others put is counted"


def test_the_limit_is_for_all_corpora_and_processes(tmp_path: Path) -> None:
    caches = [BlockCache(tmp_path / "blocks", limit=1000) for _ in range(3)]
    for number in range(60):
        caches[number % 3].put(f"{number % 2}/k{number}", bytes(96))
        assert sum(path.stat().st_size for path in tmp_path.rglob("k*")) <= 1000
    assert caches[0].get("1/k59") == bytes(96)


def test_a_cache_that_cannot_be_counted_raises_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    cache = BlockCache(tmp_path / "blocks", limit=10)
    monkeypatch.setattr(Path, "unlink", refuse)
    cache.put("k", b"x" * 20)
    monkeypatch.setattr(os, "scandir", refuse)
    cache.put("l", b"y" * 20)
    assert (cache.get("k"), cache.get("l")) == (b"x" * 20, b"y" * 20)


def test_blocks_of_corpora_with_equal_names_and_sizes_are_apart(tmp_path: Path) -> None:
    def filled(root: str, folder: str, token: int) -> RemoteShards:
        path = tmp_path / root / folder / "part-0.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.full(4 * LENGTH, token, np.uint16).tofile(path)
        return RemoteShards(open_source(str(tmp_path / root)), [f"{folder}/part-0.npy"], [8 * LENGTH], LENGTH)

    corpora = [filled("a", "cc", 7), filled("b", "cc", 8), filled("a", "books", 9)]
    assert len({shards.fingerprint() for shards in corpora}) == 1, "runs may move with their corpus"
    assert [int(shards.read(np.array([2]))[0, 0]) for shards in corpora * 2] == [7, 8, 9] * 2


def test_a_cache_that_cannot_be_written_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = BlockCache(tmp_path / "file" / "blocks")
    cache.put("k", b"x")
    assert cache.get("k") is None
