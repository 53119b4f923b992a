"""What the connections of one process share: limits, counts, and one clock for all of them.

Times are not kept by one timer a request: one sweep looks at all connections a few times a
second, so a request costs one look at the clock.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from contextvars import copy_context
from typing import Protocol

from aiaas_client.protocol.errors import ErrorCode
from aiaas_server.http.edge.heads import Heads
from aiaas_server.http.edge.intake import DIRECT_ABOVE
from aiaas_server.http.edge.limits import EdgeLimits
from aiaas_server.http.edge.target import Target, check_host, read_target
from aiaas_server.http.hot import HotEndpoint, HotRoutes
from aiaas_server.observe.logging import AccessRecord

logger = logging.getLogger("aiaas_server")

TURNED_AWAY = 50  # connections over the limit that are told so at one time
TELL_EVERY = 60.0  # seconds between two lines about an address with too many connections


class Timed(Protocol):
    """What the edge needs of a connection."""

    loop: asyncio.AbstractEventLoop

    def check_time(self, now: float, elapsed: float) -> None:
        """Act on whatever has taken too long; `elapsed` seconds went by since the last time."""
        ...


class Edge:
    """The connections of one process together.

    Args:
        limits: What is accepted.
        on_access: Called with every answer written; must not block.
        on_refusal: Called with the code of every error that the application has not seen.
        hot: Requests that are answered past ASGI.
    """

    def __init__(
        self,
        limits: EdgeLimits,
        on_access: Callable[[AccessRecord], None] | None = None,
        on_refusal: Callable[[ErrorCode], None] | None = None,
        hot: HotRoutes | None = None,
    ) -> None:
        self.limits = limits
        self.hot = hot
        self.longest_hot = -1 if hot is None else min(hot.longest, DIRECT_ABOVE)
        """Most bytes of a body that is answered past ASGI."""
        self.context = copy_context()
        """Nobody's: what a request is begun in that another's answer has made room for."""
        self.on_access = on_access
        self.on_refusal = on_refusal
        self.draining = False
        """The process stops: requests whose head comes from now on are refused with 503."""
        self.leaving = False
        """Other processes go on serving: requests are answered, and their connections closed."""
        self.harmless_bytes = min(limits.request_line_bytes, limits.header_bytes)
        """What comes in one piece of at most this size needs no measuring of its parts."""
        self.targets: dict[bytes, Target] = {}
        """Request targets seen lately, taken apart."""
        self.hosts: set[bytes] = set()
        """Host headers seen lately and found right."""
        self.heads = Heads()
        self._endpoints: dict[tuple[str, bytes], HotEndpoint | None] = {}
        self._open: set[Timed] = set()
        self._turned_away: set[Timed] = set()  # told so, not gone yet
        self._addresses: Counter[str] = Counter()
        self._swept: float | None = None
        self._told_at = float("-inf")
        shortest = min(
            limits.header_timeout, limits.body_timeout, limits.write_timeout,
            limits.keep_alive, limits.linger,
        )  # fmt: skip
        self._interval = min(0.5, max(0.01, shortest / 4))

    def read_target(self, url: bytes) -> Target:
        """`read_target`, remembered in `targets` where it is short."""
        found = read_target(url)
        if len(url) <= 256:
            if len(self.targets) >= 1024:
                self.targets.clear()
            self.targets[url] = found
        return found

    def hot_endpoint(self, method: str, url: bytes, target: Target) -> HotEndpoint | None:
        """Who answers requests of a target past ASGI; None where nobody does."""
        if self.hot is None or target.query:
            return None
        key = method, url
        if key in self._endpoints:
            return self._endpoints[key]
        if len(self._endpoints) >= 1024:
            self._endpoints.clear()
        found = self._endpoints[key] = self.hot.find(method, target.path)
        return found

    def check_host(self, value: bytes) -> None:
        """`check_host`, remembered in `hosts`."""
        check_host(value)
        if len(self.hosts) >= 1024:
            self.hosts.clear()
        self.hosts.add(value)

    def opened(self, connection: Timed, address: str | None) -> bool:
        """Count a new connection; False when there are too many, in all or of its address.

        Args:
            connection: The connection.
            address: `EdgeLimits.counted_as` of its client; None is not counted.
        """
        if self._swept is None:
            self._swept = connection.loop.time()
            connection.loop.call_later(self._interval, self._sweep, connection.loop)
        if len(self._open) >= self.limits.max_connections or self._has_enough(address):
            self._turned_away.add(connection)
            return False
        self._open.add(connection)
        if address is not None:
            self._addresses[address] += 1
        return True

    def _has_enough(self, address: str | None) -> bool:
        most = self.limits.max_connections_per_address
        if address is None or self._addresses[address] < most:
            return False
        if self._swept is not None and self._swept - self._told_at > TELL_EVERY:
            self._told_at = self._swept
            logger.warning(
                "%s has %d connections open and is given no more; if it is a proxy, name it in "
                "AIAAS_SERVER_PROXIES",
                address, most,
            )  # fmt: skip
        return True

    def closed(self, connection: Timed, address: str | None) -> None:
        """Forget a connection."""
        if connection in self._turned_away:
            self._turned_away.discard(connection)
            return
        self._open.discard(connection)
        if address is not None:
            self._addresses[address] -= 1
            if self._addresses[address] <= 0:
                del self._addresses[address]

    @property
    def overrun(self) -> bool:
        """True when so many connections are being turned away that no word is spent on more."""
        return len(self._turned_away) > TURNED_AWAY

    @property
    def connections(self) -> int:
        """Connections open now, without those turned away."""
        return len(self._open)

    def refused(self, code: ErrorCode) -> None:
        """Count an error that the application has not seen."""
        if self.on_refusal is not None:
            self.on_refusal(code)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look at all connections; ends by itself when there are none."""
        now = loop.time()
        elapsed = now - (self._swept or now)
        for connection in (*self._open, *self._turned_away):
            connection.check_time(now, elapsed)
        self._swept = None
        if self._open or self._turned_away:
            self._swept = now
            loop.call_later(self._interval, self._sweep, loop)
