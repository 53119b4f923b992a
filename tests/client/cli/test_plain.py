"""What others have written is told as it is, and steers no terminal."""

from __future__ import annotations

import pytest
from rich.console import Console

from aiaas_client._cli.plain import escape


@pytest.mark.parametrize(
    "text", ["\x1b]0;owned\x07", "\x9b2J", "a\r\nroot did it", "\u202etxt", "\x00", "\ud800"]
)
def test_nothing_that_is_not_printed_is_left(text: str) -> None:
    assert escape(text).isprintable()
    assert "\\" in escape(text)


def test_what_is_printed_stays(capsys: pytest.CaptureFixture[str]) -> None:
    Console().print(escape("größer [red]x[/red]"))
    assert capsys.readouterr().out == "größer [red]x[/red]\n"
