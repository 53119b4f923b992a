"""The shared-memory routes. Off unless an operator says otherwise, and for local clients only:
who can name a shared-memory object can read and write it."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from aiaas_client.protocol.errors import ErrorCode
from aiaas_server.core.errors import NotSupported
from aiaas_server.http.answers import JsonAnswer
from aiaas_server.http.errors import HttpError
from aiaas_server.http.json_body import read_control
from aiaas_server.http.oip.regions import Regions, check_region, is_local
from aiaas_server.http.operations import Operation
from aiaas_server.http.process_group import ProcessGroup
from aiaas_server.settings import Settings


class SystemMemoryRoutes:
    """`/v2/systemsharedmemory`: regions of POSIX shared memory, the same in all processes."""

    def __init__(self, regions: Regions, group: ProcessGroup, settings: Settings) -> None:
        self._regions = regions
        self._group = group
        self._settings = settings

    async def status(self, request: Request) -> Response:
        """All regions, or the one that the path names; none to clients that cannot use them."""
        regions = self._regions if is_local(request.scope) else Regions()
        return JsonAnswer(regions.status(request.path_params.get("region", "")))

    async def register(self, request: Request) -> Response:
        """Register a region; refused unless it is switched on and the client is local."""
        check_allowed(self._settings, request)
        document = await read_control(request, self._settings)
        name = request.path_params["region"]
        await self._group.apply(Operation("register", name, check_region(document)))
        return JsonAnswer({})

    async def unregister(self, request: Request) -> Response:
        """200, because clients unregister without asking what is registered or supported."""
        name = request.path_params.get("region", "")
        if self._settings.shared_memory and is_local(request.scope):
            await self._group.apply(Operation("unregister", name))
        return JsonAnswer({})


class CudaMemoryRoutes:
    """`/v2/cudasharedmemory`: not offered, answered as the protocol asks of such a server."""

    async def status(self, request: Request) -> Response:
        """No region is registered."""
        name = request.path_params.get("region", "")
        if name:
            message = f"unable to find cuda shared memory region {name[:64]!r}"
            raise HttpError(404, ErrorCode.NOT_FOUND, message)
        return JsonAnswer([])

    async def register(self, request: Request) -> Response:
        """Refused."""
        raise NotSupported("cuda shared memory is not offered by this server")

    async def unregister(self, request: Request) -> Response:
        """200, because clients unregister without asking whether it is supported."""
        return JsonAnswer({})


def check_allowed(settings: Settings, request: Request) -> None:
    """Raises `NotSupported` unless shared memory is on and the client is on this machine."""
    if not settings.shared_memory:
        raise NotSupported("shared memory is off on this server")
    if not is_local(request.scope):
        raise NotSupported("shared memory is for clients on the server's own machine")
