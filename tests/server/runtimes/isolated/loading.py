"""A process that may open a model, and tries more: prints the number of each try's error, or 0."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from aiaas_server.core.confine.limits import end_with
from aiaas_server.core.confine.seccomp import keep_to_loading

_FIOSETOWN, _FIOASYNC, _F_SETSIG = 0x8901, 0x5452, 10
_OURS, _theirs = socket.socketpair()
_FILE = os.open(__file__, os.O_RDONLY)

REFUSED: dict[str, Callable[[int], Any]] = {
    "give a socket's signals to the server": lambda parent: fcntl.fcntl(
        _OURS, fcntl.F_SETOWN, parent
    ),
    "choose the signal": lambda parent: fcntl.fcntl(_OURS, _F_SETSIG, signal.SIGKILL),
    "have a socket send signals": lambda parent: fcntl.fcntl(_OURS, fcntl.F_SETFL, os.O_ASYNC),
    "give them by ioctl": lambda parent: fcntl.ioctl(
        _OURS, _FIOSETOWN, parent.to_bytes(4, sys.byteorder)
    ),
    "have them sent by ioctl": lambda parent: fcntl.ioctl(_OURS, _FIOASYNC, b"\1\0\0\0"),
    "keep the server to one processor": lambda parent: os.sched_setaffinity(parent, {0}),
    "signal the server": lambda parent: os.kill(parent, signal.SIGTERM),
    "write a file": lambda parent: os.open("/tmp/out", os.O_WRONLY | os.O_CREAT),
    "write its own memory": lambda parent: os.open("/proc/self/mem", os.O_RDWR),
    "make a socket": lambda parent: socket.socket(),
    "fork": lambda parent: os.fork(),
    "exec": lambda parent: os.execv("/bin/true", ["true"]),
    "make a file of memory": lambda parent: os.memfd_create("more"),
}
ALLOWED: dict[str, Callable[[int], Any]] = {
    "read a file": lambda parent: os.close(os.open(__file__, os.O_RDONLY)),
    "look whether it is a terminal": lambda parent: os.isatty(_FILE),
    "copy a descriptor": lambda parent: os.close(fcntl.fcntl(_FILE, fcntl.F_DUPFD_CLOEXEC, 0)),
}


def _number(attempt: Callable[[int], Any], parent: int) -> int:
    try:
        attempt(parent)
    except OSError as error:
        return error.errno or -1
    return 0


def main() -> None:
    parent = os.getppid()
    ctypes.CDLL(None)
    end_with(parent)
    keep_to_loading()
    tries = {**REFUSED, **ALLOWED}
    print(json.dumps({name: _number(attempt, parent) for name, attempt in tries.items()}))


if __name__ == "__main__":
    main()
