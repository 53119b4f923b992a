"""The history of a fake registry, and the feed that tells of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from aiaas_client.protocol.management import Change, HistoryEntry, HistoryKind
from aiaas_client.testing.rows import BY


class Feed:
    """Every change, and whoever follows them."""

    def __init__(self) -> None:
        self._history: list[HistoryEntry] = []
        self._changes: list[Change] = []
        self._changed = threading.Condition()
        self._closed = False

    def changes(self, after: int | None) -> Iterator[Change]:
        """Changes as they happen, until the server closes."""
        with self._changed:
            seen = self._changes[-1].seq if after is None and self._changes else after or 0
        while True:
            with self._changed:
                self._changed.wait_for(partial(self._is_over_or_has_news, seen))
                if self._closed:
                    return
                news = [change for change in self._changes if change.seq > seen]
            yield from news
            seen = news[-1].seq

    def close(self) -> None:
        """End the streams of changes."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _is_over_or_has_news(self, seen: int) -> bool:
        return self._closed or (bool(self._changes) and self._changes[-1].seq > seen)

    def _record(
        self,
        model: str,
        kind: HistoryKind,
        version: int | None,
        before: dict[str, Any] | None,
        after: dict[str, Any] | None,
        reason: str = "",
    ) -> None:
        seq, at = len(self._history) + 1, time.time()
        entry = HistoryEntry(
            seq=seq,
            model=model,
            kind=kind,
            version=version,
            before=before,
            after=after,
            reason=reason,
            at=at,
            by=BY,
        )
        self._history.append(entry)
        data = {} if version is None else {"version": version}
        self._changes.append(Change(seq=seq, kind=kind, object=model, data=data, at=at))
        self._changed.notify_all()
