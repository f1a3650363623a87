"""What a store needs of an S3 server, tried before work begins."""

from __future__ import annotations

from typing import Any

from registry.store.s3_client import UNSUPPORTED, code_of, refusal, sha256_checksum
from targets.errors import StoreError


def probe(client: Any, place: dict[str, str], uri: str) -> None:
    """Write a small object at `place`, then in ways that a server must refuse, and remove it.

    Raises:
        StoreError: the server accepts what it must refuse; the message says what it does not check.
        ClientError: it refuses all writing, or fails.
    """
    from botocore.exceptions import ClientError

    body = b"may phipack write here?"
    client.put_object(**place, Body=body, IfNoneMatch="*", ChecksumSHA256=sha256_checksum(body))
    try:
        for what, options in (
            ("conditional writes (If-None-Match)", {"IfNoneMatch": "*"}),
            ("conditional writes (If-Match)", {"IfMatch": '"0123456789abcdef0123456789abcdef"'}),
            ("SHA-256 of what it receives", {"ChecksumSHA256": sha256_checksum(b"other")}),
        ):
            try:
                client.put_object(**place, Body=body, **options)
            except ClientError as error:
                if code_of(error) in UNSUPPORTED:
                    raise _unchecked(uri, what) from error
                if error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500:
                    raise  # the server is in trouble: that is no refusal
            else:
                raise _unchecked(uri, what)
    finally:
        _remove(client, place, uri)


def _remove(client: Any, place: dict[str, str], uri: str) -> None:
    """Remove the probe. Raises `StoreError` that names what is left where that is refused."""
    from botocore.exceptions import ClientError

    try:
        client.delete_object(**place)
    except ClientError as error:
        refused = refusal(uri, "DeleteObject", error)
        raise type(refused)(
            f"{refused.problem}; the small object {place['Key']} is left in bucket {place['Bucket']}",
            fix=refused.fix,
        ) from error


def _unchecked(place: str, what: str) -> StoreError:
    return StoreError(
        f"{place}: the server does not check {what}, which a store relies on",
        fix="use a server that does: AWS S3, or a recent SeaweedFS, MinIO, Ceph or R2",
    )
