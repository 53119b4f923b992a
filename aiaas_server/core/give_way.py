"""How a process that works aside leaves the processor to those that answer requests."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

LEAST: Final = 19
"""The niceness of whoever gets what nobody else wants."""
_GROUP: Final = Path("/proc/self/autogroup")
_TRIES, _PAUSE = 20, 0.05


def give_way() -> None:
    """Take the lowest priority there is, among all processes of the machine.

    Where the system groups processes by session, as Linux does outside containers, niceness counts
    within a session only, and a session of its own is worth as much as a server's: so the group of
    this process's session is lowered too, if it leads one: another's is not its to lower.
    """
    os.nice(LEAST)
    if os.getsid(0) != os.getpid():
        return
    for _ in range(_TRIES):
        try:
            _GROUP.write_text(str(LEAST), "ascii")
        except BlockingIOError:  # another group was changed within the last tenth of a second
            time.sleep(_PAUSE)
        except OSError:  # there are no such groups here
            return
        else:
            return
