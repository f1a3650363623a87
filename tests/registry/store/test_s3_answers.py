"""What S3 answers is what messages say: the operation, the right that is missing, the clock, the archive."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

from registry.store.s3_client import s3_errors
from registry.store.s3_probe import probe
from targets.errors import StoreError


def refused(operation: str, code: str, status: int = 403) -> StoreError:
    answer: Any = {"Error": {"Code": code, "Message": f"says {code}"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    with pytest.raises(StoreError) as caught, s3_errors("s3://bucket/x", "PutObject"):
        raise ClientError(answer, operation)
    return caught.value


@pytest.mark.parametrize(
    ("operation", "code", "said", "fix"),
    [
        ("DeleteObject", "AccessDenied", "DeleteObject is denied: says AccessDenied", "s3:DeleteObject"),
        ("ListObjectsV2", "AccessDenied", "ListObjectsV2 is denied", "s3:ListBucket for the bucket"),
        ("HeadObject", "403", "HeadObject is denied", "s3:GetObject, and s3:ListBucket"),
        ("UploadPart", "AccessDenied", "UploadPart is denied", "s3:PutObject"),
        ("GetObject", "ExpiredToken", "GetObject is refused: says ExpiredToken", "AWS_SESSION_TOKEN"),
        ("GetObject", "RequestTimeTooSkewed", "GetObject is refused", "set this machine's clock"),
        ("GetObject", "InvalidAccessKeyId", "GetObject is refused", "AWS_ACCESS_KEY_ID"),
        ("GetObject", "InvalidObjectState", "the object is archived", "restore-object"),
    ],
)
def test_a_refusal_names_operation_right_and_remedy(operation: str, code: str, said: str, fix: str) -> None:
    error = refused(operation, code)
    assert said in error.problem
    assert fix in error.fix


def test_a_probe_that_can_not_be_removed_is_named() -> None:
    class Client:
        def put_object(self, **asked: Any) -> None:
            if "IfNoneMatch" in asked and "ChecksumSHA256" in asked:
                return
            raise ClientError({"Error": {"Code": "X"}, "ResponseMetadata": {"HTTPStatusCode": 412}}, "PutObject")  # type: ignore[typeddict-item]

        def delete_object(self, **_: Any) -> None:
            raise ClientError({"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {}}, "DeleteObject")  # type: ignore[typeddict-item]

    with pytest.raises(StoreError, match=r"DeleteObject is denied: .*staging/x is left in bucket b") as caught:
        probe(Client(), {"Bucket": "b", "Key": "staging/x"}, "s3://b")
    assert "s3:DeleteObject" in caught.value.fix
