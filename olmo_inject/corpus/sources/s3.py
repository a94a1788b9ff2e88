"""Shards in S3, or in another store with its protocol (AWS_ENDPOINT_URL)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cached_property
from typing import Any

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, IncompleteReadError
from urllib3.exceptions import HTTPError

from olmo_inject.corpus.sources.source import NETWORK_CHUNK, Source, Transient
from olmo_inject.errors import UserError


class S3Source(Source):
    """s3://bucket/prefix; without credentials it is read as a public bucket."""

    connections = 32

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.bucket, _, prefix = root.removeprefix("s3://").partition("/")
        self.prefix = f"{prefix.rstrip('/')}/" if prefix else ""
        if not self.bucket:
            raise UserError(f"corpus.root: {root} names no bucket; write s3://bucket/prefix")

    @cached_property
    def _client(self) -> Any:
        session = boto3.Session()
        anonymous = session.get_credentials() is None
        config = Config(
            signature_version=UNSIGNED if anonymous else None,
            max_pool_connections=self.connections,
            retries={"max_attempts": 1},  # `Source` retries from the byte that was reached
        )
        return session.client("s3", config=config, region_name=session.region_name or "us-east-1")

    def _size(self, name: str) -> int:
        with self._faults(name):
            answer = self._client.head_object(Bucket=self.bucket, Key=self.prefix + name)
            self.check_tag(name, answer.get("ETag"))
            return int(answer["ContentLength"])

    def _open(self, name: str, start: int, stop: int, size: int) -> Iterator[bytes]:
        with self._faults(name):
            answer = self._client.get_object(
                Bucket=self.bucket, Key=self.prefix + name, Range=f"bytes={start}-{stop - 1}"
            )
            with closing(answer["Body"]) as body:
                self.check_tag(name, answer.get("ETag"))
                self.check_range(name, answer.get("ContentRange"), (start, stop), answer.get("ContentLength"), size)
                yield from body.iter_chunks(NETWORK_CHUNK)

    def address(self, name: str) -> str:
        """As `Source.address`, with the store if it is not Amazon's."""
        return f"{os.environ.get('AWS_ENDPOINT_URL', '')} {self.where(name)}"

    @contextmanager
    def _faults(self, name: str) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            code = error.response.get("Error", {}).get("Code", "")
            message = f"S3 answers {status} " + ("not found" if code == "404" else code)
            if status >= 500 or status in (408, 429):
                raise Transient(message) from error
            if status == 416:
                message += ": it is shorter than the manifest records; it has changed"
            raise UserError(f"{self.where(name)}: {message}") from None
        except (BotoCoreError, IncompleteReadError, HTTPError, OSError) as error:
            raise Transient(f"{type(error).__name__}: {error}") from error
