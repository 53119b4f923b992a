"""Calendar months and full hours of UTC, in seconds since 1970."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final, NamedTuple

from aiaas_client.protocol.prices import MONTH
from aiaas_server.core.errors import InvalidInput

HOUR: Final = 3600
_month = re.compile(MONTH).fullmatch
_FIRST: Final = 1970


class Month(NamedTuple):
    """A month of UTC; they sort by time."""

    year: int
    number: int

    @property
    def begin(self) -> int:
        """Its first second."""
        return int(datetime(self.year, self.number, 1, tzinfo=UTC).timestamp())

    @property
    def end(self) -> int:
        """The first second behind it."""
        return self.next.begin

    @property
    def next(self) -> Month:
        """The one behind it."""
        return Month(self.year + self.number // 12, self.number % 12 + 1)

    def __str__(self) -> str:
        return f"{self.year:04d}-{self.number:02d}"


def month_at(at: float) -> Month:
    """The month in which a moment is."""
    found = datetime.fromtimestamp(at, UTC)
    return Month(found.year, found.month)


def read_month(text: str) -> Month:
    """A month as it is written, `2026-11`.

    Raises:
        InvalidInput: It is none.
    """
    if not _month(text) or not _FIRST <= int(text[:4]) < 9999:
        raise InvalidInput(f"month: expected one such as 2026-11, got {text[:64]!r}")
    return Month(int(text[:4]), int(text[5:]))


def hour_from(at: float) -> int:
    """The first full hour that does not begin before a moment."""
    return -int(-at // HOUR) * HOUR


def hour_after(at: float) -> int:
    """The first full hour that begins behind a moment."""
    return (int(at // HOUR) + 1) * HOUR
