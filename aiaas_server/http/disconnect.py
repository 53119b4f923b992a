"""Clients that leave: their work is abandoned.

The server's own edge cancels the request's task when the connection is lost, and says so in the
scope's extensions. Under any other ASGI server the request watches `receive` while it waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive, Scope

CANCELS_ON_DISCONNECT = "aiaas.cancel_on_disconnect"

T = TypeVar("T")


class ClientGone(Exception):
    """The client left; there is nobody to answer."""


async def while_connected(work: Coroutine[Any, Any, T], scope: Scope, receive: Receive) -> T:
    """Wait for `work`, and abandon it when the client leaves.

    Raises:
        ClientGone: The client left first.
    """
    if CANCELS_ON_DISCONNECT in scope.get("extensions", ()):
        return await work
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_until_disconnect(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
