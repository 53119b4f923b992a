"""A job of training: a data set and a recipe become a version with metrics, lineage and report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from aiaas_client.protocol.jobs import TrainSpec
from aiaas_server.core.errors import InvalidInput
from aiaas_server.job_process.metrics import classification_metrics, regression_metrics
from aiaas_server.job_process.served import Served, served
from aiaas_server.job_process.tables import read_table
from aiaas_server.job_process.train_bundle import (
    code_version,
    libraries,
    write_card,
    write_golden,
    write_reference,
)
from aiaas_server.job_process.train_data import Material, material
from aiaas_server.job_process.train_parity import ParityFailed, check_parity, in_order, plain
from aiaas_server.job_process.train_search import METRICS, Folds, cross_validated, searched
from aiaas_server.job_process.train_spread import spread
from aiaas_server.jobs.cluster import check_cluster
from aiaas_server.jobs.orders import OUT, MadeVersion, Order, Product
from aiaas_server.jobs.recipes import AnyRecipe, check_installed, read_params, recipe
from aiaas_server.jobs.recipes.recipe import Fitted, Params, Watch

Array = np.ndarray[Any, Any]

_MOST_HISTORY: Final = 2000
_POINTS: Final = 2000


class Chosen(NamedTuple):
    """The parameters, and how they were found."""

    params: Params
    details: dict[str, Any]


def run(order: Order, watch: Watch) -> Product:
    """Carry out a `TrainSpec` in the current directory.

    Raises:
        InvalidInput: The data, the recipe or its parameters do not fit; the message names what.
        Diverged: The loss is not a number any more.
        ParityFailed: The exported model does not answer as the trained one.
    """
    spec = TrainSpec.model_validate(order.spec)
    found = recipe(spec.recipe)
    params = read_params(found, spec.params)
    _check(spec, found)
    watch.phase("reading")
    data = material(read_table(Path(order.datasets[spec.dataset].path)), spec, found)
    _tell(data, watch)
    recorded = Recorded(watch)
    with spread(spec, found, order.threads, watch) as cluster:
        folds = Folds(spec, found, data, recorded, order.threads, cluster)
        chosen = _choose(spec, found, folds, data, params, recorded)
        recorded.history.clear()
        watch.phase("training")
        fitted = found.fit(chosen.params, data.whole(spec, order.threads, cluster), recorded)
    lineage = _lineage(order, spec, found, data, chosen.params)
    made = _exported(order, spec, found, data, fitted, lineage, watch)
    return _product(spec, made, lineage, chosen.details, recorded)


class Recorded(Watch):
    """Passes on, and keeps what is drawn in the report."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.restored, self.scratch = watch.restored, watch.scratch
        self.history: list[dict[str, Any]] = []

    def phase(self, name: str) -> None:
        """See `Watch`."""
        self._watch.phase(name)

    def progress(
        self,
        step: int,
        total: int = 0,
        unit: str = "",
        *,
        rate: float = 0.0,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """See `Watch`."""
        if metrics and len(self.history) < _MOST_HISTORY:
            self.history.append({"step": step, **metrics})
        self._watch.progress(step, total, unit, rate=rate, metrics=metrics)

    def checkpoint(self, step: int, write: Callable[[Path], object]) -> None:
        """See `Watch`."""
        self._watch.checkpoint(step, write)

    def log(self, line: str) -> None:
        """See `Watch`."""
        self._watch.log(line)


def _check(spec: TrainSpec, found: AnyRecipe) -> None:
    check_installed(found)
    check_cluster(spec, found, None)  # the server has seen to what it allows
    if spec.class_weight is not None and found.task == "regression":
        raise InvalidInput(f"class_weight: recipe '{found.name}' has no classes")


def _tell(data: Material, watch: Watch) -> None:
    for name, reason in data.left_out.items():
        watch.log(f"column '{name}' is left out: {reason}")
    train, validation, test = (len(side) for side in data.rows)
    kinds = f", {len(data.classes)} classes" if data.classes else ""
    watch.log(
        f"target '{data.target}'{kinds}; {len(data.table.names)} columns; {train} rows to learn "
        f"from, {validation} for early stopping, {test} held out"
    )


def _choose(
    spec: TrainSpec,
    found: AnyRecipe,
    folds: Folds,
    data: Material,
    params: Params,
    watch: Watch,
) -> Chosen:
    """Search and cross-validate, on rows that are not held out."""
    details: dict[str, Any] = {}
    rows = data.rows.train
    if spec.search is not None:
        params, details["search"] = searched(spec.search, spec, found, folds, rows, watch)
    if spec.folds:
        if spec.folds < 2:
            raise InvalidInput(f"folds: expected 0, or 2 and more, got {spec.folds}")
        details["cv"] = cross_validated(folds, params, rows, spec, watch)
    return Chosen(params, details)


def _lineage(
    order: Order, spec: TrainSpec, found: AnyRecipe, data: Material, params: Params
) -> dict[str, Any]:
    return {
        "job": order.job,
        "dataset": spec.dataset,
        "recipe": found.name,
        "params": params.model_dump(mode="json"),
        "target": data.target,
        "features": data.table.names,
        "split": spec.split.model_dump(mode="json"),
        "class_weight": spec.class_weight,
        "seed": spec.seed,
        "code": code_version(),
        "libraries": libraries(found),
    }


class Made(NamedTuple):
    """A bundle on the disk, and how good it is.

    Attributes:
        metrics: Of the held-out rows, through the bundle.
        points: Of values: the truth, and what was answered.
    """

    directory: Path
    reference: Path | None
    metrics: dict[str, Any]
    parity: dict[str, Any]
    points: tuple[list[float], list[float]] | None
    rows: dict[str, int]


def _exported(
    order: Order,
    spec: TrainSpec,
    found: AnyRecipe,
    data: Material,
    fitted: Fitted,
    lineage: Mapping[str, Any],
    watch: Watch,
) -> Made:
    watch.phase("exporting")
    directory = Path(OUT) / "model"
    directory.mkdir(parents=True, exist_ok=True)
    exported = fitted.export(directory)
    # Rows are independent and need no padding. A server does not see that from its own made-up
    # rows where they lie far from what was learned; the gate below does, many rows at once.
    card = {"batching": {"pad": {}}, **exported.card}
    said = {
        "name": spec.model,
        "description": f"{found.title}, learned from {spec.dataset}.",
        "lineage": dict(lineage),
    }
    write_card(directory, card, **said)
    learned = data.table.take(data.rows.train)
    with served(directory, order.threads) as bundle:
        parity = check_parity(fitted, bundle, learned, data.classes, exported.tolerance)
        watch.log(f"parity: {parity['rows']} rows differ by {parity['largest_difference']:.2g}")
        watch.phase("evaluating")
        metrics, points = _measured(bundle, data, watch)
        golden = write_golden(directory, bundle, learned)
        path = Path(OUT) / "reference.npz"
        reference = path if write_reference(path, bundle, learned) else None
    write_card(directory, card, metrics=scalars(metrics), **said)
    train, validation, test = (len(side) for side in data.rows)
    rows = {"train": train, "validation": validation, "test": test, "golden": golden}
    return Made(directory, reference, metrics, parity, points, rows)


def _measured(
    bundle: Served, data: Material, watch: Watch
) -> tuple[dict[str, Any], tuple[list[float], list[float]] | None]:
    """Metrics of the held-out rows, as a server would answer them."""
    held_out = data.table.take(data.rows.test)
    answers = bundle.answers(held_out, lambda done, rows: watch.progress(done, rows, "rows"))
    if answers.failed:
        row, reason = next(iter(answers.failed.items()))
        shown = [{"row": f"held-out row {row}", "served": reason}]
        raise ParityFailed(f"{len(answers.failed)} held-out rows got no answer: {reason}", shown)
    truth, got = data.truth[data.rows.test], in_order(answers, data.classes)
    if data.classes:
        return classification_metrics(truth, got, data.classes), None
    points = truth[:_POINTS].tolist(), got[:_POINTS].tolist()
    return regression_metrics(truth, got), points


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that are one number, and defined."""
    names = {name for group in METRICS.values() for name in group}
    return {name: value for name, value in metrics.items() if name in names and value is not None}


def _product(
    spec: TrainSpec,
    made: Made,
    lineage: dict[str, Any],
    details: dict[str, Any],
    recorded: Recorded,
) -> Product:
    from aiaas_server.job_process.report import training_report  # and with it what draws

    report = Path(OUT) / "report.html"
    search = [_row(trial) for trial in details.get("search", {}).get("trials", [])]
    folds = _fold_rows(details["cv"]) if "cv" in details else []
    training_report(
        report,
        title=f"{spec.model}: {spec.recipe} on {spec.dataset}",
        facts=lineage,
        metrics=made.metrics,
        history=recorded.history,
        search=search,
        folds=folds,
        points=made.points,
    )
    shown: dict[str, Any] = {
        name: made.metrics[name] for name in ("confusion", "calibration") if name in made.metrics
    }
    kept = {name: value for name, value in made.metrics.items() if name not in shown}
    version = MadeVersion(
        model=spec.model,
        path=str(made.directory),
        note=f"{spec.recipe} on {spec.dataset}",
        metrics=kept,
        lineage=lineage,
        reference=str(made.reference) if made.reference else None,
        alias=spec.alias,
    )
    return Product(
        versions=[version],
        metrics=kept,
        table=search or folds,
        details={
            **details,
            **shown,
            "params": lineage["params"],
            "parity": made.parity,
            "rows": made.rows,
            "history": recorded.history,
        },
        files={report.name: str(report)},
    )


def _fold_rows(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A cross-validation as lines of a table: what is read first comes first."""
    told = {"mean": found["mean"], "deviation": found["deviation"]}
    told |= {str(number): scores for number, scores in enumerate(found["scores"], 1)}
    return [
        {"fold": fold, **{name: plain(value) for name, value in scores.items()}}
        for fold, scores in told.items()
    ]


def _row(trial: Mapping[str, Any]) -> dict[str, Any]:
    """A trial as a line of a table."""
    means = {name: plain(value) for name, value in trial["mean"].items()}
    return {**trial["params"], "rows": trial["rows"], **means}
