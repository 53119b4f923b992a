"""Entry of the throw-away process: an order comes in by one pipe, lines go out by another."""

from __future__ import annotations

import os
import sys
from typing import BinaryIO

from aiaas_server.core.confine.limits import limit_memory, limit_time
from aiaas_server.core.errors import ServerError
from aiaas_server.registry.verification.verdict import Line, Order, Phase, no_room
from aiaas_server.verifier.confine import confine


def main(parent: int) -> None:
    """Import what it takes, carry out one order, and end.

    Args:
        parent: The process that asks; this one ends with it.
    """
    confine(parent)
    out = _own_output()
    problem = _imported()
    text = sys.stdin.buffer.readline()
    if text:  # else nothing was to be verified after all
        order = Order.model_validate_json(text)
        limit_time(order.cpu_seconds)
        _say(out, Line(failed=problem) if problem else _carried_out(order, out))
    # Whatever threads a model has left behind, or its runtime does at an end, is of no interest.
    os._exit(0)


def _imported() -> str:
    """Import all that is large, before the limits; gives why that failed, or ""."""
    try:
        import aiaas_server.verifier.examine  # noqa: F401
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:1024]
    return ""


def _carried_out(order: Order, out: BinaryIO) -> Line:
    from aiaas_server.verifier.examine import examine

    phase: Phase = "start"

    def tell(entered: Phase) -> None:
        nonlocal phase
        phase = entered
        _say(out, Line(phase=entered))

    try:
        if order.on_cpu:
            limit_memory(order.memory_bytes)
        return Line(verified=examine(order, tell))
    except ServerError as error:
        return Line(rejected=error.message)
    except MemoryError:
        return Line(rejected=no_room(order.memory_bytes, phase))
    except Exception as error:
        return Line(failed=f"{type(error).__name__}: {error}"[:1024])


def _own_output() -> BinaryIO:
    """The pipe, out of reach of whatever writes to standard output."""
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return os.fdopen(kept, "wb")


def _say(out: BinaryIO, line: Line) -> None:
    out.write(line.model_dump_json(exclude_none=True, exclude_unset=True).encode() + b"\n")
    out.flush()
