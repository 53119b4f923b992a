"""Families of numbers for the metrics page, from parts that it does not know; they add up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

FamilyKind = Literal["counter", "gauge", "amount", "histogram"]
Sample = tuple[str, Mapping[str, str], float]  # suffix of the name, labels, value


class Family(NamedTuple):
    """Numbers under one name.

    Attributes:
        kind: Of several processes a gauge is the greatest one; all others are sums. An amount is
            a gauge of what each process has of its own, as memory or slots.
    """

    name: str
    kind: FamilyKind
    text: str
    samples: Sequence[Sample]

    def plain(self) -> list[Any]:
        """For another process, as JSON; `family_of` reads it."""
        samples = [[suffix, dict(labels), value] for suffix, labels, value in self.samples]
        return [self.name, self.kind, self.text, samples]


Measure = Callable[[], Iterable[Family]]
"""Tells its families as they stand; from any thread, quickly."""


def family_of(plain: Sequence[Any]) -> Family:
    """Read what `Family.plain` wrote."""
    name, kind, text, samples = plain
    return Family(name, kind, text, [(suffix, labels, value) for suffix, labels, value in samples])


def merged(families: Iterable[Family]) -> list[Family]:
    """Families of several processes as those of one."""
    kinds: dict[str, Family] = {}
    values: dict[str, dict[tuple[Any, ...], float]] = {}
    for family in families:
        kinds.setdefault(family.name, family)
        known = values.setdefault(family.name, {})
        for suffix, labels, value in family.samples:
            key = (suffix, *labels.items())
            before = known.get(key)
            if before is None:
                known[key] = value
            else:
                known[key] = max(before, value) if family.kind == "gauge" else before + value
    return [
        family._replace(
            samples=[(key[0], dict(key[1:]), value) for key, value in values[name].items()]
        )
        for name, family in kinds.items()
    ]
