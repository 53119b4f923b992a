"""The periodic audit of a month: acts, refusals, how keys are used and which are too many."""

from __future__ import annotations

import calendar
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final

from sqlalchemy import Connection, Row, select

from aiaas_client.protocol.audit import ActCount, AuditReport, KeyUse, RefusalCount
from aiaas_client.protocol.scopes import SCOPES
from aiaas_client.protocol.tenants import OPERATOR_TENANT
from aiaas_server.core.errors import InvalidInput
from aiaas_server.state.tenant_tables import KEYS, TENANTS, USAGE
from aiaas_server.tenancy.audit_read import Wanted, documents

UNUSED_SECONDS: Final = 90 * 86_400.0
_month = re.compile(r"([0-9]{4})-(0[1-9]|1[0-2])").fullmatch
_ENDS: Final = ("done", "failed", "abandoned")


def bounds_of(month: str) -> tuple[float, float]:
    """Where a month of UTC begins and ends, seconds since 1970.

    Raises:
        InvalidInput: It is no month.
    """
    found = _month(month)
    if found is None or not 1970 <= int(found[1]) < 9999:
        raise InvalidInput(f"month: expected a month as 2026-11, got {month[:64]!r}")
    year, number = int(found[1]), int(found[2])
    following = (year + number // 12, number % 12 + 1)
    begin, end = ((*one, 1, 0, 0, 0) for one in ((year, number), following))
    return float(calendar.timegm(begin)), float(calendar.timegm(end))


def report(
    connection: Connection,
    month: str,
    tenant: str | None,
    used: Iterable[tuple[str, str]] = (),
) -> AuditReport:
    """Count a month.

    Args:
        tenant: Of one tenant; None of all.
        used: Keys and scopes that they are known to have used, besides what the audit knows.
    Raises:
        InvalidInput: `month` is no month.
    """
    since, until = bounds_of(month)
    acts: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    refusals: Counter[tuple[str, str]] = Counter()
    active, count = set(), 0
    for document in documents(connection, Wanted(tenant, since, until)):
        count += 1
        if document["result"] == "refused":
            refusals[document["code"], document["address"]] += document["count"]
        elif document["result"] in _ENDS:
            of = (document["act"], document["tenant"], document["actor"])
            acts[of][document["result"]] += 1
            active.add(document["tenant"])
    return AuditReport(
        month=month,
        made=time.time(),
        entries=count,
        acts=tuple(_acts(acts)),
        refusals=tuple(
            RefusalCount(code=code, address=address, count=number)
            for (code, address), number in refusals.most_common()
        ),
        keys=tuple(_keys(connection, tenant, used)),
        idle_tenants=tuple(_idle(connection, tenant, since, until, active)),
    )


def _acts(found: Mapping[tuple[str, str, str], Counter[str]]) -> Iterable[ActCount]:
    ordered = sorted(found.items(), key=lambda item: (-item[1].total(), item[0]))
    for (act, tenant, actor), results in ordered:
        yield ActCount(act=act, tenant=tenant, actor=actor, **results)


def _keys(
    connection: Connection, tenant: str | None, used: Iterable[tuple[str, str]]
) -> Iterable[KeyUse]:
    known = _used_scopes(connection, tenant)
    for key, scope in used:
        known[key].add(scope)
    asked = select(KEYS).where(KEYS.c.revoked.is_(None)).order_by(KEYS.c.tenant, KEYS.c.id)
    if tenant is not None:
        asked = asked.where(KEYS.c.tenant == tenant)
    now = time.time()
    for row in connection.execute(asked):
        if row.expires is None or row.expires > now:
            yield _key_use(row, known[row.id], now)


def _key_use(row: Row[Any], used: set[str], now: float) -> KeyUse:
    # `admin` stands for all of its tenant: which of them it needed is what there is to know.
    has = set(SCOPES) - {"admin"} if "admin" in row.scopes else set(row.scopes)
    last = row.created if row.last_used is None else row.last_used
    return KeyUse(
        id=row.id,
        tenant=row.tenant,
        name=row.name,
        last_used=row.last_used,
        unused=last < now - UNUSED_SECONDS,
        used_scopes=tuple(sorted(used)),
        never_used=tuple(sorted(has - used)),
    )


def _used_scopes(connection: Connection, tenant: str | None) -> dict[str, set[str]]:
    """What the audit and the usage know of the scopes of keys."""
    found: dict[str, set[str]] = defaultdict(set)
    for document in documents(connection, Wanted(tenant)):
        if document["result"] == "begun" and document["scope"]:
            found[document["actor"]].add(document["scope"])
    asked = select(USAGE.c.key_id).distinct().where(USAGE.c.unit == "requests")
    for (key,) in connection.execute(asked):
        found[key].add("infer")
    return found


def _idle(
    connection: Connection, tenant: str | None, since: float, until: float, active: set[str]
) -> Iterable[str]:
    used = connection.execute(
        select(USAGE.c.tenant).distinct().where(USAGE.c.hour >= since, USAGE.c.hour < until)
    )
    active |= {name for (name,) in used}
    asked = select(TENANTS.c.name).where(TENANTS.c.state == "active", TENANTS.c.created < until)
    for (name,) in connection.execute(asked.order_by(TENANTS.c.name)):
        if name not in active and name != OPERATOR_TENANT and tenant in (None, name):
            yield name
