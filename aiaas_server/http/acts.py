"""Acts on record: what a route does is noted before it is carried out, and its result after."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from aiaas_client.protocol.errors import ErrorCode
from aiaas_client.protocol.inference import CodecError
from aiaas_server.core.acts import Act, Acts, Begun, Outcome
from aiaas_server.core.errors import ServerError
from aiaas_server.http.errors import HttpError, problem_of
from aiaas_server.http.incoming import ClientGone, context_of

Endpoint = Callable[[Request], Awaitable[Response]]

WRITING: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_LARGEST: Final = 64 << 10  # bytes of an answer that is looked at for what was made
_plain = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}").fullmatch
_later: set[asyncio.Task[None]] = set()


def on_record(acts: Acts | None, name: str, scope: str, endpoint: Endpoint) -> Endpoint:
    """An endpoint whose act is on record; as it is, where nobody keeps one or it has no name."""
    if acts is None or not name:
        return endpoint

    async def answer(request: Request) -> Response:
        if request.method not in WRITING:
            return await endpoint(request)
        return await _carry_out(acts, name, scope, request, endpoint)

    answer.__doc__ = endpoint.__doc__
    return answer


async def _carry_out(
    acts: Acts, name: str, scope: str, request: Request, endpoint: Endpoint
) -> Response:
    begun = await _begin(acts, act_of(request, name, scope))
    body = _Body(request)
    try:
        answer = await endpoint(Request(request.scope, body.receive))
    except (asyncio.CancelledError, ClientGone):
        _go_on(acts.end(begun, Outcome("abandoned", body=body.digest)))
        raise
    except Exception as error:
        status, code = _told(error)
        await acts.end(begun, Outcome("failed", status, code, body=body.digest))
        raise
    made = _made(answer) if request.method == "POST" else ""
    outcome = Outcome("done", answer.status_code, object=made, body=body.digest)
    if answer.status_code >= 400:
        outcome = outcome._replace(result="failed", object="")
    await acts.end(begun, outcome)
    return answer


def act_of(request: Request, name: str, scope: str) -> Act:
    """Who is about to do what to what."""
    caller = context_of(request).caller
    return Act(
        name,
        scope,
        "/".join(map(str, request.path_params.values())),
        caller.identity.tenant,
        caller.identity.key_id or "operator",
        request.client.host if request.client else "",
        caller.request_id,
    )


async def _begin(acts: Acts, act: Act) -> Begun:
    """Note the beginning, even where the client leaves while it is written."""
    beginning = asyncio.ensure_future(acts.begin(act))
    try:
        return await asyncio.shield(beginning)
    except asyncio.CancelledError:
        _go_on(_leave(acts, beginning))
        raise


async def _leave(acts: Acts, beginning: asyncio.Future[Begun]) -> None:
    """The client left before anything was done."""
    (begun,) = await asyncio.gather(beginning, return_exceptions=True)
    if isinstance(begun, Begun):
        await acts.end(begun, Outcome("abandoned"))


def _go_on(work: Any) -> None:
    task: asyncio.Task[None] = asyncio.ensure_future(work)
    _later.add(task)
    task.add_done_callback(_later.discard)


def _told(error: Exception) -> tuple[int, str]:
    """Status and code of what an error becomes; the front door logs what is not known."""
    if not isinstance(error, ServerError | CodecError | HttpError | HTTPException):
        return 500, ErrorCode.INTERNAL.value
    problem = problem_of(error)
    return problem.status, problem.code.value


def _made(answer: Response) -> str:
    """What an answer names as made: a model's version, or an id; "" where it names nothing."""
    content = answer.headers.get("content-type", "")
    data = getattr(answer, "body", b"")
    if not content.startswith("application/json") or not 0 < len(data) <= _LARGEST:
        return ""
    try:
        found = json.loads(data)
    except ValueError:
        return ""
    if not isinstance(found, dict):
        return ""
    if isinstance(found.get("model"), str) and type(found.get("version")) is int:
        return f"{found['model']}/{found['version']}"
    name = found.get("id") or found.get("name")
    return name if isinstance(name, str) and _plain(name) else ""


class _Body:
    """Hashes the body of a request as its endpoint reads it."""

    def __init__(self, request: Request) -> None:
        self._receive = request.receive
        self._hash = hashlib.sha256()
        self._came = False

    async def receive(self) -> Message:
        """The next message."""
        message = await self._receive()
        if part := message.get("body"):
            self._came = True
            self._hash.update(part)
        return message

    @property
    def digest(self) -> str:
        """SHA-256 of what was read; "" where nothing was."""
        return self._hash.hexdigest() if self._came else ""
