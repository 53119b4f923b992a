"""Whatever is done to the tables of the audit is found, and the entry is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, delete

from aiaas_client.protocol.audit import Verification
from aiaas_server.core.acts import Act, Outcome
from aiaas_server.state.database import Database
from aiaas_server.state.tenant_tables import AUDIT, AUDIT_HEADS
from aiaas_server.tenancy.audit_chain import START, Head, canonical, chained
from aiaas_server.tenancy.audit_head_file import HEAD_FILE, write_head
from tests.server.tenancy.auditing import (
    change,
    checked,
    edit,
    edit_head,
    put,
    remove,
    rows,
    written,
)

pytestmark = pytest.mark.asyncio
MEMBERS = (
    *("at", "tenant", "actor", "address", "request_id", "act", "object", "scope", "result"),
    *("begun", "status", "code", "body"),
)


def found(verification: Verification) -> list[tuple[str, int, int]]:
    """Kind, first and last entry of each finding."""
    return [(one.kind, one.seq, one.last) for one in verification.findings]


async def test_an_audit_that_nobody_touched_is_intact(database: Database, tmp_path: Path) -> None:
    await written(database, tmp_path)
    verification = checked(database, tmp_path)
    assert verification.intact, verification
    assert (verification.first, verification.last, verification.entries) == (1, 10, 10)
    assert verification.heads == 1
    assert verification.unfinished == ()


async def test_an_empty_audit_is_intact(database: Database, tmp_path: Path) -> None:
    assert checked(database, tmp_path).intact


@pytest.mark.parametrize("member", MEMBERS)
async def test_an_edited_member_is_found(member: str, database: Database, tmp_path: Path) -> None:
    await written(database, tmp_path)

    def work(connection: Connection) -> None:
        document = json.loads(rows(connection)[3]["entry"])
        value = document[member]
        document[member] = f"{value}x" if isinstance(value, str) else value + 1
        edit(4, entry=canonical(document))(connection)

    change(database, work)
    assert found(checked(database, tmp_path)) == [("edited", 4, 4)]


@pytest.mark.parametrize("column", ["tenant", "at", "actor", "act", "hash", "signature", "entry"])
@pytest.mark.parametrize("seq", [1, 4, 10])
async def test_an_edited_column_is_found(
    seq: int, column: str, database: Database, tmp_path: Path
) -> None:
    await written(database, tmp_path)
    value: Any = {"at": 1.0, "hash": "0" * 64, "signature": "0" * 64}.get(column, "other")
    change(database, edit(seq, **{column: value}))
    assert found(checked(database, tmp_path)) == [("edited", seq, seq)]


@pytest.mark.parametrize(
    ("seqs", "expected"),
    [
        ((1,), [("removed", 1, 1)]),
        ((5,), [("removed", 5, 5)]),
        ((10,), [("cut", 10, 10)]),
        ((4, 5, 6), [("removed", 4, 6)]),
        ((2, 7), [("removed", 2, 2), ("removed", 7, 7)]),
        ((8, 9, 10), [("cut", 8, 10)]),
        (tuple(range(1, 11)), [("cut", 1, 10)]),
    ],
    ids=["first", "middle", "last", "several", "two", "tail", "all"],
)
async def test_removed_entries_are_named(
    seqs: tuple[int, ...],
    expected: list[tuple[str, int, int]],
    database: Database,
    tmp_path: Path,
) -> None:
    await written(database, tmp_path)
    change(database, remove(*seqs))
    assert found(checked(database, tmp_path)) == expected


async def test_a_tail_that_was_cut_with_its_heads_is_missed_by_the_file(
    database: Database, tmp_path: Path
) -> None:
    await written(database, tmp_path)
    change(database, remove(9, 10))
    change(database, lambda c: c.execute(delete(AUDIT_HEADS)))
    assert found(checked(database, tmp_path)) == [("cut", 9, 10)]


async def test_what_is_written_after_a_cut_does_not_hide_it(
    database: Database, tmp_path: Path
) -> None:
    audit = await written(database, tmp_path)
    change(database, remove(9, 10))
    await audit.end(await audit.begin(Act("keys.create")), Outcome("done", 201))
    await audit.close()
    assert found(checked(database, tmp_path)) == [("removed", 9, 10)]


async def test_entries_that_changed_places_are_named(database: Database, tmp_path: Path) -> None:
    await written(database, tmp_path)

    def work(connection: Connection) -> None:
        all_of_them = rows(connection)
        all_of_them[4]["seq"], all_of_them[5]["seq"] = 6, 5
        put(connection, all_of_them)

    change(database, work)
    assert found(checked(database, tmp_path)) == [("reordered", 5, 5), ("reordered", 6, 6)]


@pytest.mark.parametrize("place", [5, 11])
async def test_a_copy_of_an_entry_is_named(place: int, database: Database, tmp_path: Path) -> None:
    await written(database, tmp_path)

    def work(connection: Connection) -> None:
        all_of_them = rows(connection)
        put(connection, [*all_of_them[: place - 1], *all_of_them[place:]])
        copy = {**all_of_them[2], "seq": place}
        put(connection, [*rows(connection), copy])

    change(database, work)
    verification = checked(database, tmp_path)
    assert found(verification) == [("inserted", place, place)]
    assert "copy of entry 3" in verification.findings[0].text


async def test_a_forged_entry_behind_the_last_is_named(database: Database, tmp_path: Path) -> None:
    await written(database, tmp_path)

    def work(connection: Connection) -> None:
        last = rows(connection)[-1]
        entry = canonical({**json.loads(last["entry"]), "seq": 11, "actor": "nobody"})
        forged = {**last, "seq": 11, "actor": "nobody", "entry": entry}
        put(connection, [*rows(connection), {**forged, "hash": chained(last["hash"], entry)}])

    change(database, work)
    assert found(checked(database, tmp_path)) == [("inserted", 11, 11)]


async def test_an_edit_is_named_where_all_hashes_are_computed_anew(
    database: Database, tmp_path: Path
) -> None:
    await written(database, tmp_path)

    def work(connection: Connection) -> None:
        all_of_them, last = rows(connection), START
        all_of_them[3]["entry"] = all_of_them[3]["entry"].replace("m/1", "m/2")
        for row in all_of_them:
            row["hash"] = last = chained(last, row["entry"])
        put(connection, all_of_them)

    change(database, work)
    assert found(checked(database, tmp_path)) == [("edited", 4, 4), ("head", 10, 10)]


@pytest.mark.parametrize("column", ["hash", "at", "signature", "kind"])
async def test_a_changed_head_is_named(column: str, database: Database, tmp_path: Path) -> None:
    await written(database, tmp_path)
    value: Any = {"at": 1.0, "kind": "archive"}.get(column, "0" * 64)
    change(database, edit_head(10, **{column: value}))
    assert found(checked(database, tmp_path)) == [("head", 10, 10)]


async def test_the_head_outside_the_database_is_checked_too(
    database: Database, tmp_path: Path
) -> None:
    await written(database, tmp_path)
    write_head(tmp_path / HEAD_FILE, Head(12, "head", "0" * 64, 1.0, "0" * 64))
    assert found(checked(database, tmp_path)) == [("head_file", 12, 12)]
    (tmp_path / HEAD_FILE).write_text("{}")
    assert found(checked(database, tmp_path)) == [("head_file", 10, 10)]
    (tmp_path / HEAD_FILE).unlink()
    assert found(checked(database, tmp_path)) == [("head_file", 10, 10)]


async def test_a_wrong_secret_is_told_as_such(database: Database, tmp_path: Path) -> None:
    await written(database, tmp_path)
    assert found(checked(database, tmp_path, b"other" * 8)) == [("secret", 1, 10)]


async def test_what_begun_and_has_no_result_is_no_tampering(
    database: Database, tmp_path: Path
) -> None:
    audit = await written(database, tmp_path)
    await audit.begin(Act("models.delete", "models:write", "m"))
    await audit.close()
    verification = checked(database, tmp_path)
    assert verification.intact
    assert verification.unfinished == (11,)


async def test_heads_come_each_thousand_entries(database: Database, tmp_path: Path) -> None:
    audit = await written(database, tmp_path, 0)
    for _ in range(2100):
        audit.note("datasets.sweep", "d")
    await audit.flush()
    heads = database.read_now(lambda c: c.execute(AUDIT_HEADS.select()).all())
    assert [head.seq for head in heads] == [1000, 2000]
    assert json.loads((tmp_path / HEAD_FILE).read_text())["seq"] == 2000
    last = database.read_now(lambda c: c.execute(AUDIT.select()).all())[-1]
    assert last.seq == 2100
    assert checked(database, tmp_path).intact
