"""The only module that knows boto3: its client, and what its errors mean."""

from __future__ import annotations

import base64
import functools
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from registry.transfer.http_address import http_address_problem
from registry.transfer.network_settings import (
    CERTIFICATE_FIX,
    CONNECT_SECONDS,
    MORE_CA_VARIABLES,
    SILENCE_SECONDS,
    SYSTEM_CA_VARIABLES,
    TRIES,
    ca_file,
    proxy_for,
)
from registry.transfer.pace import PacedInterim, SelfPacedResponse
from targets.errors import SetupError, StoreError, StoreUnreachableError
from targets.installation import install_command

CONNECTIONS = 4
_POOL = 32  # connections that are kept: threads share a client
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_DENIED = ("AccessDenied", "403", "Forbidden", "AllAccessDisabled", "AccountProblem")
_WRONG_KEYS = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "AuthorizationHeaderMalformed", "401")
EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired")
_SKEWED = ("RequestTimeTooSkewed",)
_ARCHIVED = ("InvalidObjectState",)
# The right in a policy that an operation needs, where it is not `s3:` and the operation's own name.
_RIGHTS = {
    "HeadObject": "s3:GetObject, and s3:ListBucket for the bucket, without which S3 denies what is only missing",
    "GetObject": "s3:GetObject, and s3:ListBucket for the bucket, without which S3 denies what is only missing",
    "ListObjectsV2": "s3:ListBucket for the bucket",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads for the bucket",
    "ListParts": "s3:ListMultipartUploadParts",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
}
UNSUPPORTED = ("NotImplemented", "501", "MethodNotAllowed")
MISSING = ("404", "NoSuchKey", "NotFound")
LOST_RACE = ("PreconditionFailed", "412", "ConditionalRequestConflict", "409", *MISSING)


def s3_client() -> Any:
    """Connect as boto3 does: endpoint, region and credentials from environment, configuration or instance.

    A process has one client for all stores and threads as long as the variables that it is made from stay: making one
    takes 0.2 s.

    Raises:
        StoreError: boto3 is not installed, or its configuration is wrong.
    """
    names = (*SYSTEM_CA_VARIABLES, *MORE_CA_VARIABLES, *_PROXIES, *map(str.upper, _PROXIES))
    settings = frozenset(one for one in os.environ.items() if one[0].startswith("AWS_") or one[0] in names)
    return _shared_client(os.getpid(), settings)


@functools.lru_cache(maxsize=8)
def _shared_client(_process: int, _settings: frozenset[tuple[str, str]]) -> Any:
    try:
        import boto3
        import botocore.session
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise StoreError("stores on S3 need boto3", fix=install_command("registry")) from error
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=SILENCE_SECONDS,
        max_pool_connections=_POOL,
        signature_version="s3v4",  # of presigned URLs too: the older one is not known everywhere
        retries={"mode": "standard", "total_max_attempts": TRIES},
        # Checksums are ours, and the server verifies them: the body needs no second hash in the signature.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"payload_signing_enabled": False},
    )
    try:
        _check_endpoint()
        core = botocore.session.Session()  # the default session keeps old credentials
        session = boto3.session.Session(botocore_session=core)
        named = core.get_config_variable("ca_bundle")  # of the profile, or AWS_CA_BUNDLE
        verify = ca_file(*([named] if named else []))
        client = session.client("s3", config=config, verify=verify)
        # boto3 by itself knows neither all_proxy nor networks in no_proxy.
        proxy = proxy_for(client.meta.endpoint_url)
        proxies = {} if proxy is None else {client.meta.endpoint_url.partition("://")[0]: proxy}
        return _held_to_pace(session.client("s3", config=config.merge(Config(proxies=proxies)), verify=verify))
    except SetupError as error:
        raise StoreError(f"S3 can't be used: {error.problem}", fix=error.fix) from error
    except (BotoCoreError, ValueError) as error:
        raise StoreError(f"S3 can't be used: {error}", fix="check the AWS_* variables") from error


def _held_to_pace(client: Any) -> Any:
    """Hold answers to a least rate (`pace.py`). botocore has no setting for that, so its connections are replaced.

    Raises:
        StoreError: this version of botocore has no longer what is replaced.
    """
    import botocore

    try:
        from botocore.awsrequest import (
            AWSHTTPConnection,
            AWSHTTPConnectionPool,
            AWSHTTPSConnection,
            AWSHTTPSConnectionPool,
        )

        pools = client._endpoint.http_session._pool_classes_by_scheme  # noqa: SLF001 - of its pools through a proxy, too
        _ = AWSHTTPConnection._handle_expect_response, pools["http"], pools["https"]  # noqa: SLF001
    except (AttributeError, ImportError, LookupError, TypeError) as error:
        raise StoreError(
            f"botocore {botocore.__version__} is not known to phipack, which can't bound how slowly a server may"
            f" answer it: {error}",
            fix=f"install the versions that phipack was tested with: {install_command('registry')} -c constraints.txt",
        ) from error
    own = {"response_class": type("S3Response", (SelfPacedResponse,), {"only_reads": True})}
    plain = type("PacedConnection", (_PacedExpectation, AWSHTTPConnection), own)
    secure = type("PacedSecureConnection", (_PacedExpectation, AWSHTTPSConnection), own)
    pools.update(
        http=type("PacedPool", (AWSHTTPConnectionPool,), {"ConnectionCls": plain}),
        https=type("PacedSecurePool", (AWSHTTPSConnectionPool,), {"ConnectionCls": secure}),
    )
    return client


