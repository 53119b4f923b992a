"""Asking a real server: over TCP, TLS or a Unix socket, alone or on a connection that stays."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any

from tests.server.http.serving import Answer
from tests.server.http.test_route_table import TABLE

TIMEOUT = 30.0


@dataclass(frozen=True)
class Place:
    """Where a server listens, and what it wants from those who call it.

    Attributes:
        prefix: Under which it is mounted.
        headers: Sent with every request, such as its key.
    """

    port: int = 0
    host: str = "127.0.0.1"
    uds: str = ""
    tls: ssl.SSLContext | None = None
    prefix: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """As clients are given it."""
        scheme = "http" if self.tls is None else "https"
        return f"{scheme}://{self.host}:{self.port}{self.prefix}"

    def connect(self) -> socket.socket:
        """Open a connection."""
        if self.uds:
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(TIMEOUT)
            sock.connect(self.uds)
            return sock
        plain = socket.create_connection((self.host, self.port), TIMEOUT)
        if self.tls is None:
            return plain
        return self.tls.wrap_socket(plain, server_hostname=self.host)

    @contextmanager
    def asking(self) -> Iterator[Asker]:
        """A connection that is kept open."""
        asker = Asker(self)
        try:
            yield asker
        finally:
            asker.close()


class Asker:
    """Sends requests one after the other on one connection, and opens it anew when it ends."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._connection = _Connection(place)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def send(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request; without `headers`, with those of the place."""
        sent = self.place.headers if headers is None else headers
        self._connection.request(method, self.place.prefix + path, body, dict(sent))
        answer = self._connection.getresponse()
        told = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, told, answer.read())

    def call(
        self,
        key: tuple[str, str],
        *,
        model: str = "",
        version: str = "1",
        method: str = "",
        with_key: bool = True,
    ) -> Answer:
        """One operation of the route table, for the model it is made for or for another."""
        body, known, _ = TABLE[key]
        path, text = key[1], body if isinstance(body, bytes) else json.dumps(body).encode()
        for name, value in (
            ("{model}", model or known),
            ("{version}", version),
            ("{region}", "r"),
        ):
            path = path.replace(name, value)
            text = text.replace(name.encode(), value.encode())
        return self.send(method or key[0], path, text, None if with_key else {})


class _Connection(HTTPConnection):
    """To a place, however it listens."""

    def __init__(self, place: Place) -> None:
        super().__init__(place.host, place.port, timeout=TIMEOUT)
        self._place = place

    def connect(self) -> None:
        self.sock = self._place.connect()


def count_errors(asker: Asker) -> float:
    """Error answers that the server has counted, of all codes."""
    return total(asker, "aiaas_errors_total{")


def total(asker: Asker, begins: str) -> float:
    """The sum over the samples of the metrics page whose lines begin so."""
    page = asker.send("GET", "/metrics").body.decode()
    lines = [line for line in page.splitlines() if line.startswith(begins)]
    return sum(float(line.split()[-1]) for line in lines)


def document(answer: Answer) -> Any:
    """The JSON of an answer."""
    return json.loads(answer.body)
