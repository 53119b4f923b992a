"""Answers in the order of acceptance (`preserve_ordering`): those ready early are held back."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from aiaas_server.core.schedule.requests import Request


class Ordering:
    """Requests in the order they were accepted, up to the first whose answer is not known.

    An error that must not wait (a deadline, a full stop) is told out of order, and nobody waits
    for the place of a caller that has gone.
    """

    def __init__(self) -> None:
        self._line: deque[Request] = deque()

    def __len__(self) -> int:
        """Requests held in line; ended ones behind an unanswered one included."""
        return len(self._line)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._line)

    def join(self, request: Request) -> None:
        """Put an accepted request at the end of the line."""
        self._line.append(request)

    def released(self) -> Iterator[Request]:
        """Take off the front what nothing is ahead of any more; gives those to be answered."""
        line = self._line
        while line:
            request = line[0]
            ended = request.settled or request.waiter.done()
            if request.answer is None and not ended:
                return
            line.popleft()
            if not ended:
                yield request
