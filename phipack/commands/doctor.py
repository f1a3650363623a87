"""`doctor`: what works on this machine, and what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from phipack.options import FOLDER, State, pass_state
from phipack.tables import table

if TYPE_CHECKING:
    from phipack.diagnosis.check import Check


@click.command()
@click.option(
    "--catalog", metavar="PLACE", help="The published catalog: a folder or s3://BUCKET/PREFIX. [default: the --store]"
)
@click.option(
    "--keys",
    envvar="PHIPACK_KEYS",
    type=FOLDER,
    metavar="DIR",
    help="Folder of its signing keys. [default: .phipack/keys; environment: PHIPACK_KEYS]",
)
@pass_state
def doctor(state: State, catalog: str | None, keys: Path | None) -> None:
    """Check Python, extras, runtimes, project, registry, store, catalog, clock and disks, with a fix for what is wrong.

    Creates nothing. Ends with 1 where a check fails; a warning is for what only some commands need.
    """
    from dataclasses import asdict

    from targets.errors import SetupError

    checks = list(_checks(state, catalog, keys))
    rows = [(one.status if one.status == "ok" else one.status.upper(), one.name, one.found) for one in checks]
    fixes = [f"{one.name}: {one.fix}" for one in checks if one.fix is not None]
    text = "\n\n".join(filter(None, (table(("", "check", "found"), rows), "\n".join(fixes))))
    state.output.result({"checks": [asdict(one) for one in checks]}, text)
    if bad := [one.name for one in checks if one.status == "fail"]:
        raise SetupError(
            f"{len(bad)} of {len(checks)} checks failed: {', '.join(bad)}", fix="do what is said above for each of them"
        )


def _checks(state: State, catalog: str | None, keys: Path | None) -> Iterator[Check]:
    from phipack.diagnosis.catalog import check_catalog
    from phipack.diagnosis.machine import (
        check_disks,
        check_extras,
        check_optimum,
        check_project,
        check_python,
        check_runtimes,
    )

    yield check_python()
    yield from check_extras()
    yield from check_runtimes()
    yield from check_optimum()
    project = check_project(state)
    yield project
    places = [Path()]
    if project.status != "fail":
        yield from _service_checks(state)
        places += [state.home, *(Path(store) for store in (state.store,) if "://" not in store)]
        place, signing = catalog or state.store, keys or state.home / "keys"
        yield from check_catalog(place, signing, is_named=catalog is not None)
    yield from check_disks(places)


def _service_checks(state: State) -> Iterator[Check]:
    from phipack.diagnosis.check import failed
    from phipack.diagnosis.services import check_clock, check_registry, check_store
    from targets.errors import PhipackError

    try:
        registry = check_registry(state.tracking_uri)
    except PhipackError as error:  # not a tracking URI
        yield failed("registry", error)
        registry = None
    if registry is not None:
        yield registry.check
    store = check_store(state.store)
    yield store.check
    yield check_clock([one.clock for one in (registry, store) if one is not None and one.clock is not None])
