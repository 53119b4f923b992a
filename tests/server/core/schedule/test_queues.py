"""The sums a queue keeps are those of what waits in it."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from aiaas_server.core.schedule.queues import Queue, QueueBudget
from aiaas_server.core.schedule.requests import Request

LEVELS = 2
ARRIVAL = st.tuples(  # rows, length, shape, level
    st.integers(1, 9), st.integers(0, 5), st.sampled_from("ab"), st.integers(0, LEVELS - 1)
)


def request(loop: asyncio.AbstractEventLoop, rows: int, length: int, key: str) -> Request:
    future: asyncio.Future[Any] = loop.create_future()
    return Request({}, (), rows, 8 * rows, key, future, 0, length)


@given(
    steps=st.lists(
        st.one_of(
            ARRIVAL,
            st.integers(0, 9),  # take the n-th that waits out again
        ),
        max_size=30,
    )
)
def test_what_is_ahead_is_the_sum_of_what_waits(steps: list[Any]) -> None:
    loop = asyncio.new_event_loop()
    try:
        queue = Queue(LEVELS, QueueBudget())
        for step in steps:
            waiting = list(queue)
            if isinstance(step, tuple):
                rows, length, key, level = step
                queue.push(request(loop, rows, length, key), 2 * level)
            elif step < len(waiting):
                queue.remove(waiting[step])
            waiting = list(queue)
            for level in range(LEVELS):
                for key in "ab":
                    own = [r for r in waiting if r.lane == 2 * level and r.key == key]
                    assert queue.ahead(level, key) == (
                        sum(r.rows for r in waiting if r.lane <= 2 * level),
                        sum(r.rows for r in own),
                        sum(r.elements for r in own),
                    )
    finally:
        loop.close()
