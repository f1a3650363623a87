"""The commands whose points are walked: one entry each. What is prepared, run, and held to.

To add one: a function that prepares its folder, the command's words, what holds after any fault, and what holds once it
is done. The working folder is the case's; all of it but the web is below.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from phipack.__main__ import main
from registry import large_file, transfer
from registry.bundle import open_bundle, verify
from registry.folder_store import FolderStore
from registry.ledger import Ledger, open_ledger
from registry.partial import PARTIAL_MARK, partial_folder
from registry.placement import STAGING_MARK
from registry.promotion import history
from registry.reading import open_reader
from registry.registration import Registration
from targets.errors import BundleError
from targets.references import Version
from tests.faults.pieces import NEW, OLD, REUSED, WEIGHTS, write_pieces
from tests.registry.bundles import make_bundle, make_evidence

CELLS = ("iphone-15", "pixel-9")
HOME = Path(".phipack")
STORE = HOME / "store"
OUT = Path("place/out")


@dataclass(frozen=True)
class Ground:
    """A case's folder, which is the working folder too, and the URL where the new bundle is served as `/new`."""

    folder: Path
    site: str


Step = Callable[[Ground], None]
Run = Callable[[Ground], int]


def _nothing_more(_: Ground) -> None:
    """No more is asked than of any fault."""


@dataclass(frozen=True)
class Command:
    """A command to be walked.

    `run` gives the exit code. `after` holds whatever fault there was, `done` once it has succeeded. `tidy` holds too
    once it has: nothing else is left; so after a full disk, unless `told` says what may be kept there. `retry`: where
    the next try is another command. `limit`: how many points are killed at, at most; a third of it for other faults.
    """

    prepare: Step
    run: Run
    after: Step
    done: Step
    tidy: Step = _nothing_more
    told: Step | None = None
    limit: int = 30
    retry: Run | None = None

    @property
    def again(self) -> Run:
        """The next try."""
        return self.retry or self.run


def phipack(*words: str) -> Run:
    """Run `phipack WORDS`; `{site}` stands for the web server."""
    return lambda ground: main([word.format(site=ground.site) for word in words])


def warm(place: Path) -> None:
    """Import all that is heavy, once, and migrate MLflow's database; shrink buffers, so that small files take many."""
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Registered
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Tracked

    transfer.CHUNK_BYTES_LIMIT = 200_000  # type: ignore[attr-defined]
    large_file._BUFFER_BYTES = 1 << 16
    assert open_ledger(f"sqlite:///{place}/migrated.db", FolderStore(place / "store")).models() == []
    ground = Ground(place / "slot" / "warm", "")
    ground.folder.mkdir(parents=True)
    os.chdir(ground.folder)
    prepare_promoted(ground)  # so that what SQLAlchemy compiles lazily is compiled
    for store in (Registered, Tracked):
        for engine in store._engine_map.values():
            engine.dispose()
        store._engine_map.clear()


# --- channels


def _ledger() -> Ledger:
    return open_ledger(None, FolderStore(STORE), HOME)


def _prepare_registry(ground: Ground, *releases: str) -> None:
    """MLflow's database, empty, and bundles that are not registered yet."""
    HOME.mkdir()
    shutil.copy(ground.folder.parents[1] / "migrated.db", HOME / "mlflow.db")
    for release in releases:
        make_bundle(Path("bundles") / release, {"model.gguf": release.encode(), "tokenizer.json": b"{}"})


def _register(release: str) -> None:
    ledger, bundle = _ledger(), open_bundle(Path("bundles") / release)
    ledger.store.add_bundle(bundle)
    ledger.plan_release("phi", Version.parse(release), CELLS)
    for cell in CELLS:
        evidence = make_evidence(bundle, target=cell)
        ledger.register(Registration("phi", Version.parse(release), cell, bundle.manifest, evidence))


def prepare_releases(ground: Ground) -> None:
    """Releases 1.0.0 and 1.1.0 of two cells; production stands at 1.0.0."""
    _prepare_registry(ground, "1.0.0", "1.1.0")
    for release in ("1.0.0", "1.1.0"):
        _register(release)
    assert main(["promote", "phi:1.0.0", "--to", "production"]) == 0


def prepare_promoted(ground: Ground) -> None:
    """The same, production at 1.1.0."""
    prepare_releases(ground)
    assert main(["promote", "phi:1.1.0", "--to", "production"]) == 0


def stands(channel: str = "production") -> dict[str, str]:
    """Where a channel stands, a cell a name."""
    rows = open_reader(None, FolderStore(STORE)).versions("phi")
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
            assert part.after is not None
            at[key] = part.after.release
    for channel in {channel for channel, _ in at}:
        assert stands(channel) == {cell: release for (kept, cell), release in at.items() if kept == channel}


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
    _prepare_registry(ground, "1.0.0", "1.1.0")
    _register("1.0.0")


def prepare_empty_registry(ground: Ground) -> None:
    """Nothing is registered; the bundle of 1.0.0 is here."""
    _prepare_registry(ground, "1.0.0")


