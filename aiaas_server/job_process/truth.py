"""Which rows a version is measured on, and what would have been right in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from pydantic import ValidationError

from aiaas_client.protocol.datasets import Split
from aiaas_client.protocol.management import Version
from aiaas_server.core.errors import InvalidInput
from aiaas_server.job_process.answers import Answers
from aiaas_server.job_process.parts import Parts, chosen_parts
from aiaas_server.job_process.served import Served
from aiaas_server.jobs.orders import LaidDataset
from aiaas_server.jobs.recipes.recipe import Watch
from aiaas_server.jobs.splits import split_rows, texts_of
from aiaas_server.jobs.table import Field, Table

Array = np.ndarray[Any, Any]

USUAL: Final = ("label", "target")  # columns of the truth, where nothing says which one


class Measured(NamedTuple):
    """What is measured.

    Attributes:
        path: Of the Parquet file.
        target: The column of the truth.
        rows: Those with a truth, ascending.
        truth: Its value in each of them, as a table of that one column.
        missing: Rows that would have been chosen, but have no truth.
    """

    path: Path
    target: str
    rows: Array
    truth: Table
    missing: int

    @property
    def labels(self) -> Array:
        """The truth as texts: 3 is "3", true is "true"."""
        return texts_of(self.truth, self.target)

    @property
    def values(self) -> Array:
        """The truth as numbers.

        Raises:
            InvalidInput: It is none.
        """
        kind = self.truth.kind(self.target)
        if kind not in ("number", "integer", "boolean"):
            raise InvalidInput(
                f"column '{self.target}': the version tells numbers, expected numbers as their "
                f"truth, got a column of kind '{kind}'"
            )
        return self.truth[self.target].astype(np.float64)


def measured(
    laid: LaidDataset, versions: Sequence[Version], target: str | None, held_out: bool
) -> Measured:
    """The rows of a data set on which versions are measured.

    Args:
        target: The column of the truth; None is that of the versions' training.
        held_out: Only rows that the training of every version held out.

    Raises:
        InvalidInput: No such column, nothing says which one, nothing was held out, or no row has a
            truth.
    """
    path = Path(laid.path)
    with Parts(path) as parts:
        name = target_of(versions, target, parts.fields)
        rows = np.arange(parts.rows)
        for version in versions if held_out else ():
            rows = np.intersect1d(rows, _held_out(parts, laid.dataset.ref, version, name))
        truth = parts.table([name]).take(rows)
    there = np.array([text is not None for text in texts_of(truth, name)], bool)
    if not there.any():
        raise InvalidInput(f"column '{name}': there is no row with a truth to measure by")
    return Measured(path, name, rows[there], truth.take(there), int((~there).sum()))


def target_of(versions: Sequence[Version], target: str | None, fields: Sequence[Field]) -> str:
    """The column of the truth.

    Raises:
        InvalidInput: See `measured`.
    """
    names = {field.name: field.kind for field in fields}
    learned = {str(one.lineage["target"]): one for one in versions if one.lineage.get("target")}
    if target is None and len(learned) > 1:
        listed = " and ".join(f"'{name}'" for name in learned)
        raise InvalidInput(f"the versions learned different columns, {listed}: say 'target'")
    found = target or next(iter(learned), None) or next((n for n in USUAL if n in names), None)
    known = ", ".join(list(names)[:32])
    if found is None:
        raise InvalidInput(
            f"nothing says which column is the truth: say 'target'; there are {known}"
        )
    if found not in names:
        raise InvalidInput(f"the data set has no column '{found[:64]}'; there are {known}")
    if names[found] in ("array", "image", "time"):
        raise InvalidInput(
            f"column '{found}': expected labels or numbers as the truth, got kind '{names[found]}'"
        )
    return found


def _held_out(parts: Parts, ref: str, version: Version, target: str) -> Array:
    """The rows that the training of a version held out."""
    name = f"{version.model}@{version.version}"
    trained, split = version.lineage.get("dataset"), version.lineage.get("split")
    if trained != ref or not isinstance(split, dict):
        what = f"was trained on {trained}" if trained else "has no data set in its lineage"
        raise InvalidInput(f"held_out: {name} {what}; nothing of {ref} was held out for it")
    try:
        asked = Split.model_validate(split)
    except ValidationError:
        raise InvalidInput(f"held_out: the lineage of {name} has an unusable split") from None
    learned = str(version.lineage.get("target") or target)
    wanted = {learned, asked.column or learned} & {field.name for field in parts.fields}
    return np.sort(split_rows(parts.table(sorted(wanted)), asked, learned).test)


def features_of(version: Version, target: str, fields: Sequence[Field]) -> list[Field]:
    """The columns that a version may look at: those it learned from, else all but the truth.

    Records name their columns themselves; a version of texts must not be given the labels to read.
    """
    learned = version.lineage.get("features")
    names = {field.name for field in fields}
    if isinstance(learned, list) and learned and names.issuperset(map(str, learned)):
        return [field for field in fields if field.name in learned]
    return [
        field for field in fields if field.name != target or field.kind not in ("text", "category")
    ]


def answered(served: Served, version: Version, found: Measured, watch: Watch) -> Answers:
    """What a version answers to the rows, read part by part."""
    with Parts(found.path) as parts:
        columns = served.columns(features_of(version, found.target, parts.fields))
        tables = chosen_parts(parts, columns, found.rows, served.rows_at_once)

        def progress(done: int, rows: int) -> None:
            watch.progress(done, rows, "rows")

        return served.answers_of(tables, len(found.rows), progress)
