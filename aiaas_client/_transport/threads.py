"""Blocking sockets that know the deadline of the attempt they serve.

Not even a server that sends one byte a minute can outlast it. The head and a small body of a
request leave in one packet.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from typing import Any

import httpcore2

from aiaas_client._transport.connecting import open_socket
from aiaas_client._transport.wire import CHUNK_BYTES, SMALL_BODY_BYTES, current


class BlockingSocket(httpcore2.NetworkStream):
    """A blocking socket; holds back the head of a request until its small body is there too."""

    __slots__ = ("_held", "_read_bytes", "_socket")

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._held = b""
        self._read_bytes = 0

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        exchange = current.get()
        exchange.socket = self._socket
        if self._held:
            # A peer that stopped reading may still have answered: what it said comes first.
            with contextlib.suppress(httpcore2.WriteError):
                self._flush(exchange.clip(timeout))
        left = exchange.clip(timeout)
        if left <= 0:
            raise httpcore2.ReadTimeout("deadline")
        try:
            self._socket.settimeout(left)
            data = self._socket.recv(max(max_bytes, self._read_bytes))
        except TimeoutError as error:
            raise httpcore2.ReadTimeout(str(error)) from error
        except OSError as error:
            raise httpcore2.ReadError(str(error)) from error
        if data:
            exchange.received = True
        # What fills a read is a large answer: fewer, larger steps.
        self._read_bytes = min(2 * len(data), CHUNK_BYTES) if len(data) >= max_bytes else 0
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        exchange = current.get()
        if len(self._held) + len(buffer) <= SMALL_BODY_BYTES:
            self._held += buffer
            return
        left = exchange.clip(timeout)
        self._flush(left)
        self._send(buffer, left)

    def _flush(self, timeout: float) -> None:
        held, self._held = self._held, b""
        if held:
            self._send(held, timeout)

    def _send(self, data: bytes, timeout: float) -> None:
        if timeout <= 0:
            raise httpcore2.WriteTimeout("deadline")
        try:
            self._socket.settimeout(timeout)
            self._socket.sendall(data)
        except TimeoutError as error:
            raise httpcore2.WriteTimeout(str(error)) from error
        except OSError as error:
            raise httpcore2.WriteError(str(error)) from error

    def close(self) -> None:
        # A thread that waits for it would not be woken up by its closing alone.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        self._socket.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.NetworkStream:
        try:
            self._socket.settimeout(max(current.get().clip(timeout), 1e-3))
            secured = ssl_context.wrap_socket(self._socket, server_hostname=server_hostname)
            return BlockingSocket(secured)
        except TimeoutError as error:
            self._socket.close()
            raise httpcore2.ConnectTimeout(str(error)) from error
        except OSError as error:
            self._socket.close()
            raise httpcore2.ConnectError(str(error)) from error

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            return _is_readable(self._socket)
        if info == "ssl_object" and isinstance(self._socket, ssl.SSLSocket):
            return self._socket
        return None


def _is_readable(connected: socket.socket) -> bool:
    """Whether an idle socket has something to say: it can only be its end."""
    descriptor = connected.fileno()
    if descriptor < 0:
        return True
    if not hasattr(select, "poll"):
        return bool(select.select([descriptor], [], [], 0)[0])
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


class BlockingSockets(httpcore2.NetworkBackend):
    """Opens blocking sockets within the deadline of the attempt at hand.

    Args:
        look_up: `socket.getaddrinfo`, which has no time limit of its own.
    """

    def __init__(self, look_up: Callable[..., list[Any]] = socket.getaddrinfo) -> None:
        self._look_up = look_up

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        exchange = current.get()
        until = time.monotonic() + max(exchange.clip(timeout), 1e-3)
        try:
            connected = open_socket(host, port, until, self._look_up)
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout(str(error)) from error
        except OSError as error:
            raise httpcore2.ConnectError(str(error)) from error
        exchange.connected = True
        return BlockingSocket(connected)
