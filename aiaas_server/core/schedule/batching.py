"""How requests become a batch and a batch becomes answers: pure functions over arrays.

A *shape key* tells which requests may share a batch; `take` how many of those queued go next;
`concat` joins inputs along the first axis, and `split` is its inverse on the outputs.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.signature import Signature

_SMALL_BYTES = 64 * 1024


class NotBatched(ValueError):
    """An output's first dimension is not the batch."""


class Take(NamedTuple):
    """How much of a queue goes into the next batch.

    Attributes:
        taken: Requests from the front.
        complete: Waiting longer cannot make the batch better: it is full, holds a preferred
            size, or the next request does not fit.
    """

    taken: int
    complete: bool


def varying_inputs(signature: Signature) -> tuple[str, ...]:
    """Inputs whose shapes tell requests apart: optional ones, and where more than the batch varies.

    Where there is none, all requests are alike.
    """
    specs = signature.inputs
    return tuple([spec.name for spec in specs if spec.optional or -1 in spec.shape[1:]])


def shape_key(inputs: Mapping[str, Array], varying: Sequence[str]) -> Hashable:
    """Tells requests that may share a batch from others; None where all are alike."""
    if not varying:
        return None
    return tuple([inputs[name].shape[1:] if name in inputs else None for name in varying])


def take(rows: Iterable[int], max_rows: int, preferred: frozenset[int] = frozenset()) -> Take:
    """How many requests from the front of a queue make the next batch.

    Args:
        rows: Items of each queued request, oldest first.
        max_rows: Items a batch may hold.
        preferred: Sizes to stop at; the largest that a prefix hits exactly is taken.
    """
    total = count = 0
    best = 0
    stopped = False
    for size in rows:
        if count and total + size > max_rows:
            stopped = True
            break
        total += size
        count += 1
        if total in preferred:
            best = count
        if total >= max_rows:
            stopped = True
            break
    if best:
        return Take(best, complete=True)
    return Take(count, complete=stopped)


def concat(requests: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Join inputs of one shape key along the first axis, in order."""
    if len(requests) == 1:
        return dict(requests[0])
    return {name: np.concatenate([request[name] for request in requests]) for name in requests[0]}


def split(outputs: Sequence[Array], rows: Sequence[int]) -> list[list[Array]]:
    """Cut each output along its first axis: one list of arrays per request.

    The arrays never overlap. They own their memory, except that small outputs stay views of the
    batch's array, whose memory is little to hold on to.

    Raises:
        NotBatched: An output does not begin with the batch; nothing is cut then.
    """
    total = sum(rows)
    for index, array in enumerate(outputs):
        if array.ndim == 0 or array.shape[0] != total:
            raise NotBatched(f"output {index} has shape {array.shape}, batch is {total}")
    if len(rows) == 1:
        return [list(outputs)]
    owned = [array.nbytes > _SMALL_BYTES for array in outputs]
    parts: list[list[Array]] = []
    start = 0
    for size in rows:
        stop = start + size
        part = [array[start:stop] for array in outputs]
        if True in owned:
            part = [array.copy() if big else array for array, big in zip(part, owned, strict=True)]
        parts.append(part)
        start = stop
    return parts
