"""What a walked command is: what is prepared, run, and held to. The working folder is the case's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from devtools.services.postgresql import PostgresqlServer
from devtools.services.seaweedfs import S3Server
from phipack.__main__ import main


@dataclass(frozen=True)
class Ground:
    """A case's folder, which is the working folder too, and the URL where the new bundle is served as `/new`.

    `postgresql`, `s3`: the servers, for commands that ask for one.
    """

    folder: Path
    site: str
    postgresql: PostgresqlServer | None = None
    s3: S3Server | None = None


Service = Literal["postgresql", "s3"]
Step = Callable[[Ground], None]
Run = Callable[[Ground], int]


def _nothing_more(_: Ground) -> None:
    """No more is asked than of any fault."""


@dataclass(frozen=True)
class Command:
    """A command to be walked.

    `of`: its name in the command line. `run` returns the exit code. `after` holds whatever fault there was, `done` once
    it has succeeded. `tidy` holds too once it has: nothing else is left; so after a full disk, unless `told` says what
    may be kept there. `retry`: where the next try is another command.
    `imports`: heavy modules that only this command needs. `limit`: of a sample, at most so many points are killed at,
    and a quarter as many for other faults; 0: it is in no sample, as another walk takes the same steps. `service`: the
    server that it needs. `reset`: what is made again for each case there.
    """

    of: str
    prepare: Step
    run: Run
    after: Step
    done: Step
    tidy: Step = _nothing_more
    told: Step | None = None
    imports: tuple[str, ...] = ()
    limit: int = 7
    retry: Run | None = None
    service: Service | None = None
    reset: Step | None = None

    @property
    def again(self) -> Run:
        """The next try."""
        return self.retry or self.run


def phipack(*words: str) -> Run:
    """Run `phipack WORDS`; `{site}` stands for the web server."""
    return lambda ground: main([word.format(site=ground.site) for word in words])


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


def names(folder: Path) -> list[str]:
    """Names in a folder, sorted; none where there is no folder."""
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
