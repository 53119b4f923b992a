"""Numbers of Linux' system calls, and which of them a model needs.

What is not named is refused: a list of what is wanted stays right when a kernel learns more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Machine:
    """A processor's way of calling the system.

    Attributes:
        audit: Its number in linux/audit.h, which every call carries.
        numbers: System calls by name; a name it lacks does not exist there.
    """

    audit: int
    numbers: Mapping[str, int]


# fmt: off
MACHINES: Final[Mapping[str, Machine]] = {
    "x86_64": Machine(0xC000003E, {
    "read": 0, "write": 1, "open": 2, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "poll": 7,
    "lseek": 8, "mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigaction": 13,
    "rt_sigprocmask": 14, "rt_sigreturn": 15, "ioctl": 16, "pread64": 17, "readv": 19, "writev":
    20, "access": 21, "select": 23, "sched_yield": 24, "mremap": 25, "madvise": 28, "nanosleep":
    35, "getpid": 39, "sendto": 44, "recvfrom": 45, "sendmsg": 46, "recvmsg": 47, "clone": 56,
    "exit": 60, "kill": 62, "uname": 63, "fcntl": 72, "getcwd": 79, "readlink": 89,
    "gettimeofday": 96, "getrlimit": 97, "sysinfo": 99, "getuid": 102, "getgid": 104, "geteuid":
    107, "getegid": 108, "getppid": 110, "sigaltstack": 131, "prctl": 157, "gettid": 186,
    "futex": 202, "sched_setaffinity": 203, "sched_getaffinity": 204, "getdents64": 217,
    "set_tid_address": 218, "restart_syscall": 219, "clock_gettime": 228, "clock_getres": 229,
    "clock_nanosleep": 230, "exit_group": 231, "tgkill": 234, "openat": 257, "newfstatat": 262,
    "readlinkat": 267, "faccessat": 269, "pselect6": 270, "ppoll": 271, "set_robust_list": 273,
    "prlimit64": 302, "getcpu": 309, "seccomp": 317, "getrandom": 318, "membarrier": 324,
    "statx": 332, "rseq": 334, "clone3": 435, "faccessat2": 439, "statfs": 137, "fstatfs": 138,
    }),
    "aarch64": Machine(0xC00000B7, {
    "getcwd": 17, "fcntl": 25, "ioctl": 29, "statfs": 43, "fstatfs": 44, "faccessat": 48,
    "openat": 56, "close": 57, "getdents64": 61, "lseek": 62, "read": 63, "write": 64, "readv":
    65, "writev": 66, "pread64": 67, "pselect6": 72, "ppoll": 73, "readlinkat": 78,
    "newfstatat": 79, "fstat": 80, "exit": 93, "exit_group": 94, "set_tid_address": 96, "futex":
    98, "set_robust_list": 99, "nanosleep": 101, "clock_gettime": 113, "clock_getres": 114,
    "clock_nanosleep": 115, "sched_setaffinity": 122, "sched_getaffinity": 123, "sched_yield":
    124, "restart_syscall": 128, "kill": 129, "tgkill": 131, "sigaltstack": 132, "rt_sigaction":
    134, "rt_sigprocmask": 135, "rt_sigreturn": 139, "uname": 160, "getrlimit": 163, "prctl":
    167, "getcpu": 168, "gettimeofday": 169, "getpid": 172, "getppid": 173, "getuid": 174,
    "geteuid": 175, "getgid": 176, "getegid": 177, "gettid": 178, "sysinfo": 179, "sendto": 206,
    "recvfrom": 207, "sendmsg": 211, "recvmsg": 212, "brk": 214, "munmap": 215, "mremap": 216,
    "clone": 220, "mmap": 222, "mprotect": 226, "madvise": 233, "prlimit64": 261, "seccomp":
    277, "getrandom": 278, "membarrier": 283, "statx": 291, "rseq": 293, "clone3": 435,
    "faccessat2": 439,
    }),
}
"""By what `os.uname().machine` says."""

RUNNING: Final = (
    "futex", "read", "recvmsg", "recvfrom", "sendto", "write", "madvise", "munmap", "mremap",
    "brk", "close", "poll", "ppoll", "sched_yield", "clock_gettime", "clock_nanosleep",
    "nanosleep", "gettimeofday", "clock_getres", "sendmsg", "readv", "writev", "rt_sigaction",
    "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "restart_syscall", "exit", "exit_group",
    "set_robust_list", "rseq", "set_tid_address", "getpid", "gettid", "getppid", "getuid",
    "getgid", "geteuid", "getegid", "getrandom", "getcpu", "sched_getaffinity", "membarrier",
    "sysinfo", "uname", "lseek", "fstat", "select", "pselect6",
)
"""What a model runs with: memory, threads that are there, time, and what is open already."""

LOADING: Final = (
    "stat", "lstat", "newfstatat", "statx", "access", "faccessat", "faccessat2", "readlink",
    "readlinkat", "getcwd", "getdents64", "statfs", "fstatfs", "pread64",
    "getrlimit", "seccomp",
)
"""What opening it takes besides: to look for files, and to take away the right to it."""
# fmt: on
