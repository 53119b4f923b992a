"""The process of a model, as the server sees it: started, heard, asked, ended."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from aiaas_server.core.confine.command import command, environment
from aiaas_server.core.errors import LoadFailed, ModelUnavailable
from aiaas_server.runtimes.isolated.channel import Channel
from aiaas_server.runtimes.isolated.frames import (
    CHANNEL,
    HEADER,
    MOST_FRAME,
    PART,
    STOP,
    TOLD,
    Broken,
)
from aiaas_server.runtimes.isolated.orders import MOST_TOLD, Order, Told, read_told

ENTRY: Final = "aiaas_server.sandbox.worker"
"""The module whose `main` the process calls."""
MOST_CHANNELS: Final = 16
_EXITS: Final = 1.0  # seconds that a process may take to end once it has let go of a socket


class Ending(NamedTuple):
    """How a process ended.

    Attributes:
        code: Its status; negative is the signal.
        most_bytes: Of memory, that it ever took; 0 where that was less than the server takes.
        reason: Why the server ended it; "" where it ended by itself.
    """

    code: int
    most_bytes: int
    reason: str

    def __str__(self) -> str:
        if self.reason:
            return self.reason
        if self.code >= 0:
            return f"status {self.code}"
        with suppress(ValueError):
            return signal.Signals(-self.code).name
        return f"signal {-self.code}"


class Worker:
    """One process. Its methods may be called from several threads.

    To be made in a thread that lives as long as the process may: the end of that thread ends it.

    Args:
        order: What it opens.
        content: The model, where it has no path.
        entry: The module that it runs.
    Raises:
        OSError: The system has no room for it.
    """

    def __init__(self, order: Order, content: bytes, entry: str = ENTRY) -> None:
        self._most = order.memory_bytes // 4
        self._free = threading.Condition()
        self._ends = threading.Lock()  # held by who waits for its end
        self._handle = threading.Lock()  # of `_exit`, which is held for a moment only
        self._idle: list[Channel] = []
        self._made = 0
        self._reason = ""
        self.ending: Ending | None = None
        self.memory_bytes = 0
        file = _written(order, content)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._process = _started(entry, file, theirs, filters=order.filters)
        except BaseException:
            self._control.close()
            raise
        finally:
            theirs.close()
            os.close(file)
        self._most_of_parent = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self._exit = os.pidfd_open(self._process.pid)

    @property
    def pid(self) -> int:
        """Its number in the system."""
        return self._process.pid

    @property
    def control(self) -> int:
        """Descriptor that is readable when it has ended, or says what nobody asked for."""
        return self._control.fileno()

    def hear(self, until: float, wake: int) -> Told:
        """What it tells of its model.

        Args:
            until: On the monotonic clock.
            wake: A descriptor; once it is readable nobody wants to know.
        Raises:
            LoadFailed: It has none, took too long, or ended.
            Broken: No honest process would say such.
            ModelUnavailable: Nobody wants it any more.
        """
        text = b""
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        poll.register(wake, select.POLLIN)
        while True:
            left = until - time.monotonic()
            ready = {file for file, _ in poll.poll(max(left, 0) * 1000)}
            if wake in ready:
                raise ModelUnavailable("the model was unloaded", retry_after=1.0)
            if not ready or left <= 0:
                raise LoadFailed("it was not opened, and run once, in the time that it may take")
            frame = self._control.recv(MOST_FRAME)
            if not frame:
                raise LoadFailed(f"it ended the process that opened it ({self.end(_EXITS)})")
            if len(frame) < HEADER.size:
                raise Broken(f"a frame of {len(frame)} bytes")
            kind = HEADER.unpack_from(frame)[0]
            if kind == TOLD:
                break
            text += frame[HEADER.size :]
            if kind != PART or len(text) > MOST_TOLD:
                raise Broken(f"it tells {len(text)} bytes, in a frame of kind {kind}")
        told = read_told(text)
        self.memory_bytes = self.resident()
        return told

    # Runs

    def take(self) -> Channel:
        """A channel that is free; for `give` afterwards.

        Raises:
            ConnectionError: The process has ended.
            Broken: It does not take another one.
        """
        with self._free:
            while not self._idle and self._made >= MOST_CHANNELS and self.ending is None:
                self._free.wait()
            if self.ending is not None:
                raise ConnectionError("it has ended")
            if self._idle:
                return self._idle.pop()
            self._made += 1
            number = self._made
        return self._opened(number)

    def give(self, channel: Channel) -> None:
        """It is free again."""
        with self._free:
            if self.ending is None:
                self._idle.append(channel)
                self._free.notify_all()
                return
        channel.close()

    def stop(self, call: int) -> None:
        """Ask for the end of a run; at once, whether the process listens or not."""
        with suppress(OSError):
            self._control.send(HEADER.pack(STOP, 0, call, 0), socket.MSG_DONTWAIT)

    def _opened(self, number: int) -> Channel:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            frame = HEADER.pack(CHANNEL, 0, number, 0)
            socket.send_fds(self._control, [frame], [theirs.fileno()], socket.MSG_DONTWAIT)
        except BlockingIOError as error:
            ours.close()
            raise Broken("it does not read what it is sent") from error
        except OSError as error:
            ours.close()
            raise ConnectionError("it has ended") from error
        finally:
            theirs.close()
        return Channel(ours, self._most)

    def resident(self) -> int:
        """Bytes of memory that it takes now; 0 where that cannot be told."""
        try:
            status = Path(f"/proc/{self.pid}/statm").read_text("ascii")
        except OSError:
            return 0
        return int(status.split()[1]) * resource.getpagesize()

    # The end

    def kill(self, reason: str) -> None:
        """End it now; the first reason counts."""
        with self._handle:
            if self.ending is None:
                self._reason = self._reason or reason
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._exit, signal.SIGKILL)

    def end(self, patience: float = 0.0, reason: str = "") -> Ending:
        """See it end: by itself within so many seconds, or else by force; nothing is left of it."""
        poll = select.poll()
        with self._ends:
            if self.ending is not None:
                return self.ending
            poll.register(self._exit, select.POLLIN)
            if reason or not poll.poll(patience * 1000):
                self.kill(reason or "it let go of the server and went on")
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)  # whatever it has started
            _, status, usage = os.wait4(self.pid, 0)
            code = self._process.returncode = os.waitstatus_to_exitcode(status)
            # Until it began to run its own program it was as large as who started it.
            most = usage.ru_maxrss if usage.ru_maxrss > self._most_of_parent else 0
            with self._handle:
                self.ending = Ending(code, most * 1024, self._reason)
                os.close(self._exit)
            self._control.close()
            with self._free:
                idle, self._idle = self._idle, []
                self._free.notify_all()
        for channel in idle:
            channel.close()
        return self.ending

    def drained(self) -> None:
        """Wait until no run goes on, or it has ended."""
        with self._free:
            self._free.wait_for(lambda: len(self._idle) == self._made or self.ending is not None)


def _written(order: Order, content: bytes) -> int:
    """A file in memory with the order and the model."""
    file = os.memfd_create("order", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(file), "wb") as out:
        out.write(order.model_dump_json().encode() + b"\n")
        out.write(content)
    return file


def _started(
    entry: str, order: int, control: socket.socket, *, filters: bool
) -> subprocess.Popen[bytes]:
    home = Path(tempfile.mkdtemp(prefix="aiaas-"))
    try:
        return subprocess.Popen(
            command(entry, os.getpid(), control.fileno(), int(filters)),
            stdin=order,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=home,
            env=environment(home),
            pass_fds=(control.fileno(),),
            start_new_session=True,
        )
    finally:
        home.rmdir()  # it is in there: an empty directory in which nothing can be made any more
