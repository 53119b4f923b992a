"""Data sets and their drafts as rows, on each database."""

from __future__ import annotations

import time
from typing import Any

import pytest
from sqlalchemy import Connection, select, update

from aiaas_client.protocol.datasets import ClassCount, Column, DatasetRequest
from aiaas_client.protocol.management import BundleFile
from aiaas_server.core.author import Author
from aiaas_server.core.errors import InvalidInput, NotFound, PayloadTooLarge, ServerError
from aiaas_server.datasets import draft_rows, rows
from aiaas_server.datasets.rows import NewDataset
from aiaas_server.datasets.store import take_all, take_version
from aiaas_server.state.artefacts import claims
from aiaas_server.state.changes import changes_after
from aiaas_server.state.database import Database
from aiaas_server.state.tables import ARTEFACT_USES, DATASET_DRAFTS

ME, OTHER = Author("default", "me"), Author("other", "you")
COLUMNS = [
    Column(
        name="age",
        kind="integer",
        minimum=1,
        classes=[ClassCount(value=1, rows=2)],
        edges=[0.0, 1.0],
        histogram=[2],
    )
]


def write(database: Database, work: Any) -> Any:
    return database.submit(work).result()


def put(
    database: Database, name: str, digest: str, author: Author = ME, **more: Any
) -> tuple[rows.DatasetRow, bool]:
    new = NewDataset(name, 2, COLUMNS, **more)
    found: tuple[rows.DatasetRow, bool] = write(
        database, lambda c: rows.put_version(c, author, new, digest * 64, 7)
    )
    return found


def free(connection: Connection, tenant: str, ref: str) -> None:
    """No job needs anything."""


def test_equal_rows_are_the_latest_version(database: Database) -> None:
    first, created = put(database, "d", "a", note="one", description="all about it")
    assert (first.ref, created, first.columns) == ("d@1", True, COLUMNS)
    assert put(database, "d", "a") == (first, False)
    second, _ = put(database, "d", "b")
    assert (second.ref, second.description) == ("d@2", "all about it")
    again, created = put(database, "d", "a")  # what is latest now is something else
    assert (again.number, created) == (3, True)
    assert put(database, "other", "a")[0].ref == "other@1"


def test_what_a_job_made_is_kept_once(database: Database) -> None:
    made, _ = put(database, "d", "a", lineage={"job": "j"})
    put(database, "d", "b")
    assert put(database, "d", "a", lineage={"job": "j"}) == (made, False)
    assert put(database, "d", "a", lineage={"job": "k"})[1]


def test_lists_are_in_order_and_of_one_tenant(database: Database) -> None:
    for name, digest in (("b", "1"), ("a", "2"), ("b", "3"), ("c", "4")):
        put(database, name, digest)
    put(database, "b", "5", OTHER)
    write(database, lambda c: take_version(c, ME, "b", 2, free))
    page = database.read_now(lambda c: rows.list_datasets(c, "default", "a", 2))
    assert [row.ref for row in page] == ["b@1", "c@1"]
    versions = database.read_now(lambda c: rows.list_versions(c, "default", "b"))
    assert [(row.number, row.state) for row in versions] == [(2, "erased"), (1, "ready")]
    older = database.read_now(lambda c: rows.list_versions(c, "default", "b", 2))
    assert [row.number for row in older] == [1]
    assert database.read_now(lambda c: rows.list_versions(c, "default", "b", 1)) == []


def test_an_erased_one_is_remembered_and_tells_nothing(database: Database) -> None:
    put(database, "d", "a")
    put(database, "d", "b")
    write(database, lambda c: take_version(c, ME, "d", 2, free))
    told = database.read_now(lambda c: rows.get_dataset(c, "default", "d", 2))
    assert (told.state, told.columns) == ("erased", [Column(name="age", kind="integer")])
    assert database.read_now(lambda c: rows.get_ready(c, "default", "d@latest")).number == 1
    with pytest.raises(NotFound, match="'d@2' was erased"):
        database.read_now(lambda c: rows.get_ready(c, "default", "d@2"))
    assert put(database, "d", "b")[0].number == 3  # no number is used again
    write(database, lambda c: take_all(c, ME, "d", free))
    with pytest.raises(NotFound, match="no version that is not erased"):
        write(database, lambda c: take_all(c, ME, "d", free))
    assert database.read_now(lambda c: c.execute(select(ARTEFACT_USES)).all()) == []
    changes = database.read_now(lambda c: changes_after(c, 0))
    told_changes = [(change.object, change.data["change"]) for change in changes]
    assert [change for _, change in told_changes] == [
        "created", "created", "erased", "created", "erased", "erased",
    ]  # fmt: skip
    assert {change.kind for change in changes} == {"dataset"}


