"""What a page is made from: both sides as they were read, and what stands around every page's content."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from phipack.api.reporting import tool
from phipack.web.rendering import path_of
from phipack.web.source import Answer, Source
from phipack.web.standing import Standing, channels_of, models_in, standings
from registry.catalog.published_state import Published
from registry.ledger.versions import CellVersion
from targets.devices import Target
from targets.errors import PhipackError, PublicationError, did_you_mean
from targets.secrets import shown

_T = TypeVar("_T")
_UNREAD_CATALOG = "The published catalog can't be read"
_EXPIRED_CATALOG = "Phones refuse the published catalog"


class NotFoundError(PhipackError):
    """There is no such page."""


@dataclass(frozen=True)
class Page:
    """A page to render. `crumbs`: the pages above it, as path and name."""

    template: str
    title: str
    content: Mapping[str, Any]
    crumbs: tuple[tuple[str, str], ...] = ()
    here: str = ""


@dataclass
class Known:
    """The registry and the catalog at the moment when a page is made.

    `problems`: what could not be read, each with the sentence that stands before it.
    """

    source: Source
    problems: list[tuple[str, PhipackError]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.versions: Answer[tuple[CellVersion, ...]] = self.source.versions()
        self.catalog: Answer[Published] = self.source.published()
        if self.versions.problem is not None:
            self.problems.append(("The registry can't be read; what is published is shown", self.versions.problem))
        if self.catalog.problem is not None:
            self.problems.append((_UNREAD_CATALOG, self.catalog.problem))
        if (catalog := self.catalog.value) is not None and catalog.is_expired:
            when = f"{catalog.expires:%Y-%m-%d %H:%M} UTC"
            expired = PublicationError(f"it expired on {when}", fix=f"sign it again: {catalog.renewal}")
            self.problems.append((_EXPIRED_CATALOG, expired))
        self.targets: Mapping[str, Target] = self.source.targets()

    @property
    def rows(self) -> tuple[CellVersion, ...] | None:
        """What is registered; None where that can't be read."""
        return self.versions.value

    @property
    def published(self) -> Published | None:
        """What is published; None where that can't be read."""
        return self.catalog.value

    @property
    def is_catalog_read(self) -> bool:
        """Whether all that was looked for in the published catalog so far could be read."""
        return all(sentence != _UNREAD_CATALOG for sentence, _ in self.problems)

    def of(self, model: str) -> Sequence[CellVersion]:
        """Return the registered versions of a model; none where the registry can't be read."""
        return [row for row in self.rows or () if row.model == model]

    def models(self) -> list[str]:
        """Return the models on either side."""
        return models_in(self.rows, self.published)

    def require_model(self, model: str) -> None:
        """Raise where a model is on neither side, or that can't be known."""
        if model in self.models():
            return
        if self.versions.problem is not None:
            raise self.versions.problem
        raise NotFoundError(f"no model {model!r} is registered or published", fix=did_you_mean(model, self.models()))

    def channels(self, model: str) -> list[str]:
        """Return the channels of a model on either side."""
        return channels_of(model, self.rows, self.published)

    def standings(self, model: str, channel: str) -> list[Standing]:
        """Return a channel's cells; what is published is left out where its documents are damaged."""
        is_expired = self.published is not None and self.published.is_expired
        return self.of_catalog(lambda published: standings(model, channel, self.rows, published, is_expired=is_expired))

    def of_catalog(self, asked: Callable[[Published | None], _T]) -> _T:
        """Return what `asked` makes of what is published; of nothing where a document is damaged, as the page says."""
        try:
            return asked(self.published)
        except PhipackError as error:
            self.note(_UNREAD_CATALOG, error)
            return asked(None)

    def note(self, sentence: str, problem: PhipackError) -> None:
        """Add what could not be read, once."""
        if all(problem.problem != known.problem for _, known in self.problems):
            self.problems.append((sentence, problem))

    def answered(self, sentence: str, answer: Answer[Any]) -> Any:
        """Return what was read; None where it could not be, which the page then says."""
        if answer.problem is not None:
            self.note(sentence, answer.problem)
        return answer.value

    def frame(self) -> dict[str, Any]:
        """Return what every page shows: where it was read, when, and what could not be."""
        registry = self.source.registry
        return {
            "registry": shown(registry.tracking_uri),
            "store": shown(self.source.store.uri),
            "age": self.versions.age_seconds,
            "catalog_version": 0 if self.published is None else self.published.timestamp_version,
            "problems": self.problems,
            "is_reached": self.rows is not None,
            "is_catalog_read": self.is_catalog_read,
            "tool": tool(),
        }


def crumbs_of(model: str) -> tuple[tuple[str, str], ...]:
    """Return the pages above those of a model."""
    return (("/", "Models"), (path_of("models", model), model))


def version_of(known: Known, model: str, release: str, cell: str) -> CellVersion:
    """Return a registered version. Raises `PhipackError` where there is none, or that can't be known."""
    found = next((row for row in known.of(model) if (str(row.release), row.cell) == (release, cell)), None)
    if found is not None:
        return found
    if known.versions.problem is not None:
        raise known.versions.problem
    raise NotFoundError(f"{model}:{release}@{cell} is not registered", fix=f"see the releases of {model}")
