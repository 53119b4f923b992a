"""Back to who served before: which entry of the history that is.

Each entry that changes who serves has a position: the entry whose `after` is in force once it is
made, which is itself unless it went back to an older one. So a step back from the state in force
goes to what the entry before that position left, and rollbacks that follow one another go further
and further back. What was only a moment of a guarded rollout is no state to go back to.

Only changes of who answers callers are steps. Who is a shadow or pinned, and whether callers stay
on their version of a split, may change in between; shadow and pins stay as they are now.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sqlalchemy import Connection, select

from aiaas_client.protocol.management import Serving
from aiaas_server.core.errors import Conflict
from aiaas_server.registry.rows import Document, ModelRow
from aiaas_server.state.tables import HISTORY

BEGINNING: Final = 0
"""The position of the state before the first entry."""


class Target(NamedTuple):
    """What a rollback goes back to.

    Attributes:
        serving: As it was then, but with the shadow and the pins of now.
        position: Of the entry that it writes.
    """

    serving: Serving
    position: int


class _Entry(NamedTuple):
    seq: int
    position: int
    before: Document | None
    after: Document | None


def find_target(connection: Connection, model: ModelRow, steps: int) -> Target:
    """Who answered callers `steps` changes ago.

    Raises:
        Conflict: There were not so many changes.
    """
    position = position_before(connection, model.id)
    now = model.serving
    for taken in range(steps):
        while True:
            if position == BEGINNING:
                times = "none" if taken == 0 else f"{taken} of {steps}"
                raise Conflict(
                    f"model '{model.name}': there is no earlier state to go back to; "
                    f"steps back that there are: {times}"
                )
            position, serving = _before(connection, model.id, position)
            if serving.rollout is None and answering(serving) != answering(now):
                break
        now = serving
    kept = {"shadow": model.serving.shadow, "pins": model.serving.pins}
    return Target(now.model_copy(update=kept), position)


def answering(serving: Serving) -> Serving:
    """The part of a document that says who answers callers."""
    return serving.model_copy(update={"shadow": None, "pins": [], "sticky": True})


def position_before(connection: Connection, model_id: str, seq: int | None = None) -> int:
    """The position in force before the entry `seq`, or now; `BEGINNING` where none is earlier."""
    newest = _newest(connection, model_id, seq)
    return BEGINNING if newest is None else newest.position


def _before(connection: Connection, model_id: str, position: int) -> tuple[int, Serving]:
    """The state in force before an entry, and its position."""
    earlier = _newest(connection, model_id, position)
    if earlier is None:
        (first,) = _entries(connection, model_id, HISTORY.c.seq == position)
        return BEGINNING, Serving.model_validate(first.before or {})
    return earlier.position, Serving.model_validate(earlier.after or {})


def _newest(connection: Connection, model_id: str, before: int | None = None) -> _Entry | None:
    found = _entries(connection, model_id, None if before is None else HISTORY.c.seq < before)
    return found[0] if found else None


def _entries(connection: Connection, model_id: str, only: object) -> list[_Entry]:
    asked = select(HISTORY.c.seq, HISTORY.c.position, HISTORY.c.before, HISTORY.c.after).where(
        HISTORY.c.model_id == model_id, HISTORY.c.position.is_not(None)
    )
    if only is not None:
        asked = asked.where(only)  # type: ignore[arg-type]
    rows = connection.execute(asked.order_by(HISTORY.c.seq.desc()).limit(1))
    return [_Entry(*row) for row in rows]
