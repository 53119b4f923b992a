"""Reads answers that come in events, many at a time, and notes when each event came.

It shares the cores with the server: it looks for the marks of events, and parses nothing.
"""

from __future__ import annotations

import json
import selectors
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from itertools import cycle
from math import inf
from typing import Any, Final

from processes import Target
from wire import post

COMPLETIONS: Final = "/v1/completions"
_EVENT: Final = b'"finish_reason"'
_DONE: Final = b"data: [DONE]"


def request(model: str, prompt: Sequence[int], tokens: int, **more: Any) -> bytes:
    """Ask for so many tokens behind a prompt, greedily, in events."""
    document: Mapping[str, Any] = {
        "model": model, "prompt": list(prompt), "max_tokens": tokens, "temperature": 0,
        "ignore_eos": True, "stream": True, **more,
    }  # fmt: skip
    return post(COMPLETIONS, json.dumps(document).encode(), "application/json")


class Stream:
    """One answer as it comes.

    Attributes:
        times: When each event came, on `perf_counter`.
    """

    def __init__(self, port: int, asked: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.times: list[float] = []
        self.over = False
        self._answer = bytearray()
        self._counted = 0  # bytes of it
        self.sent = time.perf_counter()
        self.socket.sendall(asked)

    @property
    def first(self) -> float:
        """Seconds to the first event."""
        return self.times[0] - self.sent

    def receive(self) -> None:
        """Take what has come.

        Raises:
            RuntimeError: The answer is no stream, or broke off.
        """
        part = self.socket.recv(262144)
        now = time.perf_counter()
        self._answer += part
        while (place := self._answer.find(_EVENT, self._counted)) >= 0:
            self._counted = place + len(_EVENT)
            self.times.append(now)
        self.over = self._answer.find(_DONE, self._counted) >= 0
        if not self._answer.startswith(b"HTTP/1.1 200") or not (part or self.over):
            raise RuntimeError(f"answered {bytes(self._answer[:300])!r}, {len(self.times)} events")


def rate(target: Target, requests: Sequence[bytes], streams: int, seconds: float) -> float:
    """Events a second, with so many answers under way all the time; requests go in turn.

    It counts from when all have begun. What is under way at the end is left: the server notices,
    and ends it.
    """
    turn = cycle(requests)
    count, began = 0, inf
    with selectors.DefaultSelector() as selector:
        running = [_opened(selector, target, next(turn)) for _ in range(streams)]
        while time.perf_counter() - began < seconds:
            if began == inf and all(stream.times for stream in running):
                began = time.perf_counter()
                count -= sum(len(stream.times) for stream in running)
            for key, _ in selector.select(1.0):
                stream = key.data
                stream.receive()
                if stream.over:
                    count += len(stream.times) if began < inf else 0
                    running.remove(_closed(selector, stream))
                    running.append(_opened(selector, target, next(turn)))
        took = time.perf_counter() - began
        count += sum(len(stream.times) for stream in running)
        for stream in running:
            _closed(selector, stream)
    return count / took


def heard(
    target: Target,
    requests: Sequence[bytes],
    look: Callable[[list[Stream]], bytes | None] = lambda streams: None,
) -> list[Stream]:
    """Some answers, asked for at once, until the last of them is over; others are left then.

    Args:
        look: Is called with them after every event; may give one more request.
    """
    with selectors.DefaultSelector() as selector:
        streams = [_opened(selector, target, one) for one in requests]
        while not streams[-1].over:
            for key, _ in selector.select(60.0):
                key.data.receive()
                if key.data.over:
                    _closed(selector, key.data)
            more = look(streams)
            if more is not None:
                streams.append(_opened(selector, target, more))
        for stream in [stream for stream in streams if not stream.over]:
            _closed(selector, stream)
    return streams


def _opened(selector: selectors.BaseSelector, target: Target, asked: bytes) -> Stream:
    stream = Stream(target.port, asked)
    selector.register(stream.socket, selectors.EVENT_READ, stream)
    return stream


def _closed(selector: selectors.BaseSelector, stream: Stream) -> Stream:
    with closing(stream.socket):
        selector.unregister(stream.socket)
    return stream
