"""Entry of the process of a model: opens it, gives up its rights, runs what is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from aiaas_server.core.confine.limits import end_with, write_nothing
from aiaas_server.core.confine.seccomp import keep_to_loading

if TYPE_CHECKING:
    from aiaas_server.core.session import Session

_ORDER = 0  # standard input


def main(parent: int, control: int, filters: int) -> None:
    """Carry out the order that is standard input, and end with the server.

    Args:
        parent: The process that asks; this one ends with it.
        control: Descriptor of the socket that it asks by.
        filters: 1 where system calls are to be taken away.
    """
    work(parent, control, filters, lambda session: session)


def work(parent: int, control: int, filters: int, around: Callable[[Session], Session]) -> None:
    """As `main`; `around` may put something around the session once all rights are given up."""
    end_with(parent)
    write_nothing()
    if filters:  # before libraries are loaded: one of them would write, and call the network
        keep_to_loading()
    # All that it takes is imported here: afterwards no file can be opened.
    from aiaas_server.sandbox.listening import known, listen
    from aiaas_server.sandbox.opening import Opened, open_ordered
    from aiaas_server.sandbox.telling import tell

    link = known(control)
    opened = open_ordered(_ORDER)
    if isinstance(opened, Opened):
        tell(link, opened.told)
        listen(link, around(opened.session))
    else:
        tell(link, opened)
    # Whatever threads a model has left behind, or its runtime does at an end, is of no interest.
    os._exit(0)
