"""The real process of a model, which tries what its name says, once it has opened the model.

One named `any` tries what stands at the place in `ANY` that its input begins with.

What a try comes to is the first element of `y`: 0 where it worked, or the number of the error.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.session import Session, StopToken
from aiaas_server.sandbox.worker import work

_libc = ctypes.CDLL(None, use_errno=True)


def main(parent: int, control: int, filters: int) -> None:
    name = json.loads(os.pread(0, 1 << 20, 0).partition(b"\n")[0])["config"]["name"]

    def attempt(number: int) -> None:
        TRIES[ANY[number] if name == "any" else name](parent)

    work(parent, control, filters, lambda session: Probing(session, attempt))


class Probing:
    """The session of the model, with a try in the place of each run."""

    def __init__(self, session: Session, attempt: Callable[[int], Any]) -> None:
        self.inputs, self.outputs = session.inputs, session.outputs
        self.providers, self.graph, self.metadata = (
            session.providers, session.graph, session.metadata,
        )  # fmt: skip
        self._attempt = attempt

    def run(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], stop: StopToken | None = None
    ) -> list[Array]:
        try:
            self._attempt(int(inputs["x"][0, 0]))
        except OSError as error:
            return [np.full((1, 4), error.errno, np.float32)]
        return [np.zeros((1, 4), np.float32)]

    def close(self) -> None:
        pass


def _call(name: str, *args: Any) -> None:
    if getattr(_libc, name)(*args) == -1:
        raise OSError(ctypes.get_errno(), name)


def _system(x86: int, arm: int, *args: Any) -> None:
    number = x86 if os.uname().machine == "x86_64" else arm
    if _libc.syscall(ctypes.c_long(number), *args) == -1:
        raise OSError(ctypes.get_errno(), "syscall")


def _nested() -> None:
    sys.setrecursionlimit(10**9)
    json.loads("[" * 50_000_000)


def _thread() -> None:
    done = threading.Event()
    threading.Thread(target=done.set).start()
    if not done.wait(60):
        raise OSError(1, "no thread")


REFUSED: dict[str, Callable[[int], Any]] = {
    "read a file": lambda parent: os.open("/etc/passwd", os.O_RDONLY),
    "read a relative file": lambda parent: os.open(".", os.O_RDONLY),
    "write a file": lambda parent: os.open("/tmp/out", os.O_WRONLY | os.O_CREAT),
    "look at a file": lambda parent: Path("/etc/passwd").stat(),
    "list a directory": lambda parent: list(Path("/").iterdir()),
    "read /proc of itself": lambda parent: os.open("/proc/self/maps", os.O_RDONLY),
    "read /proc of the server": lambda parent: os.open(f"/proc/{parent}/environ", os.O_RDONLY),
    "remove a file": lambda parent: Path("/tmp/nothing").unlink(),
    "rename a file": lambda parent: Path("/tmp/nothing").rename("/tmp/other"),
    "make a directory": lambda parent: Path("here").mkdir(),
    "link a file": lambda parent: Path("here").symlink_to("/etc/passwd"),
    "change directory": lambda parent: os.chdir("/"),
    "make a socket": lambda parent: socket.socket(),
    "make a unix socket": lambda parent: socket.socket(socket.AF_UNIX),
    "make a pair of sockets": lambda parent: socket.socketpair(),
    "connect": lambda parent: _call("connect", 0, b"\x02" + b"\0" * 15, 16),
    "listen": lambda parent: _call("listen", 0, 1),
    "fork": lambda parent: os.fork(),
    "vfork": lambda parent: _system(58, 220, 0x4111, 0, 0, 0, 0),
    "exec": lambda parent: os.execv("/bin/true", ["true"]),
    "exec by descriptor": lambda parent: _system(322, 281, 0, b"", 0, 0, 0x1000),
    "trace the server": lambda parent: _call("ptrace", 16, parent, 0, 0),
    "read the server's memory": lambda parent: _system(310, 270, parent, 0, 0, 0, 0, 0),
    "write the server's memory": lambda parent: _system(311, 271, parent, 0, 0, 0, 0, 0),
    "signal the server": lambda parent: os.kill(parent, signal.SIGTERM),
    "signal all": lambda parent: os.kill(-1, signal.SIGTERM),
    "signal its group": lambda parent: os.kill(0, signal.SIGTERM),
    "open the server": lambda parent: os.pidfd_open(parent),
    "limit the server": lambda parent: resource.prlimit(parent, resource.RLIMIT_NOFILE, (1, 1)),
    "raise its limits": lambda parent: _call(
        "setrlimit", int(resource.RLIMIT_NOFILE), b"\xff" * 16
    ),
    "outlive the server": lambda parent: _call("prctl", 1, 0, 0, 0, 0),
    "have rights": lambda parent: os.setuid(0),
    "have memory that runs": lambda parent: _mapped(mmap.PROT_READ | mmap.PROT_EXEC),
    "make memory run": lambda parent: _call(
        "mprotect", ctypes.c_void_p(id(parent) & ~4095), ctypes.c_size_t(4096), 7
    ),
    "make a file of memory": lambda parent: os.memfd_create("more"),
    "mount": lambda parent: _call("mount", b"none", b"/", b"tmpfs", 0, 0),
    "make a user namespace": lambda parent: _call("unshare", 0x10000000),
    "use io_uring": lambda parent: _system(425, 425, 1, 0),
    "use bpf": lambda parent: _system(321, 280, 0, 0, 0),
    "share memory of the system": lambda parent: _system(29, 194, 0, 4096, 0o1600),
    "own a descriptor's signals": lambda parent: _system(72, 25, 0, 8, parent),
}
ALLOWED: dict[str, Callable[[int], Any]] = {
    "start a thread": lambda parent: _thread(),
}
ENDS: dict[str, Callable[[int], Any]] = {
    "exits": lambda parent: os._exit(3),
    "aborts": lambda parent: os.abort(),
    "segfaults": lambda parent: ctypes.string_at(0),
    "recurses": lambda parent: _nested(),
}
ROOM: dict[str, Callable[[int], Any]] = {
    "takes 100 GB": lambda parent: np.ones(100 << 30, np.uint8),
    "takes more and more": lambda parent: [np.ones(16 << 20, np.uint8) for _ in range(10_000)],
}
ANY = [*REFUSED, *ALLOWED]
TRIES = {**REFUSED, **ALLOWED, **ENDS, **ROOM}


def _mapped(protection: int) -> None:
    _libc.mmap.restype = ctypes.c_void_p
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    found = _libc.mmap(None, ctypes.c_size_t(4096), protection, flags, -1, ctypes.c_long(0))
    if found == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")
