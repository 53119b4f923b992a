"""What a training learns from: the target, the columns, the rows of each side, the weights.

Whatever cannot be learned from is refused here, before anything is fitted; the message names the
column, the row or the class.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np

from aiaas_client.protocol.datasets import MOST_CLASSES
from aiaas_client.protocol.jobs import TrainSpec
from aiaas_server.core.describe.config import nearest
from aiaas_server.core.errors import InvalidInput
from aiaas_server.jobs.recipes import AnyRecipe
from aiaas_server.jobs.recipes.preprocessing import unusable
from aiaas_server.jobs.recipes.recipe import Cluster, Training
from aiaas_server.jobs.splits import Rows, split_rows, texts_of
from aiaas_server.jobs.table import Table

Array = np.ndarray[Any, Any]

TARGETS: Final = ("label", "target", "y")
_SHOWN: Final = 10


class Material(NamedTuple):
    """A data set, ready to be learned from.

    Attributes:
        table: All rows of the columns to learn from.
        truth: `[rows]`: texts of labels, or float64.
        classes: Of the rows to learn from, in order; empty of values.
        left_out: Columns that are not learned from, and why.
    """

    target: str
    table: Table
    truth: Array
    classes: tuple[str, ...]
    rows: Rows
    left_out: Mapping[str, str]

    def training(
        self, rows: Array, spec: TrainSpec, threads: int, cluster: Cluster | None = None
    ) -> Training:
        """Some of the rows, as a recipe takes them; without validation."""
        target = self.coded(rows)
        return Training(
            self.table.take(rows),
            target,
            self.classes,
            weights=weights_of(target, self.classes, spec.class_weight),
            seed=spec.seed,
            workers=spec.workers,
            threads=threads,
            cluster=cluster,
        )

    def coded(self, rows: Array) -> Array:
        """The target of rows as `Training` has it; -1 for a class that is not learned."""
        if not self.classes:
            found: Array = self.truth[rows]
            return found
        place = {label: at for at, label in enumerate(self.classes)}
        return np.array([place.get(label, -1) for label in self.truth[rows]], np.float64)

    def whole(self, spec: TrainSpec, threads: int, cluster: Cluster | None = None) -> Training:
        """All rows to learn from, with those for early stopping."""
        found = self.training(self.rows.train, spec, threads, cluster)
        kept = self.rows.validation
        if self.classes:
            kept = kept[self.coded(kept) >= 0]
        if not len(kept):
            return found
        return found._replace(validation=(self.table.take(kept), self.coded(kept)))


def material(table: Table, spec: TrainSpec, recipe: AnyRecipe) -> Material:
    """Choose the target and the columns, divide the rows, and look whether that can be learned.

    Raises:
        InvalidInput: It cannot.
    """
    if not table.rows:
        raise InvalidInput(f"data set '{spec.dataset}' has no rows")
    target = target_of(table, spec.target)
    _check_kind(table, target, recipe)
    features, left_out = _features(table, target, spec, recipe)
    truth = _truth(table, target, recipe)
    rows = split_rows(table, spec.split, target)
    learned = table.select(features).take(rows.train)
    empty = unusable(learned, features)
    left_out |= dict.fromkeys(empty, "every value is missing")
    kept = [name for name in features if name not in empty]
    if not kept:
        raise InvalidInput(f"every value is missing in {_listed(empty)}: nothing to learn from")
    classes = _classes(truth[rows.train], target, recipe)
    return Material(target, table.select(kept), truth, classes, rows, left_out)


def target_of(table: Table, asked: str | None) -> str:
    """The column to learn.

    Raises:
        InvalidInput: There is none of that name.
    """
    if asked is None:
        return next((name for name in TARGETS if name in table), table.names[-1])
    if asked in table:
        return asked
    near = nearest(asked, table.names)
    meant = f"; did you mean '{near}'?" if near else "."
    raise InvalidInput(
        f"target: there is no column '{asked[:64]}'{meant} There are {_listed(table.names)}"
    )


def _check_kind(table: Table, target: str, recipe: AnyRecipe) -> None:
    kind = table.kind(target)
    fits = ("integer", "number") if recipe.task == "regression" else ("integer", "boolean")
    if kind in fits or (recipe.task == "classification" and kind in ("category", "text", "number")):
        return
    wanted = "numbers" if recipe.task == "regression" else "labels"
    raise InvalidInput(
        f"target '{target}' is a column of kind '{kind}'; recipe '{recipe.name}' learns {wanted}"
    )


def _features(
    table: Table, target: str, spec: TrainSpec, recipe: AnyRecipe
) -> tuple[list[str], dict[str, str]]:
    """The columns to learn from; those left out by themselves, with the reason."""
    if spec.features is not None:
        return _asked_features(table, target, spec.features, recipe), {}
    by = spec.split.column if spec.split.by in ("group", "time") else None
    left_out = {by: f"the split goes by it ({spec.split.by})"} if by in table and by else {}
    found = []
    for name, kind in table.fields:
        if name == target or name in left_out:
            continue
        if kind in recipe.kinds:
            found.append(name)
        else:
            left_out[name] = f"'{recipe.name}' does not learn from columns of kind '{kind}'"
    if not found:
        raise InvalidInput(
            f"recipe '{recipe.name}' learns from columns of kind {_listed(sorted(recipe.kinds))}; "
            f"beside the target '{target}' the data set has none"
        )
    return found, left_out


def _asked_features(table: Table, target: str, asked: list[str], recipe: AnyRecipe) -> list[str]:
    for at, name in enumerate(asked):
        if name not in table:
            near = nearest(name, table.names)
            meant = f"; did you mean '{near}'?" if near else "."
            raise InvalidInput(
                f"features: there is no column '{name[:64]}'{meant} "
                f"There are {_listed(table.names)}"
            )
        if name == target:
            raise InvalidInput(f"features: '{name}' is the target")
        if name in asked[:at]:
            raise InvalidInput(f"features: '{name}' comes twice")
        if table.kind(name) not in recipe.kinds:
            raise InvalidInput(
                f"features: column '{name}' is of kind '{table.kind(name)}'; recipe "
                f"'{recipe.name}' learns from {_listed(sorted(recipe.kinds))}"
            )
    return list(asked)


def _truth(table: Table, target: str, recipe: AnyRecipe) -> Array:
    """The target of every row: texts of labels, or float64."""
    values = table[target]
    if recipe.task == "classification":
        if table.kind(target) == "number":
            _check_whole(values, target, recipe)
        truth = texts_of(table, target)
        missing = np.array([label is None for label in truth])
    else:
        truth = values.astype(np.float64)
        missing = np.isnan(truth)
        if np.isinf(truth).any():
            row = int(np.flatnonzero(np.isinf(truth))[0])
            raise InvalidInput(f"target '{target}' is infinite in row {row}")
    if missing.any():
        found = np.flatnonzero(missing).tolist()
        rows = ", ".join(map(str, found[:_SHOWN])) + (", …" if len(found) > _SHOWN else "")
        raise InvalidInput(
            f"target '{target}' is missing in {len(found)} of {len(missing)} rows: {rows}"
        )
    return truth


def _check_whole(values: Array, target: str, recipe: AnyRecipe) -> None:
    fraction = np.flatnonzero(~np.isnan(values) & (values != np.round(values)))
    if len(fraction):
        raise InvalidInput(
            f"target '{target}' is {values[fraction[0]]:g} in row {fraction[0]}: numbers with "
            f"fractions are no labels; recipe '{recipe.name}' learns labels, one of regression "
            "learns numbers"
        )


def _classes(truth: Array, target: str, recipe: AnyRecipe) -> tuple[str, ...]:
    """The labels in order: numbers by their size, others as texts.

    Raises:
        InvalidInput: There is nothing to tell apart, or too much.
    """
    if recipe.task == "regression":
        if truth.min() == truth.max():
            raise InvalidInput(
                f"target '{target}' is {truth[0]:g} in every row to learn from: "
                "there is nothing to learn"
            )
        return ()
    labels = {str(label) for label in truth}
    if len(labels) == 1:
        raise InvalidInput(
            f"target '{target}' is '{labels.pop()[:64]}' in every row to learn from: "
            "expected at least two classes"
        )
    if len(labels) > MOST_CLASSES:
        raise InvalidInput(
            f"target '{target}' has {len(labels)} different labels; at most {MOST_CLASSES} are "
            "learned. A column of numbers is for a recipe of regression"
        )
    try:
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    except ValueError:
        return tuple(sorted(labels))


def weights_of(
    target: Array, classes: tuple[str, ...], asked: str | Mapping[str, float] | None
) -> Array | None:
    """Of rows: `balanced` gives every class the same sum, a mapping its own factor.

    Raises:
        InvalidInput: A label that there is not (named), a weight that is none, or a regression.
    """
    if asked is None:
        return None
    if not classes:
        raise InvalidInput("class_weight: a recipe of regression has no classes")
    codes = target.astype(np.int64)
    if isinstance(asked, str):
        counts = np.bincount(codes, minlength=len(classes))
        found: Array = len(codes) / (np.count_nonzero(counts) * np.maximum(counts, 1))[codes]
        return found
    factors = np.ones(len(classes))
    for label, weight in asked.items():
        if label not in classes:
            raise InvalidInput(
                f"class_weight: there is no class '{label[:64]}'; there are {_listed(classes)}"
            )
        if not 0.0 <= weight < float("inf"):
            raise InvalidInput(f"class_weight of '{label}': expected 0 or more, got {weight:g}")
        factors[classes.index(label)] = weight
    return factors[codes]


def _listed(names: Any) -> str:
    shown = ", ".join(f"'{name[:64]}'" for name in list(names)[:16])
    return f"{shown} and {len(names) - 16} more" if len(names) > 16 else shown
