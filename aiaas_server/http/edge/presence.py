"""Whether a client that has stopped sending is still there to read its answer."""

from __future__ import annotations

import asyncio
import select
import socket
from ipaddress import ip_address


def is_loopback(address: str) -> bool:
    """Whether an address, a zone behind it or not, is this machine's own."""
    return ip_address(address.partition("%")[0]).is_loopback


def poke(transport: asyncio.Transport) -> bool:
    """Send one byte out of band, which no reader of the stream ever sees; False if that fails.

    A client that is gone answers it with a reset. Only for loopback: elsewhere such bytes are
    rare enough for something on the way to stumble over them.
    """
    with _socket_of(transport) as own:
        own.setblocking(False)
        try:
            own.send(b"\0", socket.MSG_OOB)
        except OSError:
            return False
    return True


def is_gone(transport: asyncio.Transport) -> bool:
    """Whether the connection is closed or reset from the other side, without reading from it."""
    with _socket_of(transport) as own:
        poll = select.poll()
        poll.register(own, 0)
        return bool(poll.poll(0))


def _socket_of(transport: asyncio.Transport) -> socket.socket:
    """Duplicate the connection's socket: the transport's own may not be used directly."""
    return socket.socket(fileno=socket.dup(transport.get_extra_info("socket").fileno()))
