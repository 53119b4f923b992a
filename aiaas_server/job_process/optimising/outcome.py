"""What came of each candidate: versions, the table, the plot and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, NamedTuple

from aiaas_client.protocol.jobs import OptimiseSpec
from aiaas_client.protocol.management import GOLDEN_FILE
from aiaas_server import __version__
from aiaas_server.job_process import drawing
from aiaas_server.job_process.optimising.bundle import describe
from aiaas_server.job_process.optimising.gate import Gate, fastest
from aiaas_server.job_process.optimising.measure import ROUNDS, Speed
from aiaas_server.job_process.report import headline, optimisation_report
from aiaas_server.jobs.orders import OUT, MadeVersion, Order, Product

PLOT: Final = "accuracy_latency.svg"
REPORT: Final = "report.html"
_CARRIED: Final = ("dataset", "recipe", "params", "target", "features", "split", "seed")
_LIBRARIES: Final = ("onnx", "onnxruntime", "onnxconverter-common", "numpy")


class Candidate(NamedTuple):
    """What was tried, the parent included.

    Attributes:
        directory: Of its files; None where there are none.
        reason: Why there are none.
        metrics: On the rows that were measured.
        golden: What became of the golden set.
        reference: Of its traffic's profile, relative.
    """

    directory: Path | None = None
    reason: str = ""
    metrics: Mapping[str, Any] = {}
    golden: str = ""
    reference: str | None = None


class Measurement(NamedTuple):
    """All that was found.

    Attributes:
        parent: `m@3`.
        tried: By target.
        speeds: By target, and the parent's by its name.
        rows: That were measured.
        calibrated: Rows that ranges were taken from.
    """

    order: Order
    spec: OptimiseSpec
    gate: Gate
    parent: Candidate
    tried: Mapping[str, Candidate]
    speeds: Mapping[str, Speed]
    rows: int
    calibrated: int


def product_of(found: Measurement) -> Product:
    """Versions of what passed, and what there is to read."""
    spec, gate = found.spec, found.gate
    passed = [
        name for name, one in found.tried.items() if one.directory and gate.passes(one.metrics)
    ]
    own = found.speeds[spec.model]
    best = fastest(own, {name: found.speeds[name] for name in passed})
    promoted = best if spec.promote else None
    table = [_row(found, spec.model, found.parent, "parent")]
    table += [_row(found, name, one, _outcome(found, name)) for name, one in found.tried.items()]
    versions = [_version(found, name, promoted) for name in passed]
    details = {
        "metric": gate.metric,
        "max_drop": gate.max_drop,
        "gate": gate.bound,
        "fastest": best,
        "promoted": promoted,
        "rows": found.rows,
        "calibration_rows": found.calibrated,
        "rounds": ROUNDS,
        "batch": own.batch,
    }
    _draw(found, table, details)
    return Product(
        versions=versions,
        table=table,
        details=details,
        metrics={gate.metric: gate.value},
        files={name: f"{OUT}/{name}" for name in (REPORT, PLOT)},
    )


def _outcome(found: Measurement, name: str) -> str:
    one = found.tried[name]
    if one.directory is None:
        return "none"
    return "version" if found.gate.passes(one.metrics) else "refused"


def _row(found: Measurement, name: str, one: Candidate, outcome: str) -> dict[str, Any]:
    metric = found.gate.metric
    row: dict[str, Any] = {"candidate": name, "outcome": outcome}
    if one.directory is not None:
        speed, own = found.speeds[name], found.speeds[found.spec.model]
        drop = found.gate.drop(one.metrics)
        row |= {
            metric: one.metrics[metric],
            "drop": drop,
            "size_bytes": _size(one.directory),
            "load_ms": _short(speed.load_ms),
            "p50_ms": _short(speed.p50_ms),
            "p99_ms": _short(speed.p99_ms),
            "rows_per_second": _short(speed.rows_per_second),
            "speedup": _short(own.p50_ms / speed.p50_ms),
            "golden": one.golden,
        }
    return {**row, "reason": _reason(found, one, outcome)}


def _reason(found: Measurement, one: Candidate, outcome: str) -> str:
    if outcome != "refused":
        return one.reason
    gate = found.gate
    return f"{gate.metric} drops by {gate.drop(one.metrics):.4g}; {gate.max_drop:g} may be lost"


def _size(directory: Path) -> int:
    """Of what is loaded: the golden set is not."""
    return sum(path.stat().st_size for path in directory.iterdir() if path.name != GOLDEN_FILE)


def _short(value: float) -> float:
    """Four digits that count: more would be noise."""
    return float(f"{value:.4g}")


def _version(found: Measurement, name: str, promoted: str | None) -> MadeVersion:
    spec, one = found.spec, found.tried[name]
    assert one.directory is not None, "it passed"
    lineage, metrics = _lineage(found, name, one), headline(one.metrics)
    describe(one.directory, metrics, lineage)
    speed = found.speeds[name]
    alias = spec.promote if name == promoted else None
    return MadeVersion(
        model=found.order.versions[spec.model].version.model,
        path=str(one.directory),
        note=f"{name} of {spec.model}",
        metrics={**metrics, "optimisation": speed._asdict()},
        lineage=lineage,
        reference=one.reference,
        alias=alias,
        guard=spec.guard if alias else None,
    )


def _lineage(found: Measurement, name: str, one: Candidate) -> dict[str, Any]:
    """Of a candidate: what it was made of; what its parent learned from stays what it was."""
    spec = found.spec
    learned = found.order.versions[spec.model].version.lineage
    lineage: dict[str, Any] = {key: learned[key] for key in _CARRIED if key in learned}
    if name == "int8-static":
        lineage["calibration"] = {"dataset": spec.dataset, "rows": found.calibrated}
    return {
        **lineage,
        "parent": spec.model,
        "optimisation": name,
        "job": found.order.job,
        "measured": {
            "dataset": spec.dataset,
            "held_out": spec.held_out,
            "metric": found.gate.metric,
            "drop": found.gate.drop(one.metrics),
            "max_drop": spec.max_drop,
        },
        "golden": one.golden,
        "code": __version__,
        "libraries": _libraries(),
    }


def _libraries() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # such as onnxruntime where onnxruntime-gpu is
            continue
    return found


def _draw(
    found: Measurement, table: Sequence[Mapping[str, Any]], details: Mapping[str, Any]
) -> None:
    metric = found.gate.metric
    points = [(row["candidate"], row["p50_ms"], row[metric]) for row in table if "p50_ms" in row]
    svg = drawing.tradeoff(metric, points, found.gate.bound)
    Path(OUT, PLOT).write_text(svg, "utf-8")
    facts = {"parent": found.spec.model, "dataset": found.spec.dataset, **details}
    optimisation_report(
        Path(OUT, REPORT),
        title=f"{found.spec.model}, optimised",
        facts={**facts, "libraries": _libraries()},
        table=table,
        plot=svg,
        lead=(
            "One thread, one version after the other, round after round; latencies are of one row "
            "and of the model alone, without network and queue."
        ),
    )
