"""Reading the JSON bodies of control routes: small objects, often empty."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request

from aiaas_client.protocol.errors import ErrorCode
from aiaas_server.http.body import Body, read_plain
from aiaas_server.http.errors import HttpError
from aiaas_server.http.fastjson import FAST_JSON
from aiaas_server.http.head import read_headers


def bad_request(message: str) -> HttpError:
    """A 400 that says what was expected."""
    return HttpError(400, ErrorCode.INVALID_REQUEST, message)


async def read_object(
    request: Request, limit: int, seconds: float, offload_above: int
) -> dict[str, Any]:
    """Read a body that is empty or one JSON object.

    Args:
        request: The request; its content type does not matter.
        limit: Most bytes accepted.
        seconds: Longest time to receive it.
        offload_above: Larger bodies are parsed off the event loop.
    Raises:
        HttpError: 400 when it is not a JSON object, 413, 408 or 415 as `read_plain`.
    """
    body = await read_plain(request.receive, read_headers(request.scope), limit, seconds)
    if len(body) > offload_above:
        return await asyncio.to_thread(parse_object, body)
    return parse_object(body)


def parse_object(body: Body) -> dict[str, Any]:
    """Parse a JSON object; nothing at all is an empty one.

    Raises:
        HttpError: 400 for anything else.
    """
    if not bytes(body[:64]).strip() and not bytes(body).strip():
        return {}
    try:
        document = FAST_JSON.loads(body)
    except (ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0][:200]
        message = f"the body is not valid JSON: {reason}"
        raise HttpError(400, ErrorCode.INVALID_JSON, message) from None
    if not isinstance(document, dict):
        raise HttpError(400, ErrorCode.INVALID_JSON, "expected a JSON object")
    return document


def member(document: dict[str, Any], name: str, kind: type, default: Any) -> Any:
    """Take a member that is absent, null, or of `kind`.

    Raises:
        HttpError: 400 when it is of another kind.
    """
    value = document.get(name)
    if value is None:
        return default
    if type(value) is not kind:
        spoken = {bool: "a boolean", str: "a string", int: "an integer", dict: "an object"}
        raise bad_request(f"{name!r}: expected {spoken[kind]}")
    return value
