"""What is counted of a version that is on trial, and what is said of it; see `monitor.guard`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple

from aiaas_client.protocol.management import Guard
from aiaas_server.core.histogram import Histogram


@dataclass(slots=True)
class Tally:
    """Counts of one version during one step; those of several processes add up.

    Attributes:
        requests: Of callers who waited for the answer.
        failures: Of those, where the run failed.
        refused: Of those, where there was no room or no time, or the version went away.
        invalid: Of those, where the run failed and the runtime blames the input.
        mirrored: Requests of another version that it was given as well, to compare.
        disagreed: Of those, the ones it answered differently or failed on.
        labelled: Answers whose labels are known.
        correct: Of those, the right ones.
        latency: Acceptance to answer, of those that succeeded.
    """

    requests: int = 0
    failures: int = 0
    refused: int = 0
    invalid: int = 0
    mirrored: int = 0
    disagreed: int = 0
    labelled: int = 0
    correct: int = 0
    latency: Histogram = field(default_factory=Histogram)

    def merge(self, other: Tally) -> None:
        """Count all that `other` has as well."""
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.latency.merge(other.latency)

    def to_json(self) -> dict[str, Any]:
        """As `from_json` reads it."""
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        return numbers | {"latency": self.latency.to_json()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Tally:
        """What `to_json` gave, here or in a newer or older server."""
        numbers = {name: int(document.get(name, 0)) for name in _NUMBERS}
        return cls(**numbers, latency=Histogram.from_json(document.get("latency", {})))


_NUMBERS = tuple(one.name for one in fields(Tally) if one.name != "latency")


class Verdict(NamedTuple):
    """What a guard says.

    Attributes:
        kind: `waits` (the step is not over, or too little is known), `passed` or `broken`.
        reason: In words, with numbers.
    """

    kind: Literal["waits", "passed", "broken"]
    reason: str


Judge = Callable[[Guard, Tally, Tally, float], Verdict]
"""Takes a guard, the new version's counts, the old one's, and the seconds the step has lasted."""
