"""S3 as it fails: broken uploads, cut connections, wrong keys, servers that lack something; and MLflow's road to it."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from devtools.servers import running
from devtools.services.seaweedfs import S3Server
from registry.files.staging import owner_mark
from registry.store.protocol import Blob, blob_path
from registry.store.s3 import S3Store
from registry.store.s3_upload import PART_BYTES, part_bytes
from targets.errors import StoreError, StoreUnreachableError
from tests.support.s3 import BUCKET
from tests.support.tcp_proxy import proxy_before

SLOW_DOWN = b"<Error><Code>SlowDown</Code></Error>"
PARTS = 5
LARGE = np.random.default_rng(4).bytes(PART_BYTES * (PARTS - 1) + 1000)


def blob_of(content: bytes) -> Blob:
    return Blob("sha256:" + hashlib.sha256(content).hexdigest(), len(content))


def place(store: S3Store, blob: Blob) -> dict[str, str]:
    return store._object(blob_path(blob.digest))


def uploads_of(server: S3Server, store: S3Store) -> list[dict[str, Any]]:
    answer = server.client().list_multipart_uploads(Bucket=BUCKET, Prefix=store.prefix)
    return list(answer.get("Uploads", ()))


class Breaking(io.BytesIO):
    """A source that breaks after some bytes."""

    def readinto(self, buffer: Any) -> int:
        if self.tell() >= PART_BYTES * 3:
            raise OSError(5, "Input/output error")
        return super().readinto(buffer)


class Counting:
    """Counts the calls of a client's operation."""

    def __init__(self, store: S3Store, name: str) -> None:
        self.count = 0
        real = getattr(store._client, name)

        def counted(**options: Any) -> Any:
            self.count += 1
            return real(**options)

        setattr(store._client, name, counted)


def test_an_upload_that_broke_off_goes_on_where_it_stopped(s3_server: S3Server, s3_store: S3Store) -> None:
    blob = blob_of(LARGE)
    with pytest.raises(Exception, match="can't be read"):
        s3_store.put(Breaking(LARGE), blob, what="model.gguf")
    assert s3_store.blob_bytes(blob.digest) is None
    (begun,) = uploads_of(s3_server, s3_store)
    again = S3Store(s3_store.bucket, s3_store.prefix)
    sent = Counting(again, "upload_part")
    again.put(io.BytesIO(LARGE), blob, what="model.gguf")
    assert sent.count == PARTS - 3
    assert uploads_of(s3_server, s3_store) == []
    assert begun["UploadId"]


UPLOAD = """
import hashlib, io, sys
import numpy as np
from registry.store.protocol import Blob
from registry.store.uris import open_store
content = np.random.default_rng(4).bytes(int(sys.argv[2]))
store = open_store(sys.argv[1])
print("ready", flush=True)
store.put(io.BytesIO(content), Blob("sha256:" + hashlib.sha256(content).hexdigest(), len(content)), what="model.gguf")
"""


def test_a_publisher_killed_while_uploading_harms_nobody(s3_server: S3Server, s3_store: S3Store) -> None:
    blob = blob_of(LARGE)
    command = [sys.executable, "-c", UPLOAD, s3_store.uri, str(len(LARGE))]
    for _ in range(2):
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        until = time.monotonic() + 20
        while not uploads_of(s3_server, s3_store) and time.monotonic() < until:
            time.sleep(0.02)
        process.kill()
        process.communicate()
        assert s3_store.blob_bytes(blob.digest) is None
    s3_store.put(io.BytesIO(LARGE), blob, what="model.gguf")
    with s3_store.open_blob(blob.digest) as source:
        assert hashlib.file_digest(source, "sha256").hexdigest() == blob.digest[7:]


def test_publishers_of_one_blob_at_once_leave_one_whole_object(s3_server: S3Server, s3_store: S3Store) -> None:
    blob = blob_of(LARGE)
    stores = [S3Store(s3_store.bucket, s3_store.prefix) for _ in range(3)]
    problems = []

    def put(store: S3Store) -> None:
        try:
            store.put(io.BytesIO(LARGE), blob, what="model.gguf")
        except StoreError as error:
            problems.append(error)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(put, stores))
    assert problems == []
    assert s3_store.blob_bytes(blob.digest) == blob.bytes
    with s3_store.open_blob(blob.digest) as source:
        assert hashlib.file_digest(source, "sha256").hexdigest() == blob.digest[7:]
    assert uploads_of(s3_server, s3_store) == []


