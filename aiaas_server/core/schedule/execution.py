"""The run of a batch over a session: no queue and no event loop, so any thread can."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.errors import InferenceFailed, ServerError, bare
from aiaas_server.core.schedule.batching import NotBatched, concat, split
from aiaas_server.core.schedule.requests import Batch
from aiaas_server.core.schedule.rounding import filled
from aiaas_server.core.session import Session

_log = logging.getLogger("aiaas_server")


def execute(batch: Batch, session: Session, model: str) -> None:
    """Run `batch` and keep the result in it; nothing is raised.

    If a run over several requests fails, they are run one by one, so that only those fail that
    must; those nobody waits for any more are left out.
    """
    _run_batch(batch, session, model)
    if batch.error is None or len(batch.members) == 1:
        return
    for member in batch.members:
        if member.settled or (batch.stop is not None and batch.stop.stopped):
            continue
        single = Batch([member], member.outputs)
        single.stop = batch.stop
        _run_batch(single, session, model)
        batch.singles.append(single)


def _run_batch(batch: Batch, session: Session, model: str) -> None:
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
    except Exception as error:
        batch.infer_ns = clock() - started
        batch.not_batched = isinstance(error, NotBatched)
        batch.error = bare(failure_of(error, model))  # else it keeps the batch, and that the error
    else:
        batch.input_ns = gathered - started
        batch.infer_ns = ran - gathered
        batch.output_ns = clock() - ran


def failure_of(error: Exception, model: str) -> ServerError:
    """What the caller is told of `error`, which a session raised; the log hears the unexpected."""
    if isinstance(error, ServerError):
        return error
    if isinstance(error, NotBatched):
        return InferenceFailed(f"model '{model}': {error}")
    _log.error("model '%s': the session raised an error of its own", model, exc_info=error)
    return InferenceFailed(f"model '{model}': inference failed")


def _joined(batch: Batch) -> dict[str, Array]:
    requests = [member.inputs for member in batch.members]
    if batch.padding is None:
        inputs = concat(requests)
    else:
        inputs = batch.padding.join(requests, batch.length)
    return filled(inputs, batch.spare) if batch.spare else inputs


def _parted(batch: Batch, arrays: Sequence[Array]) -> list[list[Array]]:
    rows = [member.rows for member in batch.members]
    parts = split(arrays, [*rows, batch.spare])[:-1] if batch.spare else split(arrays, rows)
    if batch.padding is None:
        return parts
    cut = batch.padding.cut
    return [
        cut(part, batch.names, member.length)
        for part, member in zip(parts, batch.members, strict=True)
    ]