class _PacedExpectation:
    """What is mixed into botocore's connections: its own loop over the answer to `Expect: 100-continue` has no end."""

    sock: Any

    def _handle_expect_response(self, body: Any) -> None:
        plain, paced = self.sock, PacedInterim(self.sock)
        self.sock = paced
        try:
            super()._handle_expect_response(body)  # type: ignore[misc]  # of AWSConnection
        finally:
            if self.sock is paced:  # else it was closed
                self.sock = plain


def _check_endpoint() -> None:
    """Raise `StoreError` or `SetupError` where the endpoint or its proxy is no address: boto3 asks others first."""
    named = next((name for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if os.environ.get(name)), None)
    endpoint = "https://s3.amazonaws.com" if named is None else os.environ[named]
    if (problem := http_address_problem(endpoint)) is not None:
        raise StoreError(f"{named}: {problem}", fix=f"write {named}=https://HOST or https://HOST:PORT")
    proxy_for(endpoint)


@contextmanager
def s3_errors(place: str, operation: str) -> Iterator[None]:
    """Turn boto3's errors into `StoreError`: `operation` was tried at `place`, unless S3's answer names another one.

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
        raise StoreError(f"{place}: no secure connection: {error}", fix=CERTIFICATE_FIX) from error
    except (ConnectionError, HTTPClientError, IncompleteReadError) as error:
        raise StoreUnreachableError(
            f"{place} is unreachable: {error}", fix="check the network and AWS_ENDPOINT_URL_S3, then try again"
        ) from error
    except BotoCoreError as error:
        raise StoreError(f"{place}: {operation} failed: {error}", fix="check the AWS_* variables") from error
    except ClientError as error:
        raise refusal(place, operation, error) from error


def sha256_checksum(body: bytes | bytearray) -> str:
    """Return the SHA-256 as S3 writes it, base64."""
    return base64.b64encode(hashlib.sha256(body).digest()).decode()


def code_of(error: Any) -> str:
    """Return S3's code of a `ClientError`, such as `NoSuchKey`; its HTTP status where there is none."""
    code = error.response.get("Error", {}).get("Code")
    return str(code or error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))


def credential_trouble(code: str) -> str | None:
    """Return how to fix what S3's code says is wrong with the credentials or the clock; None for any other code."""
    if code in EXPIRED:
        return "renew the credentials (aws sso login, or a new AWS_SESSION_TOKEN), then run the same command again"
    if code in _WRONG_KEYS:
        return "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN or AWS_PROFILE, and the region"
    if code in _SKEWED:
        return "set this machine's clock, which differs from the server's by more than 15 minutes: phipack doctor"
    return None


def refusal_fix(code: str) -> str | None:
    """Return how to fix what S3 answers to a presigned URL, by its code or HTTP status; None where that is unknown."""
    if code in _DENIED:
        return f"check that the credentials have not expired, and grant them {_RIGHTS['GetObject']}"
    found = _denial("", "GetObject", code, "")
    return None if found is None else found.fix


def _denial(place: str, operation: str, code: str, message: str) -> StoreError | None:
    if (known := credential_trouble(code)) is not None:
        return StoreError(f"{place}: {operation} is refused: {message}", fix=known)
    if code in _DENIED:
        right = _RIGHTS.get(operation, f"s3:{operation}")
        return StoreError(f"{place}: {operation} is denied: {message}", fix=f"grant these credentials {right}")
    if code in _ARCHIVED:
        return StoreError(
            f"{place}: the object is archived, and can't be read: {message}",
            fix="restore it (aws s3api restore-object), and exempt the store from rules that archive objects",
        )
    return None


def refusal(place: str, operation: str, error: Any) -> StoreError:
    """Return the error for a `ClientError`: what S3 answered, and what to do."""
    code = code_of(error)
    message = error.response.get("Error", {}).get("Message") or code
    if code == "NoSuchBucket":
        return StoreError(f"{place}: no such bucket", fix="create it, or name the right one with --store")
    operation = getattr(error, "operation_name", None) or operation
    if (denied := _denial(place, operation, code, message)) is not None:
        return denied
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
