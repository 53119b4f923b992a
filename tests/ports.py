"""Ports for those who must name one: the system, and so no test beside, gives them to nobody."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager

BELOW = 32_768  # where the ports begin that Linux hands out by itself; elsewhere they are higher
_chance = random.Random()  # hypothesis seeds the shared one alike in every process


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    while True:
        port = _chance.randrange(20_000, BELOW)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port


@contextmanager
def dead_address() -> Iterator[str]:
    """The `host:port` of a port that is taken, and that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"
