"""Waiting for what announces itself by no event: asked again and again, with an end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


async def until(condition: Callable[[], bool], timeout: float = 120.0) -> None:
    """Give the event loop turns until `condition()` holds; `TimeoutError` after `timeout` s."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110  # there is no event
            await asyncio.sleep(0.001)


def wait_until(
    condition: Callable[[], bool], what: str = "it never came true", timeout: float = 300.0
) -> None:
    """Block until `condition()` holds; fails with `what` after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.01)
