"""The only module that knows boto3: its client, and what its errors mean."""

from __future__ import annotations

import base64
import functools
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from targets.errors import StoreError, StoreUnreachableError
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
UNSUPPORTED = ("NotImplemented", "501", "MethodNotAllowed")
MISSING = ("404", "NoSuchKey", "NotFound")
LOST_RACE = ("PreconditionFailed", "412", "ConditionalRequestConflict", "409", *MISSING)


def s3_client() -> Any:
    """Connect as boto3 does: endpoint, region and credentials from environment, configuration or instance.

    A process has one client for all stores and threads as long as its AWS_* variables stay: making one takes 0.2 s.

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
        # Checksums are ours, and the server verifies them: the body needs no second hash in the signature.
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
    """Turn boto3's errors into `StoreError`: `operation` was tried at `place`.

    Raises:
        StoreUnreachableError: no answer came, or one that says the server is in trouble (5xx), after boto3's retries.
        StoreError: anything else.
    """
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        ConnectionError,  # noqa: A004 - botocore's own
        HTTPClientError,
        IncompleteReadError,
        NoCredentialsError,
        PartialCredentialsError,
        SSLError,
    )

    try:
        yield
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise StoreError(
            f"{place}: no credentials: {error}", fix="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        ) from error
    except SSLError as error:
        raise StoreError(
            f"{place}: no secure connection: {error}", fix="check AWS_ENDPOINT_URL_S3, and set AWS_CA_BUNDLE to its CA"
        ) from error
    except (ConnectionError, HTTPClientError, IncompleteReadError) as error:
        raise StoreUnreachableError(
            f"{place} is unreachable: {error}", fix="check the network and AWS_ENDPOINT_URL_S3, then try again"
        ) from error
    except BotoCoreError as error:
        raise StoreError(f"{place}: {operation} failed: {error}", fix="check the AWS_* variables") from error
    except ClientError as error:
        raise _refusal(place, operation, error) from error


def sha256_checksum(body: bytes | bytearray) -> str:
    """Return the SHA-256 as S3 writes it, base64."""
    return base64.b64encode(hashlib.sha256(body).digest()).decode()


def code_of(error: Any) -> str:
    """Return S3's code of a `ClientError`, such as `NoSuchKey`; its HTTP status where there is none."""
    code = error.response.get("Error", {}).get("Code")
    return str(code or error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))


def _refusal(place: str, operation: str, error: Any) -> StoreError:
    code = code_of(error)
    message = error.response.get("Error", {}).get("Message") or code
    if code == "NoSuchBucket":
        return StoreError(f"{place}: no such bucket", fix="create it, or name the right one with --store")
    if code in _CREDENTIALS:
        return StoreError(
            f"{place}: {operation} is refused: {message}", fix="check the AWS_* credentials and their permissions there"
        )
    if code in UNSUPPORTED:
        return StoreError(
            f"{place}: the server does not support an operation that a store needs: {operation} ({message})",
            fix="use a server that does: AWS S3, or a recent SeaweedFS, MinIO, Ceph or R2",
        )
    if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500:
        return StoreUnreachableError(
            f"{place}: the server is in trouble: {operation} failed: {message}", fix="try again in a moment"
        )
    return StoreError(f"{place}: {operation} failed: {message}", fix="see the server's log for this request")
