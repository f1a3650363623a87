"""A token that expires in the middle of a download: said, resumed after renewal, and its bytes counted."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from devtools.bundles import make_bundle
from devtools.servers import running
from registry.bundle.folder import Bundle, verify
from registry.store.protocol import blob_path, blobs_of
from registry.store.s3 import S3Store
from targets.errors import StoreError

EXPIRED = (
    b"<?xml version='1.0'?><Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
)


class Bucket(BaseHTTPRequestHandler):
    """S3 with a bundle in it, where the token `old` is good for some reads."""

    protocol_version = "HTTP/1.1"
    reads_left = 0

    def __init__(self, *args: object, objects: dict[str, bytes]) -> None:
        self.objects = objects
        super().__init__(*args)  # type: ignore[arg-type]

    def do_HEAD(self) -> None:
        self._answer(200, self.objects[self.path.split("?")[0]], body=False)

    def do_GET(self) -> None:
        content = self.objects[self.path.split("?")[0]]
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if "X-Amz-Security-Token=old" in self.path:
            Bucket.reads_left -= 1
            if Bucket.reads_left < 0:
                self._answer(400, EXPIRED)
                return
        if asked is None:
            self._answer(200, content)
            return
        begin, end = int(asked[1]), int(asked[2] or len(content) - 1)
        self._answer(206, content[begin : end + 1], f"bytes {begin}-{end}/{len(content)}")

    def _answer(self, status: int, content: bytes, content_range: str = "", *, body: bool = True) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            self.close_connection = True  # the client has given up

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def large(tmp_path: Path) -> Bundle:
    """A bundle of 40 MB: some requests long."""
    return make_bundle(tmp_path / "large", {"model.gguf": random.Random(7).randbytes(40_000_000)})


@pytest.fixture
def store(large: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Store]:
    """A store that has it."""
    objects = {
        f"/bucket/{blob_path(blob.digest)}": large.file(name).read_bytes() for name, blob in blobs_of(large.manifest)
    }
    with running(partial(Bucket, objects=objects)) as port:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
            monkeypatch.setenv(name, "us-east-1")
        monkeypatch.setenv("AWS_SESSION_TOKEN", "old")
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
        yield S3Store("bucket")


def test_an_expired_token_is_named_and_the_download_goes_on_after_renewal(
    store: S3Store, large: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Bucket.reads_left = 3
    with pytest.raises(StoreError, match="400 Bad Request: ExpiredToken: The provided token has expired") as caught:
        store.download(large.digest, tmp_path / "out")
    error = caught.value
    assert f"s3://bucket/{blob_path(large.manifest.files[0].digest)}" in error.problem
    assert "X-Amz" not in str(error)
    assert "renew the credentials" in error.fix
    assert "what was received is kept" in error.fix
    assert not (tmp_path / "out").exists()
    monkeypatch.setenv("AWS_SESSION_TOKEN", "new")
    bundle, statistics = S3Store("bucket").download(large.digest, tmp_path / "out")
    verify(bundle)
    assert statistics.resumed_bytes > 8_000_000
    assert statistics.downloaded_bytes == large.manifest.total_bytes - statistics.resumed_bytes


def test_credentials_that_renew_themselves_go_on_by_themselves(
    store: S3Store, large: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Bucket.reads_left = 3
    real = S3Store.presigned_url

    def renewing(self: S3Store, digest: str, *args: int) -> str:
        url = real(self, digest, *args)
        return url if Bucket.reads_left > 0 else url.replace("Security-Token=old", "Security-Token=new")

    monkeypatch.setattr(S3Store, "presigned_url", renewing)
    bundle, statistics = store.download(large.digest, tmp_path / "out")
    verify(bundle)
    assert statistics.resumed_bytes > 0
