"""An account of an MLflow server, by plain HTTP: MLflow's own client of accounts imports its whole server."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class MlflowAccount:
    """Who asks."""

    uri: str
    name: str
    password: str = field(repr=False)

    def get(self, route: str, /, **parameters: str) -> tuple[int, bytes]:
        """Return the status and the body, of an error too."""
        return self._ask(urllib.request.Request(f"{self.uri}/{route}?{urllib.parse.urlencode(parameters)}"))

    def post(self, route: str, body: bytes, /, **parameters: str) -> tuple[int, bytes]:
        """Send a body; return the status and the body of the answer, of an error too."""
        url = f"{self.uri}/{route}?{urllib.parse.urlencode(parameters)}"
        return self._ask(urllib.request.Request(url, body, {"Content-Type": "application/json"}))

    def api(self, call: str, /, **content: str) -> Any:
        """Call MLflow's API, as `runs/create`. Raises `AssertionError` with the answer unless it succeeds."""
        status, answer = self.post(f"api/2.0/mlflow/{call}", json.dumps(content).encode())
        assert status == 200, answer.decode()
        return json.loads(answer)

    def create(self, name: str, password: str) -> MlflowAccount:
        """Make another account, as the administrator."""
        self.api("users/create", username=name, password=password)
        return MlflowAccount(self.uri, name, password)

    def grant(self, name: str, kind: str, which: str, permission: str) -> None:
        """Grant an account a permission on a resource, as the administrator."""
        content = {"username": name, "resource_type": kind, "resource_id": which, "permission": permission}
        status, answer = self.post("api/3.0/mlflow/users/permissions/grant", json.dumps(content).encode())
        assert status == 200, answer.decode()

    def _ask(self, request: urllib.request.Request) -> tuple[int, bytes]:
        word = base64.b64encode(f"{self.name}:{self.password}".encode()).decode()
        request.add_header("Authorization", f"Basic {word}")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()