def register(release: str) -> Run:
    """Add a release's bundle to the store and register it for each cell, as `phipack release` does when it is built."""

    def run(_: Ground) -> int:
        return as_command(lambda: _register(release))

    return run


def as_command(work: Callable[[], object]) -> int:
    """Run a part of the library at the command line's edge, where errors become sentences."""
    import click

    from phipack import __main__ as edge

    @click.command()
    def command() -> None:
        work()

    original = edge.cli
    edge.cli = command  # type: ignore[assignment]
    try:
        return main([])
    finally:
        edge.cli = original


def store_is_sound(_: Ground) -> None:
    """Every blob is what its name says, and every version's bundle is in the store, whole."""
    store = FolderStore(STORE)
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
        rows = open_reader(None, FolderStore(STORE)).versions("phi")
        expected = {(cell, release) for cell in CELLS for release in releases}
        assert {(row.cell, str(row.release)) for row in rows} == expected

    return done


def store_is_tidy(_: Ground) -> None:
    """Nothing half-written lies in the store."""
    assert names(STORE / "staging") == []


# --- fetch


def prepare_folder(_: Ground) -> None:
    """A bundle stands at OUT; the new one is in another folder."""
    assert write_pieces(OUT, OLD).digest != write_pieces(Path("new"), NEW).digest


def prepare_web(_: Ground) -> None:
    """A bundle stands at OUT; another one may be reused; and an earlier try was cut."""
    write_pieces(OUT, OLD)
    write_pieces(Path("other"), REUSED)
    new = write_pieces(Path("new"), NEW)
    with suppress(BundleError), partial_folder(OUT, new.digest) as partial:
        (partial / "0").write_bytes(new.file(WEIGHTS).read_bytes()[:190_000] + b"torn")
        open_bundle(partial)  # which fails: the folder is kept
    assert names(OUT.parent) != ["out"]


def prepare_stored(ground: Ground) -> None:
    """A bundle stands at OUT; the store has another one, which is registered."""
    prepare_first_release(ground)
    write_pieces(OUT, OLD)


def one_whole_bundle(_: Ground) -> None:
    """At OUT is a bundle, whole, the old or the new one; or none, and the old one is beside it to be put back."""
    if OUT.exists():
        verify(open_bundle(OUT))
        return
    (aside,) = OUT.parent.glob(f"{STAGING_MARK}*-old-out")
    verify(open_bundle(aside / OUT.name))


def out_is_alone(_: Ground) -> None:
    """Nothing lies beside OUT."""
    assert names(OUT.parent) == ["out"]


def no_staging(_: Ground) -> None:
    """Nothing lies beside OUT, but what was received so far."""
    assert [name for name in names(OUT.parent) if not name.startswith(PARTIAL_MARK)] == ["out"]


def fetched(pieces: Sequence[bytes] | None = None) -> Step:
    """The new bundle, whole."""

    def done(_: Ground) -> None:
        bundle = open_bundle(OUT)
        verify(bundle)
        if pieces is not None:
            assert bundle.file(WEIGHTS).read_bytes() == b"".join(pieces)
        else:
            assert bundle.file(WEIGHTS).read_bytes() == b"1.0.0"

    return done


def names(folder: Path) -> list[str]:
    """Names in a folder, sorted; none where there is no folder."""
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


_TO_OUT = ("-o", str(OUT), "--replace")

COMMANDS: Mapping[str, Command] = {
    "promote": Command(
        prepare=prepare_releases,
        run=phipack("promote", "phi:1.1.0", "--to", "production"),
        after=no_cell_is_without,
        done=promoted,
    ),
    "rollback": Command(
        prepare=prepare_promoted,
        run=phipack("rollback", "phi"),
        after=no_cell_is_without,
        done=rolled_back,
        limit=12,
        retry=roll_back_if_needed,
    ),
    "register": Command(
        prepare=prepare_first_release,
        run=register("1.1.0"),
        after=store_is_sound,
        done=registered("1.0.0", "1.1.0"),
        tidy=store_is_tidy,
    ),
    "register the first": Command(
        prepare=prepare_empty_registry,
        run=register("1.0.0"),
        after=store_is_sound,
        done=registered("1.0.0"),
        tidy=store_is_tidy,
        limit=12,
    ),
    "fetch a folder": Command(
        prepare=prepare_folder,
        run=phipack("fetch", "./new", *_TO_OUT),
        after=one_whole_bundle,
        done=fetched(NEW),
        tidy=out_is_alone,
    ),
    "fetch a version": Command(
        prepare=prepare_stored,
        run=phipack("fetch", "phi:1.0.0@pixel-9", *_TO_OUT),
        after=one_whole_bundle,
        done=fetched(),
        tidy=out_is_alone,
    ),
    "fetch from the web": Command(
        prepare=prepare_web,
        run=phipack("fetch", "{site}/new", *_TO_OUT, "--reuse", "other"),
        after=one_whole_bundle,
        done=fetched(NEW),
        tidy=out_is_alone,
        told=no_staging,
        limit=60,
    ),
}
