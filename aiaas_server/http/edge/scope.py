"""A request as the application sees it: ASGI's scope, and the exchange over it."""

from __future__ import annotations

from typing import Any, Protocol

from aiaas_server.http.edge.exchange import Exchange
from aiaas_server.http.edge.port import Connection
from aiaas_server.http.edge.target import Target
from aiaas_server.http.incoming import CANCELS_ON_DISCONNECT

EXTENSIONS: dict[str, dict[object, object]] = {CANCELS_ON_DISCONNECT: {}}
"""What the scope of every request offers beyond ASGI."""
_ASGI = {"version": "3.0", "spec_version": "2.3"}


class Asked(Connection, Protocol):
    """A connection with what it has found out of its two ends."""

    server: tuple[str, int | None] | None
    client: tuple[str, int] | None
    scheme: Any
    root_path: str
    app_state: dict[str, Any]


def exchange_of(
    connection: Asked,
    method: str,
    version: str,
    target: Target,
    headers: list[tuple[bytes, bytes]],
    announced: int | None,
) -> Exchange:
    """The exchange of a request that the application is to answer.

    Args:
        version: Of HTTP.
        announced: Bytes of the body; None where it is chunked.
    """
    scope = {
        "type": "http",
        "asgi": _ASGI,
        "http_version": version,
        "server": connection.server,
        "client": connection.client,
        "scheme": connection.scheme,
        "method": method,
        "root_path": connection.root_path,
        "path": connection.root_path + target.path,
        "raw_path": target.raw_path,
        "query_string": target.query,
        "headers": headers,
        "state": connection.app_state.copy(),
        "extensions": EXTENSIONS,
    }
    return Exchange(connection, scope, announced=announced)
