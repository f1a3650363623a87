"""Model versions as a tracking server's answer has them, read as JSON.

MLflow's client makes two objects for each tag of each version on the way: of 2,300 versions most of a second, where
this takes a third. Requests, accounts and retries are MLflow's own. Only `mlflow_client.py` uses it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from targets.errors import RegistryError
from targets.secrets import shown
from targets.strict_json import MalformedJsonError, parse_json

_SEARCH = "/api/2.0/mlflow/model-versions/search"
_OK = 200


@dataclass(frozen=True)
class VersionRow:
    """What the ledger uses of MLflow's `ModelVersion`, under its names."""

    name: str
    version: int
    creation_timestamp: int
    tags: Mapping[str, str]


def search_versions(uri: str, wanted: str, page: int) -> Iterator[VersionRow]:
    """Yield the versions at the server `uri` that a filter lets through, `page` of them a request.

    Raises:
        RegistryError: the answer is not one of MLflow's. What its client raises is the caller's to wrap.
    """
    from mlflow.utils import credentials, rest_utils

    untyped: Any = credentials
    host, token = untyped.get_default_host_creds(uri), ""
    untyped = rest_utils
    while True:
        asked = {"filter": wanted, "max_results": page} | ({"page_token": token} if token else {})
        answer = untyped.http_request(host, _SEARCH, "GET", params=asked)
        if answer.status_code != _OK:
            untyped.verify_rest_response(answer, _SEARCH)  # which raises
        try:
            found = parse_json(answer.content, ours=False)
            yield from map(_row, found.get("model_versions", ()))
            token = found.get("next_page_token", "")
        except (MalformedJsonError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise RegistryError(
                f"MLflow at {shown(uri)} did not answer a search as MLflow does: {str(error)[:200]}",
                fix="check that --tracking-uri or MLFLOW_TRACKING_URI is the server's address",
            ) from error
        if not token:
            return


def _row(found: Mapping[str, Any]) -> VersionRow:
    tags = {tag["key"]: tag.get("value", "") for tag in found.get("tags", ())}
    return VersionRow(str(found["name"]), int(found["version"]), found.get("creation_timestamp", 0), tags)
