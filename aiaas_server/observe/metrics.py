"""The `/metrics` page, written from the integer statistics when it is asked for.

`nv_*` names are the reference server's, without `_total`, so that its dashboards work; `aiaas_*`
names follow Prometheus' rules. Numbers are always written plainly: some readers of these pages do
not know exponents, and none of them expects a sample on the first line.

Of several workers, counters, histograms and the gauges of models are the sums over all of them,
the `process_*` families have one sample a worker, and `nv_cpu_*` tell of the machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from aiaas_client.protocol.errors import ErrorCode
from aiaas_server.core.measures import Family, Measure, Sample
from aiaas_server.core.statistics import LATENCY_BUCKETS_NS, Statistics
from aiaas_server.observe.machine import Gauge, gauges
from aiaas_server.observe.totals import ProcessFacts

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = Mapping[str, str]
Read = Callable[[Statistics], float]


class Counted(Protocol):
    """A model version with statistics."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def statistics(self) -> Statistics: ...


class RequestMetrics:
    """Counts what the models' own statistics do not see: answers that are errors.

    Args:
        measures: Tell what only they know, for the page.
    """

    def __init__(self, measures: Sequence[Measure] = ()) -> None:
        self.refusals: Counter[ErrorCode] = Counter()
        self._measures = tuple(measures)

    def families(self) -> list[Family]:
        """What further parts of the server tell."""
        return [family for measure in self._measures for family in measure()]

    def refused(self, code: ErrorCode) -> None:
        """Count one error answer."""
        self.refusals[code] += 1


_COUNTERS: tuple[tuple[str, str, Read], ...] = (
    ("nv_inference_request_success", "Successful requests", lambda s: s.success_count),
    ("nv_inference_count", "Items inferred", lambda s: s.inference_count),
    ("nv_inference_exec_count", "Model executions", lambda s: s.execution_count),
    (
        "nv_inference_request_duration_us",
        "Time of successful requests, microseconds",
        lambda s: s.success_ns // 1000,
    ),
    (
        "nv_inference_queue_duration_us",
        "Time in the queue, microseconds",
        lambda s: s.queue_ns // 1000,
    ),
    (
        "nv_inference_compute_input_duration_us",
        "Time preparing inputs, microseconds",
        lambda s: s.compute_input_ns // 1000,
    ),
    (
        "nv_inference_compute_infer_duration_us",
        "Time executing, microseconds",
        lambda s: s.compute_infer_ns // 1000,
    ),
    (
        "nv_inference_compute_output_duration_us",
        "Time taking outputs, microseconds",
        lambda s: s.compute_output_ns // 1000,
    ),
    ("nv_cache_num_hits_per_model", "Answers from the response cache", lambda s: s.cache_hit_count),
    (
        "nv_cache_num_misses_per_model",
        "Requests the response cache lacked",
        lambda s: s.cache_miss_count,
    ),
    (
        "nv_cache_hit_duration_per_model",
        "Time of cache hits, microseconds",
        lambda s: s.cache_hit_ns // 1000,
    ),
    (
        "nv_cache_miss_duration_per_model",
        "Time of cache misses, microseconds",
        lambda s: s.cache_miss_ns // 1000,
    ),
)


def render(
    models: Iterable[Counted],
    refusals: Mapping[str, int],
    processes: Sequence[ProcessFacts] | None = None,
    families: Sequence[Family] = (),
) -> bytes:
    """Write the page.

    Args:
        models: The loaded versions.
        refusals: Error answers by code.
        processes: What the processes take; that of this one if not given.
        families: What further parts tell.
    """
    loaded = [({"model": m.name, "version": str(m.version)}, m.statistics) for m in models]
    lines: list[str] = []
    for name, text, read in _COUNTERS:
        samples = [("", labels, read(statistics)) for labels, statistics in loaded]
        lines += _family(name, "counter", text, samples)
    lines += _model_families(loaded)
    errors = [("", {"code": code}, count) for code, count in sorted(refusals.items())]
    lines += _family("aiaas_errors_total", "counter", "Error answers by code", errors)
    for family in families:
        lines += _family(*family)
    lines += machine_families(gauges())
    lines += _process_families([ProcessFacts.now()] if processes is None else processes)
    return ("\n".join(lines) + "\n").encode()


