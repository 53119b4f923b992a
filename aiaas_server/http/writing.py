"""Inference answers: arrays to header list and body, remembered where they repeat.

Small binary answers of one shape differ only in their tensor bytes: their JSON and their headers
are kept from the first time, so that writing the next one is a join.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from aiaas_client.protocol.codec import Encoded, InferRequest, InferResponse, encode_response
from aiaas_client.protocol.compression import compress
from aiaas_client.protocol.tensors import Array
from aiaas_server.core.errors import OutputTooLarge
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.signature import Signature
from aiaas_server.http.classification import classify
from aiaas_server.http.fastjson import FAST_JSON
from aiaas_server.http.head import (
    BINARY_TYPE,
    JSON_TYPE,
    NO_STORE,
    NOSNIFF,
    HeaderList,
    Headers,
)
from aiaas_server.http.negotiation import IDENTITY, answer_coding
from aiaas_server.settings import Settings

_COMPRESS_INLINE = 32 << 10  # bytes compressed on the event loop, at most about a millisecond
_JOIN_BELOW = 64 << 10  # smaller answers leave in one piece, and their text may be remembered
_LONGEST_TEXT = 4096
_CAPACITY = 256

Chunks = Sequence[bytes | memoryview]
Answer = tuple[HeaderList, Chunks]
_Key = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class _Known:
    """What repeats in an answer; `signature` tells whether the model is still the same."""

    signature: Signature
    text: bytes
    headers: tuple[tuple[bytes, bytes], ...]


class AnswerWriter:
    """Writes the answers of one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._known: dict[_Key, _Known] = {}

    async def write(
        self,
        model: LoadedModel,
        request: InferRequest,
        outputs: dict[str, Array],
        headers: Headers,
    ) -> Answer:
        """Write an answer; large ones, and compression, off the event loop.

        Returns:
            The header list without the request id, and the body in pieces.
        Raises:
            OutputTooLarge: The answer is over the limit.
            CodecError: A BYTES output asked for as JSON is not UTF-8.
            InvalidInput: An output cannot be classified.
        """
        encoded = await self._encode(model, request, outputs)
        length = encoded.content_length
        if length > self._settings.max_answer_bytes:
            raise self._too_large(model, length)
        head = _describe(encoded)
        coding = self._coding(headers)
        if coding != IDENTITY:
            body = await _compress(encoded.chunks, coding, length)
            head.append((b"content-encoding", coding.encode()))
            head.append((b"content-length", b"%d" % len(body)))
            return head, [body]
        head.append((b"content-length", b"%d" % length))
        if length > _JOIN_BELOW:
            return head, encoded.chunks
        self._remember(model, request, outputs, encoded, head)
        return head, [encoded.join()]

    def repeat(
        self,
        model: LoadedModel,
        request: InferRequest,
        outputs: dict[str, Array],
        headers: Headers,
    ) -> Answer | None:
        """Write an answer like one that was written before; None when there was none such."""
        if request.id or self._coding(headers) != IDENTITY:
            return None
        known = self._known.get(_key(model, request, outputs))
        if known is None or known.signature is not model.signature:
            return None
        pieces = [known.text, *[array.tobytes() for array in outputs.values()]]
        return [*known.headers], [b"".join(pieces)]

    def _remember(
        self,
        model: LoadedModel,
        request: InferRequest,
        outputs: dict[str, Array],
        encoded: Encoded,
        head: HeaderList,
    ) -> None:
        text = encoded.chunks[0]
        # One chunk a tensor: every output is binary and none is empty.
        all_binary = len(encoded.chunks) == 1 + len(outputs)
        plain = all(_is_plain(array) for array in outputs.values())
        if request.id or not all_binary or not plain or len(text) > _LONGEST_TEXT:
            return
        if any(output.classification for output in request.outputs):
            return
        if len(self._known) >= _CAPACITY:
            del self._known[next(iter(self._known))]
        known = _Known(model.signature, bytes(text), tuple(head))
        self._known[_key(model, request, outputs)] = known

    async def _encode(
        self, model: LoadedModel, request: InferRequest, outputs: dict[str, Array]
    ) -> Encoded:
        size = sum([array.nbytes for array in outputs.values()])
        if size > self._settings.max_answer_bytes:
            raise self._too_large(model, size)
        if size <= self._settings.offload_json_bytes:
            return encode_outputs(model, request, outputs)
        return await asyncio.to_thread(encode_outputs, model, request, outputs)

    def _coding(self, headers: Headers) -> str:
        accepted = headers.get(b"accept-encoding")
        if accepted is None or not self._settings.compression:
            return IDENTITY
        return answer_coding(accepted)

    def _too_large(self, model: LoadedModel, size: int) -> OutputTooLarge:
        limit = self._settings.max_answer_bytes
        return OutputTooLarge(
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


def _key(model: LoadedModel, request: InferRequest, outputs: dict[str, Array]) -> _Key:
    """All that the text of an answer without an id depends on; datatypes are the model's."""
    listed = [(output.name, output.binary, output.classification) for output in request.outputs]
    shapes = [array.shape for array in outputs.values()]
    return (model.name, model.version, request.binary_output, *listed, *shapes)


def _is_plain(array: Array) -> bool:
    """Whether `tobytes` gives the wire's bytes."""
    return array.dtype.kind != "O" and array.dtype.byteorder != ">"


def _describe(encoded: Encoded) -> HeaderList:
    if encoded.json_length is None:
        return [NOSNIFF, NO_STORE, JSON_TYPE]
    length = (b"inference-header-content-length", b"%d" % encoded.json_length)
    return [NOSNIFF, NO_STORE, BINARY_TYPE, length]


async def _compress(chunks: Chunks, coding: str, length: int) -> bytes:
    if length <= _COMPRESS_INLINE:
        return compress(chunks, coding)
    return await asyncio.to_thread(compress, chunks, coding)
