"""One large blob to S3: in parts, some at once, each verified by the server; a later try continues from there.

    source ──read──> part's buffer ──4 threads──> SHA-256, UploadPart with it ──all there, digest right──> complete

Five buffers are used again and again, so memory is the same for any size. The object appears with the last request,
and only where it is not there yet. Two publishers of one blob may share an upload: equal parts replace one another, and
each completes with the checksums of its own.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, BinaryIO

from registry.store.protocol import Blob, not_the_blob
from registry.store.s3_client import CONNECTIONS, LOST_RACE, MISSING, code_of, sha256_checksum
from targets.errors import BundleError

PART_BYTES = 16 << 20
_MIB = 1 << 20
_PARTS_LIMIT = 9_000  # S3 has 10,000
_Part = dict[str, Any]


def part_bytes(size: int) -> int:
    """Return the size of a part, in whole MiB, such that a blob of `size` bytes has at most `_PARTS_LIMIT`."""
    least = -(-size // _PARTS_LIMIT)
    return max(PART_BYTES, -(-least // _MIB) * _MIB)


def upload(
    client: Any,
    target: dict[str, str],
    source: BinaryIO,
    blob: Blob,
    condition: dict[str, str],
    what: str,
) -> None:
    """Upload a blob to `target`, its Bucket, Key and headers, on a condition: IfNoneMatch, or IfMatch.

    Raises:
        BundleError: the source, `what`, is not the blob. Nothing is stored then.
        ClientError, BotoCoreError: S3 fails; the parts that it has are kept for the next try.
        OSError: the source can't be read.
    """
    from botocore.exceptions import ClientError

    place = {name: target[name] for name in ("Bucket", "Key")}
    upload_id, there = _begin(client, place, target)
    work = _Upload(client, {**place, "UploadId": upload_id}, there, part_bytes(blob.bytes))
    try:
        size, digest, parts = work.send(source)
        if (size, digest) != (blob.bytes, blob.digest):
            raise not_the_blob(what, size, digest, blob)
        client.complete_multipart_upload(**place, UploadId=upload_id, MultipartUpload={"Parts": parts}, **condition)
    except ClientError as error:
        if code_of(error) not in (*LOST_RACE, "NoSuchUpload"):
            raise
        client.head_object(**place)  # another publisher has completed it: it must be there
        _forget(client, place, upload_id)
    except BundleError:
        if not there:  # nobody else's
            _forget(client, place, upload_id)
        raise


def _begin(client: Any, place: dict[str, str], target: dict[str, str]) -> tuple[str, dict[int, _Part]]:
    """Return the newest unfinished upload of this key, with its parts; else a new one."""
    pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=place["Bucket"], Prefix=place["Key"])
    begun = [one for page in pages for one in page.get("Uploads", ()) if one["Key"] == place["Key"]]
    if not begun:
        made = client.create_multipart_upload(**target, ChecksumAlgorithm="SHA256")
        return made["UploadId"], {}
    upload_id = max(begun, key=lambda one: one["Initiated"])["UploadId"]
    pages = client.get_paginator("list_parts").paginate(**place, UploadId=upload_id)
    return upload_id, {part["PartNumber"]: part for page in pages for part in page.get("Parts", ())}


def _forget(client: Any, place: dict[str, str], upload_id: str) -> None:
    from botocore.exceptions import ClientError

    try:
        client.abort_multipart_upload(**place, UploadId=upload_id)
    except ClientError as error:
        if code_of(error) not in (*MISSING, "NoSuchUpload"):
            raise


@dataclass
class _Upload:
    client: Any
    place: dict[str, str]
    there: dict[int, _Part]
    size: int
    _free: SimpleQueue[bytearray] = field(default_factory=SimpleQueue)

    def send(self, source: BinaryIO) -> tuple[int, str, list[_Part]]:
        """Send the parts that are not on the server yet; return size, digest, and all parts for completion."""
        for _ in range(CONNECTIONS + 1):
            self._free.put(bytearray(self.size))
        running: list[Future[_Part]] = []
        hasher, total = hashlib.sha256(), 0
        pool = ThreadPoolExecutor(CONNECTIONS)
        try:
            while True:
                buffer = self._free.get()
                for done in running:
                    if done.done():
                        done.result()  # raises what failed, before more is sent
                count = self._filled(buffer, source)
                if not count and running:
                    break
                view = memoryview(buffer)[:count]
                hasher.update(view)
                view.release()
                total += count
                running.append(pool.submit(self._send_part, len(running) + 1, buffer, count))
                if count < self.size:
                    break
            parts = [future.result() for future in running]
        finally:
            pool.shutdown(cancel_futures=True)
        return total, "sha256:" + hasher.hexdigest(), parts

    def _filled(self, buffer: bytearray, source: BinaryIO) -> int:
        view, count = memoryview(buffer), 0
        while count < self.size:
            got = source.readinto(view[count:])  # type: ignore[attr-defined]
            if not got:
                break
            count += got
        view.release()
        return count

    def _send_part(self, number: int, buffer: bytearray, count: int) -> _Part:
        try:
            body = buffer if count == len(buffer) else buffer[:count]
            checksum = sha256_checksum(body)
            if (kept := self._kept(number, body, checksum)) is not None:
                return kept
            answer = self.client.upload_part(**self.place, PartNumber=number, Body=body, ChecksumSHA256=checksum)
            return {"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": checksum}
        finally:
            self._free.put(buffer)

    def _kept(self, number: int, body: bytearray, checksum: str) -> _Part | None:
        """Return a part that the server has from an earlier try, if it has these bytes."""
        part = self.there.get(number)
        if part is None or part["Size"] != len(body):
            return None
        if "ChecksumSHA256" in part:
            same = part["ChecksumSHA256"] == checksum
        else:  # a server that does not list checksums: its tag is the part's MD5
            same = part["ETag"].strip('"') == hashlib.md5(body, usedforsecurity=False).hexdigest()
        return {"PartNumber": number, "ETag": part["ETag"], "ChecksumSHA256": checksum} if same else None
