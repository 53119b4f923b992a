"""`SteadyClock`: the time of day by which keys end; jumps of the machine's clock leave it alone.

A clock that is set a day ahead by mistake would lock out every key that ends within the day, and
one that is set back would have dead ones live again. So the time of day is read once and goes on by
a clock that only ever ticks. Small corrections are followed at once, and a jump once it has stood
for an hour: then it was no mistake.
"""

from __future__ import annotations

import logging
import time
from typing import Final

LITTLE: Final = 5.0
"""Seconds of a correction that is followed at once."""
STANDS: Final = 3600.0
"""Seconds after which a jump is believed."""

_log = logging.getLogger("aiaas_server")


class SteadyClock:
    """Seconds since 1970, that go on evenly."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()
        self._jump = 0.0  # the offset that the machine's clock asks for
        self._since: float | None = None  # when it began to ask for that, by the monotonic clock

    def now(self) -> float:
        """Seconds since 1970."""
        return time.monotonic() + self._offset

    def settle(self) -> None:
        """Compare with the machine's clock; to be called each few seconds."""
        ticks = time.monotonic()
        asked = time.time() - ticks
        if abs(asked - self._offset) <= LITTLE:
            self._offset, self._since = asked, None
        elif self._since is None or abs(asked - self._jump) > LITTLE:
            self._jump, self._since = asked, ticks
            _log.warning(
                "the clock of this machine jumped by %.0f s; keys end by the time before it, "
                "until it has stood for an hour",
                asked - self._offset,
            )
        elif ticks - self._since >= STANDS:
            _log.warning("the clock of this machine is believed again")
            self._offset, self._since = asked, None
