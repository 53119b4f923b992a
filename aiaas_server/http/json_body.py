"""JSON objects out of request bodies, and their members."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request

from aiaas_client.protocol.errors import ErrorCode
from aiaas_client.protocol.tensors import Body
from aiaas_server.http.errors import HttpError, bad_request
from aiaas_server.http.incoming import SizeLimit, context_of, read_plain_body
from aiaas_server.http.json import FAST_JSON
from aiaas_server.settings import Settings


async def read_control(
    request: Request, settings: Settings, *, upload: bool = False
) -> dict[str, Any]:
    """Read the body of a control request: nothing, or one JSON object of any content type.

    Args:
        upload: It may carry model files.
    Raises:
        HttpError: 400 when it is not a JSON object, 413, 408 or 415 as `read_plain_body`.
    """
    limit = SizeLimit(settings.max_control_bytes, "max_control_bytes")
    deadline = context_of(request).deadline
    if upload:
        limit = SizeLimit(settings.max_upload_bytes, "max_upload_bytes")
        deadline = asyncio.get_running_loop().time() + settings.max_upload_timeout
    body = await read_plain_body(request, limit, deadline)
    return await parse_body(body, settings.offload_json_bytes)


async def parse_body(body: Body, offload_above: int) -> dict[str, Any]:
    """`parse_object`, off the event loop where the body has more bytes than `offload_above`."""
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
