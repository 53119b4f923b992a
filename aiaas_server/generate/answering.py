"""One answer on the event loop's side: pieces come in from the writing thread, a reader takes them.

All of it runs on the loop; the thread's side is `job.py`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from copy import copy
from typing import Final, Self

from aiaas_server.core.errors import DeadlineExceeded
from aiaas_server.core.generation import Piece

UNREAD: Final = 512
"""Pieces that may wait for the reader; nothing is written for one who is further behind."""


class Written:
    """`core.generation.Answering`.

    Attributes:
        cancelled: Nobody reads on.
        over: Nothing follows; what is unread may still be read.
        ended: Is called once, when it is over: with what it broke off by, or None.
    """

    def __init__(self, prompt_tokens: int) -> None:
        self.prompt_tokens = prompt_tokens
        self.cached_tokens = 0
        self.completion_tokens = 0
        self.probed: tuple[float, ...] = ()
        self.cancelled = False
        self.over = False
        self._pieces: deque[Piece] = deque()
        self._error: Exception | None = None
        self._reader: asyncio.Future[None] | None = None
        self.ended: Callable[[Exception | None], object] = _nobody

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Piece:
        """The next piece.

        Raises:
            ServerError: The answer broke off.
        """
        while not self._pieces:
            if self._error is not None:
                raise copy(self._error)  # several answers may end by the same one
            if self.over:
                raise StopAsyncIteration
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        return self._pieces.popleft()

    def take(self, piece: Piece, tokens: int) -> None:
        """Have the reader get a piece.

        Args:
            tokens: Written so far.
        """
        if self.over:
            return
        self.completion_tokens = tokens
        self._pieces.append(piece)
        if piece.finish is not None:
            self._end(None)
        elif len(self._pieces) > UNREAD:
            self._pieces.clear()
            self.fail(DeadlineExceeded(f"nobody read the last {UNREAD} pieces of the answer"))
        else:
            self._wake()

    def fail(self, error: Exception) -> None:
        """Break off; what was written before is still read."""
        if not self.over:
            self._error = error
            self._end(error)

    def cancel(self) -> None:
        """Nobody reads on."""
        if not self.over:
            self.cancelled = True
            self._pieces.clear()
            self._end(None)

    def _end(self, error: Exception | None) -> None:
        self.over = True
        self._wake()
        ended, self.ended = self.ended, _nobody  # no cycle: its memory is free with the last reader
        ended(error)

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


def _nobody(error: Exception | None) -> None:
    """Is told of an end that was told."""
