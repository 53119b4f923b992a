"""Entry of the process of a model: opens it, gives up its rights, runs what is asked for."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable

from aiaas_server.core.confine.limits import end_with, write_nothing
from aiaas_server.core.session import Session
from aiaas_server.runtimes.isolated.frames import CHANNEL, HEADER, STOP
from aiaas_server.sandbox.opening import Opened, open_ordered
from aiaas_server.sandbox.serving import Running, serve
from aiaas_server.sandbox.telling import tell

_ORDER = 0  # standard input


def main(parent: int, control: int) -> None:
    """Carry out the order that is standard input, and end with the server.

    Args:
        parent: The process that asks; this one ends with it.
        control: Descriptor of the socket that it asks by.
    """
    work(parent, control, lambda session: session)


def work(parent: int, control: int, around: Callable[[Session], Session]) -> None:
    """As `main`; `around` may put something around the session once all rights are given up."""
    end_with(parent)
    write_nothing()
    link = _socket(control)
    opened = open_ordered(_ORDER)
    if isinstance(opened, Opened):
        tell(link, opened.told)
        _listen(link, around(opened.session))
    else:
        tell(link, opened)
    # Whatever threads a model has left behind, or its runtime does at an end, is of no interest.
    os._exit(0)


def _listen(link: socket.socket, session: Session) -> None:
    """Open channels and stop runs as the server says, until it is gone."""
    running = Running()
    while True:
        frame, descriptors, _, _ = socket.recv_fds(link, HEADER.size, 1)
        if not frame:
            return
        kind, _, call, _ = HEADER.unpack(frame)
        if kind == STOP:
            running.stop(call)
        elif kind == CHANNEL:
            channel = _socket(descriptors[0])
            threading.Thread(target=serve, args=(channel, session, running), daemon=True).start()


def _socket(file: int) -> socket.socket:
    """What is told need not be asked of the system, which no longer answers."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=file)
