"""What is told of models that run in processes of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from aiaas_server.core.measures import Family, FamilyKind
from aiaas_server.core.session import Isolation

_FAMILIES: tuple[tuple[str, FamilyKind, str, Callable[[Isolation], float]], ...] = (
    (
        "aiaas_sandbox_deaths_total",
        "counter",
        "Ends of the processes of models that nobody asked for",
        lambda i: i.deaths,
    ),
    (
        "aiaas_sandbox_restarts_total",
        "counter",
        "Processes started in the place of ones that had died",
        lambda i: i.restarts,
    ),
    (
        "aiaas_sandbox_recycled_total",
        "counter",
        "Processes started in the place of ones that had grown",
        lambda i: i.recycled,
    ),
    (
        "aiaas_sandbox_quarantined",
        "gauge",
        "1 where a model gets no further process, since they died too often",
        lambda i: float(bool(i.quarantined)),
    ),
    (
        "aiaas_sandbox_weak",
        "gauge",
        "1 where a process of a model has limits only, and all system calls",
        lambda i: float(not i.confined),
    ),
)


class Runs(Protocol):
    """A loaded version."""

    @property
    def full(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def isolations(self) -> Sequence[Isolation]: ...


def quarantine_of(model: Runs | None) -> str:
    """Why a model that is loaded serves nobody until somebody loads it anew; "" where it does."""
    for isolation in () if model is None else model.isolations:
        if isolation.quarantined:
            return f"quarantined: {isolation.quarantined}"
    return ""


def families_of(models: Iterable[Runs]) -> Iterator[Family]:
    """The families of those that have processes of their own; none where no model has."""
    kept = [
        ({"model": model.full, "version": str(model.version)}, model.isolations)
        for model in models
        if model.isolations
    ]
    if not kept:
        return
    for name, kind, text, read in _FAMILIES:
        together: Callable[[Iterable[float]], float] = max if kind == "gauge" else sum
        samples = [("", labels, together(map(read, found))) for labels, found in kept]
        yield Family(name, kind, text, samples)
