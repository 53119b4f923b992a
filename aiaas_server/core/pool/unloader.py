"""Takes versions out of service: at once for new requests, with the last answer for good."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Final

from aiaas_server.core.errors import ServerError
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.pool.states import Table, Version

_LOOK_AGAIN: Final = 0.01  # seconds between two looks whether a model is still in use


class Unloader:
    """Closes what serves no longer.

    Args:
        table: What it keeps up to date.
        give_back: Returns freed memory to the system; called in a thread.

    Attributes:
        ending: One task for each version that is going; it ends with the last answer.
    """

    def __init__(self, table: Table, give_back: Callable[[], None]) -> None:
        self._table = table
        self._give_back = give_back
        self._closed = False
        self._going = 0  # models that are still to be closed, of those in `ending`
        self.ending: set[asyncio.Task[None]] = set()

    def withdraw(
        self,
        name: str,
        reason: str = "unloaded",
        numbers: Iterable[int] | None = None,
        then: Callable[[], None] = lambda: None,
    ) -> list[asyncio.Task[None]]:
        """Take versions out of service now; a task ends with the last answer.

        Args:
            reason: Why they do not serve from now on.
            numbers: Which; None is all.
            then: Called for each when its last request is answered.
        """
        entry = self._table.entries.get(name)
        if entry is None:
            return []
        ending = []
        for number in list(entry.versions) if numbers is None else numbers:
            version = entry.versions[number]
            if version.state != "READY" or version.model is None:
                continue
            version.state, version.reason = "UNLOADING", ""
            model, version.model = version.model, None
            ending.append(self.retire(model, partial(_put_down, model, version, reason, then)))
        self._table.publish(name)
        return ending

    def retire(
        self, model: LoadedModel, then: Callable[[], None] = lambda: None
    ) -> asyncio.Task[None]:
        """Close `model` when its last request is answered, and call `then`.

        Nobody finds it any more, but calls that found it before may still run it, some of them
        several times; those of a model that was reloaded are handed on, unless it writes.
        """
        if model.successor is not None or not model.in_use:
            model.scheduler.refuse()

        async def finish() -> None:
            try:
                while self._is_wanted(model):  # noqa: ASYNC110  # no event
                    await asyncio.sleep(_LOOK_AGAIN)
                if model.generator is not None:
                    model.generator.close()
                    await asyncio.to_thread(model.generator.wait_closed)
                await model.scheduler.close()
            finally:
                self._going -= 1
            model.forget_answers()
            then()
            if not self._going and not self._closed:  # once for all that go together
                await asyncio.to_thread(self._give_back)

        self._going += 1
        task = asyncio.create_task(finish())
        self.ending.add(task)
        task.add_done_callback(self.ending.discard)
        return task

    def _is_wanted(self, model: LoadedModel) -> bool:
        """Whether calls that found it may still need it; answers that are written stay with it."""
        handed_on = model.successor is not None and model.generator is None
        return model.in_use > 0 and not handed_on and not self._closed

    async def close(self, refusal: ServerError, grace: float) -> None:
        """Fail what is pending with `refusal`, and wait at most `grace` seconds for what runs."""
        self._closed = True
        models = list(self._table.ready.values())
        self._table.newest.clear()
        self._table.ready.clear()
        for model in models:
            model.scheduler.abort(refusal)
            if model.generator is not None:
                model.generator.refuse(refusal)
            self.retire(model)
        if self.ending:
            _, late = await asyncio.wait(list(self.ending), timeout=grace)
            for task in late:
                task.cancel()


async def finished(tasks: Iterable[Awaitable[None]]) -> None:
    """Wait for all of `tasks`, which go on if the caller leaves."""
    for task in tasks:
        await asyncio.shield(task)


def _put_down(model: LoadedModel, version: Version, reason: str, then: Callable[[], None]) -> None:
    """`model`, which was `version`, is closed."""
    if version.state == "UNLOADING":
        version.state, version.reason, version.stamp = "UNAVAILABLE", reason, None
        model.statistics.memory_bytes = 0
    then()
