"""Inference answers: arrays to header list and body."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiaas_client.protocol.codec import Encoded, encode_response
from aiaas_client.protocol.compression import compress
from aiaas_client.protocol.inference import InferRequest, InferResponse
from aiaas_client.protocol.tensors import Array
from aiaas_server.core.errors import OutputTooLarge
from aiaas_server.core.model import LoadedModel
from aiaas_server.http.answers import (
    BINARY_TYPE,
    JSON_TYPE,
    NO_STORE,
    NOSNIFF,
    HeaderList,
    Reply,
)
from aiaas_server.http.json import FAST_JSON
from aiaas_server.http.negotiation import IDENTITY
from aiaas_server.http.oip.classification import classify
from aiaas_server.http.oip.plans import AnswerPlans
from aiaas_server.settings import Settings

_COMPRESS_INLINE = 32 << 10  # bytes compressed on the event loop, at most about a millisecond
_JOIN_BELOW = 64 << 10  # smaller answers leave in one piece, and their text is remembered

Chunks = Sequence[bytes | memoryview]


class AnswerWriter:
    """Writes the answers of one event loop.

    Args:
        plans: Remembers what was written.
    """

    def __init__(self, settings: Settings, plans: AnswerPlans) -> None:
        self._settings = settings
        self._plans = plans

    def write_now(
        self, model: LoadedModel, request: InferRequest, outputs: dict[str, Array]
    ) -> Reply | None:
        """Write an answer; None when it is so large that it would hold the event loop.

        Raises:
            CodecError: A BYTES output asked for as JSON is not UTF-8.
            InvalidInput: An output cannot be classified.
            OutputTooLarge: The answer is over the limit.
        """
        if sum([array.nbytes for array in outputs.values()]) > self._settings.offload_json_bytes:
            return None
        return self._plain(model, request, outputs, encode_outputs(model, request, outputs))

    async def write(
        self,
        model: LoadedModel,
        request: InferRequest,
        outputs: dict[str, Array],
        coding: str = IDENTITY,
    ) -> Reply:
        """Write an answer; large ones, and compression, off the event loop.

        Args:
            coding: Of the answer's body, one of `negotiation`'s.
        Raises:
            As `write_now`.
        """
        encoded = await self._encode(model, request, outputs)
        if coding == IDENTITY:
            return self._plain(model, request, outputs, encoded)
        self._check(model, encoded.content_length)
        body = await _compress(encoded.chunks, coding, encoded.content_length)
        head = [*_describe(encoded), (b"content-encoding", coding.encode())]
        return Reply(head, [body], len(body))

    def _plain(
        self,
        model: LoadedModel,
        request: InferRequest,
        outputs: dict[str, Array],
        encoded: Encoded,
    ) -> Reply:
        length, head = encoded.content_length, _describe(encoded)
        self._check(model, length)
        if length > _JOIN_BELOW:
            return Reply(head, encoded.chunks, length)
        self._plans.learn(model, request, outputs, encoded, head)
        return Reply(head, [encoded.join()], length)

    async def _encode(
        self, model: LoadedModel, request: InferRequest, outputs: dict[str, Array]
    ) -> Encoded:
        size = sum([array.nbytes for array in outputs.values()])
        self._check(model, size)
        if size <= self._settings.offload_json_bytes:
            return encode_outputs(model, request, outputs)
        return await asyncio.to_thread(encode_outputs, model, request, outputs)

    def _check(self, model: LoadedModel, size: int) -> None:
        limit = self._settings.max_answer_bytes
        if size > limit:
            raise OutputTooLarge(
                f"model {model.name!r}: the answer has {size} bytes, at most {limit} are sent"
            )


def encode_outputs(model: LoadedModel, request: InferRequest, outputs: dict[str, Array]) -> Encoded:
    """Encode an answer, classified outputs as text."""
    for output in request.outputs:
        if output.classification:
            outputs[output.name] = classify(
                outputs[output.name],
                output.classification,
                model.labels.get(output.name, ()),
                batched=model.signature.max_batch_size > 0,
                name=output.name,
            )
    response = InferResponse(model.name, str(model.version), outputs, request.id)
    return encode_response(response, request, json=FAST_JSON)


def _describe(encoded: Encoded) -> HeaderList:
    if encoded.json_length is None:
        return [NOSNIFF, NO_STORE, JSON_TYPE]
    length = (b"inference-header-content-length", b"%d" % encoded.json_length)
    return [NOSNIFF, NO_STORE, BINARY_TYPE, length]


async def _compress(chunks: Chunks, coding: str, length: int) -> bytes:
    if length <= _COMPRESS_INLINE:
        return compress(chunks, coding)
    return await asyncio.to_thread(compress, chunks, coding)
