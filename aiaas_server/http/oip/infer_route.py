"""The infer route: hot inference behind ASGI, and all that has to be waited for.

That is a body in pieces or in a coding, a model that is to be loaded, work too large for the event
loop, shared memory, and compressed answers.
"""

from __future__ import annotations

import asyncio

from starlette.types import Receive, Scope, Send

from aiaas_client.protocol.inference import InferRequest
from aiaas_client.protocol.tensors import Body
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.http.answers import Reply, send_reply
from aiaas_server.http.hot import AsgiCall
from aiaas_server.http.incoming import RequestContext, SizeLimit, while_connected
from aiaas_server.http.lookup import in_use, obtain
from aiaas_server.http.oip.infer import HotInfer
from aiaas_server.http.oip.infer_memory import SharedOutputs, SharedTensors, write_shared
from aiaas_server.http.oip.parameters import schedule_of
from aiaas_server.http.oip.regions import Regions
from aiaas_server.http.scopes import INFER, check_needs
from aiaas_server.settings import Settings


class InferRoute:
    """`POST /v2/models/{m}[/versions/{v}]/infer`.

    Args:
        hot: Tried first.
    """

    def __init__(
        self, hot: HotInfer, pool: ModelPool, settings: Settings, regions: Regions
    ) -> None:
        self._hot = hot
        self._pool = pool
        limit = SizeLimit(settings.max_body_bytes, "max_body_bytes")
        self._memory = SharedTensors(regions if settings.shared_memory else None, limit)

    async def infer(
        self,
        name: str,
        version: int | str | None,
        context: RequestContext,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Answer one request for a model: `gate.Endpoint` when the first two are given."""
        check_needs(context.caller.identity, INFER)
        body = await self._body(name, version, context, scope, receive)
        call = AsgiCall(context, body)
        if self._hot.begin(name, version, call):
            reply = await while_connected(call.reply(), scope, receive)
        else:
            reply = await self._infer_slowly(name, version, context, scope, receive, body)
        context.answering = True
        await send_reply(send, reply, context)

    async def _body(
        self,
        name: str,
        version: int | str | None,
        context: RequestContext,
        scope: Scope,
        receive: Receive,
    ) -> Body:
        """The whole body, without a coding."""
        headers, reader = context.headers, self._hot.reader
        if b"expect" in headers:  # a body that waits to be asked for
            await reader.check_early(name, version, context)
        message = await receive()
        body: Body = message.get("body", b"")
        size = b"%d" % len(body)
        if (
            message.get("more_body", True)
            or headers.get(b"content-length", size) != size
            or b"content-encoding" in headers
        ):
            body = await reader.whole_body(name, version, context, scope, message, receive)
        return body

    async def _infer_slowly(
        self,
        name: str,
        version: int | str | None,
        context: RequestContext,
        scope: Scope,
        receive: Receive,
        body: Body,
    ) -> Reply:
        """What is not for hot inference."""
        model = await obtain(self._pool, name, version, context)
        announced = context.headers.get(b"inference-header-content-length")
        request = self._hot.read(model, body, announced)
        if request is None:
            request = await self._hot.reader.decode_large(body, announced)
            # It may have been reloaded meanwhile.
            model = await obtain(self._pool, name, version, context)
        with in_use(model):
            return await self._run(model, request, context, scope, receive)

    async def _run(
        self,
        model: LoadedModel,
        request: InferRequest,
        context: RequestContext,
        scope: Scope,
        receive: Receive,
    ) -> Reply:
        shared: SharedOutputs = ()
        if request.shared_inputs or any(output.shared_memory for output in request.outputs):
            shared = await self._memory.attach(model, request, scope, context.caller.identity)
        priority, timeout = schedule_of(request.parameters)
        names = [output.name for output in request.outputs]
        work = model.infer(
            request.inputs, names, priority=priority, timeout=timeout, deadline=context.deadline
        )
        outcome = await while_connected(work, scope, receive)
        if shared:
            await asyncio.to_thread(write_shared, shared, outcome.outputs)
        return await self._hot.written(model, request, outcome, self._hot.coding(context.headers))
