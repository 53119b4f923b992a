"""Inference answers: arrays to header list and body, remembered where they repeat.

Small answers of one shape differ only in their tensors, be they bytes or JSON numbers: the text
around them and the headers are kept from the first time, so that writing the next one is a join.
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
_DATA = b'"data":'

Chunks = Sequence[bytes | memoryview]
Answer = tuple[HeaderList, Chunks]
_Key = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class _Known:
    """What repeats in an answer; `signature` tells whether the model is still the same.

    `texts` stand before each tensor in JSON and after the last one; one is all the JSON before
    tensors in binary.
    """

    signature: Signature
    texts: tuple[bytes, ...]
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
        texts = known.texts
        if len(texts) == 1:
            pieces = [texts[0], *[array.tobytes() for array in outputs.values()]]
            return [*known.headers], [b"".join(pieces)]
        body = texts[-1]
        for text, array in zip(reversed(texts[:-1]), reversed(outputs.values()), strict=True):
            body = b"".join((text, _numbers(array), body))
        return [*known.headers, (b"content-length", b"%d" % len(body))], [body]

    def _remember(
        self,
        model: LoadedModel,
        request: InferRequest,
        outputs: dict[str, Array],
        encoded: Encoded,
        head: HeaderList,
    ) -> None:
        if request.id or not all(_is_plain(array) for array in outputs.values()):
            return
        if any(output.classification for output in request.outputs):
            return
        text = bytes(encoded.chunks[0])
        if encoded.json_length is None:
            texts = _around(text, outputs)
            head = [pair for pair in head if pair[0] != b"content-length"]
        else:
            # One chunk a tensor: every output is binary and none is empty.
            texts = (text,) if len(encoded.chunks) == 1 + len(outputs) else ()
        if not texts or sum(map(len, texts)) > _LONGEST_TEXT:
            return
        if len(self._known) >= _CAPACITY:
            del self._known[next(iter(self._known))]
        known = _Known(model.signature, texts, tuple(head))
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


def _numbers(array: Array) -> bytes:
    return FAST_JSON.dumps(array.reshape(-1))


def _around(text: bytes, outputs: dict[str, Array]) -> tuple[bytes, ...]:
    """What stands in an answer of JSON alone around the numbers; empty when it is not so plain."""
    if text.count(_DATA) != len(outputs):  # in a text, its quotes would be escaped
        return ()
    parts: list[bytes] = []
    for array in outputs.values():
        before, mark, text = text.partition(_DATA)
        numbers = _numbers(array)
        if not text.startswith(numbers):
            return ()
        parts.append(before + mark)
        text = text[len(numbers) :]
    return (*parts, text)


def _describe(encoded: Encoded) -> HeaderList:
    if encoded.json_length is None:
        return [NOSNIFF, NO_STORE, JSON_TYPE]
    length = (b"inference-header-content-length", b"%d" % encoded.json_length)
    return [NOSNIFF, NO_STORE, BINARY_TYPE, length]


async def _compress(chunks: Chunks, coding: str, length: int) -> bytes:
    if length <= _COMPRESS_INLINE:
        return compress(chunks, coding)
    return await asyncio.to_thread(compress, chunks, coding)
