"""`aiaas monitor MODEL` and `aiaas feedback`: how a model does, and what would have been right."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from aiaas_client._cli.plain import escape
from aiaas_client._cli.server import Server
from aiaas_client._cli.session import (
    FAILED,
    WRONG_USE,
    AsJson,
    ModelName,
    Version,
    client_of,
    ended,
    print_json,
)
from aiaas_client.protocol.monitoring import (
    MOST_FEEDBACK,
    FeedbackResult,
    MonitoringDocument,
    RolloutMonitoring,
    VersionMonitoring,
)

PHASES = ("total", "queue", "preprocess", "compute", "postprocess")
MOST_FEATURES = 10

Window = Annotated[str, typer.Option("--window", help="How far back: 5m, 15m, 1h, 6h, 24h, 7d.")]
Watched = Annotated[bool, typer.Option("--watch", help="Again and again, until Ctrl-C.")]
Every = Annotated[float, typer.Option("--every", help="Seconds between, with --watch.", min=0.1)]


def monitor(
    model: ModelName,
    version: Version = None,
    window: Window = "1h",
    watch: Watched = False,
    every: Every = 5.0,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """How a model did lately: rate, errors, latency by phase, drift, accuracy, who is on trial."""
    console = Console()
    with client_of(server) as client:
        while True:
            found = client.models.monitoring(model, version, window=window)
            if as_json:
                print_json(found.model_dump(mode="json"))
            else:
                _show(console, found, clear=watch)
            if not watch:
                return
            time.sleep(every)


def feedback(
    request_id: Annotated[
        str | None, typer.Argument(help="Of the answer it is about; without it, read stdin.")
    ] = None,
    label: Annotated[
        str | None, typer.Argument(help="What would have been right: a label, or a number.")
    ] = None,
    row: Annotated[int, typer.Option("--row", help="Which item of the request.", min=0)] = 0,
    as_json: AsJson = False,
    *,
    server: Server,
) -> None:
    """Tell what would have been right: one label, or a JSON object a line on stdin."""
    if request_id is None:
        items = list(_items_of_lines())
    elif label is None:
        raise ended("feedback: expected a label after the request id", WRONG_USE)
    else:
        items = [(request_id, _value(label), row)]
    with client_of(server) as client:
        results: list[FeedbackResult] = []
        for start in range(0, len(items), MOST_FEEDBACK):
            results += client.feedback_many(items[start : start + MOST_FEEDBACK])
    if as_json:
        print_json([one.model_dump(mode="json") for one in results])
    else:
        Console().print(_results_table(results))
    unknown = sum(one.status == "unknown" for one in results)
    if unknown:
        raise ended(f"{unknown} of {len(results)} requests are not remembered", FAILED)


def _items_of_lines() -> Iterator[tuple[Any, Any, Any]]:
    """`{"request_id", "label", "row"}` a line."""
    for number, line in enumerate(sys.stdin, 1):
        if not line.strip():
            continue
        try:
            one = json.loads(line)
            yield one["request_id"], one["label"], one.get("row", 0)
        except (ValueError, TypeError, KeyError, AttributeError):
            expected = '{"request_id": ..., "label": ...}'
            text = f"line {number}: expected {expected}, got {line[:80]!r}"
            raise ended(text, WRONG_USE) from None


def _value(text: str) -> str | float | int:
    """A number where the text is one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _show(console: Console, found: MonitoringDocument, *, clear: bool) -> None:
    if clear:
        console.clear()
    if found.rollout is not None:
        console.print(rollout_line(found.rollout))
    if found.shadows:
        console.print(_shadow_table(found))
    if not found.versions:
        console.print(f"no version of {escape(found.model)} was called within the window")
        return
    console.print(_traffic_table(found))
    console.print(_latency_table(found))
    for one in found.versions:
        if one.drift is not None:
            for table in _drift_tables(one):
                console.print(table)


def rollout_line(rollout: RolloutMonitoring) -> str:
    """Where a guarded promotion is, and what it waits for."""
    old = "" if rollout.stable is None else f" in place of {rollout.stable}"
    where = f"step {rollout.step} of {rollout.steps}, {rollout.share:.4g} of the calls"
    waiting = f": {escape(rollout.waiting)}" if rollout.waiting else ""
    return f"rollout of version {rollout.version}{old}: {where}{waiting}"


def _shadow_table(found: MonitoringDocument) -> Table:
    names = ("shadow", "share", "compared", "agreeing", "largest difference", "latency", "p99")
    table = Table(*names, "failed", "dropped", "last", box=None)
    for one in found.shadows:
        table.add_row(
            str(one.version),
            "ended" if one.share is None else f"{one.share:.4g}",
            str(one.compared),
            "" if one.agreeing is None else f"{one.agreeing:.2%}",
            f"{one.largest_difference:.4g}" if one.compared else "",
            _times(one.latency_ratio),
            _times(one.p99_ratio),
            str(one.failed),
            str(one.dropped),
            escape(one.last),
        )
    return table


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"x {ratio:.2f}"


def _traffic_table(found: MonitoringDocument) -> Table:
    names = ("version", "requests", "per s", "items", "failed", "errors", "accuracy", "labels")
    table = Table(*names, box=None)
    for one in found.versions:
        errors = ", ".join(f"{reason} {count}" for reason, count in sorted(one.errors.items()))
        quality = one.quality
        told = "" if quality.accuracy is None else f"{quality.accuracy:.1%}"
        if quality.mean_absolute_error is not None:
            told = f"off by {quality.mean_absolute_error:.4g}"
        table.add_row(
            str(one.version),
            str(one.requests),
            f"{one.rate:.2f}",
            str(one.rows),
            f"{one.error_rate:.1%}",
            errors,
            told,
            str(quality.labels),
        )
    return table


def _latency_table(found: MonitoringDocument) -> Table:
    table = Table("version", "ms", "mean", "p50", "p90", "p99", box=None)
    for one in found.versions:
        for phase in PHASES:
            latency = one.latency.get(phase)
            if latency is not None and latency.count:
                values = (latency.mean, latency.p50, latency.p90, latency.p99)
                table.add_row(str(one.version), phase, *(f"{1e3 * v:.3f}" for v in values))
    return table


def _drift_tables(one: VersionMonitoring) -> Iterator[Table | str]:
    drift = one.drift
    assert drift is not None
    if not drift.source:
        yield (
            f"drift of version {one.version}: no reference yet; "
            "one is made of its traffic, or by client.models.set_profile"
        )
        return
    yield (
        f"drift of version {one.version}: {drift.verdict} ({drift.rows} items against "
        f"{drift.reference_rows} of {drift.source})"
    )
    names = ("feature", "role", "verdict", "index", "distance", "p", "missing")
    table = Table(*names, box=None)
    for feature in drift.features[:MOST_FEATURES]:
        table.add_row(
            escape(feature.name),
            feature.role,
            feature.verdict,
            f"{feature.psi:.3f}",
            f"{feature.distance:.3f}",
            f"{feature.p_value:.1e}",
            f"{feature.missing:.1%}",
        )
    yield table


def _results_table(results: list[FeedbackResult]) -> Table:
    table = Table("request", "item", "status", "model", "version", "predicted", "right", box=None)
    for one in results:
        right = "" if one.correct is None else str(one.correct).lower()
        if one.error is not None:
            right = f"off by {one.error:.4g}"
        predicted = "" if one.predicted is None else str(one.predicted)
        table.add_row(
            escape(one.request_id),
            str(one.row),
            one.status,
            escape(one.model),
            str(one.version or ""),
            escape(predicted),
            right,
        )
    return table
