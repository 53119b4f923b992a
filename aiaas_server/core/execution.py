"""A batch and its one run over a session: no queue and no event loop, so any thread can do it."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from aiaas_client.protocol.tensors import Array

from .batching import NotBatched, concat, split
from .errors import InferenceFailed, ServerError
from .padding import Padding
from .queues import Request
from .rounding import filled
from .session import Session, StopToken
from .signature import Signature

_log = logging.getLogger("aiaas.server")


@dataclass(slots=True)
class Outcome:
    """The answer to one request.

    Attributes:
        outputs: By name in the order asked for; arrays of its own.
        queue_ns: From acceptance to the start of its batch.
        compute_ns: Its batch's time: input, run and output.
        batch_rows: Items in the batch it was part of.
    """

    outputs: dict[str, Array]
    queue_ns: int
    compute_ns: int
    batch_rows: int


class Batch:
    """Requests that run together, and what came of it.

    Attributes:
        names: Outputs to compute: what any member asks for, in the model's order.
        padding: How members of different lengths are joined; None where all are alike.
        spare: Rows run with them whose outputs nobody gets; see `rounding`.
        live: Members somebody still waits for; the run is stopped when it falls to 0.
        parts: Per member its arrays in the order of `names`; empty when the run failed.
        error: Why the run failed.
        not_batched: The run failed because an output lacks the batch dimension.
        singles: After a failure, the members run again one by one.
    """

    __slots__ = (
        "error",
        "infer_ns",
        "input_ns",
        "live",
        "members",
        "names",
        "not_batched",
        "output_ns",
        "padding",
        "parts",
        "rows",
        "singles",
        "size",
        "spare",
        "started_ns",
        "stop",
    )

    def __init__(
        self, members: list[Request], names: tuple[str, ...], padding: Padding | None = None
    ) -> None:
        self.members = members
        self.names = names
        self.padding = padding
        self.spare = 0
        self.rows = members[0].rows
        self.size = members[0].size
        for member in members[1:]:
            self.rows += member.rows
            self.size += member.size
        self.live = len(members)
        self.stop: StopToken | None = None
        self.started_ns = 0
        self.input_ns = self.infer_ns = self.output_ns = 0
        self.parts: list[list[Array]] = []
        self.error: ServerError | None = None
        self.not_batched = False
        self.singles: list[Batch] = []

    @property
    def length(self) -> int:
        """The longest member's, to which the others are padded; 0 where nothing is."""
        return max([member.length for member in self.members])

    @property
    def units(self) -> int:
        """What its time grows with: items, times the length they are padded to."""
        return self.rows * (self.length or 1)

    @property
    def compute_ns(self) -> int:
        """Input, run and output together."""
        return self.input_ns + self.infer_ns + self.output_ns

    def outputs_of(self, index: int) -> dict[str, Array]:
        """What member `index` asked for, in its order."""
        part = self.parts[index]
        wanted = self.members[index].outputs
        if wanted == self.names:
            return dict(zip(wanted, part))  # noqa: B905  # as many as were asked for
        return {name: part[self.names.index(name)] for name in wanted}


def union(members: Sequence[Request], signature: Signature) -> tuple[str, ...]:
    """The outputs that any of `members` asks for."""
    first = members[0].outputs
    for member in members:
        if member.outputs != first:
            break
    else:
        return first
    wanted = {name for member in members for name in member.outputs}
    return tuple(name for name in signature.output_names if name in wanted)


def execute(batch: Batch, session: Session, model: str) -> None:
    """Run `batch` and keep the result in it; nothing is raised.

    If a run over several requests fails, they are run one by one, so that only those fail that
    must; those nobody waits for any more are left out.
    """
    _run(batch, session, model)
    if batch.error is None or len(batch.members) == 1:
        return
    for member in batch.members:
        if member.settled or (batch.stop is not None and batch.stop.stopped):
            continue
        single = Batch([member], member.outputs)
        single.stop = batch.stop
        _run(single, session, model)
        batch.singles.append(single)


def failure_of(error: Exception, model: str) -> ServerError:
    """What the caller is told when a session raised `error`."""
    if isinstance(error, ServerError):
        return error
    _log.error("model '%s': the session raised an error of its own", model, exc_info=error)
    return InferenceFailed(f"model '{model}': inference failed")


def _run(batch: Batch, session: Session, model: str) -> None:
    clock = time.monotonic_ns
    started = batch.started_ns = clock()
    members = batch.members
    try:
        if len(members) == 1 and not batch.spare:
            gathered = clock()
            arrays = session.run(members[0].inputs, batch.names, batch.stop)
            ran = clock()
            batch.parts = [arrays]
        else:
            inputs = _joined(batch)
            gathered = clock()
            arrays = session.run(inputs, batch.names, batch.stop)
            ran = clock()
            batch.parts = _parted(batch, arrays)
    except NotBatched as error:
        batch.error = InferenceFailed(f"model '{model}': {error}")
        batch.not_batched = True
    except Exception as error:
        batch.error = failure_of(error, model)
    else:
        batch.input_ns = gathered - started
        batch.infer_ns = ran - gathered
        batch.output_ns = clock() - ran


def _joined(batch: Batch) -> dict[str, Array]:
    requests = [member.inputs for member in batch.members]
    if batch.padding is None:
        inputs = concat(requests)
    else:
        inputs = batch.padding.join(requests, batch.length)
    return filled(inputs, batch.spare) if batch.spare else inputs


def _parted(batch: Batch, arrays: list[Array]) -> list[list[Array]]:
    rows = [member.rows for member in batch.members]
    parts = split(arrays, [*rows, batch.spare])[:-1] if batch.spare else split(arrays, rows)
    if batch.padding is None:
        return parts
    cut = batch.padding.cut
    return [
        cut(part, batch.names, member.length)
        for part, member in zip(parts, batch.members, strict=True)
    ]
