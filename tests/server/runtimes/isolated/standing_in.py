"""A program in the place of a model's process, which writes to the server what it likes.

What it does is the name in its order's configuration. It takes `x` and gives `y`, FP32 (n, 4).
"""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

from aiaas_server.runtimes.isolated import frames
from aiaas_server.runtimes.isolated.areas import Area
from aiaas_server.runtimes.isolated.frames import (
    ANSWER,
    FAILED,
    HEADER,
    NEEDS,
    PART,
    TOLD,
    Place,
    pack_place,
)
from aiaas_server.sandbox.memory import mapped

FLOAT = frames.CODES["FP32"]
TENSOR = {"name": "x", "datatype": "FP32", "shape": [-1, 4], "symbols": ["n", ""]}
HONEST = {
    "inputs": [TENSOR],
    "outputs": [{**TENSOR, "name": "y"}],
    "providers": ["CPUExecutionProvider"],
}
ROW = Place(0, FLOAT, (1, 4), 0, 16)


def main(parent: int, control: int, filters: int) -> None:
    name = json.loads(os.pread(0, 1 << 20, 0).partition(b"\n")[0])["config"]["name"]
    link = socket.socket(fileno=control)
    if name in LOADS:
        LOADS[name](link)
        time.sleep(600)
    say(link, HONEST)
    _, descriptors, _, _ = socket.recv_fds(link, HEADER.size, 1)
    channel = Channel(socket.socket(fileno=descriptors[0]), link)
    while True:
        call = channel.receive()
        if call:
            RUNS[name](channel, call)
        else:
            os._exit(0)


class Channel:
    """Where requests come in; `area` is the memory that goes with them."""

    def __init__(self, link: socket.socket, control: socket.socket) -> None:
        self.link, self.control = link, control
        self.area: Area | None = None

    def receive(self) -> int:
        frame, extra, _, _ = self.link.recvmsg(frames.MOST_FRAME, 64)
        if not frame:
            return 0
        call, size = map(int, HEADER.unpack_from(frame)[2:])
        if extra:
            (file,) = array.array("i", extra[0][2])
            self.area = Area(file, size, mapped(file, size))
        return call

    def answer(self, call: int, *places: Place, count: int = 1, extra: bytes = b"") -> None:
        packed = b"".join(map(pack_place, places))
        self.link.send(HEADER.pack(ANSWER, count, call, 0) + packed + extra)


def say(link: socket.socket, told: Any) -> None:
    text = told if isinstance(told, bytes) else json.dumps(told).encode()
    for at in range(0, len(text), frames.MOST_PART):
        link.send(HEADER.pack(PART, 0, 0, 0) + text[at : at + frames.MOST_PART])
    link.send(HEADER.pack(TOLD, 0, 0, 0))


def _with(**of_output: Any) -> Callable[[socket.socket], None]:
    return lambda link: say(link, {**HONEST, "outputs": [{**TENSOR, "name": "y", **of_output}]})


def _parts_for_ever(link: socket.socket) -> None:
    while True:
        link.send(HEADER.pack(PART, 0, 0, 0) + b" " * frames.MOST_PART)


LOADS: dict[str, Callable[[socket.socket], Any]] = {
    "load-nothing": lambda link: None,
    "load-exit": lambda link: os._exit(3),
    "load-killed": lambda link: os.kill(os.getpid(), signal.SIGKILL),
    "load-closes": lambda link: link.close(),
    "load-short-frame": lambda link: link.send(b"\x08"),
    "load-unknown-kind": lambda link: link.send(HEADER.pack(77, 0, 0, 0)),
    "load-no-json": lambda link: say(link, b"\xff{"),
    "load-deep-json": lambda link: say(link, b"[" * 100_000),
    "load-endless": _parts_for_ever,
    "load-nan-shape": lambda link: say(
        link, json.dumps(HONEST).replace("[-1, 4]", "[NaN, 4]").encode()
    ),
    "load-negative-dim": _with(shape=[-7, 4]),
    "load-huge-dim": _with(shape=[2**40, 4]),
    "load-many-dims": _with(shape=[1] * 99, symbols=[]),
    "load-unknown-datatype": _with(datatype="COMPLEX"),
    "load-symbols": _with(symbols=["a", "b", "c"]),
    "load-long-name": _with(name="y" * 5000),
    "load-one-name": lambda link: say(link, {**HONEST, "inputs": [TENSOR, TENSOR]}),
    "load-many-tensors": lambda link: say(
        link, {**HONEST, "outputs": [{**TENSOR, "name": str(n)} for n in range(1100)]}
    ),
    "load-more-fields": lambda link: say(link, {**HONEST, "admin": True}),
    "load-other-provider": lambda link: say(
        link, {**HONEST, "providers": ["CUDAExecutionProvider"]}
    ),
}


def _twice(channel: Channel, call: int) -> None:
    channel.answer(call, ROW)
    channel.answer(call, ROW)


