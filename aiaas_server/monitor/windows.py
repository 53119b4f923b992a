"""Counts over time: added up in memory, written every few seconds, merged when they are read.

A window is a minute or an hour of one version in one process, its counts the whole of what that
process has counted in it: writing it again replaces it, so that nothing is counted twice, and at
most the last seconds are lost with a process. Minutes are kept for hours, hours for a month.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, Protocol, Self

import numpy as np
from sqlalchemy import Connection, and_, bindparam, delete, or_, select

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.names import full_name, parted
from aiaas_server.state.tables import MODELS, VERSIONS, WINDOWS

Document = dict[str, Any]
Kind = Literal["traffic", "drift", "shadow"]

MINUTE, HOUR = 60, 3600
KEPT: Final = {MINUTE: 3 * HOUR, HOUR: 31 * 24 * HOUR}
"""Seconds that windows of a length are kept."""
LONGEST_IN_MINUTES: Final = 2 * HOUR
_MOST_WAITING: Final = 20_000  # windows that a database which is away does not take


class Counts(Protocol):
    """What adds up."""

    def merge(self, other: Self, /) -> None:
        """Add what another has counted."""
        ...

    def document(self) -> Document:
        """As it is kept."""
        ...


class WindowKey(NamedTuple):
    """One window of one process; `start` in seconds since 1970, a multiple of `seconds`."""

    model_id: str
    version: int
    kind: Kind
    seconds: int
    start: int


class Window(NamedTuple):
    """A window of one process, as it was read."""

    version: int
    start: int
    seconds: int
    counts: Document


class DriftCounts:
    """Items counted in the bins of one profile.

    Attributes:
        profile: Its id; counts of other bins take the place of these, they cannot be added.
    """

    __slots__ = ("counts", "profile", "rows")

    def __init__(self, profile: str = "", counts: Sequence[Array] = (), rows: int = 0) -> None:
        self.profile = profile
        self.counts = list(counts)
        self.rows = rows

    def merge(self, other: DriftCounts, /) -> None:
        """Add what another has counted."""
        if other.profile != self.profile:
            self.profile, self.rows = other.profile, other.rows
            self.counts = [array.copy() for array in other.counts]
            return
        self.rows += other.rows
        for own, more in zip(self.counts, other.counts, strict=True):
            own += more

    def document(self) -> Document:
        """As it is kept."""
        counts = [array.tolist() for array in self.counts]
        return {"profile": self.profile, "rows": self.rows, "counts": counts}

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> DriftCounts:
        """Read what `document` wrote."""
        counts = [np.array(one, np.int64) for one in document["counts"]]
        return cls(document["profile"], counts, document["rows"])


class Windows:
    """The windows that this process is counting in; for one thread at a time.

    Args:
        node: Names this process, and none before it.
    """

    def __init__(self, node: str) -> None:
        self.node = node
        self._counts: dict[WindowKey, Any] = {}
        self._changed: set[WindowKey] = set()

    def add(self, model_id: str, version: int, kind: Kind, at: float, counts: Any) -> None:
        """Count something at a time; `counts` is a `Counts` of a kind that belongs to `kind`."""
        for seconds in KEPT:
            key = WindowKey(model_id, version, kind, seconds, int(at) // seconds * seconds)
            known = self._counts.get(key)
            if known is None:
                if len(self._counts) >= _MOST_WAITING:
                    continue
                known = self._counts[key] = type(counts)()
            known.merge(counts)
            self._changed.add(key)

    def changed(self) -> dict[WindowKey, Document]:
        """What has not been written as it stands."""
        return {key: self._counts[key].document() for key in self._changed}

    def written(self, keys: Sequence[WindowKey], now: float) -> None:
        """`keys` are written, or belong to nobody any more; those that are over are let go."""
        self._changed.difference_update(keys)
        over = [
            key
            for key in self._counts
            if key not in self._changed and key.start + 2 * key.seconds < now
        ]
        for key in over:
            del self._counts[key]


def write_windows(connection: Connection, node: str, windows: Mapping[WindowKey, Document]) -> None:
    """Write windows of a process; those of versions that are gone are left out."""
    ids = {key.model_id for key in windows}
    asked = select(VERSIONS.c.model_id, VERSIONS.c.number).where(
        VERSIONS.c.model_id.in_(ids), VERSIONS.c.state != "erased"
    )
    there = {tuple(row) for row in connection.execute(asked)}
    rows = [
        {
            "model_id": key.model_id,
            "version": key.version,
            "kind": _kind(key.kind, key.seconds),
            "start": key.start,
            "node": node,
            "seconds": key.seconds,
            "counts": counts,
        }
        for key, counts in windows.items()
        if (key.model_id, key.version) in there
    ]
    if not rows:
        return
    own = and_(*(column == bindparam(f"the_{column.name}") for column in WINDOWS.primary_key))
    keys = [
        {f"the_{column.name}": row[column.name] for column in WINDOWS.primary_key} for row in rows
    ]
    connection.execute(delete(WINDOWS).where(own), keys)
    connection.execute(WINDOWS.insert(), rows)


def read_windows(
    connection: Connection,
    model_id: str,
    kind: Kind,
    since: float,
    *,
    version: int | None = None,
    now: float | None = None,
) -> list[Window]:
    """Windows of all processes that reach into the time from `since` on, the oldest first."""
    span = (time.time() if now is None else now) - since
    seconds = MINUTE if span <= LONGEST_IN_MINUTES else HOUR
    asked = select(WINDOWS.c.version, WINDOWS.c.start, WINDOWS.c.seconds, WINDOWS.c.counts).where(
        WINDOWS.c.model_id == model_id,
        WINDOWS.c.kind == _kind(kind, seconds),
        WINDOWS.c.start > since - seconds,
    )
    if version is not None:
        asked = asked.where(WINDOWS.c.version == version)
    return [Window(*row) for row in connection.execute(asked.order_by(WINDOWS.c.start))]


def prune_windows(connection: Connection, now: float) -> int:
    """Remove what is older than it is kept; gives how many."""
    old = or_(
        *(
            and_(WINDOWS.c.seconds == seconds, WINDOWS.c.start < now - kept)
            for seconds, kept in KEPT.items()
        )
    )
    return connection.execute(delete(WINDOWS).where(old)).rowcount


def known_models(connection: Connection, names: Sequence[str]) -> list[tuple[str, str, str, Any]]:
    """`(name, id, tenant, policy)` of the registry's models among `names`, the server's own."""
    known = {parted(name) for name in names}
    asked = select(MODELS.c.name, MODELS.c.id, MODELS.c.tenant, MODELS.c.policy).where(
        MODELS.c.name.in_({name for _, name in known}),
        MODELS.c.tenant.in_({tenant for tenant, _ in known}),
    )
    rows = [tuple(row) for row in connection.execute(asked)]
    return [(full_name(t, n), i, t, p) for n, i, t, p in rows if (t, n) in known]


def _kind(kind: Kind, seconds: int) -> str:
    """Minutes and hours that begin at once are two windows."""
    return f"{kind}/{seconds}"
