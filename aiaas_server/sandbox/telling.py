"""Tells the server of what was opened, in pieces that a message holds."""

from __future__ import annotations

import socket

from aiaas_server.runtimes.isolated.frames import HEADER, MOST_PART, PART, TOLD
from aiaas_server.runtimes.isolated.orders import MOST_TOLD, Told


def tell(link: socket.socket, told: Told) -> None:
    """Send it; what is too long for the server is told as a failure."""
    text = told.model_dump_json(exclude_defaults=True).encode()
    if len(text) > MOST_TOLD:
        short = Told(failed=f"its names and texts take {len(text)} bytes, at most {MOST_TOLD} may")
        text = short.model_dump_json(exclude_defaults=True).encode()
    for at in range(0, len(text), MOST_PART):
        link.send(HEADER.pack(PART, 0, 0, 0) + text[at : at + MOST_PART])
    link.send(HEADER.pack(TOLD, 0, 0, 0))
