"""Cumulative counters of one model version: plain integer adds under a lock.

A model may run in callers' threads beside the event loop, and all of them count here.

Meanings follow the statistics extension of the protocol: every request of a dynamic batch is
charged the batch's whole time (latency accounting), and the three compute counts are equal.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from typing import Any, Final, Literal

FailureReason = Literal["REJECTED", "CANCELED", "BACKEND", "OTHER"]

LATENCY_BUCKETS_NS = tuple(
    round(seconds * 1e9)
    for seconds in (
        0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
        0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    )
)  # fmt: skip
"""Upper bounds of the latency histogram, nanoseconds; one more count holds what is above."""
_COUNTING: Final = threading.Lock()
"""One for all models: it is held for a few additions, and a reload goes on with the same counts."""


class Statistics:
    """Counters since start; a reload of the same version goes on counting.

    Attributes:
        pending: Requests accepted and not answered yet.
        load_ns: How long its last load took.
        memory_bytes: What the loaded version takes, estimated; see `memory.estimate`.
        failures: Failed requests by reason.
        latency_counts: Successful requests by time from acceptance to answer, one count for each
            of `LATENCY_BUCKETS_NS` and one above them (not cumulative).
        cache_hit_count: Successful requests answered from the response cache; in `success_count`
            too, and in no other count.
        cache_miss_count: Requests that looked there in vain; ns of looking and of keeping.
        batches: Executions by batch size: `[count, input ns, infer ns, output ns]`.
        batch_curve: How long a run takes by its size, as `schedule.sizing` tells it: the `unit` of
            a size, the `cap` of batches, and the `points`; empty where nothing is known.
    """

    __slots__ = (
        "batch_curve",
        "batches",
        "cache_hit_count",
        "cache_hit_ns",
        "cache_miss_count",
        "cache_miss_ns",
        "compute_infer_ns",
        "compute_input_ns",
        "compute_output_ns",
        "execution_count",
        "fail_count",
        "fail_ns",
        "failures",
        "inference_count",
        "last_inference_ms",
        "latency_counts",
        "load_ns",
        "memory_bytes",
        "pending",
        "queue_ns",
        "success_count",
        "success_ns",
    )

    def __init__(self) -> None:
        self.last_inference_ms = 0
        self.inference_count = 0
        self.execution_count = 0
        self.success_count = 0
        self.success_ns = 0
        self.fail_count = 0
        self.fail_ns = 0
        self.queue_ns = 0
        self.compute_input_ns = 0
        self.compute_infer_ns = 0
        self.compute_output_ns = 0
        self.cache_hit_count = 0
        self.cache_hit_ns = 0
        self.cache_miss_count = 0
        self.cache_miss_ns = 0
        self.pending = 0
        self.load_ns = 0
        self.memory_bytes = 0
        self.failures: dict[FailureReason, int] = {
            "REJECTED": 0, "CANCELED": 0, "BACKEND": 0, "OTHER": 0,
        }  # fmt: skip
        self.latency_counts = [0] * (len(LATENCY_BUCKETS_NS) + 1)
        self.batches: dict[int, list[int]] = {}
        self.batch_curve: dict[str, Any] = {}

    def executed(self, rows: int, input_ns: int, infer_ns: int, output_ns: int) -> None:
        """One execution over `rows` items, successful."""
        with _COUNTING:
            self.execution_count += 1
            self.last_inference_ms = time.time_ns() // 1_000_000
            batch = self.batches.get(rows)
            if batch is None:
                self.batches[rows] = [1, input_ns, infer_ns, output_ns]
                return
            batch[0] += 1
            batch[1] += input_ns
            batch[2] += infer_ns
            batch[3] += output_ns

    def succeeded(
        self,
        rows: int,
        total_ns: int,
        queue_ns: int,
        input_ns: int,
        infer_ns: int,
        output_ns: int,
    ) -> None:
        """One request of `rows` items was answered."""
        with _COUNTING:
            self.inference_count += rows
            self.success_count += 1
            self.success_ns += total_ns
            self.queue_ns += queue_ns
            self.compute_input_ns += input_ns
            self.compute_infer_ns += infer_ns
            self.compute_output_ns += output_ns
            self.latency_counts[bisect_left(LATENCY_BUCKETS_NS, total_ns)] += 1

    def hit(self, total_ns: int) -> None:
        """One request was answered from the response cache."""
        with _COUNTING:
            self.success_count += 1
            self.success_ns += total_ns
            self.last_inference_ms = time.time_ns() // 1_000_000
            self.cache_hit_count += 1
            self.cache_hit_ns += total_ns
            self.latency_counts[bisect_left(LATENCY_BUCKETS_NS, total_ns)] += 1

    def missed(self, ns: int) -> None:
        """One request was not in the response cache; looking and keeping took `ns`."""
        with _COUNTING:
            self.cache_miss_count += 1
            self.cache_miss_ns += ns

    def failed(self, reason: FailureReason, total_ns: int) -> None:
        """One request failed, `total_ns` after it was accepted (0 if it was not)."""
        with _COUNTING:
            self.fail_count += 1
            self.fail_ns += total_ns
            self.failures[reason] += 1
