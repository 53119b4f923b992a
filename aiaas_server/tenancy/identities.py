"""`Identities`: whose a key is, from a small table in memory that is replaced as a whole.

The table follows the change feed, so that a key that was revoked anywhere is refused everywhere
within moments. While the database is away the last one goes on serving.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from hmac import compare_digest
from typing import Final, NamedTuple, Protocol

from sqlalchemy import Connection, or_, select

from aiaas_client.protocol.scopes import EVERY_SCOPE, SCOPES
from aiaas_client.protocol.tenants import OPERATOR_TENANT, Limits
from aiaas_server.core.background import stop
from aiaas_server.core.errors import ServerError
from aiaas_server.core.events import Identity
from aiaas_server.state.changes import ChangeRow
from aiaas_server.state.database import Database
from aiaas_server.state.tenant_tables import KEYS, PLANS, TENANTS
from aiaas_server.tenancy.clock import SteadyClock
from aiaas_server.tenancy.rows import BUILT_IN, KIND, OPERATOR, plan_of, tenant_of
from aiaas_server.tenancy.secrets import hashed, key_id

INTERVAL: Final = 4.0
"""Seconds after which the table is read anew, whatever the feed told."""
_REMEMBERED: Final = 10_000  # keys that were checked, so that they need not be hashed again

_log = logging.getLogger("aiaas_server")


class KnownKey(NamedTuple):
    """One key that is good.

    Attributes:
        hash: What is kept of it.
        expires: Seconds since 1970; None is never.
        limits: Its own, if it has any.
        replaces: The ids of keys that were rotated until this one came, the first one first: what
            they used counts against its limits.
    """

    identity: Identity
    hash: bytes
    expires: float | None
    limits: Limits | None
    replaces: tuple[str, ...] = ()


class Directory(NamedTuple):
    """Everything that is known of who may ask, at one moment.

    Attributes:
        keys: By id; only those of active tenants that were not revoked.
        limits: By the name of a tenant, whether it is active or not.
    """

    keys: Mapping[str, KnownKey]
    limits: Mapping[str, Limits]


EMPTY: Final = Directory({}, {})


class Feed(Protocol):
    """Tells what was changed, by whichever process."""

    async def last(self) -> int:
        """The number of the newest change."""
        ...

    async def wait_beyond(self, seq: int) -> list[ChangeRow]:
        """Wait for changes behind `seq`; empty when the feed is closed."""
        ...


class Identities:
    """Knows the keys of all tenants.

    Args:
        pepper: What keys are hashed with.
        interval: Seconds after which the table is read anew.
        clock: What keys end by.

    Attributes:
        directory: The table; replaced, never changed.
        used: When each key was last seen, seconds since 1970, until somebody takes it away.
    """

    def __init__(
        self,
        database: Database,
        feed: Feed,
        pepper: bytes,
        interval: float = INTERVAL,
        clock: SteadyClock | None = None,
    ) -> None:
        self._database = database
        self._feed = feed
        self._pepper = pepper
        self._interval = interval
        self._clock = clock or SteadyClock()
        self._refreshing = asyncio.Lock()
        self._checked: dict[bytes, KnownKey] = {}
        self._listeners: list[Callable[[Directory], object]] = []
        self._following: asyncio.Task[None] | None = None
        self.directory = EMPTY
        self.used: dict[str, float] = {}

    def find(self, given: bytes) -> Identity | None:
        """Whose a key is; None for one that is not good. The same work for any that is whole."""
        now = self._clock.now()
        known = self._checked.get(given)
        if known is None:
            known = self._look(given)
            if known is None:
                return None
            if len(self._checked) >= _REMEMBERED:
                self._checked.clear()
            self._checked[given] = known
        if known.expires is not None and known.expires <= now:
            return None
        self.used[known.identity.key_id] = now
        return known.identity

    def _look(self, given: bytes) -> KnownKey | None:
        found = key_id(given)
        if found is None:  # whoever sends it sees that it is no key; a flood of them costs little
            return None
        known = self.directory.keys.get(found)
        digest = hashed(self._pepper, given)
        right = compare_digest(digest, bytes(32) if known is None else known.hash)
        return known if right else None

    def listen(self, listener: Callable[[Directory], object]) -> None:
        """Have `listener` called with the table, now and whenever it is replaced."""
        self._listeners.append(listener)
        listener(self.directory)

    async def start(self) -> None:
        """Read the table; without a database nobody is known until it answers."""
        await self.look()

    async def look(self) -> None:
        """Read the table anew if the database answers; else what is known stays, for now."""
        with suppress(ServerError):
            await self.refresh()

    def follow(self) -> None:
        """Keep the table up to date, until `close`."""
        self._following = asyncio.ensure_future(self._follow())

    async def close(self) -> None:
        """Stop following."""
        await stop(self._following)

    async def refresh(self) -> None:
        """Read the table anew.

        Raises:
            StateUnavailable: The database does not answer; what is known stays.
        """
        async with self._refreshing:  # what was read first is not to come last
            now = self._clock.now()
            found = await self._database.read(lambda c: read_directory(c, now))
            if found == self.directory:
                return
            self.directory, self._checked = found, {}
            for listener in self._listeners:
                try:
                    listener(found)
                except Exception:  # what one cannot take keeps nobody from hearing of it
                    _log.exception("keys and limits were changed: a part does not follow")

    async def _follow(self) -> None:
        seen = -1
        while True:
            try:
                if seen < 0:
                    seen = await self._feed.last()
                self._clock.settle()
                await self.refresh()
                seen = await self._next(seen)
            except ServerError as error:
                _log.warning("keys cannot be read; those that are known go on: %s", error.message)
                seen = -1
                await asyncio.sleep(min(self._interval, 1.0))
            except Exception:  # whatever it is, keys that are revoked later are to be refused
                _log.exception("keys cannot be read; those that are known go on")
                seen = -1
                await asyncio.sleep(min(self._interval, 1.0))

    async def _next(self, seen: int) -> int:
        """Wait for a change that matters, at most the interval; the newest change seen."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._interval):
                while rows := await self._feed.wait_beyond(seen):
                    seen = rows[-1].seq
                    if any(row.kind == KIND for row in rows):
                        break
                else:
                    await asyncio.Event().wait()  # the feed is closed: so is everything, soon
        return seen


