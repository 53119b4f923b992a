"""The documents of `/api/v1/datasets`: immutable, numbered tables, with schema and profile.

Times are seconds since 1970 (UTC), sizes bytes, digests SHA-256 in hexadecimal.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from aiaas_client.protocol.documents import Asked, Told
from aiaas_client.protocol.management import BundleFile, Description, Digest, DraftFile, Note
from aiaas_client.protocol.names import NAME

ColumnKind = Literal["number", "integer", "boolean", "category", "text", "time", "array", "image"]
"""What a column holds.

* `number`, `integer`, `boolean`;
* `category`: short texts that repeat, such as labels; `text`: any other;
* `time`: an instant;
* `array`: numbers of one shape a row, such as 784 pixels; `image`: an encoded picture.
"""

Format = Literal["csv", "parquet", "npz", "idx", "images"]
DatasetRef = Annotated[str, Field(pattern=f"^{NAME}(@([1-9][0-9]{{0,8}}|latest))?$")]
"""`reviews@2`, `reviews@latest`, or `reviews`, which is the same as the latter."""

_ref = re.compile(rf"({NAME})(?:@([1-9][0-9]{{0,8}}|latest))?").fullmatch
MOST_CLASSES: Final = 1000
"""Distinct values that a column of labels may have."""


def read_ref(ref: str) -> tuple[str, int | None]:
    """Name and number of a reference; None is the latest.

    Raises:
        ValueError: It is none.
    """
    found = _ref(ref)
    if found is None:
        raise ValueError(f"expected NAME or NAME@NUMBER, got {ref[:80]!r}")
    number = found[2]
    return found[1], None if number in (None, "latest") else int(number)


class ClassCount(Told):
    """One value of a column, and in how many rows it stands."""

    value: Any
    rows: int


class Column(Told):
    """A column, and what was found in it.

    Attributes:
        dtype: Of numbers and arrays: `int64`, `float32`, `uint8`, …
        shape: Of one row of an array; of an image none.
        missing: Rows without a value.
        distinct: Different values, counted up to 1,000; None of arrays, images and what has more.
        minimum, maximum, mean, deviation: Of numbers; of times, seconds since 1970; of texts,
            characters.
        classes: The most frequent values, at most 50, of categories, booleans and few integers.
        edges, histogram: Of numbers: 20 bins of equal width and the rows in each.
    """

    name: str
    kind: ColumnKind
    dtype: str = ""
    shape: list[int] = []
    missing: int = 0
    distinct: int | None = None
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    deviation: float | None = None
    classes: list[ClassCount] = []
    edges: list[float] = []
    histogram: list[int] = []


class Dataset(Told):
    """One immutable version of a data set.

    Attributes:
        number: Its version, from 1.
        state: `ready`, or `erased`: its rows are gone, and this is what is remembered.
        digest, size: Of its rows as one Parquet file, which is what `…/data` gives.
        format: What was uploaded.
        lineage: Where it comes from, such as the job that made it.
        created_now: Of an upload: False where the same rows were that version already.
    """

    shown = ("name", "number", "rows", "size", "state", "note")

    name: str
    number: int
    state: Literal["ready", "erased"] = "ready"
    rows: int = 0
    columns: list[Column] = []
    digest: str = ""
    size: int = 0
    format: str = ""
    note: str = ""
    description: str = ""
    lineage: dict[str, Any] = {}
    created: float = 0.0
    created_by: str = ""
    created_now: bool | None = Field(default=None, exclude=True)

    @property
    def ref(self) -> str:
        """`name@number`."""
        return f"{self.name}@{self.number}"

    def column(self, name: str) -> Column:
        """One column.

        Raises:
            KeyError: There is none of that name.
        """
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)


class DatasetRequest(Asked):
    """`POST /api/v1/datasets/{d}/drafts`: what is going to be uploaded.

    Attributes:
        files: One CSV, Parquet or NPZ file; IDX files by role (`images`, `labels`), as they are or
            gzipped; of a directory of images one `.zip`, whose folders are the classes.
        format: How to read them; by their names where it is None.
        kinds: Columns that are to be read as another kind than they look.
    """

    files: Annotated[list[BundleFile], Field(min_length=1, max_length=8)]
    format: Format | None = None
    kinds: dict[str, ColumnKind] = {}
    note: Note = ""
    description: Description | None = None


class DatasetDraft(Told):
    """A data set that is being brought; gone after a day."""

    id: str
    name: str
    files: list[DraftFile] = []
    created: float = 0.0
    expires: float = 0.0


class Split(Asked):
    """How rows are held out: the same rows for the same data set and split.

    Attributes:
        test: Share that is held out for the metrics that are told.
        validation: Share held out besides, for early stopping.
        by: `random`; `stratified`, the classes of `column` (the target by default) in equal shares;
            `time`, the latest by `column`; `group`, no value of `column` on both sides.
        seed: Of the choice.
    """

    test: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    validation: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    by: Literal["random", "stratified", "time", "group"] | None = None
    column: str | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0


class DatasetErasure(Told):
    """What an erasure took: `gone` are digests of which no byte is left in the store."""

    name: str
    number: int
    gone: list[Digest] = []
    kept: list[Digest] = []
