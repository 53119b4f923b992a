"""Running at the rate that a server allows, in place of running into it.

Servers tell with their answers what is left of a limit: `RateLimit-Policy: "requests";q=100;w=2`
and `RateLimit: "requests";r=57;t=1`, in the words of the IETF's draft
(draft-ietf-httpapi-ratelimit-headers). For each server and key that told so, a `Pace` reckons what
is left by now. Whoever finds nothing left waits for a moment of his own, so that any number of
callers together ask at the rate of the limit. What makes no sense is not heeded. No I/O.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Mapping
from typing import NamedTuple, Protocol

_ITEM = re.compile(r'\s*"?([A-Za-z0-9_. -]{1,64})"?\s*((?:;\s*[a-z]+=[^;,]{1,20})+)\s*')
_PARAMETER = re.compile(r";\s*([a-z]+)=([0-9]{1,15})\s*(?=;|$)")
_MOST = 4096  # characters of a header that is looked at
_SPARED = 0.05  # of a limit is left unused: answers come late, and in another order
_STALE = 60.0  # seconds behind its window after which a limit is forgotten that nobody told again
_NOT_PACED = frozenset({"in_flight", "concurrency"})  # what ends when requests do, not with time
_NOT_REQUESTS = frozenset({"rows", "tokens", "bytes"})


class _Headers(Protocol):
    """Headers of an answer, looked up in lower case."""

    def find(self, name: bytes) -> bytes | None: ...


class RateLimit(NamedTuple):
    """A limit that a server has told of.

    Attributes:
        endpoint: The base URL of the server.
        name: As the server calls it, such as "requests".
        quota: Requests in a window; None where that was not told.
        window: Seconds; None where that was not told.
        remaining: Requests that were left when it was told last.
        wait: Seconds that the next call will wait.
    """

    endpoint: str
    name: str
    quota: int | None
    window: int | None
    remaining: int
    wait: float


class Told(NamedTuple):
    """What one answer says of a limit.

    Attributes:
        name: Of the limit.
        remaining: Units that are left.
        reset: Seconds until there are more; 0 where that was not told.
        quota: Units in a window; None where that was not told.
        window: Seconds.
    """

    name: str
    remaining: int
    reset: int = 0
    quota: int | None = None
    window: int | None = None


def read_limits(headers: _Headers) -> Told | None:
    """The limit of an answer of which the least is left; None where there is none to be read."""
    state, policy = headers.find(b"ratelimit"), headers.find(b"ratelimit-policy")
    told = [
        Told(name, found["r"], found.get("t", 0))
        for name, found in _items(state).items()
        if "r" in found
    ]
    if not told:
        return None
    least = min(told, key=lambda one: one.remaining)
    rule = _items(policy).get(least.name, {})
    quota, window = rule.get("q"), rule.get("w")
    if quota and window:
        return least._replace(quota=quota, window=window)
    return least


def _items(header: bytes | None) -> dict[str, Mapping[str, int]]:
    """The items of a list by name, each with its parameters that are whole numbers."""
    if header is None or len(header) > _MOST:
        return {}
    found: dict[str, Mapping[str, int]] = {}
    for text in header.decode("latin-1").split(","):
        item = _ITEM.fullmatch(text)
        if item is not None:
            found[item[1]] = {name: int(value) for name, value in _PARAMETER.findall(item[2])}
    return found


class Pace:
    """What is left of the limits of one server and key, as far as it is known; times are handed in.

    Threads may share it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told = Told("", 0)
        self._rate = math.inf  # requests a second
        self._most = math.inf  # requests that are ever reckoned to be left
        self._left = math.inf  # below 0: so many wait for their turn
        self._at = 0.0  # when that was so
        self._until = -math.inf  # nothing is sent before
        self._ends = math.inf  # when all of this is forgotten

    def take(self, now: float, left: float) -> float:
        """Take the next turn; gives the seconds until it comes.

        Where that is not within `left` seconds no turn is taken: the server is to say so itself.
        """
        with self._lock:
            wait = self._wait(now)
            if wait >= left:
                return 0.0
            self._left -= 1.0
            return wait

    def is_stale(self, now: float) -> bool:
        """Whether nobody has told of it for long."""
        return now > self._ends

    def hear(self, told: Told, now: float, age: float, others: int) -> None:
        """Take in what an answer says.

        Args:
            age: Seconds since its request was sent.
            others: Requests that are under way or wait for their turn, without this one.
        """
        if told.name in _NOT_PACED:
            return
        with self._lock:
            self._reckon(now)
            self._ends = now + (told.window or told.reset) + _STALE
            if told.remaining == 0 and (told.quota is None or told.name in _NOT_REQUESTS):
                self._until = max(self._until, now + told.reset)
            if told.quota is None or told.window is None or told.name in _NOT_REQUESTS:
                return
            is_new = self._told.quota != told.quota or self._told.window != told.window
            self._told = told
            self._rate = told.quota / told.window
            spared = _SPARED * told.quota if told.quota > 1 else 0.0
            self._most = max(told.quota - spared, 1.0)
            # Since its request came in, time has brought some back, and none more than this.
            known = told.remaining - spared + self._rate * max(age, 0.0)
            if is_new:
                known -= others
                self._left = min(known, self._most)
            self._left = min(self._left, known, self._most)

    def view(self, endpoint: str, now: float) -> RateLimit:
        """What is known."""
        with self._lock:
            told = self._told
            wait = self._wait(now)
        return RateLimit(endpoint, told.name, told.quota, told.window, told.remaining, wait)

    def _wait(self, now: float) -> float:
        self._reckon(now)
        wait = max(self._until - now, 0.0)
        if self._left < 1.0:
            wait += (1.0 - self._left) / self._rate
        return wait

    def _reckon(self, now: float) -> None:
        passed, self._at = max(now - self._at, 0.0), now
        if self._left < self._most:
            self._left = min(self._left + passed * self._rate, self._most)


class Paces:
    """The paces of one client.

    Attributes:
        known: By the URL of the server and the key; empty as long as no server tells of limits.
    """

    def __init__(self) -> None:
        self.known: dict[tuple[str, bytes], Pace] = {}

    def take(self, url: str, key: bytes, now: float, left: float) -> float:
        """Seconds to wait before a request is sent."""
        pace = self.known.get((url, key))
        if pace is None:
            return 0.0
        if pace.is_stale(now):
            self.known.pop((url, key), None)
            return 0.0
        return pace.take(now, left)

    def hear(
        self, url: str, key: bytes, headers: _Headers, now: float, age: float, others: int
    ) -> None:
        """Take in the headers of an answer; see `Pace.hear`."""
        told = read_limits(headers)
        if told is not None and told.name not in _NOT_PACED:
            pace = self.known.get((url, key)) or self.known.setdefault((url, key), Pace())
            pace.hear(told, now, age, others)

    def view(self, key: bytes, now: float) -> list[RateLimit]:
        """What is known of the limits of one key."""
        return [
            pace.view(url, now)
            for (url, asked_with), pace in list(self.known.items())
            if asked_with == key and not pace.is_stale(now)
        ]
