"""`Notes`: what a job tells, gathered so that a few transactions a minute write it down.

A job may tell of each of a million rows. What is remembered for its curves is what has metrics, or
begins a phase; of the rest the last one counts, as where it is. Of the log the last lines do.
"""

from __future__ import annotations

from collections import deque

from aiaas_client.protocol.jobs import Progress
from aiaas_server.jobs.events import LOG_LINES, MOST_EVENTS, News


class Notes:
    """What has been told since it was last taken."""

    def __init__(self) -> None:
        self._progress: list[Progress] = []
        self._lines: deque[str] = deque(maxlen=LOG_LINES)

    def progress(self, found: Progress) -> None:
        """It came further."""
        last = self._progress[-1] if self._progress else None
        if last is not None and not last.metrics and last.phase == found.phase and last.step:
            self._progress.pop()
        self._progress.append(found)
        if len(self._progress) > MOST_EVENTS:
            del self._progress[1:-1:2]

    def line(self, text: str) -> None:
        """It printed."""
        self._lines.append(text)

    def take(self) -> News:
        """All that there is, once."""
        news = News(self._progress, list(self._lines))
        self._progress = []
        self._lines.clear()
        return news

    def give_back(self, news: News) -> None:
        """What was taken could not be written down: it comes first the next time."""
        self._progress[:0] = news.progress
        self._lines = deque([*news.lines, *self._lines], LOG_LINES)
