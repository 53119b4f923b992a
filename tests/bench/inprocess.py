"""What the model itself costs: `session.run` in this process, nothing around it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime

Feed = Mapping[str, np.ndarray[Any, np.dtype[Any]]]


class Cost(NamedTuple):
    """Of one call: CPU seconds of the whole process, and median seconds by the clock."""

    cpu: float
    p50: float


class Work(NamedTuple):
    """Of many rows: CPU seconds of one, rows a second, seconds for all."""

    cpu: float
    rate: float
    seconds: float


def open_session(
    path: Path, threads: int = 0, *, arena: bool = True
) -> onnxruntime.InferenceSession:
    """A session whose threads do not spin; 0 takes onnxruntime's number of threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = arena
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


def in_turn(path: Path, count: int, feed: Feed, seconds: float) -> float:
    """CPU seconds of a run, through `count` sessions of one small model one after another."""
    sessions = [open_session(path, 1, arena=False) for _ in range(count)]
    return measure(lambda session: session.run(None, feed), sessions, seconds).cpu


def work(session: onnxruntime.InferenceSession, feeds: Sequence[Feed], threads: int) -> Work:
    """Run all `feeds` once, `threads` at a time: what fills the cores as the server does."""
    rows = sum(len(next(iter(feed.values()))) for feed in feeds)
    cpu, began = time.process_time(), time.perf_counter()
    with ThreadPoolExecutor(threads) as threads_of_work:
        for _ in threads_of_work.map(lambda feed: session.run(None, feed), feeds):
            pass
    seconds = time.perf_counter() - began
    return Work((time.process_time() - cpu) / rows, rows / seconds, seconds)


def best(found: Sequence[Work]) -> Work:
    """Column by column: whatever else the machine does only ever adds."""
    cpus, rates, seconds = zip(*found, strict=True)
    return Work(min(cpus), max(rates), min(seconds))


def joined(feeds: Sequence[Feed], size: int) -> list[Feed]:
    """Single rows of one shape as batches of `size`."""
    return [
        {name: np.concatenate([feed[name] for feed in feeds[at : at + size]]) for name in feeds[0]}
        for at in range(0, len(feeds), size)
    ]


def joined_by_length(feeds: Sequence[Feed], size: int) -> list[Feed]:
    """Single rows `(1, n)` of different lengths, sorted, in batches padded with zeros."""
    ordered = sorted(feeds, key=lambda feed: -next(iter(feed.values())).shape[1])
    return [_padded(ordered[at : at + size]) for at in range(0, len(ordered), size)]


def _padded(feeds: Sequence[Feed]) -> Feed:
    longest = max(next(iter(feed.values())).shape[1] for feed in feeds)
    batch = {}
    for name, first in feeds[0].items():
        batch[name] = np.zeros((len(feeds), longest), first.dtype)
        for at, feed in enumerate(feeds):
            batch[name][at, : feed[name].shape[1]] = feed[name][0]
    return batch
