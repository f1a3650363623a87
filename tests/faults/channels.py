"""Releases in a registry, and the channels that point at them: registration, promotion, rollback."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from devtools.bundles import make_bundle, make_evidence
from phipack.__main__ import main
from registry.bundle.folder import open_bundle
from registry.ledger.ledger import Ledger, open_ledger
from registry.ledger.reader import open_reader
from registry.ledger.registration import Registration
from registry.promotion import history
from targets.errors import RegistryError
from targets.references import Version
from tests.faults.ground import Ground, Run, Step, as_command, phipack
from tests.faults.stores import case_store, nothing_is_staged

CELLS = ("iphone-15", "pixel-9")
Builder = Callable[[Path, str], object]  # makes a release's bundle in a folder
HOME = Path(".phipack")


def _ledger() -> Ledger:
    return open_ledger(None, case_store(), HOME)


def tiny(folder: Path, release: str) -> None:
    """A bundle whose weights are the release's name."""
    make_bundle(folder, {"model.gguf": release.encode(), "tokenizer.json": b"{}"})


def prepare_registry(ground: Ground, *releases: str, build: Builder = tiny) -> None:
    """MLflow's database, empty, and bundles that are not registered yet."""
    HOME.mkdir()
    shutil.copy(ground.folder.parents[1] / "migrated.db", HOME / "mlflow.db")
    for release in releases:
        build(Path("bundles") / release, release)


def _register(release: str, kl_mean: float = 0.01) -> None:
    ledger, bundle = _ledger(), open_bundle(Path("bundles") / release)
    ledger.store.add_bundle(bundle)
    ledger.plan_release("phi", Version.parse(release), CELLS)
    for cell in CELLS:
        evidence = make_evidence(bundle, target=cell, kl_mean=kl_mean)
        ledger.register(Registration("phi", Version.parse(release), cell, bundle.manifest, evidence))


def prepare_releases(ground: Ground, build: Builder = tiny) -> None:
    """Releases 1.0.0 and 1.1.0 of two cells; production stands at 1.0.0."""
    prepare_registry(ground, "1.0.0", "1.1.0", build=build)
    for release in ("1.0.0", "1.1.0"):
        _register(release)
    assert main(["promote", "phi:1.0.0", "--to", "production"]) == 0


def prepare_promoted(ground: Ground) -> None:
    """The same, production at 1.1.0."""
    prepare_releases(ground)
    assert main(["promote", "phi:1.1.0", "--to", "production"]) == 0


def stands(channel: str = "production") -> dict[str, str]:
    """Where a channel stands, a cell a name."""
    rows = open_reader(None, case_store()).versions("phi")
    return {row.cell: str(row.release) for row in rows if channel in row.channels}


def stands_at(release: str) -> bool:
    """True where all cells' production is this release."""
    return stands() == dict.fromkeys(CELLS, release)


def no_cell_is_without(_: Ground) -> None:
    """Half-way, each cell stands before or after; another command that moves something puts all to one side."""
    between = stands()
    assert set(between) == set(CELLS), between
    assert set(between.values()) <= {"1.0.0", "1.1.0"}, between
    assert main(["promote", "phi:1.0.0", "--to", "staging"]) == 0
    assert stands_at("1.0.0") or stands_at("1.1.0"), stands()
    history_is_linear()


def history_is_linear() -> None:
    """Moves that were done follow one another, and lead to where the channels stand; none is unfinished."""
    moves = history(_ledger(), "phi")
    assert {move.state for move in moves} <= {"done", "undone"}, moves
    at: dict[tuple[str, str], str] = {}
    for move in reversed([move for move in moves if move.state == "done"]):
        for part in move.cells:
            key = (move.channel, part.cell)
            assert at.get(key) == (None if part.before is None else part.before.release), moves
            if part.after is None:
                del at[key]
            else:
                at[key] = part.after.release
    for channel in {channel for channel, _ in at}:
        assert stands(channel) == {cell: release for (kept, cell), release in at.items() if kept == channel}


def one_cell_may_be_out(_: Ground) -> None:
    """Half-way, pixel-9 is in the channel or not; iphone-15 stays; another command that moves something goes on."""
    assert stands() in ({"iphone-15": "1.0.0"}, dict.fromkeys(CELLS, "1.0.0")), stands()
    assert main(["promote", "phi:1.0.0@iphone-15", "--to", "staging"]) == 0
    history_is_linear()


def retired(_: Ground) -> None:
    """Production has iphone-15 alone."""
    assert stands() == {"iphone-15": "1.0.0"}, stands()
    history_is_linear()


def retire_if_needed(ground: Ground) -> int:
    """A retirement that was done before its process died is not to be done twice."""
    return 0 if "pixel-9" not in stands() else phipack("retire", "phi@pixel-9", "--from", "production")(ground)


def promoted(_: Ground) -> None:
    """All at 1.1.0."""
    assert stands_at("1.1.0"), stands()
    history_is_linear()


def rolled_back(_: Ground) -> None:
    """All at 1.0.0."""
    assert stands_at("1.0.0"), stands()
    history_is_linear()


def roll_back_if_needed(ground: Ground) -> int:
    """A rollback that was done before its process died is not to be done twice."""
    return 0 if stands_at("1.0.0") else phipack("rollback", "phi")(ground)


# --- registration, and the store


def prepare_first_release(ground: Ground) -> None:
    """Release 1.0.0 is registered; the bundle of 1.1.0 is here."""
    prepare_registry(ground, "1.0.0", "1.1.0")
    _register("1.0.0")


def prepare_empty_registry(ground: Ground) -> None:
    """Nothing is registered; the bundle of 1.0.0 is here."""
    prepare_registry(ground, "1.0.0")


def register(release: str) -> Run:
    """Add a release's bundle to the store and register it for each cell, as `phipack release` does when it is built."""

    def run(_: Ground) -> int:
        return as_command(lambda: _register(release))

    return run


def store_is_sound(_: Ground) -> None:
    """Every blob is what its name says, and every version's bundle is in the store, whole."""
    store = case_store()
    for blob in store.blobs():
        with store.open_blob(blob.digest) as stream:
            assert "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest() == blob.digest
    for row in open_reader(None, store).versions():
        assert store.has_bundle(row.digest), row
        assert row.gates_passed
        _ledger().evidence(row)


def registered(*releases: str) -> Step:
    """Exactly these releases, of all cells."""

    def done(ground: Ground) -> None:
        store_is_sound(ground)
        rows = open_reader(None, case_store()).versions("phi")
        expected = {(cell, release) for cell in CELLS for release in releases}
        assert {(row.cell, str(row.release)) for row in rows} == expected
        assert runs_in_progress() == []

    return done


def runs_in_progress() -> list[str]:
    """Runs of the model that nobody ended."""
    client = _ledger().mlflow._client
    experiment = client.get_experiment_by_name("phi")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "attributes.status = 'RUNNING'")
    return [run.info.run_name for run in runs]


def prepare_anew(ground: Ground) -> None:
    """Release 1.0.0 is registered with another evidence than it will be."""
    prepare_registry(ground, "1.0.0")
    _register("1.0.0", kl_mean=0.9)


def no_cell_is_believed_too_early(_: Ground) -> None:
    """Evidence that is being renewed is the old one whole, or the new one whole, or told as neither."""
    for row in open_reader(None, case_store()).versions("phi"):
        with suppress(RegistryError):
            assert _ledger().evidence(row).passed == row.gates_passed


def store_is_tidy(_: Ground) -> None:
    """Nothing half-written lies in the store."""
    assert nothing_is_staged(case_store())
