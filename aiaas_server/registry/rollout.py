"""A guarded promotion as changes of the serving document: begin, advance, finish, go back.

The first part is pure. The second writes: each function is one step inside somebody's transaction,
with its entry of the history. Since transactions that write come one after the other, and each
reads the document first, a step is taken once, however many processes judge it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sqlalchemy import Connection, select

from aiaas_client.protocol.management import Guard, HistoryKind, PromoteRequest, Rollout, Serving
from aiaas_client.protocol.names import PRODUCTION
from aiaas_server.core.errors import Conflict, InvalidInput
from aiaas_server.registry import history
from aiaas_server.registry.models import (
    get_model,
    latest_version,
    update_model,
)
from aiaas_server.registry.rollback import position_before
from aiaas_server.registry.rows import SERVER, Author, Document, ModelRow
from aiaas_server.registry.traffic import check_verified
from aiaas_server.registry.trials import forget_trials
from aiaas_server.state.changes import tell
from aiaas_server.state.tables import HISTORY

STARTED: Final[HistoryKind] = "rollout_started"
ADVANCED: Final[HistoryKind] = "rollout_advanced"
PROMOTED: Final[HistoryKind] = "promoted"
ROLLED_BACK: Final[HistoryKind] = "rolled_back"
_APART: Final = 1.0  # seconds between the beginnings of two steps, by which they are told apart


class Transition(NamedTuple):
    """What became of a rollout.

    Attributes:
        model: As it is now.
        kind: Of the history's entry: `rollout_advanced`, `promoted` or `rolled_back`.
        version: The one that was rolled out.
        reason: In words, with numbers.
    """

    model: ModelRow
    kind: HistoryKind
    version: int
    reason: str


# The document


def check_guard(guard: Guard, alias: str = PRODUCTION) -> None:
    """Whether a rollout can be judged as it is asked for.

    Raises:
        InvalidInput: It cannot; the message says why.
    """
    steps = guard.steps
    if alias != PRODUCTION:
        raise InvalidInput(
            f"guard: only '{PRODUCTION}' is promoted step by step, since only calls that name no "
            f"version are divided; got alias '{alias}'"
        )
    if steps[-1] != 1.0 or steps[0] <= 0.0 or steps != sorted(set(steps)):
        raise InvalidInput(f"guard.steps: expected shares above 0 that grow to 1.0, got {steps}")
    compares = [
        name for name in ("max_p99_ratio", "max_disagreement") if getattr(guard, name) is not None
    ]
    if compares and len(steps) == 1:
        raise InvalidInput(
            f"guard.{compares[0]}: compares with the old version, which gets no requests in the "
            f"only step; put a smaller share before 1.0, got {steps}"
        )


def with_rollout(
    serving: Serving, version: int, stable: int, alias: str, guard: Guard, now: float
) -> Serving:
    """`version` gets the first step's share, `stable` the rest; a split ends."""
    rollout = Rollout(version=version, stable=stable, alias=alias, since=now, guard=guard)
    return serving.model_copy(update={"rollout": rollout, "split": {}})


def advanced(serving: Serving, now: float) -> Serving:
    """The next step; after the last one the version is what the alias points at."""
    rollout = _rollout_of(serving)
    step = rollout.step + 1
    if step >= len(rollout.guard.steps):
        return ended(serving, rollout.version)
    since = max(now, rollout.since + _APART)  # also after a clock was put back
    following = rollout.model_copy(update={"step": step, "since": since})
    return serving.model_copy(update={"rollout": following})


def ended(serving: Serving, points_at: int | None = None) -> Serving:
    """Without the rollout, if there is one.

    Args:
        points_at: The version that its alias points at from now on; None leaves the alias.
    """
    if serving.rollout is None:
        return serving
    aliases = dict(serving.aliases)
    if points_at is not None:
        aliases[serving.rollout.alias] = points_at
    return serving.model_copy(update={"rollout": None, "aliases": aliases})


def share_of_new(rollout: Rollout) -> float:
    """Of the calls that name no version, what the new version gets."""
    return rollout.guard.steps[rollout.step]


def same_step(one: Rollout | None, other: Rollout | None) -> bool:
    """Whether both are one step of one rollout."""
    if one is None or other is None:
        return False
    return (one.version, one.step, one.since) == (other.version, other.step, other.since)


# Written down


