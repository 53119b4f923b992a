"""Open-loop load: requests leave at their moments, whether or not those before are answered.

`python flood.py HOST PORT RATE SECONDS LEAD DEADLINE FILE PID,...` reads length-prefixed requests
from FILE and sends RATE of them a second, spaced at random (a Poisson process), for LEAD + SECONDS
seconds; what is told is of those SECONDS alone, since a queue fills first. One request is in flight
a connection, and there are as many connections as that takes. Latencies count from the moment a
request was to leave. It prints one JSON object.
"""

from __future__ import annotations

import json
import random
import select
import socket
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from load import END_OF_HEAD, LENGTH, read_requests

CONNECTIONS, MOST_CONNECTIONS = 32, 700
BEHIND = 0.05
LATE = "200, late"
REFUSALS = frozenset({"429", "503"})
PATIENCE = 5.0
"""Seconds after the last request before those without an answer are given up."""


class Channel:
    """A connection without blocking: a request out, an answer in, one after the other.

    Attributes:
        due: When its request was to leave; None while it is free.
        left: What of the request has not left yet.
        status: Of a whole answer; "lost" where the connection ended without one.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect_ex(address)
        self.due: float | None = None
        self.left = memoryview(b"")
        self.status = ""
        self.ends = False
        self._answer = b""
        self._needed = 0

    def start(self, request: bytes, due: float) -> None:
        self.due, self.left = due, memoryview(request)
        self.status, self._answer, self._needed = "", b"", 0
        self.push()

    def push(self) -> None:
        """Send what the kernel takes."""
        try:
            while self.left:
                self.left = self.left[self.socket.send(self.left) :]
        except BlockingIOError:
            pass
        except OSError:  # answered early and closed: what it said can still be read
            self.left = memoryview(b"")
            self.ends = True

    def pull(self) -> None:
        """Take what has come."""
        try:
            part = self.socket.recv(262144)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        if not part:
            self.status, self.ends = self.status or "lost", True
            return
        self._answer += part
        if not self._needed:
            end = self._answer.find(END_OF_HEAD)
            if end < 0:
                return
            head = self._answer[:end].lower()
            at = head.index(LENGTH) + len(LENGTH)
            stop = head.find(b"\r", at)
            self._needed = end + 4 + int(head[at : stop if stop > 0 else None])
            self.ends = self.ends or b"\r\nconnection: close" in head
        if len(self._answer) >= self._needed:
            self.status = self._answer[9:12].decode("latin-1")


@dataclass
class Tally:
    """What came of the requests that were due between two moments, and what came in time there.

    Attributes:
        rows: Answered in time, and between the moments.
    """

    deadline: float
    began: float = 0.0
    ended: float = 0.0
    due: int = 0
    rows: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)

    def counts(self, due: float) -> bool:
        return self.began <= due < self.ended

    def count(self, status: str, due: float, now: float) -> None:
        """Take note of an answer."""
        took = now - due
        if status == "200" and took > self.deadline:
            status = LATE
        if status == "200" and self.began <= now < self.ended:
            self.rows += 1
        if self.counts(due):
            self.statuses[status] += 1
            if status == "200":
                self.waits.append(took)
            elif status in REFUSALS:
                self.refusals.append(took)

    def told(self) -> dict[str, Any]:
        """Seconds and counts; `late` is the share, of those not refused, without answer in time."""
        accepted = self.due - len(self.refusals)
        return {
            "due": self.due,
            "statuses": dict(self.statuses),
            "late": (accepted - len(self.waits)) / max(accepted, 1),
            "goodput": self.rows / (self.ended - self.began),
            "p50": _quantile(self.waits, 0.5),
            "p99": _quantile(self.waits, 0.99),
            "refused_p50": _quantile(self.refusals, 0.5),
            "refused_p99": _quantile(self.refusals, 0.99),
        }


def _quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[int(len(ordered) * share)] if ordered else 0.0


class Flood:
    """Sends requests at their moments and tallies the answers."""

    def __init__(
        self, address: tuple[str, int], requests: list[bytes], tally: Tally, pids: list[int]
    ) -> None:
        self._address = address
        self._requests = requests
        self._tally = tally
        self._pids = pids
        self._poll = select.epoll()
        self._channels: dict[int, Channel] = {}
        self._free: list[Channel] = []
        self._late: deque[float] = deque()  # due, and all connections are taken
        self._turn = 0
        self.cpu = self.server_cpu = 0.0

    @property
    def unanswered(self) -> int:
        return len(self._channels) - len(self._free) + len(self._late)

    def open(self, count: int) -> None:
        for _ in range(count):
            channel = Channel(self._address)
            self._channels[channel.socket.fileno()] = channel
            self._poll.register(channel.socket, select.EPOLLIN)
            self._free.append(channel)

    def run(self, rate: float) -> None:
        """Send from now on until the tally ends, and wait for the answers."""
        chance, tally = random.Random(0), self._tally
        due, counting = time.perf_counter(), False
        while due < tally.ended:
            now = time.perf_counter()
            if now >= tally.began and not counting:
                counting = True
                self.cpu, self.server_cpu = time.process_time(), cpu_of(self._pids)
            if now < due:
                self._wait(due - now)
                continue
            self._send(due)
            tally.due += tally.counts(due)
            due += chance.expovariate(rate)
            if now - due > BEHIND:  # answers have their turn as well
                self._wait(0)
        self.cpu = time.process_time() - self.cpu
        self.server_cpu = cpu_of(self._pids) - self.server_cpu
        end = time.perf_counter() + tally.deadline + PATIENCE
        while self.unanswered and time.perf_counter() < end:
            self._wait(0.1)

    def _send(self, due: float) -> None:
        """Send the next request, on a new connection if all are taken."""
        if not self._free:
            if len(self._channels) >= MOST_CONNECTIONS:
                self._late.append(due)
                return
            self.open(1)
        channel = self._free.pop()
        channel.start(self._requests[self._turn % len(self._requests)], due)
        self._turn += 1
        if channel.left:
            self._poll.modify(channel.socket, select.EPOLLIN | select.EPOLLOUT)

    def _wait(self, seconds: float) -> None:
        """Take what comes within so many seconds."""
        for fd, events in self._poll.poll(seconds):
            channel = self._channels[fd]
            if events & select.EPOLLOUT:
                channel.push()
                if not channel.left:
                    self._poll.modify(fd, select.EPOLLIN)
            if events & ~select.EPOLLOUT:
                self._receive(channel)
            if channel.status and (channel.ends or not channel.left):
                self._release(channel)

    def _receive(self, channel: Channel) -> None:
        counted = channel.status
        channel.pull()
        if channel.status and not counted and channel.due is not None:
            self._tally.count(channel.status, channel.due, time.perf_counter())

    def _release(self, channel: Channel) -> None:
        """Its exchange is over: have it, or one in its place, ready for the next."""
        if channel.due is None:
            self._free.remove(channel)
        if channel.ends:
            del self._channels[channel.socket.fileno()]
            self._poll.unregister(channel.socket)
            channel.socket.close()
            self.open(1)
        else:
            channel.due, channel.status = None, ""
            self._free.append(channel)
        if self._late:
            self._send(self._late.popleft())


def cpu_of(pids: list[int]) -> float:
    """CPU seconds of processes so far."""
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in pids)  # `clock_getcpuclockid`


def main() -> None:
    host, port, rate, seconds, lead, deadline, path, processes = sys.argv[1:]
    tally = Tally(float(deadline))
    pids = [int(pid) for pid in processes.split(",")]
    flood = Flood((host, int(port)), read_requests(Path(path)), tally, pids)
    flood.open(CONNECTIONS)
    tally.began = time.perf_counter() + float(lead)
    tally.ended = tally.began + float(seconds)
    flood.run(float(rate))
    told = {
        **tally.told(),
        "cpu": flood.cpu,
        "server_cpu": flood.server_cpu,
    }
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
