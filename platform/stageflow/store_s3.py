"""A store in an S3 bucket, on AWS or on any server that honours `If-None-Match: *` on a put.

Keys, region and certificates come from boto3's usual places on the machine that runs; the endpoint
travels with the store, so that every worker talks to the same one. botocore's retries are off: one
of its own would hide that the answer to a conditional put was lost, and `stageflow.store.Retrying`
has to know.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.exceptions import ConnectionError as NoConnectionError

from stageflow.store import NotFound, StoreError, Transient, check_name, part_file, plain_errors

CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60  # between two packets; servers may hold the losers of a race back for seconds
BATCH = 1000  # the most keys that one DeleteObjects may name
# what S3 says about the moment rather than about the request, beside 5xx, 408 and 429
PASSING = {
    "BandwidthLimitExceeded",
    "ConditionalRequestConflict",
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
}
_connecting = threading.Lock()


@dataclass(frozen=True, slots=True)
class S3Store:
    """Objects under a prefix of a bucket; safe to share between threads and to pickle."""

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    _clients: dict[int, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def at(cls, uri: str) -> S3Store:
        """The store at `s3://bucket/prefix`, on the endpoint that the environment names.

        That is AWS_ENDPOINT_URL_S3, else AWS_ENDPOINT_URL, else AWS itself. Raises StoreError if
        either is malformed.
        """
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        if not bucket:
            raise StoreError(f"store {uri!r}: name a bucket, as in s3://bucket/prefix")
        endpoint = (
            os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
        )
        if endpoint and not endpoint.startswith(("http://", "https://")):
            raise StoreError(
                f"AWS_ENDPOINT_URL is {endpoint!r}: want http://host:port or https://host"
            )
        prefix = prefix.strip("/")
        return cls(bucket, prefix and check_name(prefix), endpoint)

    def __reduce__(self) -> tuple[type[S3Store], tuple[str, str, str | None]]:
        return S3Store, (self.bucket, self.prefix, self.endpoint)  # no client, and no key, travels

    @property
    def uri(self) -> str:
        """The address as `s3://bucket/prefix`."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def read(self, name: str) -> bytes:
        """Return the whole object; raises NotFound."""
        with self._plain_answers(name), self._content(name) as body:
            data: bytes = body.read()
            return data

    def download(self, name: str, to: Path) -> None:
        """Put the object at `to` in one step; raises NotFound.

        One request, not ranges in parallel: ranges of an object that is overwritten meanwhile do
        not fit together.
        """
        with plain_errors(to.parent), part_file(to) as part:
            with self._plain_answers(name), self._content(name) as body, part.open("xb") as file:
                shutil.copyfileobj(body, file, 1 << 20)
            os.replace(part, to)

    def upload(self, source: Path, name: str) -> None:
        """Copy a file into the store, large ones in parts; raises FileNotFoundError."""
        with source.open("rb") as file, self._plain_answers(name):
            self._client().upload_fileobj(file, self.bucket, self._key(name))

    def create(self, name: str, data: bytes) -> bool:
        """Make the object unless it is there, by a conditional put."""
        with self._plain_answers(name):
            try:
                self._client().put_object(
                    Bucket=self.bucket, Key=self._key(name), Body=data, IfNoneMatch="*"
                )
            except ClientError as error:
                if _status(error) == 412:
                    return False
                raise
            return True

    def list(self, prefix: str) -> Iterator[str]:
        """Every name that begins with the prefix, page by page.

        Without a delimiter, since servers may show a folder long after its last object went. Keys
        that end in a slash are folder marks made by other tools, not objects of ours.
        """
        root = f"{self.prefix}/" if self.prefix else ""
        with self._plain_answers(prefix):
            pages = self._client().get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=root + prefix):
                keys = (entry["Key"] for entry in page.get("Contents", ()))
                yield from (key.removeprefix(root) for key in keys if not key.endswith("/"))

    def delete(self, names: Iterable[str]) -> None:
        """Remove the objects, a thousand a request; absent ones are no error."""
        keys = [{"Key": self._key(name)} for name in names]
        for start in range(0, len(keys), BATCH):
            doomed = {"Objects": keys[start : start + BATCH], "Quiet": True}
            with self._plain_answers(keys[start]["Key"]):
                answer = self._client().delete_objects(Bucket=self.bucket, Delete=doomed)
                for failure in answer.get("Errors", ()):
                    if failure["Code"] != "NoSuchKey":
                        raise ClientError({**answer, "Error": failure}, "DeleteObjects")

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{check_name(name)}" if self.prefix else check_name(name)

    def _client(self) -> Any:
        process = os.getpid()  # a client must not be used on both sides of a fork
        with _connecting:
            if process not in self._clients:
                self._clients[process] = _connect(self.endpoint)
            return self._clients[process]

    @contextlib.contextmanager
    def _content(self, name: str) -> Iterator[Any]:
        with contextlib.closing(
            self._client().get_object(Bucket=self.bucket, Key=self._key(name))["Body"]
        ) as body:
            yield body

    @contextlib.contextmanager
    def _plain_answers(self, name: str) -> Iterator[None]:
        """Turn what botocore raises into a StoreError that says what to do."""
        try:
            yield
        except ClientError as error:
            told = error.response.get("Error", {})
            code, message = told.get("Code", "unknown error"), told.get("Message", "")
            raise self._refusal(code, _status(error), message, name) from error
        except BotoCoreError as error:
            raise self._failure(error) from error

    def _refusal(self, code: str, status: int, message: str, name: str) -> StoreError:
        """The error for an answer of the server."""
        where = f"S3 at {self._place}"
        if code == "NoSuchBucket":
            return StoreError(
                f"{where} has no bucket {self.bucket!r}: create it, or correct {self.uri}"
            )
        if code == "NoSuchKey":
            return NotFound(f"{self.uri}: there is no object {name!r}")
        if status in (401, 403) or code == "AccessDenied":
            return StoreError(
                f"{where} refuses this key for bucket {self.bucket!r} ({code}): "
                "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and that the key may "
                "list, read, write and delete there"
            )
        told = _line(
            f"{where} answered {status} {code} for {name!r} in bucket {self.bucket!r}: {message}"
        )
        passing = code in PASSING or status in (408, 429) or (status >= 500 and status != 501)
        return Transient(told) if passing else StoreError(told)

    def _failure(self, error: BotoCoreError) -> StoreError:
        """The error for want of an answer."""
        if isinstance(error, NoCredentialsError | PartialCredentialsError):
            return StoreError(
                f"no complete S3 key for {self.uri}: set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY on every machine that runs stages"
            )
        where = f"S3 at {self._place} for bucket {self.bucket!r}"
        if isinstance(error, NoConnectionError):
            return Transient(
                _line(f"cannot reach {where}: check AWS_ENDPOINT_URL and the server ({error})")
            )
        if isinstance(error, HTTPClientError | IncompleteReadError | FlexibleChecksumError):
            return Transient(_line(f"{where}: {error}"))
        return StoreError(_line(f"{where}: {error}"))

    @property
    def _place(self) -> str:
        return self.endpoint or "AWS"


def _connect(endpoint: str | None) -> Any:
    """A client of boto3 for AWS, or for another server at the endpoint.

    Servers other than AWS get path-style addresses, and no checksum trailers over HTTPS: many
    refuse them, and some store them inside the object. What a manifest names is checked by its
    SHA-256 anyway.
    """
    elsewhere = endpoint is not None
    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"total_max_attempts": 1, "mode": "standard"},
        max_pool_connections=32,
        tcp_keepalive=True,
        s3={"addressing_style": "path" if elsewhere else "auto"},
        request_checksum_calculation="when_required" if elsewhere else None,
        response_checksum_validation="when_required" if elsewhere else None,
    )
    # a session of its own, because boto3's default one is not safe between threads
    return boto3.session.Session().client("s3", endpoint_url=endpoint, config=config)


def _status(error: ClientError) -> int:
    status: int = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status


def _line(text: str) -> str:
    return " ".join(text.split())