def test_the_server_refuses_bytes_that_changed_on_the_way(s3_store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the checksums are for: a part's body is not the one that was hashed."""
    real = s3_store._client.upload_part

    def corrupting(**options: Any) -> Any:
        return real(**{**options, "Body": b"!" + bytes(options["Body"])[1:]})

    monkeypatch.setattr(s3_store._client, "upload_part", corrupting)  # all stores' client
    blob = blob_of(LARGE)
    with pytest.raises(StoreError, match="UploadPart failed"):
        s3_store.put(io.BytesIO(LARGE), blob, what="model.gguf")
    assert s3_store.blob_bytes(blob.digest) is None


@pytest.fixture
def behind_proxy(s3_server: S3Server, s3_store: S3Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The same store through a proxy that cuts."""
    with proxy_before(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        yield proxy, S3Store(s3_store.bucket, s3_store.prefix)


def test_cut_connections_are_taken_up_again(behind_proxy: Any, tmp_path: Path) -> None:
    proxy, store = behind_proxy
    blob = blob_of(LARGE)
    proxy.left, proxy.after_bytes = 3, PART_BYTES // 2
    store.put(io.BytesIO(LARGE), blob, what="model.gguf")
    assert proxy.met == 3
    proxy.left = 3
    with store.open_blob(blob.digest) as source:
        assert hashlib.file_digest(source, "sha256").hexdigest() == blob.digest[7:]
    proxy.left, proxy.after_bytes = 3, 1 << 20
    store.copy_out(blob.digest, tmp_path / "out", what="model.gguf")
    assert (tmp_path / "out").read_bytes() == LARGE


@pytest.mark.parametrize("failure", ["lost answer", "503"])
def test_a_document_whose_answer_was_lost_is_written(
    s3_store: S3Store, failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client asks again, and its second request meets what the first has written, or finds the way free."""
    from botocore.awsrequest import AWSResponse
    from botocore.exceptions import ConnectionClosedError
    from urllib3 import HTTPResponse

    session = s3_store._client._endpoint.http_session
    real, met = session.send, []

    def send(request: Any) -> Any:
        if request.method != "PUT" or met:
            return real(request)
        met.append(request)
        if failure == "503":
            return AWSResponse(request.url, 503, {}, HTTPResponse(io.BytesIO(SLOW_DOWN), preload_content=False))
        real(request)
        raise ConnectionClosedError(endpoint_url=request.url)

    monkeypatch.setattr(session, "send", send)
    assert s3_store.write_document("metadata/1.root.json", b"{}", replacing=None)
    assert met
    assert not s3_store.write_document("metadata/1.root.json", b"{}", replacing=None)


def test_a_server_that_is_gone_is_said(monkeypatch: pytest.MonkeyPatch, s3_store: S3Store) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(StoreUnreachableError, match="is unreachable") as error:
        S3Store("models").blob_bytes("sha256:" + "a" * 64)
    assert "AWS_ENDPOINT_URL_S3" in str(error.value)
    with pytest.raises(StoreUnreachableError):  # and not "there is no such bundle"
        S3Store("models").has_bundle("sha256:" + "a" * 64)


def test_a_server_in_trouble_is_unreachable(monkeypatch: pytest.MonkeyPatch, s3_store: S3Store) -> None:
    """After boto3's own retries; what a server refuses is no trouble of its own."""
    from botocore.awsrequest import AWSResponse
    from urllib3 import HTTPResponse

    def send(request: Any) -> Any:
        return AWSResponse(request.url, 503, {}, HTTPResponse(io.BytesIO(SLOW_DOWN), preload_content=False))

    monkeypatch.setattr(s3_store._client._endpoint.http_session, "send", send)
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(StoreUnreachableError, match="the server is in trouble: GetObject"):
        s3_store.read_document("metadata/1.root.json")


@pytest.mark.parametrize(
    ("environment", "bucket", "said"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, BUCKET, "is refused"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, BUCKET, "is refused"),
        ({}, "no-such-bucket", "no such bucket"),
    ],
)
def test_wrong_keys_and_buckets_are_said(
    s3_store: S3Store,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    bucket: str,
    said: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreError, match=said) as error:
        S3Store(bucket, "x").check_writable()
    assert "fix:" in str(error.value)
    assert "wrong" not in str(error.value)


def test_without_credentials_it_says_which_to_set(s3_store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StoreError, match="no credentials") as error:
        S3Store(BUCKET).check_writable()
    assert "AWS_ACCESS_KEY_ID" in str(error.value)


class Careless(BaseHTTPRequestHandler):
    """A server that takes everything, whatever the conditions and checksums say."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self.rfile.read(length)
        self.send_response(200)
        self.send_header("ETag", '"x"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_DELETE(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def test_a_server_without_conditional_writes_is_refused_at_the_start(
    s3_store: S3Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running(Careless) as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
        with pytest.raises(StoreError, match=r"does not check conditional writes \(If-None-Match\)"):
            S3Store("models").check_writable()


def test_a_probe_of_a_process_that_was_killed_goes_with_the_next_check(s3_server: S3Server, s3_store: S3Store) -> None:
    """One of another machine's stays while it may be at work."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host = owner_mark().split("-")[0]
    client, prefix = s3_server.client(), f"{s3_store.prefix}/staging"
    for mark in (f"{host}-{ended.pid}-abc", f"0000000f-{ended.pid}-abc", f"{owner_mark()}abc"):
        client.put_object(Bucket=BUCKET, Key=f"{prefix}/{mark}", Body=b"")
    s3_store.check_writable()
    left = client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]
    assert sorted(one["Key"].rpartition("/")[2] for one in left) == sorted(
        [f"0000000f-{ended.pid}-abc", f"{owner_mark()}abc"]
    )


