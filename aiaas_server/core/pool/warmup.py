"""First runs of a model, before it serves: allocate, measure, and see whether it batches."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from aiaas_client.protocol.tensors import (
    Array,
    TensorError,
    datatype_from_config,
    dtype_of,
    element_count,
    unpack_bytes,
)
from aiaas_server.core.describe.config import Warmup, WarmupInput
from aiaas_server.core.describe.samples import TooLarge, check_elements, zeros
from aiaas_server.core.errors import LoadFailed, ServerError
from aiaas_server.core.schedule.cost import INLINE_NS, Placement
from aiaas_server.core.session import Session, StopToken
from aiaas_server.core.signature import Signature, TensorSpec

_log = logging.getLogger("aiaas_server")
_TRIAL_NS = 10_000_000
_MOST_OF = 0.95


def warm_up(session: Session, signature: Signature, placement: Placement) -> dict[int, int]:
    """Run `session` on zeros and teach `placement` how long it takes.

    Variable dimensions are 1. A model that cannot run on zeros of such shapes is left cold:
    that says nothing against it.

    Returns:
        Ns of a run by its rows: of one, and of a quick model of the most; what could be run.
    """
    took: dict[int, int] = {}
    try:
        _time_run(session, signature, placement, 1)
        took[1] = _time_run(session, signature, placement, 1)
        most = signature.max_batch_size
        if most >= 2 and took[1] < INLINE_NS // 4:
            _time_run(session, signature, placement, most)
            took[most] = _time_run(session, signature, placement, most)
    except (ServerError, TooLarge) as error:
        _log.debug("model '%s' is not warmed up: %s", signature.model, error)
    return took


def run_sizes(session: Session, signature: Signature, sizes: Sequence[int]) -> None:
    """Run zeros of each batch size in `sizes`; left out from the first that cannot be run."""
    try:
        for rows in sizes:
            session.run(zero_inputs(signature, rows), signature.output_names, StopToken(tries=True))
    except (ServerError, TooLarge) as error:
        _log.debug("model '%s': not every batch size is warm: %s", signature.model, error)


def run_declared(
    session: Session,
    signature: Signature,
    warmups: Sequence[Warmup],
    read: Callable[[str], bytes],
) -> None:
    """Run the requests of the configuration's `model_warmup`.

    Args:
        read: Gives the bytes of an `input_data_file`.
    Raises:
        LoadFailed: One does not fit the model or cannot be run; the message names it.
    """
    for index, warmup in enumerate(warmups):
        name = warmup.name or str(index)
        try:
            inputs = {
                key: _declared(key, spec, warmup.batch_size, read)
                for key, spec in warmup.inputs.items()
            }
            signature.check(inputs)
            for _ in range(warmup.count or 1):
                session.run(inputs, signature.output_names)
        except (ServerError, TensorError, TooLarge) as error:
            raise LoadFailed(f"model_warmup '{name}': {error}") from error


def _declared(name: str, spec: WarmupInput, rows: int, read: Callable[[str], bytes]) -> Array:
    datatype = datatype_from_config(spec.data_type)
    shape = (rows, *spec.dims) if rows else spec.dims
    check_elements(name, shape)
    if spec.input_data_file is not None:
        return _from_bytes(name, read(spec.input_data_file), datatype, shape)
    dtype = dtype_of(datatype)
    if not spec.random_data or dtype.kind == "O":
        return zeros(name, datatype, shape)
    random = np.random.default_rng(0)
    if dtype.kind in "iu":
        # Small, so that what counts, looks up or repeats stays within bounds.
        return random.integers(0, 2, shape).astype(dtype)
    if dtype.kind == "b":
        return random.integers(0, 2, shape) > 0
    return random.random(shape).astype(dtype)


def _from_bytes(name: str, content: bytes, datatype: str, shape: tuple[int, ...]) -> Array:
    count = element_count(shape)
    if datatype == "BYTES":
        return unpack_bytes(content, count).reshape(shape)
    dtype = dtype_of(datatype)
    if len(content) != count * dtype.itemsize:
        raise LoadFailed(
            f"input '{name}': expected {count * dtype.itemsize} bytes for {datatype} {shape}, "
            f"the file has {len(content)}"
        )
    return np.frombuffer(content, dtype).reshape(shape)


def useful_runs_at_once(session: Session, signature: Signature, most: int) -> int:
    """How many runs at a time are worth it: the fewest that reach most of the best throughput.

    Tried with threads on zeros, each count twice for about a hundredth of a second. A model so
    quick that it never leaves the event loop, or so slow that trying would delay its start, is
    not tried: it gets `most`.
    """
    try:
        inputs = zero_inputs(signature, 1)
        began = time.monotonic_ns()
        session.run(inputs, signature.output_names, StopToken(tries=True))
        took = time.monotonic_ns() - began
        if not INLINE_NS <= took <= 2 * _TRIAL_NS:
            return most
        return fewest_near_best(rates_of(session, signature, most))
    except (ServerError, TooLarge):
        return most


def rates_of(session: Session, signature: Signature, most: int) -> dict[int, float]:
    """Throughput of runs on zeros, by how many go on at a time: `most`, half of it, ... and 1."""
    inputs = zero_inputs(signature, 1)
    counts = sorted({1, *(most >> shift for shift in range(most.bit_length()))})
    return {count: _throughput(session, signature, inputs, count) for count in counts}


def fewest_near_best(rates: Mapping[int, float]) -> int:
    """The smallest of the counts whose rate is close to the best of `rates`."""
    best = max(rates.values())
    return min(count for count, rate in rates.items() if rate >= _MOST_OF * best)


def _throughput(
    session: Session, signature: Signature, inputs: Mapping[str, Array], threads: int
) -> float:
    """Runs a nanosecond over `threads` threads; the better of two trials."""

    def work(until: int) -> int:
        runs = 0
        while not runs or time.monotonic_ns() < until:
            session.run(inputs, signature.output_names)
            runs += 1
        return runs

    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, [0] * threads))  # threads start, the runtime allocates
        for _ in range(2):
            began = time.monotonic_ns()
            runs = sum(pool.map(work, [began + _TRIAL_NS] * threads))
            best = max(best, runs / (time.monotonic_ns() - began))
    return best


def _zeros(spec: TensorSpec, rows: int | None) -> Array:
    """An input of zeros, variable dimensions 1, the first `rows` if given."""
    shape = [max(dim, 1) if dim == -1 else dim for dim in spec.shape]
    if rows is not None:
        shape[0] = rows
    return zeros(spec.name, spec.datatype, shape)


def zero_inputs(signature: Signature, rows: int) -> Mapping[str, Array]:
    """`rows` rows of zeros, variable dimensions 1; those of a model without batches have none."""
    count = rows if signature.max_batch_size else None
    return {spec.name: _zeros(spec, count) for spec in signature.inputs}


def _time_run(session: Session, signature: Signature, placement: Placement, rows: int) -> int:
    inputs = zero_inputs(signature, rows)
    started = time.monotonic_ns()
    session.run(inputs, signature.output_names, StopToken(tries=True))
    took = time.monotonic_ns() - started
    placement.measured(sum(array.nbytes for array in inputs.values()), took)
    return took
