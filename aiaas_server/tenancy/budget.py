"""`Budget`: what each tenant has spent in this month, from memory, and what comes of it.

What was spent is read from the database every few seconds; what this process executes in between is
added as it happens. So a tenant overshoots its limit by what is executed between two reads, in all
processes together, and no more: `INTERVAL`, and the second or two until use is written. While the
database is away, each process goes on with what it knows.

An observer adds a record before its answer leaves, and tells the answer its cost where that is
wanted.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from functools import partial
from typing import Final, NamedTuple

from sqlalchemy import Connection, insert, select

from aiaas_server.core.errors import BudgetExceeded, ServerError
from aiaas_server.core.events import COST_LINE, Identity, InferenceRecord, Visit
from aiaas_server.state.changes import tell
from aiaas_server.state.database import Database
from aiaas_server.state.tenant_tables import BUDGET_NOTICES
from aiaas_server.tenancy.amounts import amounts_of
from aiaas_server.tenancy.identities import Directory
from aiaas_server.tenancy.money import EXACT, ZERO, added, rounded, told_cost
from aiaas_server.tenancy.months import HOUR, month_at
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
KIND: Final = "budget"
"""Of the changes that tell of limits."""

_log = logging.getLogger("aiaas_server")
_is_inference = re.compile(
    r"/predict|/v1/(chat/completions|completions|responses|embeddings|audio/[a-z]+)"
    r"|/v[12]/models/.+(/infer|/generate|/generate_stream|:predict|:explain)"
).fullmatch


class Notice(NamedTuple):
    """A tenant has spent so much of what it may, for the first time in a month.

    Attributes:
        percent: 80 or 100.
        spent, limit: Of the month, in `currency`.
    """

    tenant: str
    month: str
    percent: int
    spent: Decimal
    limit: Decimal
    currency: str


class _Use(NamedTuple):
    """What one request used."""

    tenant: str
    key_id: str
    hour: int
    model: str
    amounts: Sequence[tuple[str, int]]


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
        self._limits: Mapping[str, Decimal] = {}  # by tenant
        self._own_limits: Mapping[str, Decimal] = {}  # by the id of a key
        self._watched: dict[str, frozenset[str]] = {}
        self._changing = threading.Lock()
        self._book = Book(())
        self._month = month_at(clock())
        self._tallies: dict[str, Tally] = {}
        self._settled: Settled | None = None
        self._meanwhile: list[_Use] | None = None  # while a read is under way
        self._noticed: set[tuple[str, str, int]] = set()
        self._following: asyncio.Task[None] | None = None
        self.told: Callable[[Notice], object] | None = None

    def follow_directory(self, directory: Directory) -> None:
        """Know who may spend how much; a listener of `Identities`."""
        self._limits = {
            tenant: limits.monthly_spend
            for tenant, limits in directory.limits.items()
            if limits.monthly_spend is not None
        }
        own: dict[str, Decimal] = {}
        watched = {tenant: frozenset[str]() for tenant in self._limits}
        for key in directory.keys.values():
            if key.limits is not None and key.limits.monthly_spend is not None:
                who = key.identity
                own[who.key_id] = key.limits.monthly_spend
                watched[who.tenant] = watched.get(who.tenant, frozenset()) | {who.key_id}
        self._own_limits = own
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
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)

    # Each request

    def __call__(self, identity: Identity, path: str) -> bytes:
        """Whether a request may come in; header lines for its answer.

        Raises:
            BudgetExceeded: It is one for inference, and its tenant or key has spent what it may.
        """
        limit = self._limits.get(identity.tenant)
        own = self._own_limits.get(identity.key_id)
        if limit is None and own is None:
            return b""
        with self._changing:
            tally = self._tally(identity.tenant, self._clock())
            spent, by_key = tally.cost, tally.by_key.get(identity.key_id, ZERO)
        warning = b""
        if own is not None:
            warning = self._check(f"key '{identity.key_id}'", by_key, own, path)
        if limit is not None:
            tenants = self._check(f"tenant '{identity.tenant}'", spent, limit, path)
            warning = tenants or warning
        return warning

    def _check(self, whose: str, spent: Decimal, limit: Decimal, path: str) -> bytes:
        if spent < EXACT.multiply(limit, WARN_AT):
            return b""
        currency = self._book.currency
        told, most = rounded(spent, currency), rounded(limit, currency)
        if spent >= limit and _is_inference(path):
            month = self._month
            raise BudgetExceeded(
                f"{whose} has spent {told:f} {currency} in {month}, of {most:f} that it may: "
                f"calls are answered again from {month.next}-01 on",
                retry_after=min(max(month.end - self._clock(), 1.0), LONGEST_WAIT),
            )
        text = f"spent={told:f}, limit={most:f}, currency={currency}"
        return b"%b: %b\r\n" % (WARNING, text.encode("ascii"))

    def observe(self, record: InferenceRecord) -> None:
        """Add what a request used, and tell its answer the cost; an observer."""
        who, visit = record.caller.identity, record.caller.visit
        if not self._tells_cost and who.tenant not in self._watched:
            return
        amounts = amounts_of(record)
        if not amounts:
            return
        now = self._clock()
        model = record.model.rpartition("/")[2]  # as its owner calls it
        use = _Use(who.tenant, who.key_id, int(now) // HOUR * HOUR, model, amounts)
        with self._changing:
            cost = self._add(use, now)
            if self._meanwhile is not None:
                self._meanwhile.append(use)
        currency = self._book.currency
        if self._tells_cost and visit is not None and record.failure is None and currency:
            visit.headers = with_cost(visit.headers, cost, currency)

    def _tally(self, tenant: str, now: float) -> Tally:
        """What a tenant has spent in the month that it is now."""
        if now >= self._month.end:
            self._month, self._tallies = month_at(now), {}
        found = self._tallies.get(tenant)
        if found is None:
            found = begun(self._book, tenant, self._month, self._watched)
            self._tallies[tenant] = found
        return found

    def _add(self, use: _Use, now: float) -> Decimal:
        tally, cost = self._tally(use.tenant, now), ZERO
        for unit, amount in use.amounts:
            if amount:
                cost = added(cost, tally.add(use.hour, use.model, unit, use.key_id, amount))
        return cost

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
            self._meanwhile = []
        settled = self._settled
        try:
            found = await self._database.read(lambda c: read_spending(c, watched, now, settled))
            with self._changing:
                self._take(found, self._meanwhile or ())
        finally:
            self._meanwhile = None
        await self._notice()

    def _take(self, found: Spending, meanwhile: Iterable[_Use]) -> None:
        self._settled = found.settled
        self._book, self._month = found.settled.book, found.settled.month
        self._tallies = found.tallies
        now = self._clock()
        for use in meanwhile:
            self._add(use, now)

    async def _notice(self) -> None:
        """Tell of limits that are near or reached; once, whichever process finds it first."""
        month, currency = str(self._month), self._book.currency
        for tenant, limit in self._limits.items():
            tally = self._tallies.get(tenant)
            if tally is None or not limit:
                continue
            spent = rounded(tally.cost, currency)
            reached = [percent for percent in (80, 100) if _reaches(spent, limit, percent)]
            new = [one for one in reached if (tenant, month, one) not in self._noticed]
            if not new:
                continue
            notice = Notice(tenant, month, max(new), spent, limit, currency)
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


def _reaches(spent: Decimal, limit: Decimal, percent: int) -> bool:
    return EXACT.multiply(spent, Decimal(100)) >= EXACT.multiply(limit, Decimal(percent))


def note(connection: Connection, notice: Notice, percents: Sequence[int]) -> bool:
    """Write down that so much is spent; whether the notice's own is new, which the feed tells."""
    mine = (BUDGET_NOTICES.c.tenant == notice.tenant) & (BUDGET_NOTICES.c.month == notice.month)
    known = set(connection.execute(select(BUDGET_NOTICES.c.percent).where(mine)).scalars())
    for percent in percents:
        if percent not in known:
            values = {"tenant": notice.tenant, "month": notice.month, "percent": percent}
            connection.execute(insert(BUDGET_NOTICES).values(values | {"at": time.time()}))
    if notice.percent in known:
        return False
    told = {
        "percent": notice.percent,
        "spent": f"{notice.spent:f}",
        "limit": f"{notice.limit:f}",
        "currency": notice.currency,
    }
    tell(connection, notice.tenant, KIND, f"budget/{notice.month}", told)
    return True


def with_cost(headers: bytes, cost: Decimal, currency: str) -> bytes:
    """Header lines with the cost of an answer in them, added to what they tell of it so far.

    An answer has several costs where a model runs others, or a call brings several payloads.
    """
    before, found, rest = headers.partition(COST_LINE)
    if found:
        told, _, rest = rest.partition(b"\r\n")
        cost = added(cost, Decimal(told.partition(b" ")[0].decode("ascii")))
    text = f"{told_cost(cost)} {currency}"
    return b"%b%b%b\r\n%b" % (before, COST_LINE, text.encode("ascii"), rest)


class CostVisit:
    """A request on a server where nothing but its cost is kept of it."""

    __slots__ = ("headers",)

    def __init__(self, headers: bytes) -> None:
        self.headers = headers

    def leave(self) -> None:
        """Nothing is let go of."""


class CostEntrance:
    """Lets everyone in who has not spent too much: where there are no other limits."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget

    def enter(self, identity: Identity, path: str) -> Visit:
        """Let one in.

        Raises:
            BudgetExceeded: Its tenant has spent what it may.
        """
        return CostVisit(self._budget(identity, path))