def _changes(channel: Channel, call: int) -> None:
    assert channel.area is not None
    channel.area.write(struct.pack("<4f", 1, 2, 3, 4), 0)
    channel.answer(call, ROW)
    while True:
        channel.area.write(os.urandom(16), 0)


def _needs_again(channel: Channel, call: int) -> None:
    channel.link.send(HEADER.pack(NEEDS, 0, call, 1 << 20))
    channel.receive()
    channel.link.send(HEADER.pack(NEEDS, 0, call, 2 << 20))


def _needs_all(channel: Channel, call: int) -> None:
    send(channel, HEADER.pack(NEEDS, 0, call, 2**64 - 1))
    channel.receive()
    send(channel, HEADER.pack(FAILED, 2, call, 0) + b"no room")


def _half(channel: Channel, call: int) -> None:
    send(channel, HEADER.pack(NEEDS, 0, call, 64))
    time.sleep(600)


def _floods_stderr(channel: Channel, call: int) -> None:
    for _ in range(1000):
        os.write(2, b"x" * 65536)
        os.write(1, b"y" * 65536)
    channel.answer(call, ROW)


def _floods_control(channel: Channel, call: int) -> None:
    while True:
        channel.control.send(b"z" * 30_000)


def _floods(channel: Channel, call: int) -> None:
    while True:
        channel.answer(call + 1, ROW)


def _ahead(channel: Channel, call: int) -> None:
    for number in range(call, call + 100):
        channel.answer(number, ROW)
    time.sleep(600)


def _honest_twice(channel: Channel, call: int) -> None:
    channel.answer(call, ROW if call < 3 else ROW._replace(offset=(64 << 10) - 8))


def _failed(code: int, text: bytes) -> Callable[[Channel, int], None]:
    return lambda channel, call: send(channel, HEADER.pack(FAILED, code, call, 0) + text)


def send(channel: Channel, frame: bytes) -> None:
    channel.link.send(frame)


def _row(**changes: Any) -> Callable[[Channel, int], None]:
    return lambda channel, call: channel.answer(call, ROW._replace(**changes))


RUNS: dict[str, Callable[[Channel, int], Any]] = {
    "length-too-long": _row(size=1 << 40),
    "length-too-short": _row(size=4),
    "beyond-the-area": _row(offset=1 << 62),
    "at-the-border": _row(offset=(64 << 10) - 8),
    "negative-dimension": _row(shape=(-1, -4)),
    "huge-dimensions": _row(shape=(2**62, 2**62), size=0),
    "no-elements-yet-huge": _row(shape=(0,) + (2**31 - 1,) * 5, size=0),
    "another-output": _row(position=9),
    "another-datatype": _row(datatype=frames.CODES["FP64"], size=32),
    "unknown-datatype": lambda c, call: c.answer(
        call, extra=struct.pack("<HBBxxxxQQ", 0, 99, 0, 0, 0)
    ),
    "rank-of-200": lambda c, call: c.answer(
        call, extra=struct.pack("<HBBxxxxQQ", 0, 10, 200, 0, 0)
    ),
    "count-of-65535": lambda c, call: c.answer(call, ROW, count=65535),
    "count-of-none": lambda c, call: c.answer(call, count=0),
    "ends-within-a-shape": lambda c, call: send(
        c, HEADER.pack(ANSWER, 1, call, 0) + pack_place(ROW)[:-3]
    ),
    "ends-within-a-header": lambda c, call: send(c, b"\x02\x00"),
    "bytes-behind": lambda c, call: c.answer(call, ROW, extra=b"more"),
    "a-huge-frame": lambda c, call: send(c, b"\x02" * (frames.MOST_FRAME + 1)),
    "unknown-kind": lambda c, call: send(c, HEADER.pack(200, 1, call, 0)),
    "answers-another-call": lambda c, call: c.answer(call + 7, ROW),
    "floods": _floods,
    "floods-control": _floods_control,
    "fails-in-an-unknown-way": _failed(999, b"no"),
    "fails-at-length": _failed(0, b"a" * 60_000),
    "needs-again-and-again": _needs_again,
    "closes-the-channel": lambda c, call: c.link.shutdown(socket.SHUT_RDWR),
    "exits": lambda c, call: os._exit(0),
    "exits-with-status": lambda c, call: os._exit(42),
    "aborts": lambda c, call: os.abort(),
    "segfaults": lambda c, call: os.kill(os.getpid(), signal.SIGSEGV),
    # What the server stands without any harm.
    "needs-all-memory": _needs_all,
    "another-shape": _row(shape=(4, 1)),
    "fails-with-a-path": _failed(0, b"see /etc/shadow\x00\x1b[2J"),
    "fails-as-the-callers": _failed(1, b"bad \xff input"),
    "killed": lambda c, call: os.kill(os.getpid(), signal.SIGKILL),
    "answers-twice": _twice,
    "changes-what-it-answered": _changes,
    "floods-stderr": _floods_stderr,
    "answers-ahead": _ahead,
    "says-nothing": lambda c, call: time.sleep(600),
    "half-a-frame-then-nothing": _half,
    "honest-twice": _honest_twice,
}
