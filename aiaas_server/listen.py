"""Sockets: where the server listens, who may reach it, and how connections are accepted."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import resource
import socket
import ssl
import stat
from collections import Counter
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

from aiaas_server.settings import Settings

logger = logging.getLogger("aiaas_server")

DEFAULT_METRICS_PORT = 8002
BACKLOG = 2048
RESERVED_DESCRIPTORS = 100
WANTED_DESCRIPTORS = 65_536
_SHORTAGE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class StartError(Exception):
    """The server cannot start; the message tells the operator what to do about it."""


def resolves_to_loopback(host: str) -> bool:
    """True when only this machine can reach `host`.

    Raises:
        StartError: The name cannot be resolved.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise StartError(f"--host {host}: {error.strerror or error}") from None
    return all(ip_address(str(entry[4][0]).partition("%")[0]).is_loopback for entry in found)


def check_exposure(settings: Settings) -> None:
    """Refuse to listen beyond this machine without a key and TLS, unless told to.

    Raises:
        StartError: It says what would be given up and what to do.
    """
    if settings.insecure:
        return
    hosts = [] if settings.uds is not None else [settings.host]
    if settings.metrics_port != 0:
        hosts.append(settings.metrics_host or settings.host)
    open_host = next((host for host in hosts if not resolves_to_loopback(host)), None)
    missing: list[str] = []
    if settings.api_key is None and settings.client_ca is None and not settings.tenants:
        missing.append(
            "anyone who reaches it may use it "
            "(give --api-key-file FILE, --client-ca FILE or --tenants)"
        )
    if settings.certfile is None:
        missing.append("anyone on the way may read and change it (give --certfile and --keyfile)")
    if open_host is not None and missing:
        raise StartError(
            f"refusing to listen on {open_host}: {', and '.join(missing)}. "
            "If something in front of it sees to that, say --insecure; "
            "to serve this machine only, say --host 127.0.0.1."
        )


def bind_tcp(host: str, port: int, option: str = "--port") -> socket.socket:
    """Bind a listening TCP socket; port 0 takes a free one.

    Raises:
        StartError: The address is in use, not this machine's, or not allowed.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise StartError(f"cannot listen on {host}: {error.strerror or error}") from None
    family, kind, proto, _, address = found[0]
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise StartError(_bind_message(host, port, option, error)) from None
    sock.setblocking(False)
    return sock


def _bind_message(host: str, port: int, option: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use: stop what uses it, or give {option} another one"
    if error.errno == errno.EACCES:
        return f"port {port} of {host} needs more rights: give {option} one above 1023"
    return f"cannot listen on {host} port {port}: {error.strerror}"


def bind_unix(path: Path) -> socket.socket:
    """Bind a listening Unix socket that only this user may use; a stale one is replaced.

    Raises:
        StartError: Something else is there, a server answers on it, or it cannot be made.
    """
    _clear_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(path))
        path.chmod(0o600)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise StartError(f"--uds {path}: {error.strerror or error}") from None
    sock.setblocking(False)
    return sock


def _clear_stale(path: Path) -> None:
    if not path.exists():
        return
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise StartError(f"--uds {path}: exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink()
        else:
            raise StartError(f"--uds {path}: another server answers there")


def bind_metrics(settings: Settings) -> socket.socket | None:
    """Bind the metrics port; None when it is off, or the default one is busy.

    Raises:
        StartError: The port was asked for and cannot be had.
    """
    port = settings.metrics_port
    if port == 0:
        return None
    host = settings.metrics_host or settings.host
    wanted = DEFAULT_METRICS_PORT if port is None else port
    try:
        return bind_tcp(host, wanted, "--metrics-port")
    except StartError as error:
        if port is not None:
            raise
        logger.warning("no metrics port: %s; /metrics is on the main port too", error)
        return None


def address_of(sock: socket.socket, scheme: str) -> str:
    """The address of a listening socket as a person types it."""
    if sock.family == socket.AF_UNIX:
        return f"unix:{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def most_connections(wanted: int) -> int:
    """Raise the descriptor limit where allowed; return how many connections leave a reserve."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    top = WANTED_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, WANTED_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < top:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (top, hard))
            soft = top
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, soft - RESERVED_DESCRIPTORS))


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """Make the context for TLS 1.2 and newer; None where TLS is not asked for.

    Raises:
        StartError: A file is missing, unreadable or does not fit the other.
    """
    certfile, keyfile, client_ca = settings.certfile, settings.keyfile, settings.client_ca
    if certfile is None or keyfile is None:
        return None
    for path in (certfile, keyfile, client_ca):
        if path is not None and not path.is_file():
            raise StartError(f"{path}: no such file")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certfile, keyfile)
    except (OSError, ssl.SSLError) as error:
        raise StartError(f"{certfile} with {keyfile}: {error}") from None
    if client_ca is not None:
        _demand_certificates(context, client_ca)
    return context


