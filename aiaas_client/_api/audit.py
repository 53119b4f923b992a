"""Calls of the audit: what was done to a server, by whom, and whether the record is whole."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from datetime import UTC, date, datetime
from functools import partial
from typing import Any, Final

from aiaas_client import _errors as errors
from aiaas_client._api.call import Call
from aiaas_client._api.documents import document_call, page_call
from aiaas_client._api.management import PAGE_ITEMS, ROOT, Part

When = float | date | str
"""Seconds since 1970, a date or datetime (UTC where it tells no zone), such a one as text, or how
long ago: "24h", "7d"."""

PATH: Final = f"{ROOT}/audit"
_ago = re.compile(r"([0-9]{1,6})([smhdw])").fullmatch
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_month = re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])").fullmatch


def entries(
    after: str | None = None,
    limit: int = PAGE_ITEMS,
    *,
    since: When | None = None,
    until: When | None = None,
    actor: str = "",
    act: str = "",
    object: str = "",  # as the entry calls it
    result: str = "",
    tenant: str = "",
) -> Call[Part]:
    """`GET /api/v1/audit`: the newest first.

    Raises:
        InputError: `since` or `until` is no time.
    """
    times = {"since": since, "until": until}
    query = {name: "" if at is None else repr(seconds_of(name, at)) for name, at in times.items()}
    more = {"actor": actor, "act": act, "object": object, "result": result, "tenant": tenant}
    return page_call("audit.AuditEntry", PATH, after, limit, {**query, **more})


def verify() -> Call[Any]:
    """`GET /api/v1/audit/verify`."""
    return document_call("GET", "audit.Verification", f"{PATH}/verify")


def report(month: str, tenant: str = "") -> Call[Any]:
    """`GET /api/v1/audit/report`.

    Raises:
        InputError: it is no month.
    """
    if not _month(str(month)):
        raise errors.InputError(f"month: expected a month as '2026-11', got {str(month)[:64]!r}")
    query = {"month": month, "tenant": tenant}
    return document_call("GET", "audit.AuditReport", f"{PATH}/report", query=query)


def seconds_of(name: str, when: When) -> float:
    """A time as seconds since 1970.

    Raises:
        InputError: it is none; the text names it.
    """
    if isinstance(when, int | float) and not isinstance(when, bool):
        return float(when)
    if isinstance(when, str):
        if found := _ago(when.strip()):
            return time.time() - int(found[1]) * _SECONDS[found[2]]
        with suppress(ValueError):
            when = datetime.fromisoformat(when.strip())
    if isinstance(when, date):
        told = when if isinstance(when, datetime) else datetime(when.year, when.month, when.day)
        return (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp()
    raise errors.InputError(
        f"{name}: expected a time as '2026-11-30', '2026-11-30T12:00' or '24h', "
        f"got {str(when)[:64]!r}"
    )


def wanted(**given: Any) -> Any:
    """`entries` with these filters, for `pages`."""
    return partial(entries, **given)
