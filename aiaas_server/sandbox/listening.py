"""Opens channels to the model and stops runs, as the server says."""

from __future__ import annotations

import socket
import threading

from aiaas_server.core.session import Session
from aiaas_server.runtimes.isolated.frames import CHANNEL, HEADER, STOP
from aiaas_server.sandbox.serving import Running, serve


def listen(link: socket.socket, session: Session) -> None:
    """Until the server is gone."""
    running = Running()
    while True:
        frame, descriptors, _, _ = socket.recv_fds(link, HEADER.size, 1)
        if not frame:
            return
        kind, _, call, _ = HEADER.unpack(frame)
        if kind == STOP:
            running.stop(call)
        elif kind == CHANNEL:
            channel = known(descriptors[0])
            threading.Thread(target=serve, args=(channel, session, running), daemon=True).start()


def known(file: int) -> socket.socket:
    """What is told of a socket need not be asked of the system, which no longer answers."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=file)
