"""What the model itself costs: `session.run` in this process, nothing around it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import onnxruntime


class Cost(NamedTuple):
    """Of one call: CPU seconds of the whole process, and median seconds by the clock."""

    cpu: float
    p50: float


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """A session with the threads the server takes by default, which do not spin."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def measure(call: Callable[[Any], object], arguments: Sequence[Any], seconds: float) -> Cost:
    """Call with each argument in turn for about `seconds`, after one turn to warm up."""
    for argument in arguments:
        call(argument)
    clock, cpu_before = time.perf_counter, time.process_time()
    times, until, turn = [], clock() + seconds, 0
    while (began := clock()) < until:
        call(arguments[turn % len(arguments)])
        times.append(clock() - began)
        turn += 1
    return Cost((time.process_time() - cpu_before) / len(times), statistics.median(times))
