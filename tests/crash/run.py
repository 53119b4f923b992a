"""One run: so many kills, each at a random moment of a write or of a start."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

from tests.crash.checks import agree, tidy, whole
from tests.crash.nursery import Nursery
from tests.crash.server import Lost, Server
from tests.crash.story import Client, Step, Truth

STARTING: Final = "start"
BETWEEN: Final = "none"
_KINDS: Final = {
    "upload": 5,
    "commit": 5,
    "promote": 4,
    "split": 2,
    "rollback": 3,
    "delete": 4,
    STARTING: 3,
}
"""What is to be under way when the server is killed, and how often."""
_QUICK: Final = ("promote", "split", "rollback")  # come before, at random, and are acknowledged
_BEYOND: Final = 1.2  # kills come up to so many times the usual length of a step after it began
_REMEMBERED: Final = 9  # lengths of each kind


@dataclass
class Result:
    """What was done and found.

    Attributes:
        points: Kills.
        acknowledged: Writes whose answer came; after each kill all of them were there.
        done: Writes without an answer that had been made nevertheless.
        hit: Kills by what was under way; "none" just behind an answer.
    """

    points: int = 0
    acknowledged: int = 0
    done: int = 0
    hit: Counter[str] = field(default_factory=Counter)


class Run:
    """Kills a server, and looks after it.

    Args:
        beside: Another server of the same database, which is never killed: it must tell the same,
            and goes on writing meanwhile.
    """

    def __init__(self, data: Path, server: Server, beside: Server | None, seed: int) -> None:
        self._data, self._server, self._beside = data, server, beside
        self._rng, self._truth = random.Random(seed), Truth()
        self._client = Client(self._rng, self._truth)
        self._lengths: dict[str, deque[float]] = {}
        self.result = Result()

    def point(self) -> None:
        """One kill, and all that is looked at after it.

        Raises:
            AssertionError: Something that was acknowledged is missing, half there, or left behind.
        """
        kind = self._rng.choices(list(_KINDS), list(_KINDS.values()))[0]
        step = None
        if kind == STARTING:
            self._server.kill()
            self._kill_while_it_starts()
        else:
            step = self._until_killed(kind)
        self.result.points += 1
        hit = STARTING if kind == STARTING else step.kind if step else BETWEEN
        self.result.hit[hit] += 1
        self._client.forget()
        if self._beside is not None:
            self.result.done += agree(self._beside, self._truth, step)
            step = None
            self._do(self._beside, self._rng.choice(_QUICK))
        self._server.start()
        self.result.done += agree(self._server, self._truth, step)
        tidy(self._server, self._data, self._truth)
        alive = self._truth.alive
        whole(self._server, self._truth, self._rng.sample(alive, min(2, len(alive))))
        self.result.acknowledged = self._truth.writes

    def end(self) -> None:
        """The bytes of all versions are there, and the server ends in order."""
        whole(self._server, self._truth, self._truth.alive)
        for server in (self._server, self._beside):
            if server is not None:
                assert server.stop() == 0, server.output()

    def _until_killed(self, kind: str) -> Step | None:
        """Write until the kill; gives the write that got no answer, None where it got one."""
        for _ in range(self._rng.randrange(4)):
            self._do(self._server, self._rng.choice(_QUICK))
        self._prepare(self._server, kind)
        step = self._client.make(kind)
        if kind not in self._lengths:  # how long it takes is seen on one that is let be
            self._take(self._server, step)
            self._prepare(self._server, kind)
            step = self._client.make(kind)
        moment = self._rng.uniform(0, _BEYOND * median(self._lengths[kind]))
        killer = threading.Timer(moment, self._server.kill)
        killer.start()
        try:
            self._take(self._server, step)
        except Lost:
            return step
        finally:
            killer.join()
        return None

    def _kill_while_it_starts(self) -> None:
        """Kill it anywhere between its first line and the end of its cleaning."""
        self._server.begin()
        time.sleep(self._rng.uniform(0, _BEYOND * median(self._server.took)))
        self._server.kill()

    def _do(self, server: Server, kind: str) -> None:
        """A step that is acknowledged."""
        self._prepare(server, kind)
        self._take(server, self._client.make(kind))

    def _prepare(self, server: Server, kind: str) -> None:
        while (step := self._client.prepare(kind)) is not None:
            self._take(server, step)

    def _take(self, server: Server, step: Step) -> None:
        began = time.monotonic()
        answer = step.run(server)
        lengths = self._lengths.setdefault(step.kind, deque(maxlen=_REMEMBERED))
        lengths.append(time.monotonic() - began)
        self._client.acknowledged(step, answer)


def run(
    place: Path,
    points: int,
    seed: int,
    environment: dict[str, str],
    tell: Callable[[Result], object] = lambda result: None,
    *,
    pair: bool = False,
) -> Result:
    """Kill a server `points` times while it writes.

    Args:
        place: An empty directory.
        environment: Its settings.
        tell: Called after each.
        pair: Beside a second server of the same database and data, which is let be.
    Raises:
        AssertionError: Something that was acknowledged is missing, half there, or left behind.
    """
    nursery, data = Nursery(), place / "data"
    servers = [
        Server(nursery, place / name, data, environment) for name in ("one", "two")[: 1 + pair]
    ]
    running = Run(data, servers[0], servers[1] if pair else None, seed)
    try:
        for server in servers:
            server.start()
        for _ in range(points):
            running.point()
            tell(running.result)
        running.end()
    finally:
        for server in servers:
            with suppress(ProcessLookupError):
                server.kill()
        nursery.close()
    return running.result
