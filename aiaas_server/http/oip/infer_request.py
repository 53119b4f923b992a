"""Inference requests that are not like one before: their bodies, and what these say.

Work that would hold the event loop (large JSON, inflating) goes to a thread.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

from starlette.types import Message, Receive, Scope

from aiaas_client.protocol.codec import decode_request, parse_header_length
from aiaas_client.protocol.errors import ErrorCode
from aiaas_client.protocol.inference import CodecError, InferRequest
from aiaas_client.protocol.raw import decode_raw_request
from aiaas_client.protocol.tensors import Body
from aiaas_server.core.errors import InvalidInput, QueueFull
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.http.incoming import (
    ClientGone,
    RequestContext,
    SizeLimit,
    check_length,
    read_rest,
    unwrap,
)
from aiaas_server.http.json import FAST_JSON
from aiaas_server.http.lookup import obtain
from aiaas_server.http.oip.json_plans import JsonPlans
from aiaas_server.http.oip.plans import LONGEST_TEXT, RequestPlans
from aiaas_server.settings import Settings


class RequestReader:
    """Reads the requests of one event loop.

    Args:
        plans: Remembers what was read.
        limit: Most bytes of a body.
    """

    def __init__(
        self, pool: ModelPool, settings: Settings, plans: RequestPlans, limit: SizeLimit
    ) -> None:
        self._pool = pool
        self._plans = plans
        self._json_plans = JsonPlans(FAST_JSON)
        self._limit = limit
        self._max_json = settings.max_json_bytes
        self._offload = settings.offload_json_bytes

    async def check_early(
        self, name: str, version: int | str | None, context: RequestContext
    ) -> None:
        """Refuse what cannot be served before its body is read.

        Raises:
            HttpError: The body is too large.
            ServerError: The model is not there, or has no room before the deadline.
        """
        check_length(context.headers, self._limit)
        model = await obtain(self._pool, name, version, context)
        model.scheduler.refuse_early(context.deadline)
        budget = self._pool.budget
        if budget.count >= budget.max_count or budget.bytes >= budget.max_bytes:
            raise QueueFull("the server's queue is full", retry_after=1.0)

    async def whole_body(
        self,
        name: str,
        version: int | str | None,
        context: RequestContext,
        scope: Scope,
        message: Message,
        receive: Receive,
    ) -> Body:
        """Read what follows the first message, and undo the content coding.

        Raises:
            HttpError: As `incoming.read_rest` and `incoming.unwrap`.
            ServerError: As `check_early`.
            ClientGone: The client left.
        """
        headers = context.headers
        length = check_length(headers, self._limit)
        if message["type"] == "http.disconnect":
            raise ClientGone
        body: Body = message.get("body", b"")
        if message.get("more_body", False):
            await self.check_early(name, version, context)
            body = await read_rest(scope, message, receive, length, self._limit, context.deadline)
        return await unwrap(body, headers, self._limit)

    def decode(
        self, model: LoadedModel, body: Body, announced: bytes | None
    ) -> InferRequest | None:
        """Read a request on the event loop; None when it is too large for that.

        Args:
            announced: The inference header, if there is one.
        Raises:
            CodecError: Anything that breaks the protocol.
            InvalidInput: The raw form for a model of several inputs.
        """
        length = None if announced is None else parse_header_length(announced, len(body))
        if length == 0:
            return raw_request(model, body)
        if len(body) > self._offload:
            return None
        if length is not None:
            request = self._read(body, length)
            self._plans.learn(body, length, request)
            return request
        text = bytes(body)
        known = self._json_plans.recall(text) if len(text) <= self._max_json else None
        if known is not None:
            return known
        request = self._read(text, None)
        self._json_plans.learn(text, request)
        return request

    async def decode_large(self, body: Body, announced: bytes | None) -> InferRequest:
        """`decode` on a thread."""
        length = None if announced is None else parse_header_length(announced, len(body))
        request = await asyncio.to_thread(self._read, body, length)
        self._plans.learn(body, length, request)
        return request

    def _read(self, body: Body, length: int | None) -> InferRequest:
        request = decode_request(body, length, json=FAST_JSON, max_json_bytes=self._max_json)
        if (len(body) if length is None else length) <= LONGEST_TEXT:
            refuse_repeated_keys(bytes(body[:length]), request)
        return request


def raw_request(model: LoadedModel, body: Body) -> InferRequest:
    """Read the raw form: the body is the data of the model's only input.

    Raises:
        InvalidInput: The model has several inputs.
        CodecError: The bytes do not make up one item.
    """
    inputs = model.signature.inputs
    if len(inputs) != 1:
        raise InvalidInput(
            f"model {model.name!r}: the raw form needs a model of one input, it has {len(inputs)}"
        )
    (spec,) = inputs
    batched = model.signature.max_batch_size > 0
    return decode_raw_request(body, spec.name, spec.datatype, spec.shape, batched=batched)


def refuse_repeated_keys(text: bytes, request: InferRequest) -> None:
    """Refuse a key that an object has twice, of which two readers may take different ones.

    Only a text that may have one is read again, so that others cost nothing but the counting.

    Raises:
        CodecError: An object has it.
    """
    shapes = text.count(b'"shape"') - len(request.shared_inputs)
    if shapes == len(request.inputs) and text.count(b'"inputs"') == 1:
        return
    with suppress(RecursionError):  # as deep as that nothing of the protocol's lies
        json.loads(text, object_pairs_hook=_without_repetition)


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in members if names.count(name) > 1)
        raise CodecError(f"{repeated[:64]!r} is written twice", ErrorCode.INVALID_JSON)
    return members
