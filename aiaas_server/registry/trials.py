"""What each process has counted of a rollout's step, kept in the database so that it adds up.

A row is one version's counts by one process during one step, told apart by when the step began. It
holds, beside them, for how many seconds that process has seen the step: so the length of a step is
known after a restart, and whatever the clocks say. Its own column of seconds is 0: no window of a
fixed length, which others would remove when it is old.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sqlalchemy import Connection, case, delete, func, select

from aiaas_client.protocol.management import Rollout
from aiaas_server.core.tally import Tally
from aiaas_server.state.tables import FEEDBACK, WINDOWS

KIND: Final = "rollout"


class Trials(NamedTuple):
    """What all processes together have counted.

    Attributes:
        new: Of the version that is rolled out, in this step.
        old: Of the other; of all steps where it had nothing in this one.
        seconds: That the step has been seen.
    """

    new: Tally
    old: Tally
    seconds: float


def write_trial(
    connection: Connection,
    model_id: str,
    version: int,
    rollout: Rollout,
    node: str,
    tally: Tally,
    seconds: float,
) -> None:
    """Put down what this process, `node`, has counted of a version since the step began."""
    row = {
        "model_id": model_id,
        "version": version,
        "kind": KIND,
        "start": int(rollout.since),
        "node": node,
    }
    connection.execute(delete(WINDOWS).where(*(WINDOWS.c[key] == row[key] for key in row)))
    counts = tally.to_json() | {"seen": seconds}
    connection.execute(WINDOWS.insert().values(**row, seconds=0, counts=counts))


def read_trials(connection: Connection, model_id: str, rollout: Rollout) -> Trials:
    """Add up what is written of a rollout."""
    asked = select(WINDOWS.c.version, WINDOWS.c.start, WINDOWS.c.counts).where(
        WINDOWS.c.model_id == model_id, WINDOWS.c.kind == KIND
    )
    new, old, earlier_old, mirrored = Tally(), Tally(), Tally(), Tally()
    seconds, start = 0.0, int(rollout.since)
    for row in connection.execute(asked):
        tally = Tally.from_json(row.counts)
        if row.version == rollout.stable:
            (old if row.start == start else earlier_old).merge(tally)
        elif row.version == rollout.version:
            mirrored.merge(tally)
            if row.start == start:
                new.merge(tally)
        if row.start == start:
            seconds = max(seconds, float(row.counts.get("seen", 0.0)))
    if not old.requests:  # in the last step it gets none
        old = earlier_old
    # what the old version was asked and the new one answered too is evidence whenever it was
    new.mirrored, new.disagreed = mirrored.mirrored, mirrored.disagreed
    if rollout.guard.min_accuracy is not None:
        new.labelled, new.correct = _labels(connection, model_id, rollout.version)
    return Trials(new, old, seconds)


def forget_trials(connection: Connection, model_id: str) -> None:
    """Remove what was counted of a model's rollouts."""
    connection.execute(
        delete(WINDOWS).where(WINDOWS.c.model_id == model_id, WINDOWS.c.kind == KIND)
    )


def _labels(connection: Connection, model_id: str, version: int) -> tuple[int, int]:
    """How many labels are known of a version's answers, and how many of them it had right.

    They come late and a version does not change: those from before the step count as well.
    """
    asked = select(
        func.count(), func.coalesce(func.sum(case((FEEDBACK.c.correct, 1), else_=0)), 0)
    ).where(
        FEEDBACK.c.model_id == model_id,
        FEEDBACK.c.version == version,
        FEEDBACK.c.correct.is_not(None),
    )
    labelled, correct = connection.execute(asked).one()
    return int(labelled), int(correct)
