"""Requests about many things: how many, and their work in slices, so that nobody else waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from aiaas_server.core.errors import InvalidInput, OutputTooLarge

T = TypeVar("T")
R = TypeVar("R")

SLICE = 256  # things that one hop to a thread is worth


async def in_slices(
    function: Callable[[Sequence[T]], R], things: Sequence[T], *, inline: int
) -> list[R]:
    """Call `function` with one slice of `things` after another; gives what it gave for each.

    Between two slices the caller may be cancelled.

    Args:
        inline: So few things are done at once on the event loop.
    """
    if len(things) <= inline:
        return [function(things)]
    starts = range(0, len(things), SLICE)
    return [await asyncio.to_thread(function, things[i : i + SLICE]) for i in starts]


async def written(
    function: Callable[[Sequence[T]], bytes], things: Sequence[T], limit: int, *, inline: int
) -> bytes:
    """What `function` writes of all slices, with commas between them.

    Args:
        limit: Bytes.
        inline: As of `in_slices`.
    Raises:
        OutputTooLarge: It is more than `limit`.
    """
    parts = await in_slices(function, things, inline=inline)
    check_size(sum(map(len, parts)), limit)
    return b",".join(parts)


def check_size(size: int, limit: int) -> None:
    """Return when the text of an answer has at most so many bytes.

    Raises:
        OutputTooLarge: It has more; tells the limit.
    """
    if size > limit:
        raise OutputTooLarge(f"the answer has {size} bytes, at most {limit} are sent")


def check_count(what: str, count: int, most: int) -> None:
    """Return when a request has at most so many things.

    Raises:
        InvalidInput: It has more; tells the limit.
    """
    if count > most:
        raise InvalidInput(
            f"'{what}': got {count}, expected at most {most} in one request (max_instances)"
        )
