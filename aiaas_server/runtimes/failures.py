"""Failures of the device under a run, told from those of the graph and of its input."""

from __future__ import annotations

import re
from typing import Final

NO_ROOM: Final = "out of memory"
_WANTED: Final = re.compile(
    r"(?:requested buffer of size|smaller than requested bytes of) (\d{1,20})"
)
_NO_ROOM: Final = re.compile(
    r"CUDA (?:failure|error) 2\b|out of memory|OUT_OF_MEMORY|_ALLOC_FAILED|bad_alloc"
)
_FAILURE: Final = re.compile(r"\b(CUDA|CUBLAS|CUDNN|CUFFT|CURAND) (?:failure|error):? ?(\d{1,5})")
# Numbers of CUDA after which the process cannot use its device any more: cudaErrorIllegalAddress,
# cudaErrorLaunchFailure, an assertion, an error of the memory, and their like.
_LOST: Final = frozenset({"214", "700", "702", "709", *map(str, range(710, 722)), "999"})


def of_device(text: str) -> str:
    """What the runtime's message says of the device's failure; "" where it did not fail.

    Such a message names the machine and its files besides, so none of it is passed on.
    """
    wanted = _WANTED.search(text)
    if wanted is not None:
        return f"{NO_ROOM}, {wanted[1]} more bytes do not fit"
    if _NO_ROOM.search(text):
        return NO_ROOM
    found = _FAILURE.search(text)
    return "" if found is None else f"the device failed, {found[1]} error {found[2]}"


def is_room(failure: str) -> bool:
    """Whether what `of_device` gave tells of memory, so that a smaller input may fit."""
    return failure.startswith(NO_ROOM)


def lost_device(text: str) -> bool:
    """Whether the process cannot use the device any more after such a failure."""
    found = _FAILURE.search(text)
    return found is not None and found[1] == "CUDA" and found[2] in _LOST
