"""The shared-memory routes of a server on which shared memory is off."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from aiaas_client.protocol.errors import ErrorCode
from aiaas_server.core.errors import NotSupported
from aiaas_server.http.answers import JsonAnswer
from aiaas_server.http.errors import HttpError


async def status(request: Request) -> Response:
    """No region is registered."""
    return JsonAnswer([])


async def region_status(request: Request) -> Response:
    """The region cannot be known."""
    region = request.path_params["region"][:64]
    raise HttpError(404, ErrorCode.NOT_FOUND, f"unable to find shared memory region {region!r}")


async def register(request: Request) -> Response:
    """Refused: a client that can name shared memory can read and write it."""
    raise NotSupported("shared memory is off on this server")


async def unregister(request: Request) -> Response:
    """200, because clients unregister without asking whether it is supported."""
    return JsonAnswer({})
