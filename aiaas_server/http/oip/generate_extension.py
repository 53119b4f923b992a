"""The generate extension: flat JSON in, flat JSON or events out.

Of tensor models a member that is named like an input becomes that tensor, every other one a request
parameter, and there is one event. Models that write texts are `generate_text`'s.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from aiaas_client.protocol.jsontensor import tensor_from_json, tensor_to_json
from aiaas_client.protocol.options import MAX_ID_LENGTH
from aiaas_client.protocol.tensors import Array, TensorError
from aiaas_server.core.errors import InvalidInput, OutputTooLarge
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.core.signature import TensorSpec
from aiaas_server.http.errors import bad_request
from aiaas_server.http.event_stream import EVENT_STREAM
from aiaas_server.http.incoming import SizeLimit, context_of, read_plain_body, while_connected
from aiaas_server.http.json import FAST_JSON
from aiaas_server.http.json_body import member, parse_body
from aiaas_server.http.lookup import in_use, obtain_addressed
from aiaas_server.http.oip.generate_text import TextRoutes, writes_text
from aiaas_server.http.oip.parameters import schedule_of
from aiaas_server.settings import Settings

Document = dict[str, Any]


class GenerateRoutes:
    """`POST /v2/models/{m}[/versions/{v}]/generate` and `/generate_stream`."""

    def __init__(self, pool: ModelPool, settings: Settings) -> None:
        self._pool = pool
        self._settings = settings
        self._max_json = SizeLimit(settings.max_json_bytes, "max_json_bytes")
        self._texts = TextRoutes(pool, settings)

    async def generate(self, request: Request) -> Response:
        """One JSON object."""
        with ExitStack() as held:
            document, model = await self._read(request, held)
            if writes_text(model):
                return await self._texts.whole(request, document, model, held)
            text = await self._run(request, document, model)
            return Response(text, media_type="application/json")

    async def stream(self, request: Request) -> Response:
        """The answer in events: as it is written, or one of a tensor model's whole answer."""
        with ExitStack() as held:
            document, model = await self._read(request, held)
            if writes_text(model):
                return await self._texts.stream(request, document, model, held)
            text = await self._run(request, document, model)
            return Response(b"data: " + text + b"\n\n", headers={"content-type": EVENT_STREAM})

    async def _read(self, request: Request, held: ExitStack) -> tuple[Document, LoadedModel]:
        """The body, and the model that the path names, which stays in use."""
        deadline = context_of(request).deadline
        await obtain_addressed(self._pool, request)  # refused before the body is read
        body = await read_plain_body(request, self._max_json, deadline)
        document = await parse_body(body, self._settings.offload_json_bytes)
        model = await obtain_addressed(self._pool, request)
        held.enter_context(in_use(model))  # while its request is read, it makes no room for others
        return document, model

    async def _run(self, request: Request, document: Document, model: LoadedModel) -> bytes:
        # Counting and converting elements is Python's work: off the loop, whatever the size.
        identifier, inputs, parameters = await asyncio.to_thread(read_document, document, model)
        priority, timeout = schedule_of(parameters)
        deadline = context_of(request).deadline
        work = model.infer(inputs, priority=priority, timeout=timeout, deadline=deadline)
        outcome = await while_connected(work, request.scope, request.receive)
        limit = self._settings.max_answer_bytes
        if sum(array.nbytes for array in outcome.outputs.values()) > limit:
            raise OutputTooLarge(f"model {model.name!r}: the answer is larger than {limit} bytes")
        answer = write_document(model, identifier, outcome.outputs)
        return await asyncio.to_thread(FAST_JSON.dumps, answer)


def read_document(
    document: Document, model: LoadedModel
) -> tuple[str, dict[str, Array], dict[str, Any]]:
    """Sort a generate body into its id, the input tensors and the request parameters.

    Raises:
        HttpError: 400 for an `id` or `parameters` of the wrong kind.
        InvalidInput: A member that is neither tensor data nor a parameter.
    """
    members = dict(document)
    identifier = member(members, "id", str, "")
    if len(identifier) > MAX_ID_LENGTH:
        raise bad_request(f"'id': expected at most {MAX_ID_LENGTH} characters")
    members |= member(members, "parameters", dict, {})
    specs = {spec.name: spec for spec in model.signature.inputs}
    inputs: dict[str, Array] = {}
    parameters: dict[str, Any] = {}
    for name, value in members.items():
        if name in specs:
            inputs[name] = to_tensor(value, specs[name])
        elif name not in ("id", "parameters"):
            if not isinstance(value, str | int | float):  # a boolean is an int
                raise InvalidInput(
                    f"{name[:64]!r} is no input of model {model.name!r}, and as a parameter it "
                    "must be a string, number or boolean"
                )
            parameters[name] = value
    return identifier, inputs, parameters


def to_tensor(value: Any, spec: TensorSpec) -> Array:
    """Convert a scalar or a list to an input's datatype and shape.

    Fixed dimensions divide the number of elements, the innermost variable one takes the rest,
    the other variable ones become 1.

    Raises:
        InvalidInput: The elements do not fit the datatype or do not divide.
    """
    count = _count(value)
    try:
        return tensor_from_json(value, spec.datatype, _shape(count, spec))
    except TensorError as error:
        raise InvalidInput(f"input {spec.name!r}: {error}") from None


def _count(value: Any) -> int:
    """Elements in nested lists, counted without recursion."""
    count = 0
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting.extend(item)
        else:
            count += 1
    return count


def _shape(count: int, spec: TensorSpec) -> tuple[int, ...]:
    shape = [1 if size < 0 else size for size in spec.shape]
    fixed = 1
    for size in shape:
        fixed *= size
    variable = [axis for axis, size in enumerate(spec.shape) if size < 0]
    if variable and fixed and count % fixed == 0:
        shape[variable[-1]] = count // fixed
    elif count != fixed:
        expected = list(spec.shape)
        raise InvalidInput(f"input {spec.name!r}: {count} elements do not fit shape {expected}")
    return tuple(shape)


def write_document(model: LoadedModel, identifier: str, outputs: dict[str, Array]) -> Document:
    """Write the answer: one-element outputs are scalars, the others flat lists.

    Raises:
        InvalidInput: A BYTES output is not UTF-8.
    """
    answer: Document = {"id": identifier} if identifier else {}
    answer["model_name"] = model.name
    answer["model_version"] = str(model.version)
    for name, array in outputs.items():
        try:
            flat = tensor_to_json(array)
        except TensorError as error:
            raise InvalidInput(f"output {name!r}: {error}") from None
        answer[name] = flat[0] if len(flat) == 1 else flat
    return answer
