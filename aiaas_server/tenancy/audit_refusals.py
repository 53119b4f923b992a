"""Refusals on their way into the audit: told at once where few come, counted where many do.

The first of an address in a minute is an entry; those after it are one more at the end of the
minute, with their number. Beyond some addresses a minute, and some entries a day, all are one
count of the address `*`. So a flood, of one address or of a million, fills neither memory nor disk.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from aiaas_server.core.events import Refusal
from aiaas_server.tenancy.audit_chain import Draft, clean

MINUTE: Final = 60.0
ADDRESSES: Final = 32  # that are named in a minute
ENTRIES_A_DAY: Final = 10_000  # that name an address; one a minute and reason comes beyond them
MANY: Final = "*"
_DAY: Final = 86_400.0


class Refusals:
    """Gathers refusals until they are taken; not for threads.

    Args:
        now: Seconds since 1970, at which it begins.
    """

    def __init__(self, now: float) -> None:
        self._minute, self._day = now, now
        self._named = 0
        self._firsts: list[Draft] = []
        self._counts: Counter[Refusal] = Counter()
        self._seen: set[Refusal] = set()

    def add(self, refusal: Refusal, now: float) -> None:
        """Note one."""
        if refusal in self._seen:
            self._counts[refusal] += 1
        elif len(self._seen) < ADDRESSES and self._named < ENTRIES_A_DAY:
            self._seen.add(refusal)
            self._firsts.append(_draft(refusal, now, 1))
            self._named += 1
        else:
            self._counts[Refusal(refusal.status, refusal.code, MANY)] += 1

    def take(self, now: float, *, all_of_them: bool = False) -> list[Draft]:
        """What is to be written: the first ones, and when a minute is over the counts as well."""
        taken, self._firsts = self._firsts, []
        if all_of_them or not 0 <= now - self._minute < MINUTE:  # a clock may jump
            taken.extend(_draft(refusal, now, count) for refusal, count in self._counts.items())
            self._named += sum(1 for refusal in self._counts if refusal.address != MANY)
            self._counts, self._seen, self._minute = Counter(), set(), now
        if not 0 <= now - self._day < _DAY:
            self._day, self._named = now, 0
        return taken


def _draft(refusal: Refusal, now: float, count: int) -> Draft:
    return {
        "at": now,
        "tenant": refusal.tenant or "default",
        "actor": refusal.key_id or ("operator" if refusal.tenant else ""),
        "address": clean(refusal.address),
        "act": clean(refusal.act)[:128] or ("authorize" if refusal.tenant else "authenticate"),
        "result": "refused",
        "status": refusal.status,
        "code": refusal.code,
        "count": count,
    }
