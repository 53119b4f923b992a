"""Standard error of a server whose log is JSON: what native code writes there becomes JSON too.

onnxruntime, its libraries and its threads write coloured lines straight to descriptor 2, past
every logger. So the descriptor becomes a pipe to a small process, which writes each line as an
object and lets pass what is one already: the log of the server and of its workers. A thread of the
server would lose what a crash says last, and could be waited for by the very code that writes.

That process runs this file by itself and imports nothing of the server.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import BinaryIO

LOGGER = "aiaas_server.stderr"
OURS = b'{"time": "'  # how a line of our own log begins
MAX_LINE = 64 << 10
MAX_MESSAGE = 1024
LEVELS = {"V": "debug", "I": "info", "W": "warning", "E": "error", "F": "error"}  # onnxruntime's
_RANKS = {"debug": 0, "info": 1, "warning": 2, "error": 3}
_LAST_LINES = 5.0  # seconds for the process to write what is left

_secrets = re.compile(
    r"(?i)(bearer\s+|x-api-key['\"]?\s*[:=]\s*['\"]?|aias_)[^\s'\",;]+",
)
_colours = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_mark = re.compile(r"^(?:[0-9-]+ [0-9:.]+ )?\[([VIWEF]):[^\]]*\] ?")


def redact(text: str) -> str:
    """Take bearer tokens and API keys out of a text."""
    return _secrets.sub(lambda found: found[1] + "[removed]", text)


def divert(level: str) -> Callable[[], None]:
    """Turn this process's standard error, and that of its children, into JSON lines.

    Args:
        level: Least severe level written.
    Returns:
        What undoes it, once the children have ended.
    """
    command = [sys.executable, "-I", "-S", __file__, level]
    # A session of its own: Ctrl+C in a terminal is for the server.
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=2, start_new_session=True)
    assert process.stdin is not None  # it is a pipe
    before = os.dup(2)
    os.dup2(process.stdin.fileno(), 2)
    process.stdin.close()

    def undo() -> None:
        sys.stderr.flush()
        os.dup2(before, 2)
        os.close(before)
        try:
            process.wait(_LAST_LINES)
        except subprocess.TimeoutExpired:  # a child that has outlived us still writes
            return

    return undo


def as_json(line: str, level: str = "debug") -> str | None:
    """A line of native code as an object; None where it is empty or less severe than `level`."""
    text = _colours.sub("", line).rstrip()
    found = _mark.match(text)
    severity = LEVELS[found[1]] if found else "warning"
    if not text or _RANKS[severity] < _RANKS[level]:
        return None
    fields = {
        "time": utc(time.time()),
        "level": severity,
        "logger": LOGGER,
        "message": redact(text[:MAX_MESSAGE]),
    }
    return json.dumps(fields, ensure_ascii=False)


def utc(seconds: float) -> str:
    """A time since the epoch as `2026-01-31T12:00:00.123Z`."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"


def pump(source: BinaryIO, target: BinaryIO, level: str) -> None:
    """Write every line of `source` as JSON until its end."""
    while line := source.readline(MAX_LINE):
        if not line.startswith(OURS):
            text = as_json(line.decode("utf-8", "replace"), level)
            line = b"" if text is None else text.encode() + b"\n"
        target.write(line)
        target.flush()


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the end comes when nobody writes any more
    pump(sys.stdin.buffer, sys.stdout.buffer, sys.argv[1])
