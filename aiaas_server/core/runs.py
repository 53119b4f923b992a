"""The runs of one call: so many at a time that the calls of others find room too."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.errors import QueueFull
from aiaas_server.core.model import LoadedModel

RUNS_AT_ONCE = 32
PAUSE = 0.05


class Runs:
    """Runs models for one call, which may fan out as far as it likes.

    Only `RUNS_AT_ONCE` of its runs stand in queues. Where a queue has less room, fewer do: a
    call that has begun waits for room, and only the first of its runs may be refused.
    """

    __slots__ = ("_going", "_pause", "_ran", "_room")

    def __init__(self, pause: float = PAUSE) -> None:
        """`pause`: seconds before a queue that others fill is tried again."""
        self._pause = pause
        self._room = asyncio.Semaphore(RUNS_AT_ONCE)
        self._going = 0
        self._ran = False

    async def infer(
        self,
        model: LoadedModel,
        inputs: Mapping[str, Array],
        outputs: Sequence[str],
        deadline: float,
    ) -> dict[str, Array]:
        """The outputs of one run; see `LoadedModel.infer`.

        Raises:
            QueueFull: There is no room, and the call has nothing else under way or done.
            ServerError: As `LoadedModel.infer`.
        """
        async with self._room:
            while True:
                self._going += 1
                try:
                    outcome = await model.infer(inputs, outputs, deadline=deadline)
                except QueueFull:
                    if self._going == 1 and not self._ran:
                        raise
                else:
                    self._ran = True
                    return outcome.outputs
                finally:
                    self._going -= 1
                if self._going:
                    # Takes the place of a run that ends and gives up its own for good: as many
                    # as now fit into the queue stay.
                    await self._room.acquire()
                else:
                    await asyncio.sleep(self._pause)
