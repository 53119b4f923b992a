"""Load generator: raw sockets in a process of its own, one request in flight a connection.

`python load.py HOST PORT CONNECTIONS SECONDS FILE PID,...` reads length-prefixed requests from
FILE, opens the connections, writes a line, waits for a line, sends the requests in turn for that
many seconds, and prints one JSON object. The processes PID are the server's, whose CPU time it
tells. An HTTP library would cost more than the server it measures.
"""

from __future__ import annotations

import contextlib
import json
import resource
import select
import socket
import struct
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

END_OF_HEAD = b"\r\n\r\n"
LENGTH = b"\r\ncontent-length:"
CHUNKED = b"\r\ntransfer-encoding: chunked"
LAST_CHUNK = b"\r\n0\r\n\r\n"


def read_requests(path: Path) -> list[bytes]:
    content, requests, at = path.read_bytes(), [], 0
    while at < len(content):
        (size,) = struct.unpack_from("<I", content, at)
        requests.append(content[at + 4 : at + 4 + size])
        at += 4 + size
    return requests


def write_requests(path: Path, requests: list[bytes]) -> None:
    path.write_bytes(b"".join(struct.pack("<I", len(r)) + r for r in requests))


class Slices:
    """CPU seconds a request of short stretches of a round, of which the least is told.

    The cores of a virtual machine are fast for a moment and slow for the next; over stretches of a
    tenth of a second the fast ones show. Each is long enough for the work that was begun before it,
    or is done for answers after it, to weigh little: ten requests on each connection.
    """

    SECONDS = 0.1
    REQUESTS = 400
    ON_EACH = 10

    def __init__(self, pids: list[int], began: float, connections: int) -> None:
        self._requests = max(self.REQUESTS, self.ON_EACH * connections)
        # What `clock_getcpuclockid` gives for a process.
        self._clocks = [~pid << 3 | 2 for pid in pids]
        self._first = self._cpu = self._read()
        self._count = 0
        self._next = began + self.SECONDS
        self._least = float("inf")

    def _read(self) -> float:
        total = 0.0
        for clock in self._clocks:
            with contextlib.suppress(OSError):  # a child that has gone
                total += time.clock_gettime(clock)
        return total

    def passed(self, now: float, count: int) -> None:
        """`count` requests are answered; called with every one of them."""
        if now < self._next or count - self._count < self._requests:
            return
        cpu = self._read()
        self._least = min(self._least, (cpu - self._cpu) / (count - self._count))
        self._cpu, self._count, self._next = cpu, count, now + self.SECONDS

    def least(self, count: int) -> float:
        """Of the round at the end of `count` requests; the whole of it where it was short."""
        return min(self._least, (self._read() - self._first) / count)


class Connection:
    """One keep-alive connection: `send` a request, `receive` until its answer is whole."""

    __slots__ = ("answer", "chunked", "needed", "sent_at", "socket")

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.answer = b""
        self.needed = 0
        self.chunked = False
        self.sent_at = 0.0

    def send(self, request: bytes) -> None:
        self.answer = b""
        self.needed = 0
        self.sent_at = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> bool:
        """Take what has come; True when the answer is whole."""
        part = self.socket.recv(262144)
        if not part:
            raise ConnectionError("the server closed a connection under load")
        self.answer = self.answer + part if self.answer else part
        if not self.needed:
            end = self.answer.find(END_OF_HEAD)
            if end < 0:
                return False
            self.needed = end + 4 + self._length(self.answer[:end].lower())
        if self.chunked:
            return self.answer.endswith(LAST_CHUNK)
        return len(self.answer) >= self.needed

    def _length(self, head: bytes) -> int:
        at = head.find(LENGTH)
        self.chunked = at < 0 and CHUNKED in head
        if self.chunked:
            return 0
        if at < 0:
            raise ValueError(f"an answer without a length: {head[:200]!r}")
        at += len(LENGTH)
        stop = head.find(b"\r", at)
        return int(head[at : stop if stop > 0 else None])

    def status(self) -> str:
        return self.answer[9:12].decode("latin-1")


def run_one(
    connection: Connection, requests: list[bytes], seconds: float, pids: list[int]
) -> dict[str, Any]:
    """One request at a time, the thread asleep in `recv` between: no polling to pay for."""
    statuses: Counter[str] = Counter()
    latencies: list[float] = []
    before = resource.getrusage(resource.RUSAGE_SELF)
    began = time.perf_counter()
    slices = Slices(pids, began, 1)
    until, turn, count = began + seconds, 0, len(requests)
    while connection.sent_at < until:
        connection.send(requests[turn % count])
        turn += 1
        while not connection.receive():
            pass
        now = time.perf_counter()
        latencies.append(now - connection.sent_at)
        statuses[connection.status()] += 1
        slices.passed(now, turn)
    return report(latencies, statuses, time.perf_counter() - began, before, slices)


def run(
    connections: list[Connection], requests: list[bytes], seconds: float, pids: list[int]
) -> dict[str, Any]:
    poll = select.epoll()
    by_fd = {c.socket.fileno(): c for c in connections}
    for fd in by_fd:
        poll.register(fd, select.EPOLLIN)
    statuses: Counter[str] = Counter()
    latencies: list[float] = []
    before = resource.getrusage(resource.RUSAGE_SELF)
    began = time.perf_counter()
    slices = Slices(pids, began, len(connections))
    until = began + seconds
    turn, count = 0, len(requests)
    for connection in connections:
        connection.send(requests[turn % count])
        turn += 1
    in_flight = len(connections)
    while in_flight:
        for fd, _ in poll.poll():
            connection = by_fd[fd]
            if not connection.receive():
                continue
            now = time.perf_counter()
            latencies.append(now - connection.sent_at)
            statuses[connection.status()] += 1
            slices.passed(now, len(latencies))
            if now < until:
                connection.send(requests[turn % count])
                turn += 1
            else:
                in_flight -= 1
    return report(latencies, statuses, time.perf_counter() - began, before, slices)


def report(
    latencies: list[float],
    statuses: Counter[str],
    elapsed: float,
    before: resource.struct_rusage,
    slices: Slices,
) -> dict[str, Any]:
    after = resource.getrusage(resource.RUSAGE_SELF)
    latencies.sort()
    return {
        "requests": len(latencies),
        "seconds": elapsed,
        "statuses": dict(statuses),
        "p50": latencies[len(latencies) // 2],
        "p99": latencies[int(len(latencies) * 0.99)],
        "server_cpu": slices.least(len(latencies)),
        "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    }


def main() -> None:
    host, port, connections, seconds, path, processes = sys.argv[1:]
    pids = [int(pid) for pid in processes.split(",")]
    requests = read_requests(Path(path))
    opened = [Connection(host, int(port)) for _ in range(int(connections))]
    print("open", flush=True)
    sys.stdin.readline()
    if len(opened) == 1:
        told = run_one(opened[0], requests, float(seconds), pids)
    else:
        told = run(opened, requests, float(seconds), pids)
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
