"""Ground truth: what was predicted is remembered by request, and labels are joined to it later.

Remembered is one label or number an item, never a tensor; for a month, and of each model the last
million requests at most. A label that comes twice counts once; another one takes its place.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Float, case, cast, delete, func, select, tuple_

from aiaas_client.protocol.monitoring import FeedbackItem, FeedbackResult, Quality
from aiaas_server.state.tables import FEEDBACK, MODELS, PREDICTIONS, VERSIONS

Value = str | float | int | bool

MOST_PENDING: Final = 10_000
MOST_ROWS: Final = 1024  # of one request
KEPT_SECONDS: Final = 30 * 24 * 3600.0
MOST_KEPT: Final = 1_000_000
LONGEST_LABEL: Final = 256
_AT_ONCE: Final = 400


class Remembered(NamedTuple):
    """What one request was answered.

    Attributes:
        final: What the caller was told, in place of what a run of the model gave.
    """

    tenant: str
    request_id: str
    model_id: str
    version: int
    predicted: Sequence[Value]
    at: float
    final: bool


class Pending:
    """Predictions that are not written yet; for one thread at a time.

    Attributes:
        dropped: How many there was no room for.
    """

    def __init__(self, most: int = MOST_PENDING) -> None:
        self._most = most
        self._waiting: dict[tuple[str, str], Remembered] = {}
        self.dropped = 0

    def add(self, one: Remembered) -> None:
        """Remember an answer; of several under one id the final one counts, else the first."""
        key = one.tenant, one.request_id
        known = self._waiting.get(key)
        if known is None and len(self._waiting) >= self._most:
            self.dropped += 1
        elif known is None or (one.final and not known.final):
            self._waiting[key] = one

    def waiting(self) -> list[Remembered]:
        """All of them."""
        return list(self._waiting.values())

    def written(self, ones: Sequence[Remembered]) -> None:
        """They are written."""
        for one in ones:
            if self._waiting.get((one.tenant, one.request_id)) is one:
                del self._waiting[one.tenant, one.request_id]


def write_predictions(connection: Connection, ones: Sequence[Remembered]) -> None:
    """Write what is remembered; of versions that are gone, nothing is."""
    ids = {one.model_id for one in ones}
    asked = select(VERSIONS.c.model_id, VERSIONS.c.number).where(
        VERSIONS.c.model_id.in_(ids), VERSIONS.c.state != "erased"
    )
    there = {tuple(row) for row in connection.execute(asked)}
    wanted = [one for one in ones if (one.model_id, one.version) in there]
    for start in range(0, len(wanted), _AT_ONCE):
        _write(connection, wanted[start : start + _AT_ONCE])


def _write(connection: Connection, ones: Sequence[Remembered]) -> None:
    key = tuple_(PREDICTIONS.c.tenant, PREDICTIONS.c.request_id)
    keys = [(one.tenant, one.request_id) for one in ones]
    known = {
        tuple(row)
        for row in connection.execute(
            select(PREDICTIONS.c.tenant, PREDICTIONS.c.request_id).where(key.in_(keys))
        )
    }
    better = [one[:2] for one in ones if one.final and one[:2] in known]
    if better:
        connection.execute(delete(PREDICTIONS).where(key.in_(better)))
    rows = [
        {
            "tenant": one.tenant,
            "request_id": one.request_id,
            "model_id": one.model_id,
            "version": one.version,
            "predicted": list(one.predicted[:MOST_ROWS]),
            "at": one.at,
        }
        for one in ones
        if one.final or one[:2] not in known
    ]
    if rows:
        connection.execute(PREDICTIONS.insert(), rows)


def record_feedback(
    connection: Connection, tenant: str, by: str, items: Sequence[FeedbackItem]
) -> list[FeedbackResult]:
    """Join labels to what was predicted; one result an item, in order."""
    return [_record(connection, tenant, by, item) for item in items]


def _record(connection: Connection, tenant: str, by: str, item: FeedbackItem) -> FeedbackResult:
    own = (
        (FEEDBACK.c.tenant == tenant)
        & (FEEDBACK.c.request_id == item.request_id)
        & (FEEDBACK.c.row == item.row)
    )
    known = connection.execute(select(FEEDBACK).where(own)).mappings().one_or_none()
    label = item.label[:LONGEST_LABEL] if isinstance(item.label, str) else item.label
    if known is not None and _same(known["label"], label):
        return _result(item, dict(known), "unchanged")
    row = dict(known) if known is not None else _predicted(connection, tenant, item)
    if row is None:
        return FeedbackResult(
            request_id=item.request_id,
            row=item.row,
            status="unknown",
            code=404,
            message=f"no prediction is remembered for item {item.row} of this request",
        )
    correct, error = judged(row["predicted"], label)
    row |= {"label": label, "correct": correct, "error": error, "at": time.time(), "by": by}
    if known is not None:
        connection.execute(delete(FEEDBACK).where(own))
    connection.execute(FEEDBACK.insert().values(**row))
    return _result(item, row, "recorded" if known is None else "replaced")


def _predicted(connection: Connection, tenant: str, item: FeedbackItem) -> dict[str, Any] | None:
    """The row of a label for what was predicted; None where that is not known."""
    asked = select(PREDICTIONS.c.model_id, PREDICTIONS.c.version, PREDICTIONS.c.predicted).where(
        PREDICTIONS.c.tenant == tenant, PREDICTIONS.c.request_id == item.request_id
    )
    found = connection.execute(asked).one_or_none()
    if found is None or item.row >= len(found.predicted):
        return None
    return {
        "tenant": tenant,
        "request_id": item.request_id,
        "row": item.row,
        "model_id": found.model_id,
        "version": found.version,
        "predicted": found.predicted[item.row],
    }


def _result(item: FeedbackItem, row: dict[str, Any], status: Any) -> FeedbackResult:
    return FeedbackResult(
        request_id=item.request_id,
        row=item.row,
        status=status,
        version=row["version"],
        model=row["model_id"],
        predicted=row["predicted"],
        correct=row["correct"],
        error=row["error"],
    )


def judged(predicted: Value, label: Value) -> tuple[bool | None, float | None]:
    """Whether a prediction was right, or how far it was from it where it is a real number."""
    if isinstance(predicted, float) and isinstance(label, int | float):
        return None, abs(predicted - float(label))
    if isinstance(predicted, str) or isinstance(label, str):
        return str(predicted) == str(label), None
    return predicted == label, None


def quality_of(connection: Connection, model_id: str, version: int, since: float = 0.0) -> Quality:
    """How right a version was, by the labels that came since a time."""
    right = case((FEEDBACK.c.correct.is_(True), 1.0), (FEEDBACK.c.correct.is_(False), 0.0))
    asked = select(
        func.count(), cast(func.avg(right), Float), cast(func.avg(FEEDBACK.c.error), Float)
    ).where(FEEDBACK.c.model_id == model_id, FEEDBACK.c.version == version, FEEDBACK.c.at >= since)
    found: Any = connection.execute(asked).one()
    return Quality(labels=found[0], accuracy=found[1], mean_absolute_error=found[2])


def model_names(connection: Connection, ids: Sequence[str]) -> dict[str, str]:
    """Names of models by their ids."""
    asked = select(MODELS.c.id, MODELS.c.name).where(MODELS.c.id.in_(ids))
    return {row[0]: row[1] for row in connection.execute(asked)}


def prune_feedback(connection: Connection, now: float, most: int = MOST_KEPT) -> None:
    """Forget predictions that are too old, and of each model those beyond the last `most`."""
    connection.execute(delete(PREDICTIONS).where(PREDICTIONS.c.at < now - KEPT_SECONDS))
    for model_id in list(connection.scalars(select(PREDICTIONS.c.model_id).distinct())):
        own = PREDICTIONS.c.model_id == model_id
        newest = select(PREDICTIONS.c.at).where(own).order_by(PREDICTIONS.c.at.desc())
        oldest = connection.execute(newest.offset(most).limit(1)).scalar_one_or_none()
        if oldest is not None:
            connection.execute(delete(PREDICTIONS).where(own, PREDICTIONS.c.at <= oldest))


def _same(left: Value, right: Value) -> bool:
    return left == right and isinstance(left, bool) == isinstance(right, bool)
