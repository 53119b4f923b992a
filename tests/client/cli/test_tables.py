"""Tables in a terminal of any width."""

from __future__ import annotations

import pytest
from rich.console import Console

from aiaas_client._cli.tables import print_rows, table_of

NAMES = ("key", "empty", "act", "object", "when")
ROWS = [
    ("63m6jmtegnsl", "", "models.drafts.create", "[a]digits/1", "2026-12-01 03:00:00"),
    ("ugewzx714o34", "", "keys.create", "bpbipopfaw79", "2026-12-01 03:00:01"),
]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_nothing_is_cut_and_nothing_is_wider_than_the_terminal(width: int) -> None:
    console = Console(width=width)
    with console.capture() as captured:
        console.print(table_of(NAMES, ROWS, width))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= width
    assert "empty" not in lines[0]
    text = "".join(lines)
    assert "…" not in text
    for word in ("63m6jmtegnsl", "ugewzx714o34", "models.drafts.create", "[a]digits/1"):
        assert word in text
    assert ("2026-12-01 03:00:00" in text) == (width > 60)


def test_words_are_broken_where_there_is_no_room_for_them() -> None:
    console = Console(width=44)
    with console.capture() as captured:
        console.print(table_of(NAMES, ROWS, 44))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= 44
    assert sum(line.count("…") for line in lines) == 0


def test_no_rows_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(NAMES, [], "no such entries")
    assert capsys.readouterr().out == "no such entries\n"
