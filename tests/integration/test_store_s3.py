"""The S3 store on a real server, alone and behind a proxy that misbehaves on purpose."""

from __future__ import annotations

import os
import pickle
import re
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore import exceptions as botocore_errors

from stageflow import store_s3
from stageflow.store import Retrying, Store, StoreError, Transient, open_store
from stageflow.store_check import self_test
from stageflow.store_s3 import S3Store
from stageflow.testing import StoreContract

ANSWERS = {"slow_down": (503, "SlowDown"), "unable": (501, "NotImplemented")}


class TestS3Store(StoreContract):
    @pytest.fixture
    def store(self, bucket: str) -> Store:
        return S3Store.at(f"s3://{bucket}/sweeps/first")


class FaultyProxy(ThreadingHTTPServer):
    """Hands requests on to an S3 server, after the faults that it was told to make first.

    Faults, one a request: `pass`; `slow_down` answers 503, `unable` 501; `reset` cuts the
    connection before the server sees anything; `lose` lets the server do the work and cuts before
    the answer; `half` cuts amid the answer's body; `stall` sends half of it and falls silent.
    """

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Relay)
        self.target = urlsplit(target).netloc
        self.faults: deque[str] = deque()
        self.requests: list[str] = []
        self.stalled = threading.Event()
        self.stalled.set()
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: broken connections are what this proxy is for."""


class _Relay(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def relay(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append(self.command)
        fault = self.server.faults.popleft() if self.server.faults else "pass"
        if fault == "reset":
            return self.cut()
        if fault in ANSWERS:
            status, code = ANSWERS[fault]
            error = f"<Error><Code>{code}</Code><Message>Not now.</Message></Error>"
            return self.answer(status, {"Content-Type": "application/xml"}, error.encode())
        upstream = HTTPConnection(self.server.target, timeout=30)
        try:
            upstream.request(self.command, self.path, body, dict(self.headers))
            response = upstream.getresponse()
            content = response.read()
        finally:
            upstream.close()
        if fault == "lose":
            return self.cut()
        if fault == "stall":
            self.server.stalled.clear()
        half = fault in ("half", "stall")
        return self.answer(response.status, dict(response.getheaders()), content, cut=half)

    def answer(
        self, status: int, headers: dict[str, str], content: bytes, *, cut: bool = False
    ) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.server.stalled.wait(30)
            self.cut()

    def cut(self) -> None:
        """Reset the connection rather than close it."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def log_message(self, *message: object) -> None:
        """Keep the test's output quiet."""

    do_DELETE = do_GET = do_HEAD = do_POST = do_PUT = relay


