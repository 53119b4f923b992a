"""`Leases`: keeps this process's part of the limits, beside other processes of one database.

While the database is away the parts go on until their lease ends; then every process has an equal
part of what processes there were. It is never everything, unless it was alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Final

from aiaas_server.core.background import stop
from aiaas_server.core.errors import ServerError
from aiaas_server.state.database import Database
from aiaas_server.tenancy.quota import Quotas
from aiaas_server.tenancy.shares import LEASE, Shares, leave, renew

ROUND: Final = 2.0
"""Seconds from one round to the next."""
QUICK: Final = 0.2
"""The same while processes come or go, so that a new one has its part at once."""
_SMOOTH: Final = 0.5  # part of the newest round in what is said to be asked for
_SETTLED: Final = 5  # rounds without a change of processes after which there is no hurry
ALONE: Final = Shares(1, 1.0, {})


class Held:
    """What a process may use, as time goes by.

    Args:
        shares: As the database told.
        until: When the lease ends, on the clock that `now` is of.
    """

    def __init__(self, shares: Shares, until: float) -> None:
        self.shares = shares
        self.until = until

    def age(self, now: float) -> int:
        """0 within the lease, 1 until those of all others must have ended, too, 2 behind that."""
        return (now >= self.until) + (now >= self.until + LEASE)

    def share(self, name: str, now: float) -> float:
        """The part of one limit at a moment.

        Behind the lease it is an equal part, but not more than before until the leases of all the
        others must have ended, too.
        """
        mine, even = self.shares.of(name), 1 / self.shares.known
        return (mine, min(mine, even), even)[self.age(now)]


class Leases:
    """Renews the lease of one process, and tells its `Quotas`.

    Args:
        quotas: Gets its parts, and knows what is asked for.
        node: A name of this start of this process, never used again.
    """

    def __init__(self, database: Database, quotas: Quotas, node: str = "") -> None:
        self._database = database
        self._quotas = quotas
        self._node = node or new_node()
        self._held = Held(ALONE, 0.0)
        self._applied: tuple[Shares, int] | None = None
        self._demand: dict[str, float] = {}
        self._counted = monotonic()
        self._calm = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def shares(self) -> Shares:
        """What the last round gave."""
        return self._held.shares

    async def start(self) -> None:
        """Take a part, and go on renewing it; waits a lease at most for others to leave one."""
        with suppress(ServerError):
            end = monotonic() + LEASE
            await self.round()
            while not self.shares.others and monotonic() < end:
                await asyncio.sleep(QUICK)
                await self.round()
        self._apply()
        self._task = asyncio.create_task(self._go_on())

    async def close(self) -> None:
        """Leave this process's part to the others."""
        await stop(self._task)
        with suppress(ServerError):
            await self._database.write(partial(leave, node=self._node), spares_room=True)

    async def round(self) -> None:
        """Tell what is asked for, and take this process's parts.

        Raises:
            ServerError: The database does not answer; what was had goes on as `Held` says.
        """
        began = monotonic()
        work = partial(renew, node=self._node, demand=self._asked(began), is_gone=is_gone)
        written = asyncio.ensure_future(self._database.write(work, spares_room=True))
        try:
            while not (await asyncio.wait({written}, timeout=ROUND))[0]:
                self._apply()
        finally:
            written.cancel()  # nobody waits any more; what was handed over is done
        shares = written.result()
        self._calm = self._calm + 1 if shares.known == self.shares.known else 0
        self._held = Held(shares, began + LEASE)
        self._apply()

    def _asked(self, now: float) -> dict[str, float]:
        """Requests a second of late; who asks no more is forgotten after a while."""
        seconds, self._counted = max(now - self._counted, 1e-3), now
        counts = self._quotas.take_demand()
        for name in {*self._demand, *counts}:
            rate = counts.get(name, 0) / seconds
            mixed = _SMOOTH * rate + (1 - _SMOOTH) * self._demand.get(name, rate)
            self._demand[name] = mixed
            if mixed < 0.01:
                del self._demand[name]
        return dict(self._demand)

    def _apply(self) -> None:
        held, now = self._held, monotonic()
        applied = held.shares, held.age(now)
        if applied != self._applied:  # of many tenants it is some work
            self._applied = applied
            self._quotas.share(lambda name: held.share(name, now))

    async def _go_on(self) -> None:
        log = logging.getLogger("aiaas_server")
        is_away = False
        while True:
            await asyncio.sleep(ROUND if self._calm >= _SETTLED else QUICK)
            try:
                await self.round()
                is_away = False
            except ServerError as error:
                self._calm = _SETTLED
                self._apply()
                if not is_away:
                    log.warning("limits cannot be shared; an equal part is used: %s", error.message)
                is_away = True


def new_node() -> str:
    """A name for this process: its machine, its number there, and a random part."""
    return f"{_machine()}.{os.getpid()}.{secrets.token_hex(6)}"


def is_gone(node: str) -> bool:
    """Whether a process is one of this machine that has ended."""
    machine, _, rest = node.partition(".")
    process = rest.partition(".")[0]
    if machine != _machine() or not process.isdigit():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def _machine() -> str:
    """Where process numbers mean the same: one start of one machine or container."""
    parts = [socket.gethostname()]
    readers: tuple[Callable[[], str], ...] = (
        lambda: Path("/proc/sys/kernel/random/boot_id").read_text("ascii"),
        lambda: str(Path("/proc/self/ns/pid").readlink()),
    )
    for read in readers:
        with suppress(OSError):
            parts.append(read())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
