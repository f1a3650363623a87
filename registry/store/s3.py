"""The store in a bucket of S3, or of a server that speaks it.

    s3://BUCKET/PREFIX/
      blobs/sha256/ab/ab34…    as `protocol.py` says; large ones in parts (`s3_upload.py`)
      staging/HOST-PID-…       a probe of what the server checks, for a moment
      kept/ab34…               empty: when the blob was last found there by who needs it, for its age
      actions/…                records of jobs
      metadata/…, targets/…    a published catalog's documents

Objects appear whole, and only where none is (`If-None-Match`); the server verifies the SHA-256 of what it receives.
Reading goes by ranges over several connections, through presigned URLs and the same transfer as any fetch.
"""

from __future__ import annotations

import hashlib
import io
import os
import urllib.parse
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO

from registry.bundle.folder import Bundle
from registry.bundle.manifest import FileEntry
from registry.files.staging import abandoned, owner_mark
from registry.store.protocol import (
    DOCUMENT_BYTES_LIMIT,
    Blob,
    Document,
    Store,
    blob_path,
    caching_of,
    check_document_name,
    is_digest,
    media_type_of,
    not_the_blob,
    too_large,
    unreadable_file,
)
from registry.store.s3_bundle import S3Bundle
from registry.store.s3_client import (
    LOST_RACE,
    MISSING,
    code_of,
    refusal_fix,
    s3_client,
    s3_errors,
    sha256_checksum,
)
from registry.store.s3_probe import probe
from registry.store.s3_stream import BlobStream
from registry.store.s3_upload import PART_BYTES, upload
from registry.transfer.bundle_download import DEFAULT_OPTIONS, DownloadOptions, download_bundle
from registry.transfer.destination import existing_bundle
from registry.transfer.download import Transfer, TransferStatistics, WrongContentError
from registry.transfer.header_values import http_date
from registry.transfer.http import RefusedError
from targets.errors import FetchError, FetchUnreachableError, StoreError, StoreUnreachableError
from targets.progress import Notice, Progress, silent, with_subject
from targets.secrets import shown

URL_SECONDS = 12 * 3600
_PROBE_SECONDS = 3600  # after which a probe is another machine's that was killed, too


