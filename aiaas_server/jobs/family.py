"""The processes of a job, as Linux tells of them: what they take, and how all of them are ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_ROUNDS: Final = 20  # what is ended may just have started another one


def memory_of(leader: int, most: int) -> int:
    """Bytes of memory that a process takes with its descendants and its session.

    Pages that several of them share count once: where the plain sum is above `most`, the
    proportional one is taken.
    """
    members = _members(leader)
    resident = sum(map(_resident, members))
    return resident if resident <= most else sum(map(_proportional, members))


def end_all(variable: str, value: str) -> None:
    """Kill every process whose environment has `variable=value`."""
    wanted = f"{variable}={value}".encode()
    for _ in range(_ROUNDS):
        found = [pid for pid in _pids() if _has(pid, wanted)]
        for pid in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not found:
            return


def _members(leader: int) -> list[int]:
    parents: dict[int, int] = {}
    found = {leader}
    for pid in _pids():
        with suppress(OSError, ValueError, IndexError):
            # the name, in brackets, may hold anything
            fields = (_PROC / str(pid) / "stat").read_text("utf-8", "replace").rpartition(")")[2]
            _, parent, _, session = fields.split()[:4]
            parents[pid] = int(parent)
            if int(session) == leader:
                found.add(pid)
    grew = True
    while grew:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        grew = bool(more)
    return sorted(found)


def _pids() -> Iterator[int]:
    with suppress(OSError):
        for path in _PROC.iterdir():
            if path.name.isdigit():
                yield int(path.name)


def _resident(pid: int) -> int:
    with suppress(OSError, ValueError, IndexError):
        return int((_PROC / str(pid) / "statm").read_text("ascii").split()[1]) * _PAGE
    return 0


def _proportional(pid: int) -> int:
    try:
        for line in (_PROC / str(pid) / "smaps_rollup").read_text("ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return _resident(pid)
    return 0


def _has(pid: int, wanted: bytes) -> bool:
    """Whether a process that is not dead already has such a variable."""
    with suppress(OSError):
        return wanted in (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    return False
