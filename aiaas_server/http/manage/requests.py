"""What all management routes have in common: who asks, strict bodies, pages, repeated requests.

A route is an endpoint with the scope that a key needs for it. A POST that carries an
`Idempotency-Key` is carried out once: whoever sends it again within a day gets the same answer,
and another body under the same key is a conflict. An answer that holds a secret is remembered
encrypted, see `state.sealed_answers`.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message

from aiaas_client.protocol.audit import act_named
from aiaas_client.protocol.documents import Told
from aiaas_client.protocol.errors import ErrorCode
from aiaas_client.protocol.jsontext import PYDANTIC_JSON
from aiaas_client.protocol.names import ALIAS
from aiaas_server.core.acts import Acts
from aiaas_server.core.author import Author
from aiaas_server.core.errors import Conflict, NotFound
from aiaas_server.http.acts import WRITING, Endpoint, on_record
from aiaas_server.http.errors import HttpError, bad_request
from aiaas_server.http.incoming import SizeLimit, context_of, read_plain_body
from aiaas_server.http.openapi import DescribedRoute, Tells
from aiaas_server.settings import Settings
from aiaas_server.state.database import Database
from aiaas_server.state.idempotency import Answered, recall, remember
from aiaas_server.state.sealed_answers import AnswerSeal

B = TypeVar("B", bound=BaseModel)

PREFIX = "/api/v1"
READ, WRITE = "models:read", "models:write"
MOST_ITEMS = 1000
DEFAULT_ITEMS = 100

_REPEATABLE = SizeLimit(16 << 20, "of a request with an Idempotency-Key")
_key = re.compile(r"[!-~]{1,128}").fullmatch
_number = re.compile(r"[0-9]{1,18}").fullmatch
_alias = re.compile(ALIAS).fullmatch
_BEYOND = 2**31  # of versions: `VersionNumber`, and what a column of the database takes


def author_of(request: Request) -> Author:
    """Who asks, for rows and history."""
    caller = context_of(request).caller
    return Author(caller.identity.tenant, caller.identity.key_id or "operator", caller.request_id)


def model_named(request: Request) -> str:
    """The model that the path names."""
    name: str = request.path_params["model"]
    return name


def read_version(text: str) -> int | str:
    """A version as a path or a query has it: a number, or the name of an alias.

    Raises:
        NotFound: No version can be called that.
    """
    if _number(text) and int(text) < _BEYOND:
        return int(text)
    if not _alias(text):
        raise NotFound(f"there is no version '{text[:64]}': expected a number or an alias")
    return text


async def read_asked(request: Request, kind: type[B], settings: Settings) -> B:
    """The body of a request as a document of `kind`; an absent body is an empty object.

    Raises:
        HttpError: 400 for what is no such document, naming the member; 413, 415 or 408.
    """
    stated = request.headers.get("content-type", "application/json").partition(";")[0].strip()
    limit = SizeLimit(settings.max_control_bytes, "max_control_bytes")
    body = bytes(await read_plain_body(request, limit, context_of(request).deadline))
    if body and stated.lower() != "application/json":
        raise HttpError(
            415,
            ErrorCode.UNSUPPORTED_MEDIA_TYPE,
            f"Content-Type: expected application/json, got {stated[:64]!r}",
        )
    try:
        return kind.model_validate_json(body or b"{}", strict=False)
    except ValidationError as error:
        raise bad_request(first_problem(error)) from None


def first_problem(error: ValidationError) -> str:
    """The first thing that is wrong with a document, in one line."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(map(str, first["loc"])) or "body"
    got = first.get("input")
    came = "" if isinstance(got, dict | list) or got is None else f", got {str(got)[:64]!r}"
    return f"{where}: {first['msg'].removeprefix('Value error, ')}{came}"


class _Told(Response):
    """Plain JSON: it has no arrays to look for, as `JsonAnswer` does in what has a `null`."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Write the document."""
        return PYDANTIC_JSON.dumps(content)


def told(document: Told, status: int = 200, etag: str = "") -> Response:
    """Answer with a document."""
    headers = {"ETag": f'"{etag}"'} if etag else None
    return _Told(document.model_dump(mode="json"), status, headers)


def told_page(items: Sequence[Told], following: str | int | None) -> Response:
    """Answer with a part of a list; `following` is where the next part begins, None at the end."""
    found = [item.model_dump(mode="json") for item in items]
    return _Told({"items": found, "next": None if following is None else str(following)})


def page_of(request: Request) -> tuple[str, int]:
    """`?after=…&limit=…` of a list; where it begins, "" at the first, and how long it may be.

    Raises:
        HttpError: 400 for a limit that is no number from 1 to 1,000.
    """
    text = request.query_params.get("limit", str(DEFAULT_ITEMS))
    limit = int(text) if _number(text) else 0
    if not 1 <= limit <= MOST_ITEMS:
        raise bad_request(f"limit: expected 1 to {MOST_ITEMS}, got {text[:64]!r}")
    return request.query_params.get("after", "")[:255], limit


