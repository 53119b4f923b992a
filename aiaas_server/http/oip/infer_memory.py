"""Tensors of a request that lie in shared memory, or are to be put there."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from starlette.types import Scope

from aiaas_client.protocol.inference import InferRequest, SharedMemory
from aiaas_client.protocol.scopes import OPERATOR_SCOPE
from aiaas_client.protocol.tensors import Array
from aiaas_server.core.errors import NotSupported
from aiaas_server.core.events import Identity
from aiaas_server.core.model import LoadedModel
from aiaas_server.http.incoming import SizeLimit, too_large
from aiaas_server.http.oip.regions import Region, Regions, is_local, read_input, write_output

SharedOutputs = Sequence[tuple[Region, SharedMemory, str]]
"""Where outputs go, and which."""


class SharedTensors:
    """Fetches inputs out of shared memory.

    Args:
        regions: None where shared memory is off.
        limit: Most bytes of the inputs of one request, as of a body.
    """

    def __init__(self, regions: Regions | None, limit: SizeLimit) -> None:
        self._regions = regions
        self._limit = limit

    async def attach(
        self, model: LoadedModel, request: InferRequest, scope: Scope, identity: Identity
    ) -> SharedOutputs:
        """Fetch the inputs that lie in shared memory; gives where outputs are to go.

        Meanwhile `model` is in use: it makes no room for another.

        Raises:
            NotSupported: It is off, or the client is on another machine, or not the operator's:
                whose a region is nobody knows.
            HttpError: 404 for an unknown region, 413 for more bytes than a body may have.
        """
        regions = self._regions
        is_operator = OPERATOR_SCOPE in identity.scopes
        if regions is None or not is_operator or not is_local(scope):
            raise NotSupported("shared memory is off on this server")
        inputs = request.shared_inputs
        size = sum(wanted.memory.byte_size for wanted in inputs.values())
        if size > self._limit.bytes:
            raise too_large(self._limit, f"{size} in shared memory")
        held = [(regions.find(x.memory.region), name, x) for name, x in inputs.items()]
        outputs = [
            (regions.find(output.shared_memory.region), output.shared_memory, output.name)
            for output in request.outputs
            if output.shared_memory is not None
        ]
        for region, memory, _ in outputs:
            region.place(memory)
        model.in_use += 1
        try:
            for region, name, wanted in held:
                request.inputs[name] = await asyncio.to_thread(read_input, region, name, wanted)
        finally:
            model.in_use -= 1
        return outputs


def write_shared(shared: SharedOutputs, outputs: dict[str, Array]) -> None:
    """Put outputs into shared memory.

    Raises:
        InvalidInput: One does not fit.
    """
    for region, memory, name in shared:
        write_output(region, memory, outputs[name])
