"""`Audit`: keeps a record of all that is done to a server, one chain for all its processes.

An act is written before it is carried out: what cannot be put on record is not done. Its result is
written after it; where the database is away then, it is kept and written when that is back.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, func, select

from aiaas_server.core.acts import Act, Begun, Outcome
from aiaas_server.core.background import stop
from aiaas_server.core.errors import ServerError
from aiaas_server.core.events import Refusal
from aiaas_server.state.database import Database
from aiaas_server.state.tables import HISTORY
from aiaas_server.tenancy.audit_chain import (
    Appended,
    Draft,
    Head,
    add_head,
    append,
    canonical,
    clean,
    last_head,
)
from aiaas_server.tenancy.audit_head_file import read_head, write_head
from aiaas_server.tenancy.audit_refusals import Refusals
from aiaas_server.tenancy.audit_server import ServerActs

HEAD_SECONDS: Final = 60.0
TEND_SECONDS: Final = 1.0
MOST_KEPT: Final = 10_000  # entries that wait for the database to come back
_AT_ONCE: Final = 500
_MOST_SCOPES: Final = 100_000  # pairs of a key and a scope that it used

_log = logging.getLogger("aiaas_server")


class Audit:
    """The audit of one process.

    Args:
        key: What entries and heads are signed with.
        head_file: Where the latest head is kept outside the database.
        clock: Seconds since 1970.

    Attributes:
        key: As given.
        head_file: As given.
        used_scopes: By the id of a key, the scopes it has used since this process started.
    """

    def __init__(
        self,
        database: Database,
        key: bytes,
        head_file: Path,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.database = database
        self.key = key
        self.head_file = head_file
        self.used_scopes: set[tuple[str, str]] = set()
        self._clock = clock
        self._kept: deque[tuple[Draft, Begun | None]] = deque()
        self._lost = 0
        self._refusals = Refusals(clock())
        self._of_server = ServerActs()
        self._head_due = clock() + HEAD_SECONDS
        self._tending: asyncio.Task[None] | None = None

    # Acts

    async def begin(self, act: Act) -> Begun:
        """Note that an act begins.

        Raises:
            StateUnavailable, StorageFull: It cannot be noted: the act must not be carried out.
        """
        draft = _of_act(act, self._clock(), "begun")

        def work(connection: Connection) -> tuple[Appended, int]:
            history = connection.execute(select(func.max(HISTORY.c.seq))).scalar_one()
            return append(connection, self.key, [draft], self._clock()), history or 0

        # It takes next to no room, and what it goes before may be what makes some.
        appended, history = await self.database.write(work, spares_room=True)
        await self._keep_head(appended.head)
        return Begun(act, appended.seqs[0], history)

    async def end(self, begun: Begun, outcome: Outcome) -> None:
        """Note what became of an act; what cannot be written now is written later."""
        act = begun.act._replace(object=outcome.object or begun.act.object)
        draft = {
            **_of_act(act, self._clock(), outcome.result),
            "begun": begun.seq,
            "status": outcome.status,
            "code": outcome.code,
            "body": outcome.body,
        }
        self._keep(draft, begun)
        with suppress(ServerError):  # it is kept, and tried again
            await self._write_kept()

    def refused(self, refusal: Refusal) -> None:
        """Note that somebody was refused; never waits."""
        self._refusals.add(refusal, self._clock())

    def used(self, key_id: str, scope: str) -> None:
        """A key made use of a scope."""
        if key_id and len(self.used_scopes) < _MOST_SCOPES:
            self.used_scopes.add((key_id, scope))

    def note(self, act: str, name: str, tenant: str = "default") -> None:
        """The server did something by itself, such as erasing what was due; never waits.

        What is in the history of a model is noted without being told.
        """
        done = Act(act, "", name, tenant, "server")
        self._keep(_of_act(done, self._clock(), "done"), None)

    # Life

    async def start(self) -> None:
        """Have a head outside the database, where this server has none yet."""
        if read_head(self.head_file) == "is missing":
            with suppress(ServerError):
                await self._keep_head(await self.database.read(last_head))

    def follow(self) -> None:
        """Write what gathers, from now on."""
        self._tending = asyncio.ensure_future(self._tend())

    async def close(self) -> None:
        """Write what is left, and sign it."""
        await stop(self._tending)
        try:
            await self.flush(last=True)
        except ServerError as error:
            waiting = len(self._kept)
            _log.error("the audit: %d entries could not be written: %s", waiting, error.message)

    async def flush(self, *, last: bool = False) -> None:
        """Write what has gathered, and a head if it is time for one.

        Args:
            last: Whatever has gathered, and a head.
        Raises:
            StateUnavailable, StorageFull: The database does not take it; it is kept.
        """
        now = self._clock()
        for draft in self._refusals.take(now, all_of_them=last):
            self._keep(draft, None)
        await self._write_kept()
        if await self.database.read(self._of_server.has_more):
            work = partial(self._of_server.write, key=self.key, now=now)
            head, newest = await self.database.write(work, spares_room=True)
            self._of_server.seen(newest)
            await self._keep_head(head)
        if last or not 0 <= self._head_due - now <= HEAD_SECONDS:
            sign = partial(add_head, key=self.key, now=now)
            await self._keep_head(await self.database.write(sign, spares_room=True))
            self._head_due = now + HEAD_SECONDS

    async def _tend(self) -> None:
        while True:
            await asyncio.sleep(TEND_SECONDS)
            try:
                await self.flush()
            except ServerError as error:
                waiting = len(self._kept)
                _log.warning("the audit: %d entries wait: %s", waiting, error.message)
            except Exception:
                _log.exception("the audit could not be written; it is tried again")

    # What waits

    def _keep(self, draft: Draft, begun: Begun | None) -> None:
        if len(self._kept) >= MOST_KEPT:
            self._lost += 1  # a result: its beginning is on record, and is told to have none
            return
        self._kept.append((draft, begun))

    async def _write_kept(self) -> None:
        """Write what waits, the first first; what fails is put back.

        Who comes while it is written waits for no one: it takes what came since.
        """
        if self._lost:
            lost, self._lost = self._lost, 0
            act = _of_act(Act("audit.lost", actor="server"), self._clock(), "failed")
            self._kept.append(({**act, "count": lost}, None))
        while self._kept:
            taken = [self._kept.popleft() for _ in range(min(_AT_ONCE, len(self._kept)))]
            try:
                done = await self.database.write(partial(self._write, taken), spares_room=True)
            except ServerError:
                self._kept.extendleft(reversed(taken))
                raise
            await self._keep_head(done.head)

    def _write(self, taken: list[tuple[Draft, Begun | None]], connection: Connection) -> Appended:
        drafts = [
            draft if begun is None else {**draft, **_changes(connection, begun)}
            for draft, begun in taken
        ]
        return append(connection, self.key, drafts, self._clock())

    async def _keep_head(self, head: Head | None) -> None:
        if head is None:
            return
        try:
            await asyncio.to_thread(write_head, self.head_file, head)
        except OSError as error:
            _log.error("the audit's head %s: %s", self.head_file, error.strerror)


def _of_act(act: Act, now: float, result: str) -> dict[str, Any]:
    return {
        "at": now,
        "tenant": act.tenant[:64],
        "actor": clean(act.actor)[:128],
        "address": clean(act.address),
        "request_id": clean(act.request_id),
        "act": clean(act.name)[:128],
        "object": clean(act.object),
        "scope": act.scope,
        "result": result,
    }


def _changes(connection: Connection, begun: Begun) -> dict[str, str]:
    """Digests of what the history has of an act: all that was before it, and all after."""
    rows = connection.execute(
        select(HISTORY.c.kind, HISTORY.c.version, HISTORY.c.before, HISTORY.c.after)
        .where(
            HISTORY.c.seq > begun.history,
            HISTORY.c.tenant == begun.act.tenant,
            HISTORY.c.request_id == begun.act.request_id,
        )
        .order_by(HISTORY.c.seq)
    ).all()
    if not rows:
        return {}
    told = {
        side: [[row.kind, row.version, getattr(row, side)] for row in rows]
        for side in ("before", "after")
    }
    return {
        side: hashlib.sha256(canonical({"history": found}).encode()).hexdigest()
        for side, found in told.items()
    }
