"""What would leave too little free space is refused, and allowed again as soon as it fits."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiaas_server.core.errors import StateUnavailable, StorageFull
from aiaas_server.state.space import Usage, check_room, usage_of

GIB = 1 << 30


@pytest.mark.parametrize(
    ("total", "free", "needed", "reserve", "fits"),
    [
        (10 * GIB, 2 * GIB, GIB, GIB, True),
        (10 * GIB, 2 * GIB, GIB + 1, GIB, False),
        (10 * GIB, GIB, 0, GIB, True),
        (10 * GIB, GIB - 1, 0, GIB, False),
        (100 * GIB, 5 * GIB, 0, GIB, True),
        (100 * GIB, 5 * GIB - 1, 0, GIB, False),
        (100 * GIB, 10, 10, 0, True),
        (100 * GIB, 10, 11, 0, False),
    ],
    ids=[
        "just fits", "a byte too many", "all but the reserve", "in the reserve",
        "5 % are more than the reserve", "in the 5 %", "no reserve", "no reserve, too many",
    ],
)  # fmt: skip
def test_the_reserve_stays_free(
    total: int, free: int, needed: int, reserve: int, fits: bool
) -> None:
    def usage(path: Path) -> Usage:
        return Usage(total, free)

    if fits:
        check_room(Path("/data"), needed, reserve=reserve, usage=usage)
        return
    with pytest.raises(StorageFull, match=f"the disk of the server is full: {needed:,} bytes"):
        check_room(Path("/data"), needed, reserve=reserve, usage=usage)


def test_it_is_asked_anew_each_time() -> None:
    free = [0]

    def usage(path: Path) -> Usage:
        return Usage(10 * GIB, free[0])

    with pytest.raises(StorageFull):
        check_room(Path("/data"), 1, reserve=GIB, usage=usage)
    free[0] = 2 * GIB
    check_room(Path("/data"), 1, reserve=GIB, usage=usage)


def test_the_disk_here_has_room_and_one_that_is_gone_does_not_answer(tmp_path: Path) -> None:
    assert 0 <= usage_of(tmp_path).free <= usage_of(tmp_path).total
    with pytest.raises(StorageFull):
        check_room(tmp_path, 1 << 60, reserve=0)
    with pytest.raises(StateUnavailable, match="No such file"):
        check_room(tmp_path / "gone", 1, reserve=0)
