"""`Budget`: what each tenant has spent in this month, from memory, and what comes of it.

What was spent is read from the database every few seconds; what this process executes in between is
added as it happens. So a tenant overshoots its limit by what is executed between two reads, in all
processes together, and no more: `INTERVAL`, and the second or two until use is written. While the
database is away, each process goes on with what it knows.

An observer takes each record before its answer leaves. Where answers tell their cost, it is priced
there; else records wait, and are added up many at a time, or one by one where that may bring a
limit near.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from decimal import ROUND_CEILING, Decimal
from functools import partial
from typing import Final, NamedTuple

from aiaas_server.core.background import stop
from aiaas_server.core.errors import BudgetExceeded, ServerError
from aiaas_server.core.events import Identity, InferenceRecord
from aiaas_server.state.database import Database
from aiaas_server.tenancy.amounts import amounts_of
from aiaas_server.tenancy.costs import with_cost
from aiaas_server.tenancy.identities import Directory
from aiaas_server.tenancy.money import EXACT, ZERO, added, rounded
from aiaas_server.tenancy.months import HOUR, Month, month_at
from aiaas_server.tenancy.notices import Notice, note
from aiaas_server.tenancy.prices import Book
from aiaas_server.tenancy.spending import Settled, Spending, begun, read_spending
from aiaas_server.tenancy.tally import Tally

INTERVAL: Final = 3.0
"""Seconds between two reads of what was spent."""
WARN_AT: Final = Decimal("0.8")
LONGEST_WAIT: Final = 3600.0
"""Seconds of Retry-After at most: a limit can be raised before the month is over."""
WARNING: Final = b"x-budget-warning"
"""The header of answers to a tenant that has spent 80 % of what it may in a month, or more:
`X-Budget-Warning: spent=83.12, limit=100.00, currency=EUR`, a dictionary of RFC 9651."""

_MOST_WAITING: Final = 256  # records, until they are added up

_log = logging.getLogger("aiaas_server")
_is_inference = re.compile(
    r"/predict|/v1/(chat/completions|completions|responses|embeddings|audio/[a-z]+)"
    r"|/v[12]/models/.+(/infer|/generate|/generate_stream|:predict|:explain)"
).fullmatch


class _Use(NamedTuple):
    """What requests of one hour used."""

    tenant: str
    key_id: str
    hour: int
    model: str
    unit: str
    amount: int


class _Limit(NamedTuple):
    """What may be spent, and from which sum on a warning is due."""

    most: Decimal
    near: Decimal


class Budget:
    """What is spent and may be spent, in one process.

    Called with who asks and a path, before each request; gives header lines for its answer.

    Args:
        cost_header: Tell each answer its cost.
        clock: Gives seconds since 1970.
        interval: Seconds between two reads.

    Attributes:
        told: Called once a month and tenant when 80 %, and when 100 % are spent, by one process.
    """

    def __init__(
        self,
        database: Database,
        *,
        cost_header: bool = False,
        clock: Callable[[], float] = time.time,
        interval: float = INTERVAL,
    ) -> None:
        self._database = database
        self._tells_cost = cost_header
        self._clock = clock
        self._interval = interval
        self._limits: Mapping[str, _Limit] = {}  # by tenant
        self._own_limits: Mapping[str, _Limit] = {}  # by the id of a key
        self._lines: Mapping[str, tuple[str, ...]] = {}  # the same: it, and those it replaces
        self._watched: dict[str, frozenset[str]] = {}
        self._changing = threading.Lock()
        self._book = Book(())
        self._month = month_at(clock())
        self._month_end = self._month.end
        self._waiting: deque[tuple[InferenceRecord, float]] = deque()
        self._dearest: Decimal | None = None  # request on average, of those added up at once
        self._may_wait: dict[str, int] = {}  # records, by the id of a key
        self._tallies: dict[str, Tally] = {}
        self._settled: Settled | None = None
        self._meanwhile: list[_Use] | None = None  # while a read is under way
        self._noticed: set[tuple[str, str, int]] = set()
        self._following: asyncio.Task[None] | None = None
        self.told: Callable[[Notice], object] | None = None

    def follow_directory(self, directory: Directory) -> None:
        """Know who may spend how much; a listener of `Identities`."""
        self._limits = {
            tenant: _limit(limits.monthly_spend)
            for tenant, limits in directory.limits.items()
            if limits.monthly_spend is not None
        }
        own: dict[str, _Limit] = {}
        lines: dict[str, tuple[str, ...]] = {}
        watched = {tenant: frozenset[str]() for tenant in self._limits}
        for key in directory.keys.values():
            if key.limits is not None and key.limits.monthly_spend is not None:
                who = key.identity
                own[who.key_id] = _limit(key.limits.monthly_spend)
                line = lines[who.key_id] = (*key.replaces, who.key_id)
                watched[who.tenant] = watched.get(who.tenant, frozenset()).union(line)
        self._own_limits, self._lines = own, lines
        self._may_wait.clear()
        with self._changing:
            self._watched = watched

    async def start(self) -> None:
        """Read what was spent; without a database nothing is known of it until it answers."""
        with suppress(ServerError):
            await self.refresh()

    def follow(self) -> None:
        """Keep up with what is spent, until `close`."""
        self._following = asyncio.ensure_future(self._follow())

    async def close(self) -> None:
        """Stop following."""
        await stop(self._following)

    # Each request

    def __call__(self, identity: Identity, path: str | None) -> bytes:
        """Whether a request may come in; header lines for its answer.

        Args:
            path: None of a job that is to be queued; from any thread.
        Raises:
            BudgetExceeded: It is a job or for inference, and its tenant or key has spent what it
                may.
        """
        limit = self._limits.get(identity.tenant)
        own = self._own_limits.get(identity.key_id)
        if limit is None and own is None:
            return b""
        tally = self._known(identity.tenant)
        key_id, waiting = identity.key_id, len(self._waiting)
        if (
            waiting
            and waiting > self._may_wait.get(key_id, -1)
            and waiting > self._room(tally, limit, own, key_id)
        ):
            self._add_up()
            tally = self._known(identity.tenant)
        warning = b""
        if own is not None and (spent := self._by_key(tally, identity.key_id)) >= own.near:
            warning = self._warn(f"key '{identity.key_id}'", spent, own.most, path)
        if limit is not None and tally.cost >= limit.near:
            warning = self._warn(f"tenant '{identity.tenant}'", tally.cost, limit.most, path)
        return warning

    def _known(self, tenant: str) -> Tally:
        """What a tenant has spent in this month, as far as it was added up."""
        tally = self._tallies.get(tenant)
        now = self._clock()
        if tally is None or now >= self._month_end:
            with self._changing:
                tally = self._tally(tenant, now)
        return tally

    def _room(self, tally: Tally, limit: _Limit | None, own: _Limit | None, key_id: str) -> int:
        """How many records may wait: few, and so that they cannot bring a limit near.

        It is kept for the key until one of what it depends on changes.
        """
        dearest, room = self._dearest, _MOST_WAITING - 1
        if dearest is None:
            return -1
        for most, spent in ((limit, tally.cost), (own, self._by_key(tally, key_id))):
            if most is not None:
                room = min(room, _fewer_than(EXACT.subtract(most.near, spent), dearest, room))
        self._may_wait[key_id] = room
        return room

    def _by_key(self, tally: Tally, key_id: str) -> Decimal:
        """What was spent with a key, and with those that were rotated until it came."""
        spent = ZERO
        for one in self._lines.get(key_id, ()):
            spent = added(spent, tally.by_key.get(one, ZERO))
        return spent

    def _warn(self, whose: str, spent: Decimal, limit: Decimal, path: str | None) -> bytes:
        """The line that tells that a limit is near.

        Raises:
            BudgetExceeded: It is reached, and the path is one for inference, or there is none.
        """
        currency = self._book.currency
        told, most = rounded(spent, currency), rounded(limit, currency)
        if spent >= limit and (path is None or _is_inference(path)):
            month = self._month
            raise BudgetExceeded(
                f"monthly_spend: {whose} has spent {told:f} {currency} in {month}, of {most:f} "
                f"that it may: calls are answered again from {month.next}-01 on",
                retry_after=min(max(month.end - self._clock(), 1.0), LONGEST_WAIT),
            )
        text = f"spent={told:f}, limit={most:f}, currency={currency}"
        return b"%b: %b\r\n" % (WARNING, text.encode("ascii"))

    def observe(self, record: InferenceRecord) -> None:
        """Add what a request used, and tell its answer the cost; an observer."""
        who = record.caller.identity
        if not self._tells_cost:
            if who.tenant in self._watched:
                self._waiting.append((record, self._clock()))
            return
        visit, cost = record.caller.visit, ZERO
        with self._changing:
            for use in _uses_of(record, self._clock()):
                cost = added(cost, self._add(use))
        currency = self._book.currency
        if visit is not None and record.failure is None and currency:
            visit.headers = with_cost(visit.headers, cost, currency)

    def _add_up(self) -> None:
        """Add up the records that wait; those of an hour, a key and a model at once."""
        with self._changing:
            waiting, cost = self._waiting, ZERO
            count = len(waiting)
            for use in _summed([waiting.popleft() for _ in range(count)]):
                cost = added(cost, self._add(use))
            if count:
                each = EXACT.divide(cost, Decimal(count))
                self._dearest = each if self._dearest is None else max(each, self._dearest)
            self._may_wait.clear()

    def _tally(self, tenant: str, now: float) -> Tally:
        """What a tenant has spent in the month that it is now."""
        if now >= self._month_end:
            self._begin(month_at(now), {})
        found = self._tallies.get(tenant)
        if found is None:
            found = begun(self._book, tenant, self._month, self._watched)
            self._tallies[tenant] = found
        return found

    def _begin(self, month: Month, tallies: dict[str, Tally]) -> None:
        self._month, self._month_end, self._tallies = month, month.end, tallies
        self._may_wait.clear()

    def _add(self, use: _Use) -> Decimal:
        """Add to what was spent in this month; while it is read, to what will be found, too."""
        if self._meanwhile is not None:
            self._meanwhile.append(use)
        tally = self._tally(use.tenant, use.hour)
        if use.hour < self._month.begin:
            return ZERO  # of a month that is over
        return tally.add(use.hour, use.model, use.unit, use.key_id, use.amount)

    # What was spent, by all processes

    async def refresh(self) -> None:
        """Read what was spent, and tell whose limit is near or reached.

        Raises:
            ServerError: The database does not answer; what is known stays.
        """
        now = self._clock()
        with self._changing:
            watched = dict(self._watched)
            if self._tells_cost:  # for what is free yet
                watched |= {one: watched.get(one, frozenset()) for one in self._tallies}
        self._add_up()
        with self._changing:
            self._meanwhile = []
        settled = self._settled
        try:
            found = await self._database.read(lambda c: read_spending(c, watched, now, settled))
            with self._changing:
                uses, self._meanwhile = self._meanwhile or (), None
                self._take(found, uses)
        finally:
            self._meanwhile = None
        await self._notice()

    def _take(self, found: Spending, meanwhile: Iterable[_Use]) -> None:
        self._settled = found.settled
        self._book = found.settled.book
        self._begin(found.settled.month, found.tallies)
        for use in meanwhile:
            self._add(use)

    async def _notice(self) -> None:
        """Tell of limits that are near or reached; once, whichever process finds it first."""
        month, currency = str(self._month), self._book.currency
        for tenant, limit in self._limits.items():
            tally, most = self._tallies.get(tenant), limit.most
            if tally is None or not most:
                continue
            spent = rounded(tally.cost, currency)
            levels = {80: limit.near, 100: most}
            reached = [percent for percent, sum_ in levels.items() if tally.cost >= sum_]
            new = [one for one in reached if (tenant, month, one) not in self._noticed]
            if not new:
                continue
            notice = Notice(tenant, month, max(new), spent, most, currency)
            first = await self._database.write(partial(note, notice=notice, percents=new))
            self._noticed.update((tenant, month, percent) for percent in new)
            if first and self.told is not None:
                self.told(notice)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            try:
                await self.refresh()
            except ServerError as error:
                _log.warning("what is spent cannot be read: %s", error.message)
            except Exception:
                _log.exception("what is spent cannot be read")


def _limit(most: Decimal) -> _Limit:
    return _Limit(most, EXACT.multiply(most, WARN_AT))


def _fewer_than(left: Decimal, each: Decimal, most: int) -> int:
    """How many times `each` is less than what is left, up to `most`; -1 where nothing is left."""
    if left <= 0:
        return -1
    if EXACT.multiply(Decimal(most), each) < left:
        return most
    return int(EXACT.divide(left, each).to_integral_value(ROUND_CEILING)) - 1


def _uses_of(record: InferenceRecord, at: float) -> list[_Use]:
    """What a request used, which ended at `at`."""
    return _summed([(record, at)])


def _summed(records: Iterable[tuple[InferenceRecord, float]]) -> list[_Use]:
    """What requests used, those of an hour, a key and a model together."""
    found: dict[tuple[Identity, int, str], dict[str, int]] = {}
    for record, at in records:
        whose = (record.caller.identity, int(at) // HOUR * HOUR, record.model)
        amounts = found.get(whose)
        if amounts is None:
            amounts = found[whose] = {}
        for unit, amount in amounts_of(record):
            if amount:
                amounts[unit] = amounts.get(unit, 0) + amount
    return sorted(
        # The model as its owner calls it.
        _Use(who.tenant, who.key_id, hour, model.rpartition("/")[2], unit, amount)
        for (who, hour, model), amounts in found.items()
        for unit, amount in amounts.items()
    )