@pytest.mark.parametrize("ref", ["reviews", "reviews@1", "reviews@latest", "x@0", "@", "a b", ""])
def test_what_is_not_there_is_named(ref: str, database: Database) -> None:
    put(database, "review", "a")
    put(database, "reviews", "a", OTHER)
    with pytest.raises(NotFound, match="there is no data set"):
        database.read_now(lambda c: rows.get_ready(c, "default", ref))
    with pytest.raises(NotFound, match="did you mean 'review'"):
        database.read_now(lambda c: rows.get_dataset(c, "default", "reviews"))
    with pytest.raises(NotFound, match="'review' has no version 2147483647"):
        database.read_now(lambda c: rows.get_dataset(c, "default", "review", 2**31 - 1))
    with pytest.raises(NotFound):
        database.read_now(lambda c: rows.get_dataset(c, "default", "review", 2**70))


def test_the_longest_name_has_room_wherever_it_stands(database: Database) -> None:
    row, _ = put(database, "x" * 255, "a")
    users = database.read_now(lambda c: claims.users_of(c, "default", "a" * 64))
    assert users == [row.user]
    assert len(row.user) <= 80


# Drafts


def request_of(*files: tuple[str, int, str], **more: Any) -> DatasetRequest:
    listed = [BundleFile(name=n, size=s, sha256=d * 64) for n, s, d in files]
    return DatasetRequest(files=listed, **more)


BAD: dict[str, tuple[str, DatasetRequest, type[ServerError], str]] = {
    "a name": ("a b", request_of(("a.csv", 1, "a")), InvalidInput, "data set 'a b': expected"),
    "a long name": ("x" * 256, request_of(("a.csv", 1, "a")), InvalidInput, "expected a name"),
    "a file twice": (
        "d",
        request_of(("a.csv", 1, "a"), ("a.csv", 1, "b")),
        InvalidInput,
        "files: 'a.csv' is there twice",
    ),
    "two sizes": (
        "d",
        request_of(("a.csv", 1, "a"), ("b.csv", 2, "a")),
        InvalidInput,
        "b.csv: another file has its digest",
    ),
    "too large": (
        "d",
        request_of(("a.gz", 60, "a"), ("b.gz", 41, "b")),
        PayloadTooLarge,
        r"at most 100 bytes together \(max_dataset_bytes\), got 101",
    ),
}


@pytest.mark.parametrize(("name", "request_", "kind", "message"), BAD.values(), ids=BAD)
def test_what_cannot_become_a_data_set_is_refused(
    name: str, request_: DatasetRequest, kind: type[ServerError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        draft_rows.check_request(name, request_, 100)


def test_the_same_files_are_the_draft_that_is_open(database: Database) -> None:
    def ensure(name: str, author: Author = ME, **more: Any) -> tuple[draft_rows.DraftRow, bool]:
        asked = request_of(("a.csv", 1, "a"), **more)
        found: tuple[draft_rows.DraftRow, bool] = write(
            database, lambda c: draft_rows.ensure_draft(c, author, name, asked)
        )
        return found

    def find(tenant: str, name: str, draft: str) -> draft_rows.DraftRow:
        return database.read_now(lambda c: draft_rows.get_draft(c, tenant, name, draft))

    first, created = ensure("d", kinds={"a": "text"})
    again, created_again = ensure("d", kinds={"a": "category"})
    assert (created, created_again, first.id) == (True, False, again.id)
    assert find("default", "d", first.id).request.kinds == {"a": "category"}
    assert ensure("e")[1]
    assert ensure("d", OTHER)[1]
    for asked in [
        ("other", "d", first.id),
        ("default", "e", first.id),
        ("default", "d", "0" * 32),
        ("default", "d", first.id + "x"),
    ]:
        with pytest.raises(NotFound, match="has no draft"):
            find(*asked)
    old = update(DATASET_DRAFTS).where(DATASET_DRAFTS.c.id == first.id)
    write(database, lambda c: c.execute(old.values(created=time.time() - 24 * 3600 - 1)))
    assert [row.id for row in database.read_now(draft_rows.expired_drafts)] == [first.id]
    assert ensure("d")[1]
