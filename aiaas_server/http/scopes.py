"""What a key must be allowed to do, route by route: nothing is allowed that no route declares."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, Final

from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from aiaas_client.protocol.errors import ErrorCode
from aiaas_client.protocol.scopes import OPERATOR_SCOPE
from aiaas_server.core.events import Identity
from aiaas_server.http.errors import HttpError
from aiaas_server.http.incoming import CONTEXT, Headers, RequestContext

METRICS: Final = "/metrics"

Needs = tuple[str, ...]
"""Scopes of which one is enough; empty where none is needed, and no key either."""

OPEN: Final[Needs] = ()
ANY_KEY: Final = "any"
"""The scope of routes that are for every key that is good."""
INFER: Final[Needs] = ("infer",)
READ: Final[Needs] = ("models:read",)
WRITE: Final[Needs] = ("models:write",)
DESCRIBE: Final[Needs] = ("models:read", "infer")
"""Of what a caller has to know of a model to call it."""
_FORWARDED: Final = frozenset({b"forwarded", b"x-forwarded-for", b"x-real-ip", b"via"})
OPERATE: Final[Needs] = (OPERATOR_SCOPE,)


class ScopedRoute(Route):
    """A route that says what a key must be allowed to do, and holds to it before a body is read.

    Args:
        needs: One of these scopes.
        act: What the record calls what it does; "" is nothing.
    """

    def __init__(
        self,
        path: str,
        endpoint: Any,
        needs: Needs,
        *,
        methods: Sequence[str] | None = None,
        name: str | None = None,
        act: str = "",
    ) -> None:
        super().__init__(path, endpoint, methods=methods, name=name)
        self.needs = needs
        self.act = act

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have the endpoint answer a caller who may ask it.

        Raises:
            HttpError: 403.
        """
        if self.methods is None or scope["method"] in self.methods:
            self.check(scope)
        await super().handle(scope, receive, send)

    def check(self, scope: Scope) -> None:
        """See that the caller may do that.

        Raises:
            HttpError: 403.
        """
        context: RequestContext = scope[CONTEXT]
        context.act = self.act
        check_needs(context.caller.identity, self.needs)


class MetricsRoute(ScopedRoute):
    """A page for the operator, and for whoever asks from this machine itself."""

    def __init__(self, path: str, endpoint: Any) -> None:
        super().__init__(path, endpoint, OPERATE)

    def check(self, scope: Scope) -> None:
        """See that the caller may do that.

        Raises:
            HttpError: 403.
        """
        context: RequestContext = scope[CONTEXT]
        client = scope.get("client")
        if not is_near(client[0] if client else "", context.headers):
            super().check(scope)


def is_near(address: str, headers: Headers) -> bool:
    """Whether a request comes from this machine, and by no proxy that runs here."""
    if _FORWARDED.isdisjoint(headers):
        with suppress(ValueError):
            return ip_address(address).is_loopback
    return False


def asks_near(path: str, address: str, headers: Headers) -> bool:
    """Whether a request needs no key, since it asks for metrics on this machine itself."""
    has_key = b"authorization" in headers or b"x-api-key" in headers
    return path == METRICS and not has_key and is_near(address, headers)


def check_needs(identity: Identity, needs: Needs) -> None:
    """See that a caller may do what needs one of these scopes.

    Raises:
        HttpError: 403.
    """
    scopes = identity.scopes
    if not needs or ANY_KEY in needs:
        return  # whoever came so far has the key that the path needs
    if "*" not in scopes and scopes.isdisjoint(needs):
        raise forbidden(needs)


def forbidden(needs: Collection[str]) -> HttpError:
    """What a caller is told whose key has none of these scopes."""
    named = " or ".join(f"'{scope}'" for scope in needs)
    return HttpError(403, ErrorCode.FORBIDDEN, f"this needs a key with the scope {named}")


def check_declared(routes: Iterable[BaseRoute]) -> None:
    """See that each route says what it needs, before the first request comes.

    Raises:
        ValueError: One does not; the message names its path.
    """
    for route in routes:
        if not isinstance(route, ScopedRoute):
            path = getattr(route, "path", repr(route))
            raise ValueError(f"route {path}: expected a declared scope, see http/scopes.py")
