"""Hands pieces from one thread to another that takes them at its own pace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import Full, Queue
from typing import Final

_HELD: Final = 2  # pieces between the two
_LOOK: Final = 0.1  # seconds after which it is seen that nobody takes them any more


class _Ended(Exception):
    """Whoever made the pieces has failed; what was taken of them is to be thrown away."""


def hand_over(pieces: Iterator[bytes], take: Callable[[Iterator[bytes]], object]) -> None:
    """Make pieces in this thread while `take` takes them in another.

    obstore takes them inside its runtime, where nobody may call obstore: so what makes them may
    not run there, if it reads from a bucket itself.

    Raises:
        Exception: What `take` or the making of a piece raised. In the latter case `take` has seen
            the pieces break off with an error.
    """
    between: Queue[bytes | _Ended | None] = Queue(_HELD)
    with ThreadPoolExecutor(1, "aiaas-send") as other:
        taken = other.submit(take, _received(between))
        try:
            for piece in pieces:
                if not _put(between, piece, taken):
                    break
        except BaseException:
            _put(between, _Ended(), taken)
            with suppress(Exception):
                taken.result()
            raise
        _put(between, None, taken)
        taken.result()


def _put(
    between: Queue[bytes | _Ended | None], item: bytes | _Ended | None, taken: Future[object]
) -> bool:
    """False where nobody takes any more."""
    while not taken.done():
        with suppress(Full):
            between.put(item, timeout=_LOOK)
            return True
    return False


def _received(between: Queue[bytes | _Ended | None]) -> Iterator[bytes]:
    while (item := between.get()) is not None:
        if isinstance(item, _Ended):
            raise item
        yield item
