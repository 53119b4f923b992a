"""Which rows are held out: the same ones for the same data set and split. All pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from aiaas_client.protocol.datasets import Split
from aiaas_server.core.errors import InvalidInput
from aiaas_server.jobs.table import Table

Array = np.ndarray[Any, Any]

_FEW: Final = 50  # different integers that look like labels


class Rows(NamedTuple):
    """Indices into a table, each in the table's order; together all rows, none twice.

    Attributes:
        validation: For early stopping; empty where none was asked for.
        test: Held out for the metrics that are told.
    """

    train: Array
    validation: Array
    test: Array


def split_rows(table: Table, split: Split, target: str) -> Rows:
    """Divide the rows.

    Where `split.by` is None, labels (categories, booleans, texts, few integers) are held out in
    equal shares as far as each has rows enough, and everything else at random.

    Raises:
        InvalidInput: A column that is not there or does not fit, a class with too few rows for
            every side (named), or a side that would be empty.
    """
    if split.test + split.validation >= 1.0:
        raise InvalidInput(
            f"split: test {split.test:g} and validation {split.validation:g} leave no rows to "
            "learn from; expected less than 1 together"
        )
    if split.by == "time":
        sides = _by_time(table, split)
    elif split.by == "group":
        sides = _by_group(table, split)
    elif split.by == "stratified":
        sides = _stratified(table, split, _column(table, split.column or target))
    elif split.by is None and _has_labels(table, target):
        sides = _stratified(table, split, target, strict=False)
    else:
        sides = _at_random(table.rows, split)
    return _checked(sides, split, table.rows)


def folds_of(strata: Array | None, rows: int, folds: int, seed: int) -> list[tuple[Array, Array]]:
    """Rows to learn from and to measure, for each fold of a cross-validation.

    Args:
        strata: `[rows]`: the class of each, which every fold gets its share of; None for none.

    Raises:
        InvalidInput: There are fewer rows than folds.
    """
    if rows < folds:
        raise InvalidInput(f"cross-validation: {rows} rows cannot be divided into {folds} folds")
    order = np.random.default_rng(seed).permutation(rows)
    if strata is not None:
        order = order[np.argsort(strata[order], kind="stable")]
    fold = np.empty(rows, np.int64)
    fold[order] = np.arange(rows) % folds
    return [(np.flatnonzero(fold != one), np.flatnonzero(fold == one)) for one in range(folds)]


def texts_of(table: Table, name: str) -> Array:
    """The values of a column as labels, `[rows]` objects: text, or None where one is missing.

    3 and 3.0 are "3", booleans "true" and "false".
    """
    return np.array([_text(value) for value in table[name].tolist()], dtype=object)


def _text(value: Any) -> str | None:
    if value is None or value != value:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _column(table: Table, name: str | None) -> str:
    if name is None:
        raise InvalidInput("split: by 'time' and by 'group' need 'column'")
    if name not in table:
        known = ", ".join(table.names[:32])
        raise InvalidInput(f"split: there is no column '{name[:64]}'; there are {known}")
    return name


def _has_labels(table: Table, target: str) -> bool:
    if target not in table:
        return False
    if table.kind(target) in ("category", "boolean", "text"):
        return True
    return table.kind(target) == "integer" and len(np.unique(table[target])) <= _FEW


def _at_random(rows: int, split: Split) -> tuple[Array, Array, Array]:
    order = np.random.default_rng(split.seed).permutation(rows)
    return _cut(order, split)


def _cut(order: Array, split: Split) -> tuple[Array, Array, Array]:
    """Test rows first, then validation, then what is learned from: each at least one of them."""
    test = max(round(len(order) * split.test), 1)
    validation = max(round(len(order) * split.validation), 1) if split.validation else 0
    return order[test + validation :], order[test : test + validation], order[:test]


def _stratified(
    table: Table, split: Split, name: str, strict: bool = True
) -> tuple[Array, Array, Array]:
    """Each class by itself, with the remainders handed to the classes in turn.

    Args:
        strict: Refuse a class with too few rows; otherwise the rare ones are only learned from.
    """
    labels = texts_of(table, name)
    texts = np.array(["" if label is None else label for label in labels], dtype=str)
    classes, codes, counts = np.unique(texts, return_inverse=True, return_counts=True)
    needed = 2 + bool(split.validation)
    rare = [(str(classes[at]), int(counts[at])) for at in np.flatnonzero(counts < needed)]
    if rare and strict:
        label, found = rare[0]
        raise InvalidInput(
            f"split: class '{label[:64]}' of column '{name}' has {found} row"
            f"{'s' if found > 1 else ''}; at least {needed} are needed, one on each side"
        )
    mixed = np.random.default_rng(split.seed).permutation(table.rows)
    order = mixed[np.argsort(codes[mixed], kind="stable")]
    shares = _shares(counts, split, needed)
    sides: tuple[list[Array], list[Array], list[Array]] = ([], [], [])
    start = 0
    for count, (test, validation) in zip(counts, shares, strict=True):
        rows = order[start : start + count]
        sides[2].append(rows[:test])
        sides[1].append(rows[test : test + validation])
        sides[0].append(rows[test + validation :])
        start += int(count)
    train, kept, held_out = (np.concatenate(side) if side else mixed[:0] for side in sides)
    return train, kept, held_out


def _shares(counts: Array, split: Split, needed: int) -> list[tuple[int, int]]:
    """Rows of each class for test and validation; what rounding leaves goes to the next class."""
    found, owed_test, owed_validation = [], 0.0, 0.0
    for count in counts.tolist():
        if count < needed:
            found.append((0, 0))
            continue
        owed_test += count * split.test
        test = min(max(round(owed_test), 1), count - needed + 1)
        owed_test -= test
        validation = 0
        if split.validation:
            owed_validation += count * split.validation
            validation = min(max(round(owed_validation), 1), count - test - 1)
            owed_validation -= validation
        found.append((test, validation))
    return found


def _by_time(table: Table, split: Split) -> tuple[Array, Array, Array]:
    name = _column(table, split.column)
    if table.kind(name) not in ("time", "number", "integer"):
        raise InvalidInput(
            f"split by time: expected a column of times or numbers, '{name}' is {table.kind(name)}"
        )
    values = table[name]
    missing = np.isnat(values) if values.dtype.kind == "M" else np.isnan(values.astype(np.float64))
    if missing.any():
        row = int(np.flatnonzero(missing)[0])
        raise InvalidInput(f"split by time: column '{name}' is missing in row {row}")
    order = np.argsort(values, kind="stable")[::-1]
    return _cut(order, split)


def _by_group(table: Table, split: Split) -> tuple[Array, Array, Array]:
    name = _column(table, split.column)
    if table.kind(name) in ("array", "image"):
        raise InvalidInput(f"split by group: column '{name}' is {table.kind(name)}")
    if table.kind(name) == "time":
        texts = table[name].astype(str)
    else:
        texts = np.array(["" if one is None else one for one in texts_of(table, name)], dtype=str)
    groups, codes = np.unique(texts, return_inverse=True)
    needed = 2 + bool(split.validation)
    if len(groups) < needed:
        raise InvalidInput(
            f"split by group: column '{name}' has {len(groups)} different values; "
            f"at least {needed} are needed, one on each side"
        )
    order = np.random.default_rng(split.seed).permutation(len(groups))
    # Whole groups are taken until a side has its share of the rows.
    sizes = np.bincount(codes)[order]
    side, taken, wanted = np.zeros(len(groups), np.int64), 0, table.rows * split.test
    for place, size in enumerate(sizes.tolist()):
        must_stop = place >= len(groups) - 1 - bool(split.validation)
        if place and (must_stop or taken >= wanted):
            break
        side[order[place]], taken = 2, taken + size
    if split.validation:
        _give_validation(side, order, sizes, table.rows * split.validation)
    of_rows = side[codes]
    train, validation, test = (np.flatnonzero(of_rows == which) for which in range(3))
    return train, validation, test


def _give_validation(side: Array, order: Array, sizes: Array, wanted: float) -> None:
    taken, free = 0, [place for place, group in enumerate(order) if side[group] == 0]
    for place in free[:-1]:
        if taken and taken >= wanted:
            break
        side[order[place]], taken = 1, taken + int(sizes[place])


def _checked(sides: Sequence[Array], split: Split, rows: int) -> Rows:
    train, validation, test = (np.sort(side) for side in sides)
    if not len(train) or not len(test) or (split.validation and not len(validation)):
        raise InvalidInput(
            f"split: of {rows} rows {len(train)} would be left to learn from, {len(validation)} "
            f"for validation and {len(test)} for the test; none may be empty"
        )
    return Rows(train, validation, test)
