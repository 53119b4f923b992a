"""What monitoring adds to the metrics page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from aiaas_server.core.measures import Family, Sample
from aiaas_server.core.statistics import LATENCY_BUCKETS_NS
from aiaas_server.monitor.alerts import Alerts
from aiaas_server.monitor.collector import Key
from aiaas_server.monitor.drift import score_of
from aiaas_server.monitor.monitor import Monitor
from aiaas_server.monitor.traffic import BOUNDS, PHASES, Histogram, Traffic

_SHOWN = [ns / 1e9 for ns in LATENCY_BUCKETS_NS if ns <= 25e8]
"""Upper bounds on the page, seconds: those that are bounds of the bins as well."""
_LEVELS = {"unknown": 0, "few": 0, "ok": 0, "warning": 1, "drifted": 2}


def families_of(monitor: Monitor, alerts: Alerts) -> list[Family]:
    """Everything, of this process."""
    totals, drifts, dropped = monitor.snapshot
    scores = [("", _labels(key), score_of(drift)) for key, drift in sorted(drifts.items())]
    levels = [("", _labels(key), _LEVELS[drift.verdict]) for key, drift in sorted(drifts.items())]
    raised = [
        ("", {"kind": kind, "model": model, "version": version}, float(count))
        for (kind, model, version), count in sorted(alerts.raised.items())
    ]
    posted = [("", {"outcome": what}, float(n)) for what, n in sorted(alerts.posted.items())]
    lost = [("", {"what": what}, float(count)) for what, count in sorted(dropped.items())]
    return [
        Family(
            "aiaas_phase_duration_seconds",
            "histogram",
            "Time of answered requests by phase: queue, preprocess, compute, postprocess",
            list(_phases(totals)),
        ),
        Family("aiaas_drift_score", "gauge", "Greatest index of a feature that moved", scores),
        Family("aiaas_drift_verdict", "gauge", "0 as its reference, 1 warning, 2 drifted", levels),
        Family("aiaas_alerts_total", "counter", "Alerts that were raised", raised),
        Family("aiaas_alert_posts_total", "counter", "Alerts that were posted", posted),
        Family("aiaas_monitor_dropped_total", "counter", "What there was no room to count", lost),
        Family(
            "aiaas_monitor_unseen_total",
            "counter",
            "Answered requests whose tensors were not looked at",
            [("", _labels(key), float(traffic.unseen)) for key, traffic in sorted(totals.items())],
        ),
    ]


def _phases(totals: Mapping[Key, Traffic]) -> Iterator[Sample]:
    for key, traffic in sorted(totals.items()):
        for phase in PHASES:
            if phase != "total" and phase in traffic.phases:  # the total has its own family
                yield from _histogram({**_labels(key), "phase": phase}, traffic.phases[phase])


def _histogram(labels: dict[str, str], histogram: Histogram) -> Iterator[Sample]:
    for bound in _SHOWN:
        below = int(histogram.counts[: BOUNDS.searchsorted(bound * (1 + 1e-9))].sum())
        yield "_bucket", {**labels, "le": f"{bound:.9f}".rstrip("0").rstrip(".")}, float(below)
    yield "_bucket", {**labels, "le": "+Inf"}, float(histogram.count)
    yield "_sum", labels, histogram.seconds
    yield "_count", labels, float(histogram.count)


def _labels(key: Key) -> dict[str, str]:
    return {"model": key[0], "version": str(key[1])}