class S3Store(Store):
    """A store in a bucket. boto3 finds endpoint, region and credentials; the URI holds none of them.

    `on_progress` receives a notice of a prefix that is new.
    """

    def __init__(self, bucket: str, prefix: str = "", on_progress: Progress = silent) -> None:
        self.bucket, self.prefix, self.on_progress = bucket, prefix.strip("/"), on_progress
        self._is_named = False

    @cached_property
    def _client(self) -> Any:
        return s3_client()

    @property
    def uri(self) -> str:
        """Return `s3://BUCKET/PREFIX`."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def exists(self) -> bool:
        """List one object."""
        with s3_errors(self.uri, "ListObjectsV2"):
            return next(self._objects(""), None) is not None

    def check_writable(self) -> None:
        """Try on a small object what a store needs; remove those of processes that were killed meanwhile."""
        with s3_errors(self.uri, "PutObject"):
            probe(self._client, self._object(f"staging/{owner_mark()}{os.urandom(8).hex()}"), self.uri)
        with s3_errors(self.uri, "ListObjectsV2"):
            for key, when, _, now in self._objects("staging/"):
                if abandoned(key.rpartition("/")[2]) or (now - when).total_seconds() >= _PROBE_SECONDS:
                    self._client.delete_object(Bucket=self.bucket, Key=key)
        if not self._is_named and not self.exists():
            self._is_named = True
            self.on_progress(Notice(f"a new store: {self.uri}"))

    def blob_bytes(self, digest: str) -> int | None:
        """Return the length that the object's head says."""
        with s3_errors(self.uri, "HeadObject"):
            head = self._head(digest)
        return None if head is None else int(head["ContentLength"])

    def put(self, source: BinaryIO, blob: Blob, *, what: str) -> None:
        """Send in one request, or in parts where it is large; the object appears with the last one."""
        name = blob_path(blob.digest)
        place = self._object(name)
        with s3_errors(self.location_of(blob.digest), "uploading"):
            there = self._head(blob.digest)
            if there is not None and there["ContentLength"] == blob.bytes:
                if self.keep(blob.digest):
                    return  # another publisher was quicker
                there = None  # gc has removed it since
            condition = {"IfNoneMatch": "*"} if there is None else {"IfMatch": there["ETag"]}  # it was damaged
            try:
                if blob.bytes > PART_BYTES:
                    upload(self._client, {**place, **_attributes(name)}, source, blob, condition, what)
                    self._check_there(blob)
                    return
                body = source.read(blob.bytes + 1)
            except OSError as error:
                raise unreadable_file(what, error) from error
            digest = "sha256:" + hashlib.sha256(body).hexdigest()
            if (len(body), digest) != (blob.bytes, blob.digest):
                raise not_the_blob(what, len(body), digest, blob)
            if not self._create(name, body, condition):
                self._check_there(blob)

    def open_blob(self, digest: str) -> BinaryIO:
        """Read from one connection, which is opened again where it breaks."""
        size = self.blob_bytes(digest)
        if size is None:
            raise StoreError(
                f"store {self.uri}: blob {digest} is missing",
                fix="name the right store with --store, or run phipack release again",
            )
        return io.BufferedReader(BlobStream(partial(self._range, digest), size), 1 << 20)

    def copy_out(self, digest: str, path: Path, *, what: str, on_progress: Progress = silent) -> None:
        """Download by ranges, several at once, hashing."""
        size = self.blob_bytes(digest)
        if size is None:
            raise StoreError(f"{what}: blob {digest} is missing in {self.uri}", fix="run phipack release again")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        entry = FileEntry.model_construct(path=path.name, bytes=size, sha256=digest.removeprefix("sha256:"), chunks=())
        url = self.presigned_url(digest)
        with Transfer(on_progress=with_subject(on_progress, "")) as transfer:
            try:
                transfer.download(entry, url, path)
            except WrongContentError as error:
                if self.blob_bytes(digest) == size:
                    raise self._damaged(digest, what) from error
                raise self._unreadable_by(error, what, url, digest) from error
            except FetchError as error:
                raise self._unreadable_by(error, what, url, digest) from error

    def download(
        self, digest: str, out: Path, options: DownloadOptions = DEFAULT_OPTIONS, *, on_progress: Progress = silent
    ) -> tuple[Bundle, TransferStatistics]:
        """Download by ranges; what an earlier try received is kept next to `out`, and counted.

        Credentials that boto3 renews by itself may expire in between: then it goes on with the new ones.
        """
        if (existing := existing_bundle(out, digest, replace=options.replace)) is not None:
            return existing, TransferStatistics()
        bundle = S3Bundle(self.manifest(digest), self.presigned_url, self.location_of)
        while True:
            used = self._credentials()
            try:
                placed, statistics = download_bundle(bundle, out, options, on_progress=on_progress)
                return placed, statistics + TransferStatistics(len(bundle.manifest.to_bytes()))
            except FetchError as error:
                if isinstance(error, RefusedError) and used != self._credentials():
                    continue
                raise self._store_error(error, f"bundle {digest}", bundle.in_message(error.problem)) from error

    def _credentials(self) -> str:
        """Return what a URL that is signed now says of the credentials: it changes when they are renewed."""
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.presigned_url(f"sha256:{'0' * 64}")).query)
        return f"{query.get('X-Amz-Credential')} {query.get('X-Amz-Security-Token')}"

    def _unreadable_by(self, error: FetchError, what: str, url: str, digest: str) -> StoreError:
        return self._store_error(error, what, error.problem.replace(shown(url), self.location_of(digest)))

    def _store_error(self, error: FetchError, what: str, problem: str) -> StoreError:
        if isinstance(error, RefusedError) and (known := refusal_fix(error.code or str(error.status))) is not None:
            return StoreError(f"{what} can't be read: {problem}", fix=f"{known}: what was received is kept")
        if isinstance(error, WrongContentError):
            return StoreError(f"{what} is damaged: {problem}", fix="remove that blob, then run phipack release again")
        kind = StoreUnreachableError if isinstance(error, FetchUnreachableError) else StoreError
        return kind(f"{what} can't be read: {problem}", fix=error.fix)

    def blobs(self) -> Iterator[Blob]:
        """List the objects."""
        with s3_errors(self.uri, "ListObjectsV2"):
            for digest, _, size, _ in self._blob_objects():
                yield Blob(digest, size)

    def keep(self, digest: str) -> bool:
        """Write an empty object in `kept/`, whose time counts."""
        blob_path(digest)
        with s3_errors(self.location_of(digest), "PutObject"):
            self._create(_kept(digest), b"", {})
            return self._head(digest) is not None

    def aged(self, seconds: float) -> Iterator[Blob]:
        """List the objects and those in `kept/`, with their times and the server's."""
        with s3_errors(self.uri, "ListObjectsV2"):
            kept = {key.rpartition("/")[2]: when for key, when, _, _ in self._objects("kept/")}
            for digest, when, size, now in self._blob_objects():
                last = max(when, kept.get(digest.removeprefix("sha256:"), when))
                if (now - last).total_seconds() >= seconds:
                    yield Blob(digest, size)

    def remove(self, digest: str, *, seconds: float) -> bool:
        """Check its times again, and delete it.

        S3 has no condition for this: whoever keeps the blob between the two requests finds it gone when it registers.
        """
        with s3_errors(self.location_of(digest), "DeleteObject"):
            if (head := self._head(digest)) is None:
                return False
            now = self._now(head)
            mark = next((when for _, when, _, _ in self._objects(_kept(digest))), head["LastModified"])
            if (now - max(mark, head["LastModified"])).total_seconds() < seconds:
                return False
            self._client.delete_object(**self._object(blob_path(digest)))
            self._client.delete_object(**self._object(_kept(digest)))
        return True

    def sweep(self, seconds: float, *, dry_run: bool) -> int:
        """Abort old uploads; remove old probes and marks of blobs that are gone."""
        with s3_errors(self.uri, "AbortMultipartUpload"):
            names = {blob.digest.removeprefix("sha256:") for blob in self.blobs()}
            left = [key for key, when, _, now in self._objects("staging/") if (now - when).total_seconds() >= seconds]
            for key, when, _, now in self._objects("kept/"):
                if key.rpartition("/")[2] not in names and (now - when).total_seconds() >= seconds:
                    left.append(key)
            uploads = list(self._old_uploads(seconds))
            for key in left if not dry_run else ():
                self._client.delete_object(Bucket=self.bucket, Key=key)
            for upload_id, key in uploads if not dry_run else ():
                self._client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload_id)
        return len(left) + len(uploads)

    def _blob_objects(self) -> Iterator[tuple[str, datetime, int, datetime]]:
        """Yield digest, time and size of all blobs, and the server's time; not what other tools keep among them."""
        for key, when, size, now in self._objects("blobs/sha256/"):
            if is_digest(digest := "sha256:" + key.rpartition("/")[2]):
                yield digest, when, size, now

    def _objects(self, below: str) -> Iterator[tuple[str, datetime, int, datetime]]:
        """Yield key, time and size of all objects, and the server's time."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self._key(below))
        for page in pages:
            now = self._now(page)
            for found in page.get("Contents", ()):
                yield found["Key"], found["LastModified"], found["Size"], now

    def _now(self, answer: Mapping[str, Any]) -> datetime:
        """Return the server's time. Raises `StoreError` where its answer has none: then nothing has an age."""
        if (now := http_date(answer["ResponseMetadata"]["HTTPHeaders"].get("date"))) is None:
            raise StoreError(
                f"{self.uri}: the server's answer has no date, so how old its objects are is unknown",
                fix="ask whoever runs the S3 server, or a proxy before it, to send the header Date",
            )
        return now

    def _old_uploads(self, seconds: float) -> Iterator[tuple[str, str]]:
        prefix = self._key("blobs/")
        pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=prefix)
        for page in pages:
            now = self._now(page)
            for one in page.get("Uploads", ()):
                if (now - one["Initiated"]).total_seconds() >= seconds:
                    yield one["UploadId"], one["Key"]

    def location_of(self, digest: str) -> str:
        """Return `s3://BUCKET/KEY`."""
        return f"{self.uri}/{blob_path(digest)}"

    def read_document(self, name: str) -> Document | None:
        """Read the object. Its tag is S3's."""
        from botocore.exceptions import ClientError

        with s3_errors(f"{self.uri}/{name}", "GetObject"):
            try:
                answer = self._client.get_object(**self._object(check_document_name(name)))
            except ClientError as error:
                if code_of(error) in MISSING:
                    return None
                raise
            if answer["ContentLength"] > DOCUMENT_BYTES_LIMIT:
                raise too_large(f"{self.uri}/{name}", answer["ContentLength"])
            return Document(answer["Body"].read(), answer["ETag"])

    def write_document(self, name: str, content: bytes, *, replacing: str | None) -> bool:
        """Put it with a condition that the server checks."""
        check_document_name(name)
        condition = {"IfNoneMatch": "*"} if replacing is None else {"IfMatch": replacing}
        with s3_errors(f"{self.uri}/{name}", "PutObject"):
            return self._create(name, content, condition)

    def documents(self, below: str, *, seconds: float = 0.0) -> Iterator[str]:
        """List the objects, with the server's time."""
        with s3_errors(f"{self.uri}/{below}", "ListObjectsV2"):
            for key, when, _, now in self._objects(below):
                if seconds <= 0 or (now - when).total_seconds() >= seconds:
                    yield key.removeprefix(self._key(""))

    def remove_document(self, name: str, *, seconds: float) -> bool:
        """Look at its time again, and delete it."""
        check_document_name(name)
        with s3_errors(f"{self.uri}/{name}", "DeleteObject"):
            found = next(((when, now) for key, when, _, now in self._objects(name) if key == self._key(name)), None)
            if found is None or (found[1] - found[0]).total_seconds() < seconds:
                return False
            self._client.delete_object(**self._object(name))
        return True

    def presigned_url(self, digest: str, seconds: int = URL_SECONDS) -> str:
        """Return a URL by which anybody may read the blob for so many seconds."""
        with s3_errors(self.location_of(digest), "signing a URL"):
            place = self._object(blob_path(digest))
            return str(self._client.generate_presigned_url("get_object", Params=place, ExpiresIn=seconds))

    def _range(self, digest: str, offset: int) -> Any:
        """Open the blob's bytes from `offset` on; botocore's stream."""
        place = self._object(blob_path(digest))
        with s3_errors(self.location_of(digest), "GetObject"):
            return self._client.get_object(**place, Range=f"bytes={offset}-")["Body"]

    def _head(self, digest: str) -> dict[str, Any] | None:
        from botocore.exceptions import ClientError

        try:
            head: dict[str, Any] = self._client.head_object(**self._object(blob_path(digest)))
        except ClientError as error:
            if code_of(error) in MISSING:
                return None
            raise
        return head

    def _check_there(self, blob: Blob) -> None:
        """Raise `StoreError` where the blob is not what another publisher, who was quicker, has left there."""
        if self.blob_bytes(blob.digest) != blob.bytes:
            raise StoreError(
                f"{self.location_of(blob.digest)} was written or removed by another process meanwhile",
                fix="run the same command again",
            )

    def _create(self, name: str, body: bytes, condition: dict[str, str]) -> bool:
        """Put an object on a condition. Returns False where another one is there."""
        from botocore.exceptions import ClientError

        place, checked = self._object(name), {"ChecksumSHA256": sha256_checksum(body)}
        try:
            self._client.put_object(**place, **_attributes(name), **checked, Body=body, **condition)
        except ClientError as error:
            if code_of(error) not in LOST_RACE:
                raise
            # The answer to a first try may have been lost: then the second one meets what the first has written.
            repeated = error.response["ResponseMetadata"].get("RetryAttempts", 0) > 0
            return repeated and self._holds(place, body)
        return True

    def _holds(self, place: dict[str, str], body: bytes) -> bool:
        from botocore.exceptions import ClientError

        try:
            answer = self._client.get_object(**place)
            return bool(answer["ContentLength"] == len(body) and answer["Body"].read() == body)
        except ClientError as error:
            if code_of(error) in MISSING:
                return False
            raise

    def _object(self, name: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self._key(name)}

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name


def _attributes(name: str) -> dict[str, str]:
    """Return what every object has besides its bytes, however it is uploaded; each upload has its SHA-256, too."""
    return {"CacheControl": caching_of(name), "ContentType": media_type_of(name)}


def _kept(digest: str) -> str:
    return f"kept/{digest.removeprefix('sha256:')}"
