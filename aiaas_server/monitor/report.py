"""What is told of a model's versions over a window, read from the database."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection

from aiaas_client.protocol.management import Shadow
from aiaas_client.protocol.monitoring import (
    Drift,
    DriftDocument,
    MonitoringDocument,
    Point,
    ShadowMonitoring,
    VersionMonitoring,
)
from aiaas_server.monitor.feedback import quality_of
from aiaas_server.monitor.profiles import get_profile, when_made
from aiaas_server.monitor.shadow_counts import ShadowCounts, read_shadows
from aiaas_server.monitor.traffic import PHASES, Traffic
from aiaas_server.monitor.verdicts import judged
from aiaas_server.monitor.windows import Window, read_windows

_MOST_POINTS: Final = 200


def monitoring_of(
    connection: Connection,
    model_id: str,
    model: str,
    window: int,
    now: float,
    version: int | None = None,
) -> MonitoringDocument:
    """How each version that was called within `window` seconds did, or one of them."""
    windows = read_windows(connection, model_id, "traffic", now - window, version=version, now=now)
    by_version: dict[int, list[Window]] = {}
    for one in windows:
        by_version.setdefault(one.version, []).append(one)
    drifts = {
        one.version: one
        for one in drift_document(connection, model_id, model, window, now, version).versions
    }
    versions = []
    for number in sorted({*by_version, *drifts}):
        told = _version(number, by_version.get(number, []), now)
        quality = quality_of(connection, model_id, number, now - window)
        versions.append(told.model_copy(update={"quality": quality, "drift": drifts.get(number)}))
    return MonitoringDocument(model=model, window=window, at=now, versions=versions)


def shadows_of(
    connection: Connection,
    model_id: str,
    since: float,
    shadow: Shadow | None = None,
    version: int | None = None,
) -> list[ShadowMonitoring]:
    """What each version did as a shadow, or one of them.

    Args:
        shadow: Which one is now.
    """
    counted = read_shadows(connection, model_id, since)
    shares = {} if shadow is None else {shadow.version: shadow.share}
    return [
        _shadow(number, counted.get(number, ShadowCounts()), shares.get(number))
        for number in sorted({*counted, *shares})
        if version in (None, number)
    ]


def _shadow(version: int, counts: ShadowCounts, share: float | None) -> ShadowMonitoring:
    return ShadowMonitoring(
        version=version,
        share=share,
        compared=counts.compared,
        agreeing=counts.agreed / counts.compared if counts.compared else None,
        outside=counts.outside,
        same_labels=counts.same_labels / counts.labels if counts.labels else None,
        largest_difference=counts.largest,
        latency_ratio=counts.ratio(0.5),
        p99_ratio=counts.ratio(0.99),
        failed=counts.failed,
        dropped=counts.dropped,
        last=counts.last,
    )


def drift_document(
    connection: Connection,
    model_id: str,
    model: str,
    window: int,
    now: float,
    version: int | None = None,
) -> DriftDocument:
    """The verdict on each version that has a reference, or on one of them."""
    windows = read_windows(connection, model_id, "drift", now - window, version=version, now=now)
    found: dict[int, Drift] = {}
    for number in _called(connection, model_id, window, now) if version is None else [version]:
        found[number] = Drift(model=model, version=number, window=window, at=now)
    for _, number in when_made(connection, [model_id]):
        stored = get_profile(connection, model_id, number)
        if stored is not None and version in (None, number):
            own = [one for one in windows if one.version == number]
            found[number] = judged(model, number, window, stored, own, now)
    verdicts = [found[number] for number in sorted(found)]
    return DriftDocument(model=model, window=window, at=now, versions=verdicts)


def _called(connection: Connection, model_id: str, window: int, now: float) -> set[int]:
    """Versions that had traffic; those without a reference make one of it."""
    windows = read_windows(connection, model_id, "traffic", now - window, now=now)
    return {one.version for one in windows}


def read_traffic(
    connection: Connection, model_id: str, version: int, since: float, now: float
) -> Traffic:
    """The traffic of a version over all processes, from a time on (to a minute or hour before)."""
    total = Traffic()
    for one in read_windows(connection, model_id, "traffic", since, version=version, now=now):
        total.merge(Traffic.read(one.counts))
    return total


def _version(number: int, windows: list[Window], now: float) -> VersionMonitoring:
    total = Traffic()
    stretches: dict[tuple[int, int], Traffic] = {}
    for one in windows:
        counts = Traffic.read(one.counts)
        total.merge(counts)
        stretches.setdefault((one.start, one.seconds), Traffic()).merge(counts)
    since = min((one.start for one in windows), default=now)
    return VersionMonitoring(
        version=number,
        requests=total.requests,
        rows=total.rows,
        failed=total.failed,
        errors=dict(total.failures),
        rate=total.requests / max(now - since, 1.0),
        error_rate=total.failed / total.requests if total.requests else 0.0,
        latency={name: total.phases[name].told() for name in PHASES if name in total.phases},
        batch_sizes={str(size): count for size, count in sorted(total.batches.items())},
        unseen=total.unseen,
        series=[_point(*key, counts) for key, counts in sorted(stretches.items())][-_MOST_POINTS:],
    )


def _point(start: int, seconds: int, counts: Traffic) -> Point:
    latency = counts.phase("total")
    return Point(
        at=start,
        seconds=seconds,
        requests=counts.requests,
        failed=counts.failed,
        p50=latency.quantile(0.5),
        p99=latency.quantile(0.99),
    )
