"""The front door: every request comes in and goes out here, whichever route answers it.

Coming in, it gets an id, its trace is taken up, its key is checked and its deadline is read. Going
out, whatever was raised becomes one error answer, and is counted.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace

from starlette.types import Receive, Scope, Send

from aiaas_client.protocol.errors import ErrorCode
from aiaas_server.core.errors import LimitReached
from aiaas_server.core.events import CALLER, OPERATOR, Caller, Entrance, Identity
from aiaas_server.http.answers import header_lines, send_problem
from aiaas_server.http.auth import FindKey, KeyCheck, Refused, nobody, one_key, refusal_of
from aiaas_server.http.errors import HttpError, Problem, problem_of
from aiaas_server.http.incoming import (
    CONTEXT,
    ClientGone,
    Headers,
    RequestContext,
    read_headers,
    route_path,
    sticky_key,
)
from aiaas_server.http.request_ids import IDS
from aiaas_server.http.scopes import asks_near
from aiaas_server.observe.metrics import RequestMetrics
from aiaas_server.observe.tracing import trace_of
from aiaas_server.settings import Settings

OPEN_PATHS = frozenset({"/v2/health/live", "/v2/health/ready"})
ANONYMOUS = Identity(tenant="", scopes=frozenset())
"""Who asks without a key where keys are needed: whoever was refused, and on the open paths."""

_NO_TRACE = ("", "")
_digits = re.compile(rb"[0-9]{1,18}").fullmatch
_own_id = re.compile(rb"[A-Za-z0-9._-]{1,128}").fullmatch

Endpoint = Callable[[RequestContext, Scope, Receive, Send], Awaitable[None]]
InDialect = Callable[[Problem, str], Problem]
"""Gives a problem in the form that callers of a path read."""


class Gate:
    """The door of one application.

    Args:
        settings: The key, and how long requests may take.
        metrics: Counts the error answers.
        observed: Whether observers want to know who asked.
        in_dialect: Without it, errors look alike on all paths.
        find_key: Whose keys are; without it there is the one of the settings, or none.
        entrance: Lets requests in by what their tenant may use.
        refused: Is told of requests that are turned away for who asks.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: RequestMetrics,
        *,
        observed: bool,
        in_dialect: InDialect = lambda problem, path: problem,
        find_key: FindKey | None = None,
        entrance: Entrance | None = None,
        refused: Refused = nobody,
    ) -> None:
        self._tenants = find_key is not None
        if find_key is None and settings.api_key is not None:
            find_key = one_key(settings.api_key.get_secret_value())
        self._key_check = None if find_key is None else KeyCheck(find_key, refused=refused)
        self._entrance, self._turned_away = entrance, refused
        self._default_deadline = settings.default_deadline
        self._max_deadline = settings.max_deadline
        self._metrics = metrics
        self._observed = observed
        self._in_dialect = in_dialect

    async def serve(self, endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request by `endpoint`, whatever happens."""
        headers = read_headers(scope)
        request_id = request_id_of(headers)
        context: RequestContext | None = scope.get(CONTEXT)
        try:
            path, client = route_path(scope), scope.get("client")
            if context is None:
                context = self.open(
                    request_id, headers, path, scope["query_string"], client[0] if client else ""
                )
            elif self.sets_caller(headers):  # it was let in before it came here
                CALLER.set(context.caller)
            await endpoint(context, scope, receive, send)
            self.leave(context.caller, context.broken)
        except ClientGone:
            self.leave(_refused(request_id) if context is None else context.caller)
        except Exception as error:
            if context is not None and context.answering:
                raise
            problem = self.close(error, request_id, context, route_path(scope))
            await send_problem(send, problem, request_id)
        finally:
            if context is not None and context.caller.visit is not None:
                context.caller.visit.leave()

    def open(
        self, request_id: bytes, headers: Headers, path: str, query: bytes, address: str
    ) -> RequestContext:
        """Let a request in: find out who asks, and how long.

        Args:
            path: Below the prefix that the application is mounted under.
            query: Of its target, undecoded.
            address: The client's, without a port; "" where it has none.
        Raises:
            HttpError: It does not carry the key that it needs, or no usable deadline or sticky key.
            ServerError: Its tenant may not ask for more now.
        """
        if self._key_check is None:
            identity = OPERATOR
        elif path in OPEN_PATHS or (self._tenants and asks_near(path, address, headers)):
            identity = ANONYMOUS
        else:
            identity = self._key_check.check(headers, query, address, path)
        trace = trace_of(headers) if b"traceparent" in headers else _NO_TRACE
        sticky = sticky_key(headers) if b"x-sticky-key" in headers else ""
        seconds = self._default_deadline
        if b"x-request-timeout-ms" in headers:
            seconds = deadline_seconds(headers, seconds, self._max_deadline)
        visit = None
        if self._entrance is not None and identity is not ANONYMOUS:
            visit = self._entrance.enter(identity, path)
        caller = Caller(request_id.decode("ascii"), *trace, identity, sticky, visit=visit)
        if self._observed or trace[0]:  # see `sets_caller`
            CALLER.set(caller)
        deadline = asyncio.get_running_loop().time() + seconds
        return RequestContext(headers, request_id, caller, deadline, address=address)

    def sets_caller(self, headers: Headers) -> bool:
        """Whether `open` may set the variable `CALLER`: only where somebody reads it."""
        return self._observed or b"traceparent" in headers

    def close(
        self, error: Exception, request_id: bytes, context: RequestContext | None, path: str
    ) -> Problem:
        """A request ends with an error: gives what it is told.

        Args:
            context: None of a request that was not let in.
        """
        problem = self._in_dialect(problem_of(error, request_id), path)
        more = error.headers if isinstance(error, LimitReached) else b""
        if context is not None:
            more = context.more_headers
            if problem.status == 403:
                self._turned_away(refusal_of(context))
        if more:
            problem = replace(problem, headers=(*problem.headers, *header_lines(more)))
        self.leave(_refused(request_id) if context is None else context.caller, problem)
        return problem

    def leave(self, caller: Caller, problem: Problem | None = None) -> None:
        """Note how a request ended: with an answer of its route's, or with an error."""
        if caller.visit is not None:
            caller.visit.leave()
        if problem is not None:
            self.refused(problem.code)

    def refused(self, code: ErrorCode) -> None:
        """Count one error answer, also one that was given before the request came here."""
        self._metrics.refused(code)


def request_id_of(headers: Headers) -> bytes:
    """Keep the client's `X-Request-Id` if it is plain, else make one."""
    given = headers.get(b"x-request-id")
    return given if given is not None and _own_id(given) else IDS.next()


def deadline_seconds(headers: Headers, default: float, longest: float) -> float:
    """Read `X-Request-Timeout-Ms`: how long this request may take, in seconds.

    Raises:
        HttpError: 400 unless it is a whole number of milliseconds from 1 to `longest`.
    """
    text = headers.get(b"x-request-timeout-ms")
    if text is None:
        return default
    milliseconds = int(text) if _digits(text) else 0
    if not 1 <= milliseconds <= longest * 1000:
        shown = text[:64].decode("latin-1")
        raise HttpError(
            400,
            ErrorCode.INVALID_REQUEST,
            f"X-Request-Timeout-Ms: expected 1 to {int(longest * 1000)}, got {shown!r}",
        )
    return milliseconds / 1000


def _refused(request_id: bytes) -> Caller:
    return Caller(request_id.decode("ascii"), identity=ANONYMOUS)
