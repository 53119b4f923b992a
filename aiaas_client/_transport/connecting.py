"""Blocking sockets, whichever library sends through them: opened within a time."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, cast

from aiaas_client._transport.wire import HEAD_START

LookUp = Callable[..., list[Any]]  # `socket.getaddrinfo`, which has no time limit of its own
_UNDER_WAY = (0, errno.EINPROGRESS, errno.EWOULDBLOCK)


def open_socket(
    host: str, port: int, until: float, look_up: LookUp = socket.getaddrinfo
) -> socket.socket:
    """Connect to the address of `host` that answers first.

    Args:
        host: A name or an address.
        port: Of TCP.
        until: `time.monotonic()` at which it must be open.
        look_up: Gives the addresses of a name.
    Raises:
        TimeoutError: nobody answered in time.
        OSError: the name has no address, or none of them takes connections.
    """
    connected = _connect(_addresses(host, port, until, look_up), until)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connected


def _addresses(host: str, port: int, until: float, look_up: LookUp) -> list[Any]:
    """Resolve a name on a thread that is left behind when it takes too long."""
    with contextlib.suppress(socket.gaierror):  # it is a name, not a number
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    found: SimpleQueue[list[Any] | OSError] = SimpleQueue()

    def look() -> None:
        try:
            found.put(look_up(host, port, type=socket.SOCK_STREAM))
        except OSError as error:
            found.put(error)

    threading.Thread(target=look, name="aiaas-look-up", daemon=True).start()
    try:
        answer = found.get(timeout=_left(until))
    except Empty:
        raise TimeoutError(f"no address of {host!r} in time") from None
    if isinstance(answer, OSError):
        raise answer
    return answer


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


def _connect(addresses: list[Any], until: float) -> socket.socket:
    """Connect to the address that answers first; a later one begins while earlier ones are silent.

    So a dead address costs `HEAD_START` seconds, not the time there is (RFC 8305).
    """
    if len(addresses) == 1:
        return _connect_to(addresses[0], until)
    waiting, failure = deque(addresses), OSError("the name has no address")
    with selectors.DefaultSelector() as racing:
        try:
            while waiting or racing.get_map():
                if waiting:
                    failure = _begin(waiting.popleft(), racing) or failure
                    if not racing.get_map():
                        continue
                patience = min(_left(until), HEAD_START) if waiting else _left(until)
                for key, _ in racing.select(patience):
                    candidate = cast("socket.socket", key.fileobj)
                    racing.unregister(candidate)
                    code = candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if code == 0:
                        return candidate
                    candidate.close()
                    failure = OSError(code, os.strerror(code))
        finally:
            for key in list(racing.get_map().values()):
                cast("socket.socket", key.fileobj).close()
    raise failure


def _connect_to(entry: Any, until: float) -> socket.socket:
    family, kind, protocol, _, address = entry
    candidate = socket.socket(family, kind, protocol)
    try:
        candidate.settimeout(_left(until))
        candidate.connect(address)
    except BaseException:
        candidate.close()
        raise
    return candidate


def _begin(entry: Any, racing: selectors.BaseSelector) -> OSError | None:
    """Start to connect; how it ends is told by the selector, unless it has failed already."""
    family, kind, protocol, _, address = entry
    try:
        candidate = socket.socket(family, kind, protocol)
    except OSError as error:  # a family that this machine does not have
        return error
    candidate.setblocking(False)
    code = candidate.connect_ex(address)
    if code not in _UNDER_WAY:
        candidate.close()
        return OSError(code, os.strerror(code))
    racing.register(candidate, selectors.EVENT_WRITE)
    return None
