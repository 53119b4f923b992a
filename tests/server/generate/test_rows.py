"""Rows of address space: what is written takes memory, what is forgotten gives it back."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import numpy as np
import pytest

from aiaas_server.core.errors import LoadFailed
from aiaas_server.generate.rows import Rows
from aiaas_server.generate.tensor_names import CacheTensor

KEYS = CacheTensor("past_key_values.0.key", "present.0.key", 2, 48, np.dtype(np.float32))
HALVES = CacheTensor("past_key_values.0.value", "present.0.value", 2, 80, np.dtype(np.float16))
linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured on Linux alone")


def resident() -> int:
    """Bytes of this process that lie in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def filled(length: int = 100) -> Rows:
    rows = Rows([KEYS, HALVES], 3, 100)
    for number, array in enumerate(rows.arrays):
        for row in range(3):
            array[row, :, :length] = 10 * number + row
    return rows


def test_every_row_has_room_for_the_context_and_begins_on_a_page() -> None:
    for array in Rows([KEYS, HALVES], 3, 100).arrays:
        rows, heads, capacity, head = array.shape
        assert (rows, heads) == (3, 2)
        assert capacity >= 100
        assert capacity * head * array.itemsize % mmap.PAGESIZE == 0
        assert array[1:2].flags.c_contiguous


def test_memory_is_told_by_the_pages_that_tokens_touch() -> None:
    rows = Rows([KEYS], 1, 100)
    assert rows.row_bytes[0] == 0
    per_page = mmap.PAGESIZE // (48 * 4)
    assert rows.row_bytes[1] == rows.row_bytes[per_page] == 2 * mmap.PAGESIZE
    assert rows.row_bytes[per_page + 1] == 4 * mmap.PAGESIZE
    assert len(rows.row_bytes) == 101


@linux
def test_what_is_forgotten_is_gone_and_its_neighbours_are_not() -> None:
    rows = filled()
    rows.forget(1, 40)
    for number, array in enumerate(rows.arrays):
        assert (array[0, :, :100] == 10 * number).all()
        assert (array[2, :, :100] == 10 * number + 2).all()
        assert (array[1, :, :40] == 10 * number + 1).all()
        assert not array[1, :, 64:].any()
    rows.forget(1)
    assert not any(array[1].any() for array in rows.arrays)


@linux
def test_address_space_takes_no_memory_before_it_is_written() -> None:
    before = resident()
    large = CacheTensor("past_key_values.0.key", "present.0.key", 8, 128, np.dtype(np.float32))
    rows = Rows([large] * 4, 8, 1 << 17)
    rows.grow(1 << 17, [0] * 8)  # 17 GB
    rows.arrays[0][3, :, :1000] = 1
    assert resident() - before < 64 << 20
    rows.forget(3)


def test_tokens_are_written_as_they_were_read() -> None:
    rows = filled()
    rows.write(0, 7, rows.read(2, 20, 30))
    for number, array in enumerate(rows.arrays):
        assert (array[0, :, 7:17] == 10 * number + 2).all()
        assert (array[0, :, 17:100] == 10 * number).all()


def test_rows_change_places_with_as_many_tokens_as_count() -> None:
    rows = filled()
    rows.swap(0, 2, 10, 90)
    for number, array in enumerate(rows.arrays):
        assert (array[0, :, :90] == 10 * number + 2).all()
        assert (array[2, :, :10] == 10 * number).all()


def test_more_space_than_there_is_is_refused() -> None:
    with pytest.raises(LoadFailed, match="keys and values: no address space of "):
        Rows([KEYS], 1 << 30, 1000)


def test_rows_that_grow_keep_what_counts() -> None:
    rows = Rows([KEYS, HALVES], 2, 5000)
    assert rows.capacity == 512
    for number, array in enumerate(rows.arrays):
        array[1, :, :500] = number + 1
    rows.grow(513, [0, 500])
    assert rows.capacity == 1024
    rows.grow(3000, [0, 500])
    assert rows.capacity == 3000
    rows.grow(3001, [0, 500])
    assert rows.capacity == 5000
    for number, array in enumerate(rows.arrays):
        assert array.shape[2] >= 5000
        assert (array[1, :, :500] == number + 1).all()
        assert not array[1, :, 500:].any()
        assert not array[0].any()
