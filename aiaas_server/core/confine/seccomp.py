"""Takes system calls away from this process, for good: a filter of Linux (seccomp), no package.

Two filters, one upon the other. While a model is opened, files can be read: those of its weights,
and libraries. From its first request on nothing can be opened, connected, started or looked at;
what a run needs is named in `syscalls`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Sequence
from functools import cache
from typing import Final

from aiaas_server.core.confine.syscalls import LOADING, MACHINES, RUNNING, Machine

# Of linux/bpf_common.h and linux/seccomp.h.
_LOAD, _EQUAL, _ANY_OF, _AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_KILL, _REFUSE, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_NO_RIGHT = _REFUSE | errno.EPERM
_NUMBER, _MACHINE, _ARGUMENTS = 0, 4, 16  # offsets in what a filter is given
_SET_FILTER, _GET_ACTION, _ALL_THREADS = 1, 2, 1
_SET_NO_NEW_PRIVS = 38
_X32: Final = 0x40000000  # numbers of another convention of the same processor
_THREAD: Final = 0x10000  # of clone's flags
_WRITES: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_EXECUTES: Final = 4  # of a page's rights
_SET_NAME: Final = 15  # of prctl
# Of fcntl: F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC, F_GET_SEALS. Never F_SETOWN: with
# it a socket that becomes readable sends any signal to any process of this user.
_FCNTL: Final = (0, 1, 2, 3, 1030, 1034)
# Of ioctl: TCGETS, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX; never FIOSETOWN, which is F_SETOWN.
_IOCTL: Final = (0x5401, 0x541B, 0x5421, 0x5450, 0x5451)


class FilterRefused(OSError):
    """The system does not take a filter from this process."""


def why_not() -> str:
    """Why this system cannot take calls away from a process; "" where it can."""
    machine = os.uname().machine
    if sys.platform != "linux" or machine not in MACHINES:
        return f"system calls cannot be filtered on {sys.platform} {machine}"
    return _asked()


@cache
def _asked() -> str:
    action = ctypes.c_uint32(_REFUSE)
    if _seccomp(_GET_ACTION, 0, ctypes.byref(action)) == 0:
        return ""
    return f"the system offers no filter of system calls: {os.strerror(ctypes.get_errno())}"


def keep_to_loading() -> None:
    """Leave this process what opening a model takes; files are read, none is written.

    Raises:
        FilterRefused: The system does not do it.
    """
    _install(_program(_machine(), (*RUNNING, *LOADING), loading=True))


def keep_to_running() -> None:
    """Leave this process, all its threads, what running a model takes.

    Raises:
        FilterRefused: The system does not do it.
    """
    _install(_program(_machine(), RUNNING, loading=False))


def _machine() -> Machine:
    machine = MACHINES.get(os.uname().machine)
    if machine is None:
        raise FilterRefused(errno.ENOSYS, why_not())
    return machine


def _program(machine: Machine, allowed: Sequence[str], *, loading: bool) -> bytes:
    """The filter's instructions."""
    numbers = machine.numbers
    lines = [
        _line(_LOAD, _MACHINE),
        _line(_EQUAL, machine.audit, 1, 0),
        _line(_RETURN, _KILL),
        _line(_LOAD, _NUMBER),
        _line(_AT_LEAST, _X32, 0, 1),
        _line(_RETURN, _REFUSE | errno.ENOSYS),
    ]
    for name in allowed:
        if name in numbers:
            lines += [_line(_EQUAL, numbers[name], 0, 1), _line(_RETURN, _ALLOW)]
    # Threads are made by the older call where the newer one, whose flags lie in memory, is unknown.
    lines += [_line(_EQUAL, numbers["clone3"], 0, 1), _line(_RETURN, _REFUSE | errno.ENOSYS)]
    lines += _if(machine, "clone", 0, _ANY_OF, _THREAD)
    lines += _if(machine, "kill", 0, _EQUAL, os.getpid())
    lines += _if(machine, "tgkill", 0, _EQUAL, os.getpid())
    for name in ("mmap", "mprotect"):
        if loading:
            lines += [_line(_EQUAL, numbers[name], 0, 1), _line(_RETURN, _ALLOW)]
        else:
            lines += _unless(machine, name, 2, _EXECUTES)
    if loading:
        lines += _unless(machine, "open", 1, _WRITES)
        lines += _unless(machine, "openat", 2, _WRITES)
        lines += _if_among(machine, "fcntl", 1, _FCNTL)
        lines += _if_among(machine, "ioctl", 1, _IOCTL)
        lines += _if(machine, "prctl", 0, _EQUAL, _SET_NAME)
        lines += _if(machine, "prlimit64", 0, _EQUAL, 0)  # its own
    return b"".join([*lines, _line(_RETURN, _NO_RIGHT)])


def _if(machine: Machine, name: str, argument: int, test: int, value: int) -> list[bytes]:
    """Allow a call whose argument passes the test; refuse it else."""
    return _decided(machine, name, argument, _line(test, value, 0, 1), _ALLOW, _NO_RIGHT)


def _if_among(machine: Machine, name: str, argument: int, values: Sequence[int]) -> list[bytes]:
    """Allow a call whose argument is one of a few; refuse it else."""
    tests = [line for value in values for line in (_line(_EQUAL, value, 0, 1), _ALLOWED)]
    return [
        _line(_EQUAL, machine.numbers[name], 0, 2 + len(tests)),
        _line(_LOAD, _ARGUMENTS + 8 * argument),
        *tests,
        _line(_RETURN, _NO_RIGHT),
    ]


def _unless(machine: Machine, name: str, argument: int, bits: int) -> list[bytes]:
    """Refuse a call whose argument has any of `bits`; allow it else."""
    return _decided(machine, name, argument, _line(_ANY_OF, bits, 0, 1), _NO_RIGHT, _ALLOW)


def _decided(
    machine: Machine, name: str, argument: int, test: bytes, passed: int, failed: int
) -> list[bytes]:
    if name not in machine.numbers:
        return []
    return [
        _line(_EQUAL, machine.numbers[name], 0, 4),
        _line(_LOAD, _ARGUMENTS + 8 * argument),  # its lower half: all that these tests look at
        test,
        _line(_RETURN, passed),
        _line(_RETURN, failed),
    ]


def _line(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    """One instruction; `then` and `otherwise` are how many to leave out."""
    return struct.pack("=HBBI", code, then, otherwise, value)


_ALLOWED: Final = _line(_RETURN, _ALLOW)


def _install(program: bytes) -> None:
    """Have all threads of this process keep to a filter.

    Raises:
        FilterRefused: The system does not do it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0)  # without it only root may
    buffer = ctypes.create_string_buffer(program, len(program))
    described = _Program(len(program) // 8, ctypes.addressof(buffer))
    if _seccomp(_SET_FILTER, _ALL_THREADS, ctypes.byref(described)) != 0:
        code = ctypes.get_errno()
        raise FilterRefused(code, f"system calls cannot be filtered: {os.strerror(code)}")


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("lines", ctypes.c_void_p))


def _seccomp(operation: int, flags: int, argument: object) -> int:
    machine = MACHINES.get(os.uname().machine)
    syscall = getattr(ctypes.CDLL(None, use_errno=True), "syscall", None)
    if machine is None or syscall is None:
        ctypes.set_errno(errno.ENOSYS)
        return -1
    number = ctypes.c_long(machine.numbers["seccomp"])
    return int(syscall(number, ctypes.c_uint(operation), ctypes.c_uint(flags), argument))
