"""Blocking work off the event loop, which is never left behind half done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


class Threads:
    """A few threads for disk and store.

    Args:
        name: Of the threads.
        count: How many there are at most.
    """

    def __init__(self, name: str, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, name)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` in a thread. A caller that is cancelled waits for its end all the same.

        So that nobody closes a file under a thread that still writes to it.
        """
        loop = asyncio.get_running_loop()
        return await settled(loop.run_in_executor(self._pool, partial(work, *args, **kwargs)))

    def begin(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Start `work`; whoever awaits it does so by `settled`."""
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._pool, partial(work, *args, **kwargs))

    def close(self) -> None:
        """Wait for what runs."""
        self._pool.shutdown(wait=True, cancel_futures=True)


async def settled(work: asyncio.Future[T]) -> T:
    """The result of `work`; a cancellation is raised once it has ended, and not before."""
    cancelled = False
    while not work.done():
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            cancelled = True
        except Exception:
            break
    if cancelled:
        if not work.cancelled():
            work.exception()  # nobody is left to hear of it
        raise asyncio.CancelledError
    return work.result()


class Joined:
    """Work by key: whoever asks for what is under way waits for it; nobody's leaving ends it."""

    def __init__(self) -> None:
        self._running: dict[Any, asyncio.Task[Any]] = {}

    async def run(self, key: Any, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of the work under `key`, started if it is not under way."""
        task: asyncio.Task[T] | None = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.create_task(make())
            task.add_done_callback(partial(self._ended, key))
        return await asyncio.shield(task)

    async def ended(self, key: Any) -> None:
        """Wait until nothing is under way under `key`, however that ends."""
        task = self._running.get(key)
        if task is not None:
            await asyncio.wait({task})

    def _ended(self, key: Any, task: asyncio.Task[Any]) -> None:
        del self._running[key]
        if not task.cancelled():
            task.exception()  # told to those who waited, if any is left

    async def close(self) -> None:
        """Cancel what runs, and wait for its end."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
