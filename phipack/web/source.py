"""What the registry and the published catalog say, read for pages: kept for some seconds, with its age.

One request to the registry is made at a time, and an answer that did not come is kept as well: pages that are opened
while MLflow is unreachable don't each wait for it. Evidence never changes under its digest and is kept for longer.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from builders.report.findings import Verdict, verdict_on
from phipack.api.registry import Registry
from registry.catalog.published_state import Published, published_root, read_published
from registry.ledger.channel_moves import Move
from registry.ledger.release_plan import Noted
from registry.ledger.versions import CellVersion
from registry.store.protocol import Store
from targets.devices import Target, load_targets
from targets.errors import PhipackError
from targets.evidence import Evidence, Figure
from targets.measurement import Measurement
from targets.references import Version

KEPT_SECONDS = 5.0
_MOST_SUMMARIES, _MOST_ANSWERS = 5000, 200
_T = TypeVar("_T")


@dataclass(frozen=True)
class Answer(Generic[_T]):
    """What was read, or the problem why it could not be; `read_at`: by the monotonic clock."""

    value: _T | None
    problem: PhipackError | None
    read_at: float

    @property
    def age_seconds(self) -> float:
        """How long ago it was read."""
        return time.monotonic() - self.read_at


@dataclass(frozen=True)
class Summary:
    """What a list shows of a cell's evidence. `figures`: empty where it can't be read."""

    verdict: Verdict
    figures: Mapping[str, Figure]


@dataclass
class Source:
    """The registry and the catalog that is published in its store. Safe for many threads.

    Attributes:
        registry: what is registered.
        store: where the catalog is.
        kept_seconds: for how long an answer is used again.
    """

    registry: Registry
    store: Store
    kept_seconds: float = KEPT_SECONDS
    _asking: threading.Lock = field(default_factory=threading.Lock)
    _reading: threading.Lock = field(default_factory=threading.Lock)
    _catalog: Published | None = None
    _answers: OrderedDict[object, Answer[Any]] = field(default_factory=OrderedDict)
    _summaries: OrderedDict[object, Summary] = field(default_factory=OrderedDict)

    def versions(self) -> Answer[tuple[CellVersion, ...]]:
        """Return all versions of all models."""
        return self._kept("versions", self.registry.versions)

    def history(self, model: str) -> Answer[tuple[Move, ...]]:
        """Return the moves of a model's channels, newest first."""
        return self._kept(("history", model), lambda: self.registry.history(model))

    def noted(self, model: str, release: Version) -> Answer[Noted]:
        """Return which cells a release plans, and why it is made."""
        return self._kept(("noted", model, release), lambda: self.registry.noted(f"{model}:{release}"))

    def evidence(self, version: CellVersion) -> Answer[Evidence]:
        """Return a version's evidence, with all details."""

        def ask() -> Evidence:
            (found,) = self.registry.evidence_of([version])
            if isinstance(found, PhipackError):
                raise found
            return found

        return self._kept(("evidence", version.run_id, version.evidence), ask)

    def measurements(self, digest: str) -> Answer[tuple[Measurement, ...]]:
        """Return what was measured of a bundle on devices."""
        return self._kept(("measurements", digest), lambda: self.registry.measurements(digest))

    def report(self, run_id: str) -> bytes:
        """Return the report in a run. Raises `PhipackError`."""
        with self._asking:
            return self.registry.stored_report(run_id)

    def published(self) -> Answer[Published]:
        """Return the published catalog, as far as it can be read; one without documents where there is none."""
        return self._kept("published", self._newest, lock=self._reading)

    def targets(self) -> Mapping[str, Target]:
        """Return the device classes that are known, those of the project file included."""
        project = self.registry.project
        return load_targets() | ({} if project is None else {cell.target.name: cell.target for cell in project.cells})

    def summaries(self, versions: Sequence[CellVersion]) -> Answer[Mapping[str, Summary]]:
        """Return summaries by the versions' references. What is not known yet is read with few requests."""
        with self._asking:
            unknown = [one for one in versions if _key(one) not in self._summaries]
            try:
                found = self.registry.evidence_of(unknown) if unknown else ()
            except PhipackError as error:
                return Answer(None, error, time.monotonic())
            damaged = {}
            for version, evidence in zip(unknown, found, strict=True):
                if isinstance(evidence, PhipackError):  # read again the next time
                    why = f"its evidence can't be read: {evidence.problem}"
                    damaged[version.reference] = Summary(Verdict("fail", why), {})
                else:
                    self._summaries[_key(version)] = _summary(version, evidence)
            known = {one.reference: self._summaries[_key(one)] for one in versions if _key(one) in self._summaries}
            while len(self._summaries) > _MOST_SUMMARIES:
                self._summaries.popitem(last=False)
        return Answer(known | damaged, None, time.monotonic())

    def _newest(self) -> Published:
        """Read which version is published; its root and documents, which don't change, only where it is another one."""
        found = read_published(self.store, None)
        if self._catalog is None or found.tag != self._catalog.tag:
            if found.tag is not None:
                root = published_root(self.store).signed.expires
                found = replace(found, expiries={**found.expiries, "root": root})
            self._catalog = found
        return self._catalog

    def _kept(self, key: object, ask: Callable[[], _T], lock: threading.Lock | None = None) -> Answer[_T]:
        with lock or self._asking:
            known = self._answers.get(key)
            if known is not None and known.age_seconds < self.kept_seconds:
                return known
            try:
                answer = Answer(ask(), None, time.monotonic())
            except PhipackError as error:
                answer = Answer(None, error, time.monotonic())
            self._answers.pop(key, None)
            self._answers[key] = answer
            while len(self._answers) > _MOST_ANSWERS:
                self._answers.popitem(last=False)
            return answer


def _key(version: CellVersion) -> object:
    """Return all that a summary is made from: tags can be changed in MLflow while the evidence stays the same."""
    return version.run_id, version.evidence, version.digest, version.gates_passed


def _summary(version: CellVersion, evidence: Evidence) -> Summary:
    if evidence.bundle != version.digest:
        return Summary(Verdict("fail", f"its evidence is of another bundle, {evidence.bundle}"), {})
    verdict = verdict_on(evidence)
    if verdict.state != "fail" and not version.gates_passed:
        verdict = Verdict("fail", "its tag phipack.gates says failed")
    return Summary(verdict, evidence.figures)