@pytest.fixture
def proxy(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    with FaultyProxy(os.environ["AWS_ENDPOINT_URL"]) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.stalled.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def bare(bucket: str, proxy: FaultyProxy) -> S3Store:
    return S3Store.at(f"s3://{bucket}/p")


@pytest.fixture
def patient(bare: S3Store) -> Retrying:
    return Retrying(bare, attempts=4, first_wait_s=0.01)


def failure(act: Callable[[], object]) -> str:
    """The message of the StoreError that the act ends with: one line."""
    with pytest.raises(StoreError) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


ONE_FAULT = ["slow_down", "reset", "lose"]


@pytest.mark.parametrize("fault", ONE_FAULT)
def test_a_fault_is_transient_for_each_verb(
    bare: S3Store, proxy: FaultyProxy, tmp_path: Path, fault: str
) -> None:
    (tmp_path / "in").write_bytes(b"content")
    for verb in (
        lambda: bare.read("object"),
        lambda: bare.download("object", tmp_path / "out"),
        lambda: bare.upload(tmp_path / "in", "object"),
        lambda: bare.create("object", b"content"),
        lambda: [*bare.list("")],
        lambda: bare.delete(["object"]),
    ):
        proxy.faults.append(fault)
        with pytest.raises(Transient):
            verb()
        assert not proxy.faults
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fault", ONE_FAULT)
def test_retrying_survives(
    patient: Retrying, proxy: FaultyProxy, tmp_path: Path, fault: str
) -> None:
    (tmp_path / "in").write_bytes(b"content")
    proxy.faults.extend([fault, fault])
    patient.upload(tmp_path / "in", "object")
    proxy.faults.extend([fault, fault])
    patient.download("object", tmp_path / "out")
    proxy.faults.extend([fault, fault])
    assert [*patient.list("")] == ["object"]
    proxy.faults.extend([fault, fault])
    patient.delete(["object"])
    assert [*patient.list("")] == []
    assert (tmp_path / "out").read_bytes() == b"content"


def test_create_tells_the_truth_when_the_answer_is_lost(
    patient: Retrying, proxy: FaultyProxy
) -> None:
    proxy.faults.extend(["lose", "slow_down"])
    assert patient.create("manifest.json", b"mine")  # the put worked; only its answer was lost
    assert proxy.requests == ["PUT", "PUT", "PUT", "GET"]
    proxy.faults.append("lose")
    assert not patient.create("manifest.json", b"another's")
    proxy.faults.append("reset")
    assert patient.create("other.json", b"mine")
    assert patient.read("manifest.json") == b"mine"


def test_botocore_does_not_retry_by_itself(bare: S3Store, proxy: FaultyProxy) -> None:
    proxy.faults.append("lose")
    with pytest.raises(Transient):
        bare.create("manifest.json", b"mine")
    assert proxy.requests == ["PUT"]


def test_a_download_cut_short_leaves_nothing(
    patient: Retrying, proxy: FaultyProxy, tmp_path: Path
) -> None:
    data = os.urandom(3_000_000)
    patient.create("object", data)
    proxy.faults.extend(["half"] * 4)
    message = failure(lambda: patient.download("object", tmp_path / "folder" / "out"))
    assert f"{patient.uri}: gave up after 4 attempts to download 'object'" in message
    assert [*(tmp_path / "folder").iterdir()] == []
    proxy.faults.extend(["half", "half"])
    patient.download("object", tmp_path / "folder" / "out")
    assert (tmp_path / "folder" / "out").read_bytes() == data


def test_a_server_that_falls_silent_is_left(
    bare: S3Store, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare.create("object", os.urandom(3_000_000))
    monkeypatch.setattr(store_s3, "READ_TIMEOUT_S", 0.5)
    proxy.faults.append("stall")
    with pytest.raises(Transient, match="Read timeout"):
        S3Store.at(bare.uri).download("object", tmp_path / "folder" / "out")
    assert [*(tmp_path / "folder").iterdir()] == []


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (botocore_errors.ConnectTimeoutError(endpoint_url="http://s3"), Transient),
        (botocore_errors.ProxyConnectionError(proxy_url="http://proxy"), Transient),
        (botocore_errors.SSLError(endpoint_url="https://s3", error="eof"), Transient),
        (botocore_errors.IncompleteReadError(actual_bytes=1, expected_bytes=2), Transient),
        (botocore_errors.FlexibleChecksumError(error_msg="crc32"), Transient),
        (botocore_errors.ParamValidationError(report="Invalid\nbucket"), StoreError),
    ],
)
def test_what_is_worth_another_try(
    monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[StoreError]
) -> None:
    class Client:
        def put_object(self, **request: object) -> None:
            raise error

    monkeypatch.setattr(store_s3, "_connect", lambda endpoint: Client())
    with pytest.raises(StoreError) as caught:
        S3Store("bucket").create("name", b"")
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)


def test_a_large_file_survives_the_loss_of_a_part(
    patient: Retrying, proxy: FaultyProxy, tmp_path: Path
) -> None:
    data = os.urandom(20_000_000)  # three parts
    (tmp_path / "in").write_bytes(data)
    proxy.faults.extend(["pass", "pass", "reset"])
    patient.upload(tmp_path / "in", "object")
    assert "POST" in proxy.requests
    assert patient.read("object") == data


def test_a_server_without_conditional_puts_is_not_asked_again(
    patient: Retrying, proxy: FaultyProxy
) -> None:
    proxy.faults.append("unable")
    message = failure(lambda: patient.create("manifest.json", b""))
    assert "answered 501 NotImplemented for 'manifest.json'" in message
    assert proxy.requests == ["PUT"]


def test_giving_up_names_store_object_and_cause(patient: Retrying, proxy: FaultyProxy) -> None:
    proxy.faults.extend(["slow_down"] * 4)
    message = failure(lambda: patient.read("stage/key/manifest.json"))
    assert re.fullmatch(
        rf"{patient.uri}: gave up after 4 attempts to read 'stage/key/manifest.json': "
        rf"S3 at {proxy.endpoint} answered 503 SlowDown .*",
        message,
    )
    assert not proxy.faults


