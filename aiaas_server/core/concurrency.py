"""Work on many things for one caller: so much at a time, and never long without a pause."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from itertools import chain
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")

LOOP_SECONDS = 0.005  # of work without a pause for whoever else is served


async def work_through(
    items: Iterable[S], work: Callable[[S], Awaitable[T]], at_once: int
) -> list[T]:
    """Await `work` on each of `items`, at most `at_once` at a time; the first error ends it.

    Work that never waits leaves the loop to others all the same.
    """
    remaining = enumerate(items)
    first = next(remaining, None)
    second = next(remaining, None)
    if second is None:
        return [] if first is None else [await work(first[1])]
    assert first is not None  # there is a second
    now = asyncio.get_running_loop().time
    results: dict[int, T] = {}
    rest = iter([first, second])
    until = now() + LOOP_SECONDS
    pause = asyncio.Lock()

    async def worker() -> None:
        nonlocal until
        for index, item in chain(rest, remaining):
            results[index] = await work(item)
            if now() > until:
                async with pause:  # of all workers together
                    if now() > until:
                        await asyncio.sleep(0)
                        until = now() + LOOP_SECONDS

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(worker())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [results[index] for index in sorted(results)]