def number_after(after: str) -> int | None:
    """The cursor of a list that is ordered by number; None at its beginning.

    Raises:
        HttpError: 400 for anything else.
    """
    if not after:
        return None
    if not _number(after):
        raise bad_request(f"after: expected what `next` told, got {after[:64]!r}")
    return int(after)


def if_match(request: Request) -> int | None:
    """The revision that `If-Match` asks for; None where any is right.

    Raises:
        HttpError: 400 for what no ETag of ours can be.
    """
    text = request.headers.get("if-match")
    if text is None or text.strip() == "*":
        return None
    plain = text.strip().strip('"')
    if not _number(plain):
        raise bad_request(f"If-Match: expected an ETag that was told, got {text[:64]!r}")
    return int(plain)


class Manage:
    """Makes the routes, each with its scope, and remembers what was answered to a POST.

    Args:
        acts: Keeps a record of what is done; without it there is none.
        seal: For answers that hold a secret; without it there are no routes with such.
    """

    def __init__(
        self, database: Database, acts: Acts | None = None, seal: AnswerSeal | None = None
    ) -> None:
        self._database = database
        self._acts = acts
        self._seal = seal
        self._running: set[asyncio.Task[Any]] = set()
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    def route(
        self,
        path: str,
        endpoint: Endpoint,
        method: str,
        scope: str,
        *,
        asks: type[BaseModel] | None = None,
        tells: Tells = None,
        act: str | None = None,
        secret: bool = False,
    ) -> Route:
        """A route below `/api/v1`.

        Args:
            scope: What a key must be allowed to do.
            act: What the record of acts calls it, where it is not `act_named`; "" is none.
            asks: The document that a request carries, for `/openapi.json`.
            tells: The document that is answered, or that none is.
            secret: Whether the answer holds a secret.
        """
        seal = self._seal if secret else None
        assert seal is not None or not secret, "nothing to seal secret answers with"

        if act is None and method in WRITING:
            act = act_named(method, path)
        carried_out = self.noted(endpoint, scope, act or "")

        async def answer(request: Request) -> Response:
            if method == "POST" and "idempotency-key" in request.headers:
                return await self._once(request, carried_out, seal)
            return await carried_out(request)

        answer.__doc__ = endpoint.__doc__
        path = PREFIX + path
        return DescribedRoute(path, answer, method, (scope,), asks=asks, tells=tells, act=act or "")

    def noted(self, endpoint: Endpoint, scope: str, act: str) -> Endpoint:
        """An endpoint with its act on record, and that a key was used for its scope.

        Args:
            act: What the record calls it; "" is none.
        """
        recorded = on_record(self._acts, act, scope, endpoint)

        async def answer(request: Request) -> Response:
            if self._acts is not None:
                self._acts.used(context_of(request).caller.identity.key_id, scope)
            return await recorded(request)

        answer.__doc__ = endpoint.__doc__
        return answer

    async def finish(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Wait for `work`, which goes on where the client leaves."""
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def _once(
        self, request: Request, endpoint: Endpoint, seal: AnswerSeal | None
    ) -> Response:
        key, tenant = request.headers["idempotency-key"], author_of(request).tenant
        if not _key(key):
            raise bad_request(
                f"Idempotency-Key: expected 1 to 128 visible ASCII characters, got {key[:64]!r}"
            )
        body = bytes(await read_plain_body(request, _REPEATABLE, context_of(request).deadline))
        digest = hashlib.sha256()
        for part in (request.method.encode(), request.url.path.encode(), body):
            digest.update(b"%d " % len(part) + part)
        asked = digest.hexdigest()
        lock = self._locks.setdefault((tenant, key), asyncio.Lock())
        async with lock:  # one that is sent again before it is answered waits for that
            return await self._first_or_again(_again(request, body), endpoint, key, asked, seal)

    async def _first_or_again(
        self,
        request: Request,
        endpoint: Endpoint,
        key: str,
        asked: str,
        seal: AnswerSeal | None,
    ) -> Response:
        """Carry a request out, or tell what was answered when it came first."""
        tenant = author_of(request).tenant
        known = await self._database.read(lambda c: recall(c, tenant, key))
        if known is None:
            answer = await endpoint(request)
            if answer.status_code < 500:
                content = bytes(answer.body)
                if seal is not None:
                    content = seal.shut(_presented(request), asked, content)
                told = Answered(asked, answer.status_code, content)
                remembering = partial(remember, tenant=tenant, key=key, answered=told)
                await self._database.write(remembering, spares_room=True)
            return answer
        if known.request != asked:
            raise Conflict("Idempotency-Key: it was used before with another request")
        replayed = {"Idempotency-Replayed": "true"}
        content = known.answer
        if seal is not None:
            content = seal.open(_presented(request), asked, content)
        return Response(content, known.status, replayed, "application/json")


def _again(request: Request, body: bytes) -> Request:
    """A request whose body was read, so that the endpoint can read it."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else await request.receive()

    return Request(request.scope, receive)


def _presented(request: Request) -> bytes:
    """The key that a request carries, as it came; empty where none is asked for."""
    headers = context_of(request).headers
    return headers.get(b"x-api-key") or headers.get(b"authorization", b"").partition(b" ")[2]
