"""How long batches take by their size, tried before a model serves."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from math import inf
from typing import Final

from aiaas_server.core.describe.samples import TooLarge
from aiaas_server.core.errors import ServerError
from aiaas_server.core.pool.warmup import zero_inputs
from aiaas_server.core.schedule.batching import concat
from aiaas_server.core.schedule.curve import WITHIN, BatchCurve
from aiaas_server.core.schedule.sizing import Clock
from aiaas_server.core.session import Session, StopToken
from aiaas_server.core.signature import Signature

_log = logging.getLogger("aiaas_server")

# Time for it: so long, and longer where a row takes long, but never so long that a start is late.
_NS: Final = 50_000_000
_ROWS: Final = 8
_MOST_NS: Final = 250_000_000
_TIMES: Final = 2
_WORSE: Final = 2  # sizes in a row, after which larger ones are not tried


def learn_sizes(
    session: Session,
    signature: Signature,
    curve: BatchCurve,
    clock: Clock,
    known: Mapping[int, int],
    warm: Sequence[int] = (),
) -> None:
    """Teach `curve` how long batches of zeros take: of one row, two, four, ..., or those of `warm`.

    It goes on as long as larger ones may pay and there is time; what is left is learned while the
    model serves.

    Args:
        clock: What runs are measured by.
        known: What `warm_up` found. Where that is one row and the most, it says enough; where it
            is nothing, no more is tried.
        warm: Sizes that batches are filled up to: no other is ever run.
    """
    if len(known) != 1:
        for rows, ns in known.items():
            curve.measured(rows, ns)
        return
    (each,) = known.values()
    left = min(_NS + _ROWS * each, _MOST_NS)
    best, worse = inf, 0
    try:
        for rows in warm or _powers(signature.max_batch_size):
            times: list[int] = []
            while len(times) < _TIMES and rows * each <= left:
                times.append(_time(session, signature, clock, rows))
                curve.measured(rows, times[-1])
                left -= times[-1]
            if not times:
                return
            each = min(times) // rows
            worse = worse + 1 if each > best * (1 + WITHIN) else 0
            if worse == _WORSE:
                return
            best = min(best, each)
    except (ServerError, TooLarge) as error:
        _log.debug("model '%s': not every batch size is timed: %s", signature.model, error)


def _powers(most: int) -> Iterator[int]:
    rows = 1
    while rows < most:
        yield rows
        rows *= 2
    yield most


def _time(session: Session, signature: Signature, clock: Clock, rows: int) -> int:
    """Ns to join single rows and run them, as when serving."""
    requests = [zero_inputs(signature, 1)] * rows
    began = clock()
    session.run(concat(requests), signature.output_names, StopToken(tries=True))
    return clock() - began
