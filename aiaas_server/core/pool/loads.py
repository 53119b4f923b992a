"""Models are opened one at a time, and none is waited for without end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from copy import copy
from functools import partial
from typing import TypeVar

from aiaas_server.core.errors import DeadlineExceeded
from aiaas_server.core.names import plain

T = TypeVar("T")

_OPENING = "aiaas-load"  # the name of the threads that open models


class Load:
    """One load of a model: under way, or waiting for its turn.

    Attributes:
        task: Ends when the model serves; fails with the reason why it does not.
        overdue: It has held up others for so long that they go on without it.
        settled: Set when it has ended or is overdue.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.task: asyncio.Task[None]
        self.overdue = False
        self.settled = asyncio.Event()

    async def wait(self, deadline: float | None = None) -> bool:
        """Wait until it ends; whoever stops waiting leaves it going.

        Args:
            deadline: On the loop's clock.
        Returns:
            False when it was interrupted: the model was unloaded, or the server stops.
        Raises:
            DeadlineExceeded: It has not ended in time.
            ServerError: As the load; an error of the caller's own.
        """
        left = None
        if deadline is not None:
            left = max(deadline - asyncio.get_running_loop().time(), 0)
        ended, _ = await asyncio.wait([self.task], timeout=left)
        if not ended:
            raise DeadlineExceeded(f"model '{plain(self.name)[:64]}' was not loaded in time")
        if self.task.cancelled():
            return False
        error = self.task.exception()
        if error is not None:
            raise copy(error)  # many may wait, and each adds to what it is told
        return True


async def settled(loads: Iterable[Load]) -> None:
    """Wait until each of `loads` has ended or is overdue."""
    for load in loads:
        await load.settled.wait()


class LoadLock:
    """Held by one load at a time; one that holds it long no longer holds up the next.

    Args:
        patience: Seconds after which the next gets it beside one that is still at it.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def held_by(self, load: Load) -> AsyncIterator[None]:
        """Hold it; past the patience `load` is overdue."""
        await self._lock.acquire()
        holds = True

        def let_go() -> None:
            nonlocal holds
            if holds:
                holds = False
                self._lock.release()

        def lose_patience() -> None:
            load.overdue = True
            load.settled.set()
            let_go()

        timer = asyncio.get_running_loop().call_later(self._patience, lose_patience)
        try:
            yield
        finally:
            timer.cancel()
            load.overdue = False
            let_go()


async def in_own_thread(function: Callable[[], T], discard: Callable[[T], None]) -> T:
    """Call `function`, which may take minutes or never return, in a thread of its own.

    The thread keeps no process from ending. When the caller is cancelled, the result goes to
    `discard`, whenever it comes.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T) -> None:
        if future.cancelled():
            discard(result)
        else:
            future.set_result(result)

    def fail(error: BaseException) -> None:
        if not future.cancelled():
            future.set_exception(error)

    def work() -> None:
        try:
            result = function()
        except BaseException as error:
            _tell(loop, partial(fail, error))
        else:
            if not _tell(loop, partial(settle, result)):
                discard(result)

    threading.Thread(target=work, name=_OPENING, daemon=True).start()
    try:
        return await future
    except asyncio.CancelledError:
        if future.done() and not future.cancelled() and future.exception() is None:
            discard(future.result())  # it came in the same turn of the loop
        raise


def is_opening() -> bool:
    """Whether a thread of this process still opens a model, whoever waits for it."""
    return any(thread.name == _OPENING for thread in threading.enumerate())


def _tell(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> bool:
    """Have `call` made on `loop`; False when that is closed."""
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:
        return False
    return True
