"""Counts what becomes of callers' requests to the versions of a rollout, step by step."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping

from aiaas_server.core.events import InferenceRecord
from aiaas_server.core.names import full_name
from aiaas_server.core.tally import Tally


class StepCounts:
    """An observer that counts the versions it is told to watch, and costs others next to nothing.

    Models have the server's own names here. Requests that run in callers' threads count here too,
    hence the lock.
    """

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, int], Tally] = {}
        self._lock = threading.Lock()

    def watch(self, name: str, versions: Iterable[int]) -> None:
        """Count these versions of a model, from nothing, and no others of it."""
        with self._lock:
            kept = {key: tally for key, tally in self._tallies.items() if key[0] != name}
            self._tallies = kept | {(name, version): Tally() for version in versions}

    def forget(self, name: str) -> None:
        """Count no version of a model any more."""
        self.watch(name, ())

    def taken(self, name: str) -> Mapping[int, Tally]:
        """What was counted since `watch`, by version; it goes on counting."""
        found: dict[int, Tally] = {}
        with self._lock:
            for (model, version), tally in self._tallies.items():
                if model == name:
                    found[version] = Tally()
                    found[version].merge(tally)
        return found

    def __call__(self, record: InferenceRecord) -> None:
        """Count one request."""
        if not self._tallies or record.caller.shadow:
            return
        tally = self._tallies.get((full_name(record.owner, record.model), record.version))
        if tally is None:
            return
        failure = record.failure
        if failure == "CANCELED":
            return  # nobody knows what would have come of it
        with self._lock:
            tally.requests += 1
            if failure is None:
                tally.latency.add(record.total_seconds)
            elif failure == "REJECTED":
                tally.refused += 1
            elif failure == "OTHER":
                tally.invalid += 1
            else:
                tally.failures += 1

    def mirrored(self, name: str, version: int, *, agrees: bool) -> None:
        """Count a copied request that `version` answered as the other one did, or not."""
        with self._lock:
            tally = self._tallies.get((name, version))
            if tally is not None:
                tally.mirrored += 1
                tally.disagreed += not agrees
