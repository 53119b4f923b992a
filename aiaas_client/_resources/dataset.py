"""`DatasetHandle`: one version of a data set, and what can be done with it."""

from __future__ import annotations

import tempfile
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from functools import partial
from html import escape
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from aiaas_client._api import datasets as calls
from aiaas_client._resources.deploying import COMMIT_TIMEOUT
from aiaas_client._send.options import LONGEST
from aiaas_client._send.own_names import with_own_names
from aiaas_client._send.work import Local, acarry_out, carry_out

if TYPE_CHECKING:
    from aiaas_client._resources.frames import Backend
    from aiaas_client._send.work import Work
    from aiaas_client.protocol.datasets import Column, Dataset, DatasetErasure

AnyFrame = TypeVar("AnyFrame")
Place = TypeVar("Place")  # a path, or an awaitable of it
Proof = TypeVar("Proof")  # of an erasure

_MOST_COLUMNS = 100  # in a notebook
_MOST_NAMES = 6  # of columns in a repr


class DatasetFacts:
    """What is known of a version of a data set; it never changes, but for its erasure."""

    _document: Dataset

    @property
    def document(self) -> Dataset:
        """All that the server told."""
        return self._document

    @property
    def ref(self) -> str:
        """`name@number`, as jobs take it."""
        return self._document.ref

    @property
    def name(self) -> str:
        """What it is called."""
        return self._document.name

    @property
    def number(self) -> int:
        """Its version, from 1."""
        return self._document.number

    @property
    def rows(self) -> int:
        """How many."""
        return self._document.rows

    @property
    def columns(self) -> list[Column]:
        """What each holds: kind, type, missing values, range, classes."""
        return self._document.columns

    @property
    def size(self) -> int:
        """Bytes of its rows as a Parquet file."""
        return self._document.size

    @property
    def digest(self) -> str:
        """SHA-256 of that file."""
        return self._document.digest

    @property
    def state(self) -> str:
        """`ready` or `erased`."""
        return self._document.state

    @property
    def created_now(self) -> bool | None:
        """Of an upload: False where the same rows were that version already."""
        return self._document.created_now

    def column(self, name: str) -> Column:
        """One column.

        Raises:
            KeyError: There is none of that name.
        """
        return self._document.column(name)

    def __repr__(self) -> str:
        one = self._document
        names = [f"{column.name}: {column.kind}" for column in one.columns[:_MOST_NAMES]]
        more = [f"... {len(one.columns) - _MOST_NAMES} more"] * (len(one.columns) > _MOST_NAMES)
        erased = ", erased" if one.state == "erased" else ""
        return (
            f"<{type(self).__name__} {one.ref}, {one.rows} rows{erased}: {', '.join(names + more)}>"
        )

    def _repr_html_(self) -> str:
        """The columns as a table, for notebooks."""
        one = self._document
        head = f"{one.ref}, {one.rows} rows{', erased' if one.state == 'erased' else ''}"
        names = ("column", "kind", "missing", "distinct", "range", "most frequent")
        lines = ["".join(f"<th>{name}</th>" for name in names)]
        for column in one.columns[:_MOST_COLUMNS]:
            cells = column_cells(column)
            lines.append("".join(f"<td>{escape(cell)}</td>" for cell in cells))
        left = len(one.columns) - _MOST_COLUMNS
        more = f"<p>and {left} more columns</p>" if left > 0 else ""
        rows = "".join(f"<tr>{line}</tr>" for line in lines)
        return f"<table><caption>{escape(head)}</caption>{rows}</table>{more}"


def column_cells(column: Column) -> tuple[str, ...]:
    """A column in words: name, kind, missing, distinct, range, classes."""
    kind: str = column.kind
    if column.dtype or column.shape:
        shape = " x ".join(map(str, column.shape))
        kind = f"{kind} ({' '.join(part for part in (column.dtype, shape) if part)})"
    classes = ", ".join(f"{one.value} ({one.rows})" for one in column.classes[:3])
    distinct = "" if column.distinct is None else str(column.distinct)
    return column.name, kind, str(column.missing or ""), distinct, _span(column), classes


def _span(column: Column) -> str:
    """From the least to the greatest; of texts, characters, of which those of labels say little."""
    low, high = column.minimum, column.maximum
    if low is None or high is None or column.kind == "category":
        return ""
    if column.kind == "time":
        ends = (
            datetime.fromtimestamp(one, UTC).strftime("%Y-%m-%d %H:%M:%S") for one in (low, high)
        )
        return " to ".join(end.removesuffix(" 00:00:00") for end in ends)
    return f"{low:.6g} to {high:.6g}{' characters' if column.kind == 'text' else ''}"


class AnyDataset(DatasetFacts, Generic[AnyFrame, Place, Proof]):
    """What can be done with a version of a data set."""

    _carry_out: Any  # does what steps ask for: `carry_out`, or `acarry_out`

    def __init__(self, sender: Any, document: Dataset) -> None:
        self._sender = sender
        self._document = document

    def to_frame(
        self, *, backend: Backend = "pandas", columns: Sequence[str] | None = None
    ) -> AnyFrame:
        """Fetch the rows as a frame; what has a shape is an array in each row.

        Args:
            backend: "pandas" or "polars".
            columns: Only these.
        Raises:
            ConfigurationError: The library is not installed.
            InputError: There is no such column, or the rows are erased.
        """
        steps = _framed(self._document, backend, columns)
        found: AnyFrame = self._carry_out(steps, self._patient())
        return found

    def download(self, path: str | PathLike[str]) -> Place:
        """Fetch the rows as a Parquet file.

        Args:
            path: Where it goes; it is there as a whole in the end, or not at all.
        Returns:
            The path.
        Raises:
            InputError: A directory is in its place, or the rows are erased.
            ProtocolError: What came is not what the data set's digest says.
        """
        from aiaas_client._bundles.uploads import fetch_rows

        steps = fetch_rows(self._document, Path(path))
        found: Place = self._carry_out(steps, self._patient())
        return found

    def delete(self) -> Proof:
        """Erase the rows of this version for good; that it was there stays known.

        Raises:
            ConflictError: A job needs it now.
        """
        one = self._document
        found: Proof = self._sender.send(calls.delete_version(one.name, one.number))
        return found

    def _patient(self) -> Any:
        return self._sender.with_options(timeout=COMMIT_TIMEOUT, deadline=LONGEST)


def _framed(dataset: Dataset, backend: Backend, columns: Sequence[str] | None) -> Work[Any]:
    from aiaas_client._bundles.uploads import fetch_rows
    from aiaas_client._resources.frames import check_backend, frame_of

    check_backend(backend)
    with tempfile.TemporaryDirectory(prefix="aiaas-rows-") as directory:
        path = yield from fetch_rows(dataset, Path(directory) / "data.parquet")
        return (yield Local(partial(frame_of, path, dataset, backend, columns)))


@with_own_names
class DatasetHandle(AnyDataset[Any, "Path", "DatasetErasure"]):
    """A version of a data set, for threads."""

    _carry_out = staticmethod(carry_out)


@with_own_names
class AsyncDatasetHandle(
    AnyDataset[
        Coroutine[Any, Any, Any],
        Coroutine[Any, Any, "Path"],
        Coroutine[Any, Any, "DatasetErasure"],
    ]
):
    """A version of a data set, on an event loop."""

    _carry_out = staticmethod(acarry_out)