def _demand_certificates(context: ssl.SSLContext, client_ca: Path) -> None:
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(cafile=client_ca)
    except (OSError, ssl.SSLError) as error:
        raise StartError(f"--client-ca {client_ca}: {error}") from None


class Acceptor:
    """Accepts connections of one listening socket.

    asyncio's own acceptor waits 60 s for a TLS handshake and counts it nowhere, and uvloop's
    closes connections silently when descriptors run out; this one counts handshakes, gives them
    `handshake_timeout` seconds, and pauses for a second on a shortage, telling so once a minute.
    """

    def __init__(
        self,
        sock: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        *,
        has_room: Callable[[int], bool],
        context: ssl.SSLContext | None = None,
        handshake_timeout: float = 10.0,
        counted_as: Callable[[str], str | None] = lambda client: None,
        handshakes_per_address: int = 50,
    ) -> None:
        """Begin to accept.

        Args:
            sock: The listening socket.
            protocol: Makes the protocol of a connection.
            has_room: Asked with the handshakes under way before another connection is taken.
            context: For TLS.
            handshake_timeout: Seconds for a TLS handshake.
            counted_as: The name under which an address is counted; None if it is not.
            handshakes_per_address: TLS handshakes of one address under way; more are cut off.
        """
        self._sock = sock
        self._protocol = protocol
        self._has_room = has_room
        self._context = context
        self._handshake_timeout = handshake_timeout
        self._loop = asyncio.get_running_loop()
        self._counted_as = counted_as
        self._handshakes_per_address = handshakes_per_address
        self._handshakes: set[asyncio.Task[None]] = set()
        self._of_address: Counter[str] = Counter()
        self._resume: asyncio.TimerHandle | None = None
        self._told_at = float("-inf")
        self._loop.add_reader(sock.fileno(), self._accept)

    def close(self) -> None:
        """Stop accepting and close the listening socket; what is accepted goes on."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()
        if self._resume is not None:
            self._resume.cancel()

    def _accept(self) -> None:
        for _ in range(64):
            try:
                conn, peer = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _SHORTAGE:
                    raise
                self._pause(error)
                return
            address = self._counted_as(peer[0]) if self._context and peer else None
            if not self._has_room(len(self._handshakes)) or self._is_crowd(address):
                conn.close()
                continue
            if address is not None:
                self._of_address[address] += 1
            task = self._loop.create_task(self._connect(conn, address))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    def _is_crowd(self, address: str | None) -> bool:
        return address is not None and self._of_address[address] >= self._handshakes_per_address

    async def _connect(self, conn: socket.socket, address: str | None) -> None:
        conn.setblocking(False)
        if conn.family != socket.AF_UNIX:
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            timeout = self._handshake_timeout if self._context is not None else None
            await self._loop.connect_accepted_socket(
                self._protocol, conn, ssl=self._context, ssl_handshake_timeout=timeout
            )
        except (OSError, TimeoutError) as error:  # ssl.SSLError is an OSError
            logger.debug("connection lost before its first byte: %s", error)
            conn.close()
        finally:
            if address is not None:
                self._of_address[address] -= 1
                if not self._of_address[address]:
                    del self._of_address[address]

    def _pause(self, error: OSError) -> None:
        now = self._loop.time()
        if now - self._told_at >= 60.0:
            self._told_at = now
            logger.error("cannot accept connections: %s; trying once a second", error.strerror)
        self._loop.remove_reader(self._sock.fileno())
        self._resume = self._loop.call_later(1.0, self._go_on)

    def _go_on(self) -> None:
        self._loop.add_reader(self._sock.fileno(), self._accept)