def read_directory(connection: Connection, now: float = 0.0) -> Directory:
    """Everything that is known now, without keys that have ended."""
    plans = {**BUILT_IN, **{r.name: plan_of(r) for r in connection.execute(select(PLANS))}}
    tenants = {OPERATOR.name: OPERATOR}
    tenants.update({row.name: tenant_of(row) for row in connection.execute(select(TENANTS))})
    limits = {one.name: plans[one.plan].limits for one in tenants.values() if one.plan in plans}
    replaced = _replaced(connection)
    keys = {}
    unended = or_(KEYS.c.expires.is_(None), KEYS.c.expires > now)
    for row in connection.execute(select(KEYS).where(KEYS.c.revoked.is_(None), unended)):
        tenant = tenants.get(row.tenant)
        if tenant is None or tenant.state != "active":
            continue
        weight = limits[tenant.name].weight if tenant.name in limits else 1.0
        identity = Identity(
            tenant.name, row.id, scopes_of(tenant.name, row.scopes), tenant.plan, weight
        )
        own = None if row.limits is None else Limits(**row.limits)
        keys[row.id] = KnownKey(
            identity, bytes.fromhex(row.hash), row.expires, own, _before(row.id, replaced)
        )
    return Directory(keys, limits)


def _replaced(connection: Connection) -> dict[str, str]:
    """By the id of a key that came by rotating one, which one that was."""
    asked = select(KEYS.c.id, KEYS.c.replaced_by).where(KEYS.c.replaced_by != "")
    return {row.replaced_by: row.id for row in connection.execute(asked)}


def _before(key: str, replaced: Mapping[str, str]) -> tuple[str, ...]:
    """The keys that were rotated until `key` came, the first one first."""
    found: list[str] = []
    while (earlier := replaced.get(key)) is not None and earlier not in found:
        found.append(key := earlier)
    return tuple(reversed(found))


def scopes_of(tenant: str, given: list[str]) -> frozenset[str]:
    """What a key may do: `admin` is everything in its tenant, and of the operator's everything."""
    if "admin" not in given:
        return frozenset(given)
    return EVERY_SCOPE if tenant == OPERATOR_TENANT else frozenset(SCOPES)
