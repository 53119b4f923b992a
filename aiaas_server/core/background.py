"""Tasks that go on by themselves, until whoever began them is closed."""

from __future__ import annotations

import asyncio
from typing import Any


async def stop(task: asyncio.Task[Any] | None) -> None:
    """Cancel a task and wait until it has ended, however it does; None was never begun."""
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
