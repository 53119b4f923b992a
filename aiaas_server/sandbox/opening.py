"""Opens the model of an order, runs it once, and leaves the process no right but to run it."""

from __future__ import annotations

import gc
import logging
import mmap
from pathlib import Path
from typing import NamedTuple

from aiaas_server.core.confine import seccomp
from aiaas_server.core.confine.limits import limit_memory
from aiaas_server.core.describe.samples import TooLarge, zeros
from aiaas_server.core.errors import LoadFailed, ServerError
from aiaas_server.core.session import Session
from aiaas_server.core.signature import TensorSpec
from aiaas_server.runtimes.isolated.orders import Order, Told, ToldTensor
from aiaas_server.runtimes.onnx import open_session


class Opened(NamedTuple):
    """A session that can do nothing but run, and what is told of it."""

    session: Session
    told: Told


def open_ordered(file: int) -> Opened | Told:
    """Carry out the order in a file, as lies in `orders.Order`: the model, or why there is none."""
    logging.disable()  # nobody reads it
    order, content = _read(file)
    limit_memory(order.memory_bytes)
    try:
        return _opened(order, content)
    except LoadFailed as error:
        return Told(failed=error.message)
    except MemoryError:
        return Told(failed=f"it does not fit into the {order.memory_bytes} bytes that it may take")
    except seccomp.FilterRefused as error:
        return Told(failed=str(error.strerror), mistake=False)
    except Exception as error:
        return Told(failed=f"it cannot be opened: {type(error).__name__}")


def _read(file: int) -> tuple[Order, bytes]:
    with mmap.mmap(file, 0, access=mmap.ACCESS_READ) as whole:
        end = whole.find(b"\n")
        order = Order.model_validate_json(whole[:end])
        return order, whole[end + 1 : end + 1 + order.size]


def _opened(order: Order, content: bytes) -> Opened:
    # With an arena, as in the server's own process: without one, large batches take a quarter
    # longer. What one run leaves in it is bounded by the replacement of a process that has grown.
    session = open_session(
        content if order.path is None else Path(order.path),
        order.config,
        providers=("cpu",),
        intra_op_threads=order.threads,
    )
    _run_once(session)
    told = Told(
        inputs=tuple(map(_tensor, session.inputs)),
        outputs=tuple(map(_tensor, session.outputs)),
        providers=("CPUExecutionProvider",),
        metadata=dict(session.metadata),
        cost_in_values=session.graph.cost_in_values,
        shared_cache=session.graph.shared_cache,
        changes=session.graph.changes,
        words=session.graph.words,
    )
    gc.collect()
    gc.freeze()
    if order.filters:
        seccomp.keep_to_running()
    return Opened(session, told)


def _run_once(session: Session) -> None:
    """Have the runtime open, map and start now whatever it does at a first run."""
    try:
        inputs = {
            spec.name: zeros(
                spec.name, spec.datatype, [1 if dim < 0 else dim for dim in spec.shape]
            )
            for spec in session.inputs
        }
        session.run(inputs, [spec.name for spec in session.outputs])
    except (ServerError, TooLarge):  # zeros of such shapes say nothing against it
        return


def _tensor(spec: TensorSpec) -> ToldTensor:
    return ToldTensor(
        name=spec.name, datatype=spec.datatype, shape=spec.shape, symbols=spec.symbols
    )
