"""Memory that is lent for bodies: never two owners, never more kept than allowed."""

from __future__ import annotations

import threading

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aiaas_server.http.buffers import Buffers

MIB = 1 << 20


def test_memory_is_used_again_when_the_last_view_is_gone() -> None:
    buffers = Buffers()
    view = buffers.lend(MIB)
    address = np.frombuffer(view, np.uint8).ctypes.data
    tensor = np.frombuffer(view, np.float32).reshape(4, -1)[1:, 3:]
    del view
    assert buffers.kept == 0, "a view lives"
    other = buffers.lend(MIB)
    assert np.frombuffer(other, np.uint8).ctypes.data != address
    del tensor
    assert buffers.kept == MIB
    again = buffers.lend(MIB - 1000)
    assert np.frombuffer(again, np.uint8).ctypes.data == address
    assert len(again) == MIB - 1000


def test_large_buffers_and_those_beyond_the_limit_are_not_kept() -> None:
    buffers = Buffers(kept_bytes=2 * MIB, largest=MIB)
    views = [buffers.lend(MIB) for _ in range(4)]
    views.append(buffers.lend(MIB + 1))
    del views
    assert buffers.kept == 2 * MIB


def test_a_small_body_does_not_hold_a_large_buffer() -> None:
    buffers = Buffers()
    buffers.lend(4 * MIB)
    small = buffers.lend(MIB // 4)
    assert buffers.kept == 4 * MIB
    assert len(small) == MIB // 4


@given(
    steps=st.lists(
        st.one_of(st.integers(1, 300_000), st.integers(-9, -1)), max_size=40
    )  # lend so many bytes, or give back the n-th last
)
def test_no_two_views_ever_share_memory(steps: list[int]) -> None:
    buffers = Buffers(kept_bytes=MIB, largest=256 << 10)
    held: list[tuple[int, memoryview]] = []
    for turn, step in enumerate(steps):
        if step > 0:
            view = buffers.lend(step)
            view[:] = bytes([turn]) * step
            held.append((turn, view))
        elif -step <= len(held):
            del held[step]
        assert all(set(view[:9]) | set(view[-9:]) == {mark} for mark, view in held)
        assert buffers.kept <= MIB


def test_views_may_end_on_other_threads() -> None:
    buffers = Buffers()
    lent = [buffers.lend(200_000) for _ in range(50)]
    ends = [threading.Thread(target=lent.pop) for _ in range(50)]
    for end in ends:
        end.start()
    for end in ends:
        end.join()
    assert buffers.kept > 0
    assert len(buffers.lend(200_000)) == 200_000


def test_loops_on_several_threads_may_share_one_store() -> None:
    buffers = Buffers(kept_bytes=MIB)
    wrong: list[int] = []

    def lend_often(mark: int) -> None:
        for turn in range(300):
            size = 70_000 * (1 + (turn + mark) % 5)
            view = buffers.lend(size)
            view[:] = bytes([mark]) * size
            if len(view) != size or set(view[:5]) | set(view[-5:]) != {mark}:
                wrong.append(turn)

    threads = [threading.Thread(target=lend_often, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
