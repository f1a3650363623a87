"""What people write and servers answer: project files, addresses, references, headers."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from registry.ledger.artifact_uris import parse_artifact_uri
from registry.ledger.tracking import tracking_uri
from registry.transfer.header_values import http_date, whole_number
from registry.transfer.http import redirected, retry_after_seconds
from registry.transfer.http_address import http_address_problem
from targets.errors import PhipackError
from targets.places import store_problem
from targets.project import load_project
from targets.references import Reference, VersionRange
from targets.secrets import argument_shown, shown, without_secrets
from tests.fuzz.target import Target, as_text, file


def project_target(folder: Path) -> Target:
    source = """
model = "phi-3-mini-4k-instruct"
version = "1.0.0"
checkpoint = "checkpoint"
[[cells]]
target = "iphone-15"
recipe = "gguf-q4_k_m"
[gates]
kl_mean = { at_most = 0.05 }
"same_top_share" = { at_least = 0.9 }
[channels.production]
promoters = ['alice', "b\\u00f6b"]
[registry]
store = "s3://bucket/x"
"""
    return Target((source.encode(),), file(folder / "phipack.toml", load_project))


def headers_target(_: Path) -> Target:
    def parse(raw: bytes) -> None:
        text = raw.decode("latin-1")
        whole_number(text)
        http_date(text)
        assert retry_after_seconds(text) >= 0
        redirected("https://example.org/a", text)

    dates = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994 +0100")
    return Target(tuple(text.encode() for text in (*dates, "120", "https://u:p@host:80/x?y#z", "../b")), parse, 800)


def addresses_target(_: Path) -> Target:
    def parse(raw: bytes) -> None:
        text = as_text(raw)
        for read in (without_secrets, argument_shown, shown, http_address_problem, store_problem):
            read(text)
        for refusing in (tracking_uri, parse_artifact_uri, Reference.parse, VersionRange.parse):
            with suppress(PhipackError):
                refusing(text)

    addresses = (
        "postgresql+psycopg2://u:se/cret2@host:5432/db?password=x",
        "https://u:p@[::1]:80/a?token=b#c",
        "s3://bucket/prefix",
        "sqlite:////tmp/mlflow.db",
        "phipack-file:///store/bundles/sha256/" + "0" * 64,
        "phi-3:^1.2@iphone-15",
    )
    return Target(tuple(address.encode() for address in addresses), parse, 500)
