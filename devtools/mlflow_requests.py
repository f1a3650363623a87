"""Counts what MLflow's client sends to a tracking server."""

from __future__ import annotations

import collections
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_BEFORE_PATH = re.compile(r".*/mlflow(?:-artifacts)?/")


@contextmanager
def counting_requests() -> Iterator[collections.Counter[str]]:
    """Yield the requests of this process until the block ends, by method and path, whichever thread makes them."""
    from mlflow.utils import rest_utils

    untyped: Any = rest_utils
    send = untyped._get_http_response_with_retries  # noqa: SLF001
    made, alone = collections.Counter[str](), threading.Lock()

    def counted(method: str, url: str, *arguments: Any, **named: Any) -> Any:
        with alone:
            made[f"{method} {_BEFORE_PATH.sub('', url).partition('?')[0]}"] += 1
        return send(method, url, *arguments, **named)

    untyped._get_http_response_with_retries = counted  # noqa: SLF001
    try:
        yield made
    finally:
        untyped._get_http_response_with_retries = send  # noqa: SLF001
