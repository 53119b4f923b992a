"""What a request counts for, in the units of table `usage`."""

from __future__ import annotations

from aiaas_server.core.events import InferenceRecord


def amounts_of(record: InferenceRecord) -> list[tuple[str, int]]:
    """The units of one record, and how many of each; none of one that costs nobody anything.

    A batch's time is shared by its items. An execution that nobody waited for is time alone.
    """
    units, ran = record.units, record.batch_rows
    if record.caller.shadow or (record.failure is not None and not ran):
        return []
    share = min(units.rows / ran, 1.0) if ran and not units.tokens_out else 1.0
    spent = round(record.compute_seconds * share * 1e6)
    if record.failure is not None:
        return [("compute_us", spent)] if record.failure == "CANCELED" else []
    if not ran and not units.tokens_in:
        return [("cache_hits", 1)]
    found = [("requests", 1), ("rows", units.rows), ("compute_us", spent)]
    if units.tokens_in or units.tokens_out:
        found += [("tokens_in", units.tokens_in), ("tokens_out", units.tokens_out)]
    return found