MEMORY = """
import resource, sys
from pathlib import Path
from registry.store.protocol import Blob
from registry.store.uris import open_store
import hashlib
path = Path(sys.argv[2])
with path.open("rb") as stream:
    digest = "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()
store = open_store(sys.argv[1])
store.blob_bytes(digest)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with path.open("rb") as stream:
    store.put(stream, Blob(digest, path.stat().st_size), what="model.gguf")
store.copy_out(digest, path.with_name("back"), what="model.gguf")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_stays_flat(s3_store: S3Store, tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as out:
        for number in range(320):
            out.write(number.to_bytes(4) * (1 << 18))
    command = [sys.executable, "-c", MEMORY, s3_store.uri, str(tmp_path / "large")]
    kilobytes = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert kilobytes < 170_000, f"{kilobytes / 1000:.0f} MB for 335 MB"
    assert (tmp_path / "back").stat().st_size == 320 << 20


def test_parts_stay_below_what_s3_allows() -> None:
    for size in (PART_BYTES + 1, 28 << 30, 5 << 40):
        assert -(-size // part_bytes(size)) <= 10_000
    assert part_bytes(28 << 30) == PART_BYTES


@pytest.mark.parametrize("size", [1000, PART_BYTES + 1])
def test_objects_are_alike_however_they_were_uploaded(s3_store: S3Store, size: int) -> None:
    """A large one, sent in parts, has what a small one has: a CDN keeps both, and the server checked both."""
    content = LARGE[:size]
    blob = blob_of(content)
    s3_store.put(io.BytesIO(content), blob, what="model.gguf")
    head = s3_store._client.head_object(**place(s3_store, blob), ChecksumMode="ENABLED")
    assert head["CacheControl"] == "public, max-age=31536000, immutable"
    assert head["ContentType"] == "application/octet-stream"


def test_documents_say_how_long_they_may_be_kept(s3_store: S3Store) -> None:
    for name, caching in (
        ("metadata/timestamp.json", "no-cache"),
        ("metadata/1.root.json", "public, max-age=31536000, immutable"),
    ):
        assert s3_store.write_document(name, b"{}", replacing=None)
        head = s3_store._client.head_object(**s3_store._object(name))
        assert (head["CacheControl"], head["ContentType"]) == (caching, "application/json")