def begin(
    connection: Connection,
    author: Author,
    name: str,
    request: PromoteRequest,
    now: float,
    alias: str = PRODUCTION,
) -> ModelRow:
    """Start to roll a version out; a rollout or a split that goes on ends with it.

    The version must be loaded and warm, as before any promotion.

    Raises:
        InvalidInput: The guard cannot be judged.
        NotFound: No such model or version.
        Conflict: The version is damaged or erased, it serves already, or there is none that it
            could take the place of.
    """
    guard = request.guard
    assert guard is not None, "without one it is a plain promotion"
    check_guard(guard, alias)
    model = get_model(connection, author.tenant, name)
    version = check_verified(connection, model, request.version)
    stable = _stable(connection, model, version.number)
    after = with_rollout(model.serving, version.number, stable, alias, guard, now)
    forget_trials(connection, model.id)
    written = update_model(connection, model, serving=after)
    reason = request.note
    replaced = model.serving.rollout
    if replaced is not None:
        reason = f"{reason}; the rollout of version {replaced.version} ends".removeprefix("; ")
    history.record(
        connection,
        author,
        model,
        STARTED,
        version=version.number,
        before=_document(model.serving),
        after=_document(after),
        reason=reason,
    )
    _tell(connection, written, STARTED, version.number, reason)
    return written


def advance(connection: Connection, model: ModelRow, reason: str, now: float) -> Transition:
    """Take the next step, or the last: the version is promoted."""
    rollout = _rollout_of(model.serving)
    after = advanced(model.serving, now)
    if after.rollout is None:
        return _finish(connection, model, after, PROMOTED, reason, None)
    reason = f"{share_of_new(rollout):.0%} to {share_of_new(after.rollout):.0%}: {reason}"
    position = position_before(connection, model.id)  # that of the beginning
    return _finish(connection, model, after, ADVANCED, reason, position)


def go_back(connection: Connection, model: ModelRow, reason: str) -> Transition:
    """The old version gets everything again.

    Where no alias points at it, because the latest version served, one does from now on: else the
    broken version, as the latest, would serve still.
    """
    rollout = _rollout_of(model.serving)
    points_at = None if rollout.alias in model.serving.aliases else rollout.stable
    after = ended(model.serving, points_at)
    position = _position_of(connection, model.id, _document(after))
    return _finish(connection, model, after, ROLLED_BACK, reason, position)


def _finish(
    connection: Connection,
    model: ModelRow,
    after: Serving,
    kind: HistoryKind,
    reason: str,
    position: int | None,
) -> Transition:
    rollout = _rollout_of(model.serving)
    written = update_model(connection, model, serving=after)
    if after.rollout is None:
        forget_trials(connection, model.id)
    history.record(
        connection,
        SERVER._replace(tenant=model.tenant),
        model,
        kind,
        version=rollout.version,
        before=_document(model.serving),
        after=_document(after),
        position=position,
        reason=reason,
    )
    _tell(connection, written, kind, rollout.version, reason)
    return Transition(written, kind, rollout.version, reason)


def _stable(connection: Connection, model: ModelRow, version: int) -> int:
    """Who serves now, and what a rollout of `version` would go back to."""
    serving = model.serving
    going_on = None if serving.rollout is None else serving.rollout.stable
    if going_on is not None and going_on != version:
        return going_on
    if serving.split:
        shares = {int(number): share for number, share in serving.split.items()}
        others = [number for number in shares if number != version]
        if others:
            return max(others, key=shares.__getitem__)
    production = serving.aliases.get(PRODUCTION)
    if production == version:
        raise Conflict(f"version {version} of model '{model.name}' serves already")
    if production is not None:
        return production
    other = latest_version(connection, model.id, besides=version)
    if other is not None:
        return other
    raise Conflict(
        f"model '{model.name}' has no other version that could be gone back to: promote version "
        f"{version} without a guard"
    )


def _position_of(connection: Connection, model_id: str, state: Document) -> int | None:
    """Where the history was before the rollout began, if that was this state; None if not."""
    started = connection.execute(
        select(HISTORY.c.seq, HISTORY.c.before)
        .where(HISTORY.c.model_id == model_id, HISTORY.c.kind == STARTED)
        .order_by(HISTORY.c.seq.desc())
        .limit(1)
    ).one()
    return position_before(connection, model_id, started.seq) if started.before == state else None


def _tell(
    connection: Connection, model: ModelRow, kind: HistoryKind, version: int, reason: str
) -> None:
    """To those who watch rollouts, beside the history's own entry of the feed."""
    data: Document = {"change": kind, "version": version}
    rollout = model.serving.rollout
    if rollout is not None:
        data["share"] = share_of_new(rollout)
    if reason:
        data["reason"] = reason
    tell(connection, model.tenant, "rollout", model.name, data)


def _rollout_of(serving: Serving) -> Rollout:
    assert serving.rollout is not None, "asked only where one goes on"
    return serving.rollout


def _document(serving: Serving) -> Document:
    return serving.model_dump(mode="json")
