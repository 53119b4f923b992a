"""What came of the copies that a shadow got, counted so that processes and windows add up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, delete, select

from aiaas_server.core.histogram import Histogram
from aiaas_server.monitor.mirror import Finding
from aiaas_server.state.tables import MODELS, WINDOWS

KIND: Final = "shadow"
WINDOW: Final = 60
"""Seconds of wall clock whose copies are counted together."""
_COUNTS: Final = ("agreed", "disagreed", "outside", "failed", "dropped", "labels", "same_labels")


@dataclass(slots=True)
class ShadowCounts:
    """What came of the copies that a shadow got; those of several windows and processes add up.

    Attributes:
        agreed: Decided as the caller was told: the same labels, or greatest scores, or numbers.
        disagreed: Answered otherwise.
        outside: Of both, those where some float is outside the tolerance, or anything differs.
        failed: Not answered by its own fault; no caller noticed.
        dropped: Not run: too much waited, or the server was busy.
        labels: Rows whose label was compared.
        same_labels: Of them, those with the same one.
        largest: Difference of two floats.
        answered: How long the version ran that answered the callers.
        shadow: How long the shadow ran on the same requests.
        last: What differed or failed last, in words.
    """

    agreed: int = 0
    disagreed: int = 0
    outside: int = 0
    failed: int = 0
    dropped: int = 0
    labels: int = 0
    same_labels: int = 0
    largest: float = 0.0
    answered: Histogram = field(default_factory=Histogram)
    shadow: Histogram = field(default_factory=Histogram)
    last: str = ""

    def add(self, finding: Finding) -> None:
        """Count one copy that was run."""
        compared = finding.compared
        if compared is None:
            self.failed += 1
            self.last = finding.failure
            return
        self.agreed += compared.agrees
        self.disagreed += not compared.agrees
        self.outside += not compared.within
        self.labels += compared.labels
        self.same_labels += compared.same_labels
        self.largest = max(self.largest, compared.largest)
        self.answered.add(finding.seconds[0])
        self.shadow.add(finding.seconds[1])
        self.last = compared.text or self.last

    def merge(self, other: ShadowCounts) -> None:
        """Count all that `other` has as well."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.largest = max(self.largest, other.largest)
        self.answered.merge(other.answered)
        self.shadow.merge(other.shadow)
        self.last = other.last or self.last

    @property
    def compared(self) -> int:
        """Copies that were answered and held against the callers' answers."""
        return self.agreed + self.disagreed

    def ratio(self, q: float) -> float | None:
        """A quantile of its times as a multiple of the other's; None where nothing was compared."""
        own, other = self.shadow.quantile(q), self.answered.quantile(q)
        return own / other if other else None

    def to_json(self) -> dict[str, Any]:
        """As `from_json` reads it."""
        return {name: getattr(self, name) for name in _COUNTS} | {
            "largest": self.largest,
            "answered": self.answered.to_json(),
            "shadow": self.shadow.to_json(),
            "last": self.last,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ShadowCounts:
        """What `to_json` gave, here or in a newer or older server."""
        return cls(
            **{name: int(document.get(name, 0)) for name in _COUNTS},
            largest=float(document.get("largest", 0.0)),
            answered=Histogram.from_json(document.get("answered", {})),
            shadow=Histogram.from_json(document.get("shadow", {})),
            last=str(document.get("last", "")),
        )


def write_shadows(
    connection: Connection, start: int, node: str, taken: Mapping[tuple[str, int], ShadowCounts]
) -> None:
    """Add counts to the windows that begin at `start`; of models that are gone nothing is kept."""
    for (model_id, version), counts in taken.items():
        if connection.execute(select(MODELS.c.id).where(MODELS.c.id == model_id)).first() is None:
            continue
        row = {
            "model_id": model_id,
            "version": version,
            "kind": KIND,
            "start": start,
            "node": node,
        }
        this = [WINDOWS.c[key] == value for key, value in row.items()]
        found = connection.execute(select(WINDOWS.c.counts).where(*this)).scalar_one_or_none()
        whole = ShadowCounts.from_json(found or {})
        whole.merge(counts)
        connection.execute(delete(WINDOWS).where(*this))
        connection.execute(WINDOWS.insert().values(**row, seconds=WINDOW, counts=whole.to_json()))


def read_shadow(
    connection: Connection, model_id: str, version: int, since: float = 0.0
) -> ShadowCounts:
    """What a version did as a shadow, in the windows from `since` on, all processes together."""
    return read_shadows(connection, model_id, since).get(version, ShadowCounts())


def read_shadows(
    connection: Connection, model_id: str, since: float = 0.0
) -> dict[int, ShadowCounts]:
    """The same of each version of a model that was one."""
    asked = (
        select(WINDOWS.c.version, WINDOWS.c.counts)
        .where(
            WINDOWS.c.model_id == model_id,
            WINDOWS.c.kind == KIND,
            WINDOWS.c.start > since - WINDOW,
        )
        .order_by(WINDOWS.c.start)
    )
    found: dict[int, ShadowCounts] = {}
    for version, counts in connection.execute(asked):
        found.setdefault(version, ShadowCounts()).merge(ShadowCounts.from_json(counts))
    return found
