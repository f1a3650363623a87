"""A whole release: a tiny checkpoint built, validated by llama.cpp, and registered. And the collection of garbage."""

from __future__ import annotations

import os
import time
from pathlib import Path

from devtools.bundles import make_bundle
from phipack.__main__ import main
from registry.garbage import collect
from registry.ledger.reader import open_reader
from tests.faults.channels import HOME, prepare_registry, prepare_releases, store_is_sound, store_is_tidy
from tests.faults.ground import Ground, as_command, names
from tests.faults.stores import STORE, case_store
from tests.support.checkpoints import write_tiny

PROJECT = """\
model = "tiny"
version = "1.0.0"
checkpoint = "checkpoint"

[evaluation]
tokens = 64
window = 32
greedy_prompts = 1
greedy_new_tokens = 2

[gates]
kl_mean = { at_most = 0.5 }

[[cells]]
target = "galaxy-s24"
recipe = "gguf-q8_0"
"""


def prepare_project(ground: Ground) -> None:
    """A project file of one cell, and its checkpoint."""
    prepare_registry(ground)
    write_tiny(Path("checkpoint"))
    Path("phipack.toml").write_text(PROJECT, "utf-8")


def prepare_jobs_done(ground: Ground) -> None:
    """The same, built and validated; nothing is registered."""
    prepare_project(ground)
    assert main(["release", "--defer-registration"]) == 0


def released(ground: Ground) -> None:
    """The cell is registered, and its bundle stored."""
    store_is_sound(ground)
    (row,) = open_reader(None, case_store()).versions("tiny")
    assert (row.cell, str(row.release)) == ("galaxy-s24", "1.0.0")


def workshop_is_tidy(ground: Ground) -> None:
    """No bundle lies about that was being built or measured."""
    store_is_tidy(ground)
    assert sorted(path.name for path in HOME.rglob("*") if path.suffix == ".gguf") == []
    assert [name for name in names(HOME) if name.startswith(".phipack-")] == []


def prepare_garbage(ground: Ground) -> None:
    """1.0.0 and 1.1.0 are registered; the store has an older bundle besides, which nobody refers to."""
    prepare_releases(ground)
    files = {f"part-{number}": f"unused {number}".encode() for number in range(4)}
    case_store().add_bundle(make_bundle(Path("unused"), files))
    if not STORE.exists():
        return  # in S3 nothing gets older: `collect_at_once`
    long_ago = time.time() - 7 * 86_400
    for path in STORE.rglob("*"):
        if path.is_file():
            os.utime(path, (long_ago, long_ago))


def collect_at_once(_: Ground) -> int:
    """Collect garbage of any age: objects in S3 have the server's time."""
    return as_command(lambda: collect(case_store(), open_reader(None, case_store()), grace_seconds=0))


def collected(ground: Ground) -> None:
    """What is registered is all there is."""
    store_is_sound(ground)
    store = case_store()
    digests = {row.digest for row in open_reader(None, store).versions()}
    expected = {f"sha256:{entry.sha256}" for digest in digests for entry in store.manifest(digest).files} | digests
    assert {blob.digest for blob in store.blobs()} == expected