def _model_families(loaded: list[tuple[dict[str, str], Statistics]]) -> Iterator[str]:
    yield from _family(
        "nv_inference_request_failure",
        "counter",
        "Failed requests by reason",
        [
            ("", {**labels, "reason": reason}, count)
            for labels, statistics in loaded
            for reason, count in statistics.failures.items()
        ],
    )
    yield from _family(
        "nv_inference_pending_request_count",
        "gauge",
        "Requests accepted and not answered yet",
        [("", labels, statistics.pending) for labels, statistics in loaded],
    )
    yield from _family(
        "nv_model_load_duration_secs",
        "gauge",
        "Time the last load took, seconds",
        [("", labels, statistics.load_ns / 1e9) for labels, statistics in loaded],
    )
    yield from _family(
        "aiaas_batch_cap",
        "gauge",
        "Size that batches are kept to, since more gains nothing: items, or elements where padded",
        [
            ("", labels, statistics.batch_curve["cap"])
            for labels, statistics in loaded
            if statistics.batch_curve
        ],
    )
    yield from _family(
        "aiaas_request_duration_seconds",
        "histogram",
        "Time from acceptance to answer of successful requests",
        [sample for labels, statistics in loaded for sample in _latency(labels, statistics)],
    )
    yield from _family(
        "aiaas_batch_size",
        "histogram",
        "Items in each execution",
        [sample for labels, statistics in loaded for sample in _batch_sizes(labels, statistics)],
    )


def _latency(labels: Labels, statistics: Statistics) -> Iterator[Sample]:
    bounds = [nanoseconds / 1e9 for nanoseconds in LATENCY_BUCKETS_NS]
    return _histogram(labels, bounds, statistics.latency_counts, statistics.success_ns / 1e9)


def _batch_sizes(labels: Labels, statistics: Statistics) -> Iterator[Sample]:
    bounds = [float(2**power) for power in range(11)]
    counts = [0] * (len(bounds) + 1)
    items = 0
    for rows, batch in statistics.batches.items():
        index = next((i for i, bound in enumerate(bounds) if rows <= bound), len(bounds))
        counts[index] += batch[0]
        items += rows * batch[0]
    return _histogram(labels, bounds, counts, items)


def _histogram(
    labels: Labels, bounds: list[float], counts: list[int], total: float
) -> Iterator[Sample]:
    """Cumulate counts, one for each bound and one above them, into a histogram's samples."""
    running = 0
    for bound, count in zip([*bounds, None], counts, strict=True):
        running += count
        edge = "+Inf" if bound is None else _number(bound)
        yield "_bucket", {**labels, "le": edge}, running
    yield "_sum", labels, total
    yield "_count", labels, running


def machine_families(machine: Iterable[Gauge]) -> Iterator[str]:
    """Lines of gauges of the machine; those of a GPU have its id as their only label."""
    for gauge in machine:
        samples = [("", {"gpu_uuid": gpu} if gpu else {}, value) for gpu, value in gauge.samples]
        yield from _family(gauge.name, gauge.kind, gauge.text, samples)


_PROCESS: tuple[tuple[str, str, str, Callable[[ProcessFacts], float]], ...] = (
    (
        "process_resident_memory_bytes",
        "gauge",
        "Resident memory of the process",
        lambda p: p.resident_bytes,
    ),
    (
        "process_start_time_seconds",
        "gauge",
        "Start of the process, seconds since the epoch",
        lambda p: p.started,
    ),
    ("process_open_fds", "gauge", "Open file descriptors", lambda p: p.open_fds),
    ("process_cpu_seconds_total", "counter", "CPU time of the process", lambda p: p.cpu_seconds),
)


def _process_families(processes: Sequence[ProcessFacts]) -> Iterator[str]:
    """One sample a process, labelled with its worker when there are several."""
    labelled = [({"worker": p.worker} if p.worker else {}, p) for p in processes]
    for name, kind, text, read in _PROCESS:
        samples = [("", labels, read(process)) for labels, process in labelled]
        yield from _family(name, kind, text, samples)


def _family(name: str, kind: str, text: str, samples: Iterable[Sample]) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {'gauge' if kind == 'amount' else kind}"
    for suffix, labels, value in samples:
        yield f"{name}{suffix}{_labels(labels)} {_number(value)}"


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{key}="{_escape(value)}"' for key, value in labels.items()) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    """Plain decimal digits: integers as they are, others with up to nine places."""
    if value == int(value):
        return str(int(value))
    return f"{value:.9f}".rstrip("0")
