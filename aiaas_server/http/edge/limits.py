"""What is accepted of a client: sizes, counts and times, and the refusals beyond them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from aiaas_client.protocol.errors import ErrorCode
from aiaas_server.http.errors import Problem
from aiaas_server.settings import KIB, MIB

Headers = list[tuple[bytes, bytes]]
Network = IPv4Network | IPv6Network
LOOPBACK: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
_SINGLE = frozenset({b"host", b"content-length", b"transfer-encoding"})
_SUBSCRIBER_BITS = 64  # of an IPv6 address: who has one has all addresses that begin like it


@dataclass(frozen=True, slots=True)
class EdgeLimits:
    """What one process accepts of its clients; durations in seconds, sizes in bytes."""

    request_line_bytes: int = 8 * KIB
    header_bytes: int = 16 * KIB
    headers: int = 100
    header_timeout: float = 10.0
    """From the connection or the first byte to the end of the header."""
    body_timeout: float = 10.0
    """For the body, plus one second for each `bytes_per_second` received."""
    bytes_per_second: int = 64 * KIB
    max_body_timeout: float = 300.0
    write_timeout: float = 10.0
    """For an answer the client does not read, plus one second for each `bytes_per_second`."""
    keep_alive: float = 60.0
    linger: float = 2.0
    """How long a refused client may go on sending before the connection is cut."""
    max_connections: int = 1000
    max_connections_per_address: int = 50
    """0 is no limit for one address."""
    shared_addresses: tuple[Network, ...] = LOOPBACK
    """Addresses that many clients share, without a limit of their own: this machine, proxies."""
    max_body_bytes: int = 512 * MIB
    """The most any route accepts; the routes have their own limits below it."""
    pipeline: int = 100
    """Complete requests that may wait behind the one being answered."""

    def counted_as(self, client: str) -> str | None:
        """Under which name the connections of an address are counted; None if they are not.

        An IPv4 address is itself, also where it is written as IPv6; of an IPv6 address it is the
        network of its subscriber, who could change the rest at will.
        """
        if not self.max_connections_per_address:
            return None
        address = ip_address(client.partition("%")[0])
        if address.version == 6:
            address = address.ipv4_mapped or address
        if any(address in network for network in self.shared_addresses):
            return None
        if address.version == 6:
            return str(ip_network((int(address), _SUBSCRIBER_BITS), strict=False))
        return str(address)

    def body_allowance(self, received: int, headers: Mapping[bytes, bytes]) -> float:
        """Seconds a body may take: longer the more of it came, never past the deadline."""
        allowed = self.body_timeout + received / self.bytes_per_second
        text = headers.get(b"x-request-timeout-ms", b"")
        if text.isdigit() and len(text) < 10:
            allowed = min(allowed, int(text) / 1000)
        return min(allowed, self.max_body_timeout)

    def write_allowance(self, unsent: int) -> float:
        """Seconds a client may take to read an answer of which so many bytes wait."""
        return self.write_timeout + unsent / self.bytes_per_second


class Refused(Exception):
    """Raised inside the parser's callbacks: the request is not accepted."""

    def __init__(self, status: int, code: ErrorCode, message: str, retryable: bool = False) -> None:
        super().__init__(message)
        when = ((b"retry-after", b"1"),) if status == 503 else ()
        self.problem = Problem(status, code, message, retryable, when)


def malformed(message: str) -> Refused:
    """A 400 for what is not HTTP as this server reads it."""
    return Refused(400, ErrorCode.INVALID_REQUEST, message)


def uri_too_long(limits: EdgeLimits) -> Refused:
    """A 414: the request line is over its limit."""
    message = f"request line: expected at most {limits.request_line_bytes} bytes"
    return Refused(414, ErrorCode.URI_TOO_LONG, message)


def headers_too_large(limits: EdgeLimits) -> Refused:
    """A 431: there are too many headers, or too large ones."""
    message = (
        f"request headers: expected at most {limits.headers} "
        f"with {limits.header_bytes} bytes together"
    )
    return Refused(431, ErrorCode.HEADERS_TOO_LARGE, message)


def body_too_large(limits: EdgeLimits) -> Refused:
    """A 413: no route takes so large a body."""
    message = f"request body: expected at most {limits.max_body_bytes} bytes"
    return Refused(413, ErrorCode.PAYLOAD_TOO_LARGE, message)


def too_late(what: str, seconds: float) -> Refused:
    """A 408: a part of the request did not come in its time."""
    message = f"{what}: not received within {seconds:g} seconds"
    return Refused(408, ErrorCode.REQUEST_TIMEOUT, message, True)


def too_many_connections() -> Refused:
    """A 503: the connection is one too many."""
    message = "too many connections: close some, or try again later"
    return Refused(503, ErrorCode.TOO_MANY_CONNECTIONS, message, True)


def stopping() -> Refused:
    """A 503: the process stops."""
    return Refused(503, ErrorCode.DRAINING, "the server is stopping", True)


DRAINING = stopping().problem
"""What a request is told that the stop has cut off."""


def check_sizes(limits: EdgeLimits, method: bytes, url: bytes, headers: Headers) -> None:
    """Measure a head that came in pieces, or in one too large to be within all limits.

    Raises:
        Refused: The request line or the headers are over their limit.
    """
    if len(method) + len(url) + 10 > limits.request_line_bytes:
        raise uri_too_long(limits)
    if sum(len(name) + len(value) + 4 for name, value in headers) > limits.header_bytes:
        raise headers_too_large(limits)


def check_framing(
    limits: EdgeLimits, version: str, headers: Headers, fields: Mapping[bytes, bytes]
) -> None:
    """Check a head that says more of its framing than one Content-Length.

    Args:
        limits: The connection's.
        version: Of HTTP, as `1.1`.
        headers: All of them, names in lower case.
        fields: The same by name, the last of each.
    Raises:
        Refused: The framing could be read in two ways.
    """
    if version not in ("1.1", "1.0"):
        raise malformed("HTTP version: only 1.1 and 1.0 are spoken here")
    if len(headers) > limits.headers:
        raise headers_too_large(limits)
    if len(fields) != len(headers):
        names = [name for name, _ in headers if name in _SINGLE]
        if len(names) != len(set(names)):
            raise malformed("Host, Content-Length and Transfer-Encoding may come only once")
    if b"transfer-encoding" in fields:
        coding = fields[b"transfer-encoding"].strip(b" \t").lower()
        if coding != b"chunked" or version == "1.0":
            raise malformed("Transfer-Encoding: only 'chunked' over HTTP/1.1 is accepted")
        if b"content-length" in fields:
            raise malformed("Content-Length and Transfer-Encoding exclude one another")
