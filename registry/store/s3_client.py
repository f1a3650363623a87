"""The only module that knows boto3: a client for one bucket, and what its errors mean."""

from __future__ import annotations

import base64
import functools
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from targets.errors import StoreError
from targets.installation import install_command

CONNECTIONS = 4
_POOL = 32  # connections that are kept: threads share a client
_TIMEOUT_SECONDS = 60
_CREDENTIALS = (
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
    "403",
    "Forbidden",
)
LACKING = ("NotImplemented", "501", "MethodNotAllowed")
MISSING = ("404", "NoSuchKey", "NotFound")
LOST_RACE = ("PreconditionFailed", "412", "ConditionalRequestConflict", "409", *MISSING)


def s3_client() -> Any:
    """Connect as boto3 does: endpoint, region and credentials from environment, configuration or instance.

    A process has one client for all stores and threads, as long as its AWS_* variables stay: making one takes .2 s.

    Raises:
        StoreError: boto3 is not installed, or its configuration is wrong.
    """
    settings = frozenset(item for item in os.environ.items() if item[0].startswith("AWS_"))
    return _shared_client(os.getpid(), settings)


@functools.lru_cache(maxsize=8)
def _shared_client(_process: int, _settings: frozenset[tuple[str, str]]) -> Any:
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise StoreError("stores on S3 need boto3", fix=install_command("registry")) from error
    config = Config(
        connect_timeout=10,
        read_timeout=_TIMEOUT_SECONDS,
        max_pool_connections=_POOL,
        signature_version="s3v4",  # of presigned URLs too: the older one is not known everywhere
        retries={"mode": "standard", "total_max_attempts": 6},
        # We give checksums ourselves, and the server verifies them: the body needs no second hash in the signature.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"payload_signing_enabled": False},
    )
    try:
        return boto3.session.Session().client("s3", config=config)  # the default session keeps old credentials
    except (BotoCoreError, ValueError) as error:
        raise StoreError(f"S3 can't be used: {error}", fix="check the AWS_* variables") from error


@contextmanager
def s3_errors(place: str, operation: str) -> Iterator[None]:
    """Turn boto3's errors into `StoreError`; `place` and `operation` are what was to be done where."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

    try:
        yield
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise StoreError(
            f"{place}: no credentials: {error}", fix="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        ) from error
    except BotoCoreError as error:
        raise StoreError(
            f"{place} can't be reached: {error}", fix="check the network and AWS_ENDPOINT_URL_S3; then try again"
        ) from error
    except ClientError as error:
        raise _refusal(place, operation, error) from error


def sha256_checksum(body: bytes | bytearray) -> str:
    """SHA-256 as S3 writes it, base64."""
    return base64.b64encode(hashlib.sha256(body).digest()).decode()


def code_of(error: Any) -> str:
    """S3's code of a `ClientError`, such as `NoSuchKey`; its HTTP status where there is none."""
    said = error.response.get("Error", {}).get("Code")
    return str(said or error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))


def _refusal(place: str, operation: str, error: Any) -> StoreError:
    code = code_of(error)
    message = error.response.get("Error", {}).get("Message") or code
    if code == "NoSuchBucket":
        return StoreError(f"{place}: no such bucket", fix="make it, or name the right one with --store")
    if code in _CREDENTIALS:
        return StoreError(
            f"{place}: {operation} is refused: {message}", fix="check the AWS_* credentials, and what they may do there"
        )
    if code in LACKING:
        return StoreError(
            f"{place}: the server lacks an operation that a store needs: {operation} ({message})",
            fix="use a server that has it: AWS S3, SeaweedFS, MinIO, Ceph or R2 in a late version",
        )
    return StoreError(f"{place}: {operation} failed: {message}", fix="try again; if it stays so, see the server's log")
