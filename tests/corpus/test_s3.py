"""S3, against a server that speaks its protocol."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer
from named import LENGTH, NAMES, write_named

from olmo_inject.corpus.remote import RemoteShards
from olmo_inject.corpus.shards import TokenShards
from olmo_inject.corpus.sources import Source, open_source
from olmo_inject.errors import UserError

BUCKET = "corpora"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("s3")
    write_named(folder)
    return folder


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OLMO_INJECT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setattr(Source, "pause_s", 0.001)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    running = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    url = f"http://{host}:{port}"
    client = boto3.client(
        "s3", endpoint_url=url, aws_access_key_id="t", aws_secret_access_key="t", region_name="us-east-1"
    )
    client.create_bucket(Bucket=BUCKET)
    for name in dict.fromkeys(NAMES):
        client.upload_file(str(folder / "root" / name), BUCKET, f"dolma/{name}")
    client.close()
    yield url
    running.stop()


@pytest.fixture
def source(server: str, endpoint: None, monkeypatch: pytest.MonkeyPatch) -> Source:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    return open_source(f"s3://{BUCKET}/dolma/")


def test_a_bucket_gives_what_the_disk_gives(source: Source, folder: Path) -> None:
    sizes = source.sizes(NAMES)
    shards = RemoteShards(source, NAMES, [sizes[name] for name in NAMES], LENGTH)
    local = TokenShards([folder / "root" / name for name in NAMES], LENGTH)
    assert shards.fingerprint() == local.fingerprint()
    some = np.arange(0, len(local), 3)
    np.testing.assert_array_equal(shards.read(some), local.read(some))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(shards)).read(some), local.read(some))
    content = (folder / "root" / NAMES[0]).read_bytes()
    assert b"".join(source.stream(NAMES[0], 11, 1500, len(content))) == content[11:1500]


def test_what_is_not_there_or_has_changed_is_told(source: Source) -> None:
    with pytest.raises(UserError, match=r"s3://corpora/dolma/absent: S3 answers 404"):
        source.size("absent")
    with pytest.raises(UserError, match="has 1,930 bytes where the manifest records 1,940: it has changed"):
        source.read(NAMES[0], 0, 32, 1940)
    with pytest.raises(UserError, match="it is shorter than the manifest records"):
        source.read(NAMES[0], 4000, 4032, 5000)


def test_a_server_that_is_not_there(endpoint: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"s3://corpora/x/y: EndpointConnectionError.*6 attempts"):
        open_source("s3://corpora/x").size("y")


def test_a_root_without_a_bucket() -> None:
    with pytest.raises(UserError, match=r"corpus\.root: s3:// names no bucket"):
        open_source("s3://")