def test_wrong_secret(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    store = open_store(f"s3://{bucket}/p")
    start = time.monotonic()
    message = failure(lambda: store.create("name", b""))
    assert "SignatureDoesNotMatch" in message
    assert "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in message
    assert bucket in message
    assert os.environ["AWS_ENDPOINT_URL"] in message
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in message
    assert time.monotonic() - start < 2  # no use in trying again


def test_unknown_key(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    assert "(InvalidAccessKeyId)" in failure(lambda: self_test(open_store(f"s3://{bucket}")))


def test_a_key_that_may_only_read(
    bucket: str, s3_server: Any, s3_client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_client.put_object(Bucket=bucket, Key="p/object", Body=b"content")
    (tmp_path / "in").touch()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.reader_key)
    store = open_store(f"s3://{bucket}/p")
    assert store.read("object") == b"content"
    for verb in (
        lambda: store.create("name", b""),
        lambda: store.upload(tmp_path / "in", "object"),
        lambda: store.delete(["object"]),
    ):
        message = failure(verb)
        assert "(AccessDenied)" in message
        assert "the key may list, read, write and delete" in message
    assert [*store.list("")] == ["object"]


def test_no_key(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    message = failure(lambda: open_store(f"s3://{bucket}").read("name"))
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in message


def test_missing_bucket(bucket: str, tmp_path: Path) -> None:
    store = open_store("s3://no-such-bucket/p")
    (tmp_path / "in").touch()
    for verb in (
        lambda: store.read("name"),
        lambda: store.download("name", tmp_path / "out"),
        lambda: store.upload(tmp_path / "in", "name"),
        lambda: store.create("name", b""),
        lambda: [*store.list("")],
    ):
        message = failure(verb)
        assert (
            "has no bucket 'no-such-bucket': create it, or correct s3://no-such-bucket/p" in message
        )
        assert os.environ["AWS_ENDPOINT_URL"] in message


def test_unreachable_endpoint(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as held:  # bound, but nobody listens
        held.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{held.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        store = Retrying(S3Store.at(f"s3://{bucket}/p"), attempts=2, first_wait_s=0.01)
        message = failure(lambda: store.read("name"))
    assert f"cannot reach S3 at {endpoint}" in message
    assert "check AWS_ENDPOINT_URL" in message
    assert bucket in message


@pytest.mark.parametrize("uri", ["s3://", "s3:///prefix"])
def test_a_uri_without_a_bucket(uri: str) -> None:
    assert "name a bucket, as in s3://bucket/prefix" in failure(lambda: open_store(uri))


def test_malformed_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "localhost:9000")
    assert "AWS_ENDPOINT_URL" in failure(lambda: open_store("s3://bucket"))


def test_prefixes_are_separate(bucket: str) -> None:
    one, two, whole = (open_store(f"s3://{bucket}{p}") for p in ("/a", "/ab/", ""))
    one.create("x", b"1")
    two.create("x", b"2")
    assert [*one.list("")] == [*two.list("")] == ["x"]
    assert sorted(whole.list("")) == ["a/x", "ab/x"]
    assert whole.uri == f"s3://{bucket}"


def test_folder_marks_of_other_tools_are_not_objects(bucket: str, s3_client: Any) -> None:
    s3_client.put_object(Bucket=bucket, Key="p/folder/", Body=b"")
    assert [*open_store(f"s3://{bucket}/p").list("")] == []


def test_no_secret_travels_with_the_store(bucket: str) -> None:
    store = S3Store.at(f"s3://{bucket}/p")
    store.create("name", b"")
    sent = pickle.dumps(store)
    assert os.environ["AWS_SECRET_ACCESS_KEY"].encode() not in sent
    assert os.environ["AWS_ACCESS_KEY_ID"].encode() not in sent


def test_endpoint_travels_with_the_store(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = pickle.dumps(S3Store.at(f"s3://{bucket}/p"))
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    assert pickle.loads(sent).create("name", b"")


def test_self_test_passes_and_leaves_nothing(bucket: str) -> None:
    store = open_store(f"s3://{bucket}/p")
    start = time.monotonic()
    findings = self_test(store)
    assert len(findings) == 5
    assert [*store.list("")] == []
    assert time.monotonic() - start < 20
