"""What a job asks for, held against what there is: before it waits in a queue for an hour.

Only what the documents tell is looked at here: names of columns, their kinds, the parameters of a
recipe. What only the rows tell, the process of the job finds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

from aiaas_client.protocol.datasets import MOST_CLASSES, Column, ColumnKind, Dataset
from aiaas_client.protocol.jobs import (
    BatchSpec,
    CompareSpec,
    EvaluateSpec,
    ExplainSpec,
    OptimiseSpec,
    ScoreSpec,
    Search,
    TrainSpec,
)
from aiaas_client.protocol.management import Version
from aiaas_server.core.describe.config import nearest
from aiaas_server.core.errors import InvalidInput
from aiaas_server.jobs.cluster import check_cluster
from aiaas_server.jobs.recipes import check_installed, read_params, recipe
from aiaas_server.jobs.recipes.recipe import Recipe

Spec = TrainSpec | EvaluateSpec | CompareSpec | ScoreSpec | OptimiseSpec | ExplainSpec | BatchSpec
FindRecipe = Callable[[str], Recipe[Any]]
_USUAL_TARGETS: Final = ("label", "target")
_LABELS: Final = frozenset[ColumnKind]({"category", "text", "boolean", "integer"})
_NUMBERS: Final = frozenset[ColumnKind]({"number", "integer"})
_METRICS: Final = {
    "classification": ("accuracy", "f1", "roc_auc", "log_loss"),
    "regression": ("mse", "mae", "r2"),
}


def check_spec(
    spec: Spec,
    datasets: Mapping[str, Dataset],
    versions: Mapping[str, Version],
    find_recipe: FindRecipe = recipe,
    clusters: Collection[str] = (),
) -> None:
    """See that a job can begin.

    Args:
        spec: With references as `name@number`.
        datasets, versions: By these.
        clusters: Addresses of Ray that a training may name.
    Raises:
        InvalidInput: A recipe, a parameter or a column that is not there, with the nearest that is;
            or one that does not fit.
        NotSupported: It needs what is not installed or not offered on this server.
    """
    if isinstance(spec, BatchSpec):
        return
    dataset = datasets[spec.dataset]
    if not dataset.rows:
        raise InvalidInput(f"data set '{dataset.ref}' has no rows")
    if isinstance(spec, TrainSpec):
        _check_train(spec, dataset, find_recipe, clusters)
    elif isinstance(spec, ScoreSpec):
        for name in spec.keep or ():
            _column(dataset, name, "keep")
        _check_features(versions[spec.model], dataset)
    elif isinstance(spec, CompareSpec):
        for ref in spec.models:
            _check_measured(spec, versions[ref], dataset)
    else:
        _check_measured(spec, versions[spec.model], dataset)


# Training


def _check_train(
    spec: TrainSpec, dataset: Dataset, find_recipe: FindRecipe, clusters: Collection[str]
) -> None:
    found = find_recipe(spec.recipe)
    check_installed(found)
    read_params(found, spec.params)
    check_cluster(spec, found, clusters)
    target = _target_of(spec, dataset)
    _check_target(target, found, dataset)
    _check_columns(spec, target, found, dataset)
    if spec.split.column is not None:
        _column(dataset, spec.split.column, "split.column")
    elif spec.split.by in ("time", "group"):
        raise InvalidInput(f"split: by {spec.split.by} needs its column")
    if spec.class_weight is not None and found.task != "classification":
        raise InvalidInput(f"class_weight: recipe '{found.name}' predicts numbers, not classes")
    if spec.search is not None:
        _check_search(spec.search, found)


def _target_of(spec: TrainSpec, dataset: Dataset) -> Column:
    if spec.target is not None:
        return _column(dataset, spec.target, "target")
    names = [column.name for column in dataset.columns]
    usual = next((name for name in _USUAL_TARGETS if name in names), None)
    return dataset.columns[-1] if usual is None else dataset.column(usual)


def _check_target(target: Column, found: Recipe[Any], dataset: Dataset) -> None:
    where = f"target: column '{target.name}' of '{dataset.ref}'"
    classes = found.task == "classification"
    fitting = _LABELS if classes else _NUMBERS
    if target.kind not in fitting:
        what = "classes" if classes else "numbers"
        raise InvalidInput(
            f"{where} is of kind {target.kind}, and recipe '{found.name}' predicts {what}: "
            f"expected one of {', '.join(sorted(fitting))}"
        )
    if target.missing >= dataset.rows:
        raise InvalidInput(f"{where} has no value in any row")
    if not classes:
        return
    if target.distinct is None or target.distinct > MOST_CLASSES:
        raise InvalidInput(f"{where} has more than {MOST_CLASSES} different values: no classes")
    if target.distinct < 2:
        raise InvalidInput(f"{where} has one class only: there is nothing to tell apart")


def _check_columns(spec: TrainSpec, target: Column, found: Recipe[Any], dataset: Dataset) -> None:
    """Those that are named fit; where none is, one at least does."""
    wanted = ", ".join(sorted(found.kinds))
    for name in spec.features or ():
        column = _column(dataset, name, "features")
        if column.name == target.name:
            raise InvalidInput(f"features: '{name}' is the target: a model would only copy it")
        if column.kind not in found.kinds:
            raise InvalidInput(
                f"features: column '{name}' is of kind {column.kind}, and recipe '{found.name}' "
                f"learns from {wanted}"
            )
    others = [column for column in dataset.columns if column.name != target.name]
    if not any(column.kind in found.kinds for column in others):
        raise InvalidInput(
            f"data set '{dataset.ref}' has no column beside '{target.name}' that recipe "
            f"'{found.name}' learns from: expected {wanted}"
        )


def _check_search(search: Search, found: Recipe[Any]) -> None:
    known = list(found.params.model_fields)
    for name, values in search.params.items():
        if name not in known:
            raise InvalidInput(
                f"search: recipe '{found.name}' has no parameter {_near(name, known)}"
            )
        if not isinstance(values, list | dict) or not values:
            raise InvalidInput(
                f"search: expected a list of values of '{name}', got {values!r}"[:256]
            )
        for value in values if isinstance(values, list) else ():
            read_params(found, {name: value})
    metrics = _METRICS[found.task]
    if search.metric is not None and search.metric not in metrics:
        raise InvalidInput(f"search.metric: there is no {_near(search.metric, metrics)}")


# Versions on a data set


def _check_measured(
    spec: EvaluateSpec | CompareSpec | OptimiseSpec | ExplainSpec,
    version: Version,
    dataset: Dataset,
) -> None:
    ref = f"{version.model}@{version.version}"
    target = spec.target or version.lineage.get("target")
    if not isinstance(target, str):
        raise InvalidInput(
            f"target: version '{ref}' does not tell what it was trained for: name the column"
        )
    _column(dataset, target, "target")
    _check_features(version, dataset)
    trained = version.lineage.get("dataset")
    if spec.held_out and trained != dataset.ref:
        told = f"on '{trained}'" if trained else "somewhere else"
        raise InvalidInput(
            f"held_out: version '{ref}' was trained {told}, so nothing of '{dataset.ref}' was held "
            "out: leave held_out away"
        )


def _check_features(version: Version, dataset: Dataset) -> None:
    """What it was trained on is there."""
    features = version.lineage.get("features")
    for name in features if isinstance(features, list) else ():
        if isinstance(name, str):
            _column(dataset, name, f"version '{version.model}@{version.version}'")


def _column(dataset: Dataset, name: str, where: str) -> Column:
    names = [column.name for column in dataset.columns]
    if name not in names:
        raise InvalidInput(f"{where}: data set '{dataset.ref}' has no column {_near(name, names)}")
    return dataset.column(name)


def _near(name: str, known: Iterable[str]) -> str:
    """`'colour'; did you mean 'color'?`, or else what there is."""
    names = list(known)
    near = nearest(name, names)
    if near:
        return f"'{name[:64]}'; did you mean '{near}'?"
    return f"'{name[:64]}'; there are {', '.join(names)[:256]}"
