"""What each tenant gets, for the metrics page: a bounded number of them has a label of its own."""

from __future__ import annotations

import threading
from typing import Final

from aiaas_server.core.events import InferenceRecord
from aiaas_server.core.measures import Family

OTHER: Final = "other"
"""The label of all tenants beyond the number that is told apart."""


class _Counts:
    __slots__ = ("failed", "rows", "seconds", "succeeded")

    def __init__(self) -> None:
        self.succeeded = self.failed = self.rows = 0
        self.seconds = 0.0


class TenantCounts:
    """Counts requests by tenant.

    Called with every record, in any thread: `core.events.Observer`.

    Args:
        most: Tenants that are told apart: the first that ask.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._counts: dict[str, _Counts] = {}
        self._lock = threading.Lock()

    def __call__(self, record: InferenceRecord) -> None:
        """Count one request."""
        if record.caller.shadow:
            return
        with self._lock:
            counts = self._of(record.caller.identity.tenant)
            counts.seconds += record.own_ns / 1e9
            if record.failure is None:
                counts.succeeded += 1
                counts.rows += record.units.rows
            else:
                counts.failed += 1

    def _of(self, tenant: str) -> _Counts:
        found = self._counts.get(tenant)
        if found is None:
            name = tenant if len(self._counts) < self._most else OTHER
            found = self._counts.setdefault(name, _Counts())
        return found

    def families(self) -> list[Family]:
        """The numbers as they stand."""
        with self._lock:
            counted = [
                ({"tenant": name}, one.succeeded, one.failed, one.rows, one.seconds)
                for name, one in sorted(self._counts.items())
            ]
        outcomes = [
            ("", {**labels, "outcome": outcome}, float(count))
            for labels, succeeded, failed, _, _ in counted
            for outcome, count in (("success", succeeded), ("failure", failed))
        ]
        rows = [("", labels, float(count)) for labels, _, _, count, _ in counted]
        seconds = [("", labels, spent) for labels, *_, spent in counted]
        return [
            Family("aiaas_tenant_requests_total", "counter", "Requests by tenant", outcomes),
            Family("aiaas_tenant_rows_total", "counter", "Items answered, by tenant", rows),
            Family(
                "aiaas_tenant_compute_seconds_total",
                "counter",
                "Time of executions, by tenant and its part of each",
                seconds,
            ),
        ]
