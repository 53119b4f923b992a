"""First runs of a model, before it serves: allocate, measure, and see whether it batches."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

import numpy as np

from aiaas_client.protocol.tensors import Array, dtype_of, element_count

from .errors import ServerError
from .placement import INLINE_NS, Placement
from .session import Session
from .signature import Signature, TensorSpec

_log = logging.getLogger("aiaas.server")
_MAX_ELEMENTS = 16 * 1024 * 1024


def warm_up(session: Session, signature: Signature, placement: Placement) -> list[str]:
    """Run `session` on zeros and teach `placement` how long it takes.

    Variable dimensions are 1. A model that cannot run on zeros of such shapes is left cold:
    that says nothing against it.

    Returns:
        Outputs that do not begin with the batch although the signature batches.
    """
    try:
        _time_run(session, signature, placement, 1)
        fast = _time_run(session, signature, placement, 1) < INLINE_NS // 4
        if signature.max_batch_size < 2:
            return []
        unbatched = _unbatched(session, signature)
        if fast and not unbatched:
            _time_run(session, signature, placement, signature.max_batch_size)
            _time_run(session, signature, placement, signature.max_batch_size)
    except (ServerError, _TooLarge) as error:
        _log.info("model '%s' is not warmed up: %s", signature.model, error)
        return []
    return unbatched


class _TooLarge(Exception):
    """Zeros of that shape would need too much memory."""


def zeros(spec: TensorSpec, rows: int | None) -> Array:
    """An input of zeros (empty texts), variable dimensions 1, the first `rows` if given."""
    shape = [max(dim, 1) if dim == -1 else dim for dim in spec.shape]
    if rows is not None:
        shape[0] = rows
    if element_count(shape) > _MAX_ELEMENTS:
        raise _TooLarge(f"input '{spec.name}' has {element_count(shape)} elements")
    if spec.datatype == "BYTES":
        return np.full(shape, b"", dtype=object)
    return np.zeros(shape, dtype_of(spec.datatype))


def _inputs(signature: Signature, rows: int) -> Mapping[str, Array]:
    count = rows if signature.max_batch_size else None
    return {spec.name: zeros(spec, count) for spec in signature.inputs}


def _time_run(session: Session, signature: Signature, placement: Placement, rows: int) -> int:
    inputs = _inputs(signature, rows)
    started = time.monotonic_ns()
    session.run(inputs, signature.output_names)
    took = time.monotonic_ns() - started
    placement.measured(sum(array.nbytes for array in inputs.values()), took)
    return took


def _unbatched(session: Session, signature: Signature) -> list[str]:
    arrays = session.run(_inputs(signature, 2), signature.output_names)
    return [
        name
        for name, array in zip(signature.output_names, arrays, strict=True)
        if array.ndim == 0 or array.shape[0] != 2
    ]
