"""Data sets as rows: the queries. Each takes a connection."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

from sqlalchemy import Connection, Row, func, select, update

from aiaas_client.protocol.datasets import Column, Dataset, read_ref
from aiaas_server.core.author import Author
from aiaas_server.core.errors import NotFound
from aiaas_server.state.artefacts import claims
from aiaas_server.state.changes import tell
from aiaas_server.state.tables import DATASETS

KIND: Final = "dataset"
"""Of changes of the feed: `object` is the name, `data` has `change` and `version`."""
_MOST_NUMBER: Final = 2**31 - 1


class DatasetRow(NamedTuple):
    """A row of `datasets`.

    Attributes:
        digest, size: Of its Parquet file.
    """

    tenant: str
    name: str
    number: int
    state: Literal["ready", "erased"]
    digest: str
    size: int
    rows: int
    columns: list[Column]
    format: str
    note: str
    description: str
    lineage: dict[str, Any]
    created: float
    created_by: str

    @property
    def ref(self) -> str:
        """`name@number`."""
        return f"{self.name}@{self.number}"

    @property
    def user(self) -> str:
        """Under which its artefact is kept: a name may be longer than such a user."""
        return f"dataset/{hashlib.sha256(self.name.encode()).hexdigest()[:32]}/{self.number}"


class NewDataset(NamedTuple):
    """What is to become a version of a data set.

    Attributes:
        description: Of all versions; that of the one before where it is None.
    """

    name: str
    rows: int
    columns: list[Column]
    format: str = "parquet"
    note: str = ""
    description: str | None = None
    lineage: Mapping[str, Any] = MappingProxyType({})


def document(row: DatasetRow) -> Dataset:
    """A data set as the wire has it."""
    values = row._asdict()
    del values["tenant"]
    return Dataset(**values)


def brief(row: DatasetRow) -> Dataset:
    """As `document`, without what takes room in a list: histograms and classes."""
    columns = [
        c.model_copy(update={"edges": [], "histogram": [], "classes": []}) for c in row.columns
    ]
    return document(row._replace(columns=columns))


def get_dataset(
    connection: Connection, tenant: str, name: str, number: int | None = None
) -> DatasetRow:
    """A version of a data set, erased or not; the latest that is not where `number` is None.

    Raises:
        NotFound: There is none.
    """
    asked = _of(tenant, name)
    if number is None:
        asked = asked.where(DATASETS.c.state == "ready").order_by(DATASETS.c.number.desc()).limit(1)
    else:
        asked = asked.where(DATASETS.c.number == min(number, _MOST_NUMBER))
    row = connection.execute(asked).one_or_none()
    if row is not None:
        return _row(row)
    if connection.execute(_of(tenant, name)).first() is None:
        raise NotFound(f"there is no data set '{name[:64]}'{_meant(connection, tenant, name)}")
    what = "version that is not erased" if number is None else f"version {number}"
    raise NotFound(f"data set '{name[:64]}' has no {what}")


def get_ready(connection: Connection, tenant: str, ref: str) -> DatasetRow:
    """A data set by its reference, whose rows are there.

    Raises:
        NotFound: There is none, or it was erased, or that is no reference.
    """
    try:
        name, number = read_ref(ref)
    except ValueError as error:
        raise NotFound(f"there is no data set {ref[:64]!r}: {error}") from None
    row = get_dataset(connection, tenant, name, number)
    if row.state == "erased":
        raise NotFound(f"data set '{row.ref}' was erased")
    return row


def _meant(connection: Connection, tenant: str, name: str) -> str:
    asked = select(DATASETS.c.name).where(DATASETS.c.tenant == tenant).distinct().limit(1000)
    near = get_close_matches(name[:64], connection.execute(asked).scalars().all(), 1)
    return f"; did you mean '{near[0]}'?" if near else ""


def list_datasets(
    connection: Connection, tenant: str, after: str = "", limit: int = 100
) -> list[DatasetRow]:
    """The latest version of each that is not erased, by name; names behind `after`."""
    latest = (
        select(DATASETS.c.name, func.max(DATASETS.c.number).label("number"))
        .where(DATASETS.c.tenant == tenant, DATASETS.c.state == "ready", DATASETS.c.name > after)
        .group_by(DATASETS.c.name)
        .order_by(DATASETS.c.name)
        .limit(limit)
        .subquery()
    )
    asked = (
        select(DATASETS)
        .join(latest, (DATASETS.c.name == latest.c.name) & (DATASETS.c.number == latest.c.number))
        .where(DATASETS.c.tenant == tenant)
        .order_by(DATASETS.c.name)
    )
    return [_row(row) for row in connection.execute(asked)]


def list_versions(
    connection: Connection, tenant: str, name: str, before: int | None = None, limit: int = 100
) -> list[DatasetRow]:
    """The versions of a data set, the newest first, erased ones too.

    Raises:
        NotFound: There is none of that name.
    """
    asked = _of(tenant, name).order_by(DATASETS.c.number.desc()).limit(limit)
    if before is not None:
        asked = asked.where(DATASETS.c.number < min(before, _MOST_NUMBER))
    found = [_row(row) for row in connection.execute(asked)]
    if not found and before is None:
        raise NotFound(f"there is no data set '{name[:64]}'{_meant(connection, tenant, name)}")
    return found


def put_version(
    connection: Connection, author: Author, new: NewDataset, digest: str, size: int
) -> tuple[DatasetRow, bool]:
    """The next version, or the one that has these rows already; whether it is new.

    Equal rows are the latest version's; of what a job made, those of any version that it made, so
    that it may be kept twice.
    """
    last = connection.execute(
        select(func.max(DATASETS.c.number)).where(
            DATASETS.c.tenant == author.tenant, DATASETS.c.name == new.name
        )
    ).scalar_one()
    ready = _ready_versions(connection, author.tenant, new.name)
    for at, row in enumerate(ready):
        made_before = bool(new.lineage) and row.lineage == dict(new.lineage)
        if row.digest == digest and (at == 0 or made_before):
            return row, False
    described = new.description
    if described is None:
        described = ready[0].description if ready else ""
    row = DatasetRow(
        author.tenant,
        new.name,
        (last or 0) + 1,
        "ready",
        digest,
        size,
        new.rows,
        new.columns,
        new.format,
        new.note,
        described,
        dict(new.lineage),
        time.time(),
        author.by,
    )
    columns = [column.model_dump(mode="json") for column in new.columns]
    connection.execute(DATASETS.insert().values(**row._asdict() | {"columns": columns}))
    claims.claim(connection, author.tenant, digest, row.user)
    tell(connection, author.tenant, KIND, row.name, _change("created", row, author))
    return row, True


def erase_row(connection: Connection, author: Author, row: DatasetRow) -> None:
    """Take the rows of a data set away: what is remembered tells nothing of what stood in them."""
    claims.release(connection, row.tenant, row.user)
    columns = [
        Column(name=column.name, kind=column.kind).model_dump(mode="json") for column in row.columns
    ]
    connection.execute(
        update(DATASETS)
        .where(
            DATASETS.c.tenant == row.tenant,
            DATASETS.c.name == row.name,
            DATASETS.c.number == row.number,
        )
        .values(state="erased", columns=columns)
    )
    tell(connection, row.tenant, KIND, row.name, _change("erased", row, author))


def _change(change: str, row: DatasetRow, author: Author) -> dict[str, Any]:
    return {"change": change, "version": row.number, "by": author.by}


def _ready_versions(connection: Connection, tenant: str, name: str) -> Sequence[DatasetRow]:
    asked = _of(tenant, name).where(DATASETS.c.state == "ready").order_by(DATASETS.c.number.desc())
    return [_row(row) for row in connection.execute(asked)]


def _of(tenant: str, name: str) -> Any:
    return select(DATASETS).where(DATASETS.c.tenant == tenant, DATASETS.c.name == name)


def _row(row: Row[Any]) -> DatasetRow:
    values: dict[str, Any] = dict(row._mapping)
    values["columns"] = [Column.model_validate(column) for column in values["columns"]]
    return DatasetRow(**values)
