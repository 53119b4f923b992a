"""What a request counts for, in the units of table `usage`: as `meter` adds it up."""

from __future__ import annotations

from aiaas_server.core.events import InferenceRecord


def amounts_of(record: InferenceRecord) -> list[tuple[str, int]]:
    """The units of one record, and how many of each; none of one that costs nobody anything.

    An attempt that its caller left counts here, though it may turn out to be paid with another of
    the same request: what was spent is read anew soon.
    """
    units, caller, spent = record.units, record.caller, record.own_ns // 1000
    moved = [("bytes_in", units.bytes_in), ("bytes_out", units.bytes_out)]
    if caller.shadow:
        return [("compute_us", spent)] if caller.errand else []
    if record.ending == "cached":
        return [("cache_hits", 1), *moved]
    if record.ending not in ("answered", "abandoned"):
        return []
    if record.ending == "answered" and record.failure is not None:
        return []
    tokens = [("tokens_in", units.tokens_in), ("tokens_out", units.tokens_out)]
    return [("requests", 1), ("rows", units.rows), ("compute_us", spent), *moved, *tokens]
