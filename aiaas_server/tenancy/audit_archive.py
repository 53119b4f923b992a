"""Old entries into a file: written there first, then taken out, with a signed head in their place.

The file is JSON lines: an entry each, as `seq`, `entry`, `hash` and `signature`, and last the head.
The chain goes on behind that head, and an entry tells what was taken out and the file's digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from sqlalchemy import Connection, delete, func, select

from aiaas_server.core.errors import Conflict
from aiaas_server.state.durable import sync_directory
from aiaas_server.state.tenant_tables import AUDIT, AUDIT_HEADS
from aiaas_server.tenancy.audit_chain import (
    START,
    Head,
    append,
    canonical,
    chained,
    operator_act,
    set_head,
    signature_of,
)
from aiaas_server.tenancy.audit_verify import verify

_AT_ONCE: Final = 1000


class Archived(NamedTuple):
    """What was written to a file.

    Attributes:
        first, last: The entries in it.
        digest: SHA-256 of the file, hexadecimal.
    """

    first: int
    last: int
    digest: str


class ArchiveRefused(Exception):
    """Nothing was taken out; the message tells why."""


def write_archive(
    connection: Connection, key: bytes, kept: Head | str, before: float, path: Path
) -> Archived:
    """Write all entries from before a time to a file that is not there yet; changes nothing else.

    Args:
        before: Seconds since 1970.
    Raises:
        ArchiveRefused: The audit is not intact, or has no such entries.
        OSError: The file is there, or cannot be written.
    """
    checked = verify(connection, key, kept)
    if not checked.intact:
        raise ArchiveRefused(
            f"the audit is not intact, so nothing is taken out: {checked.findings[0].text}"
        )
    last = _last_before(connection, before)
    if last is None:
        raise ArchiveRefused("there are no entries from before then")
    begin = connection.execute(select(func.min(AUDIT.c.seq))).scalar_one()
    end = connection.execute(select(AUDIT.c.hash).where(AUDIT.c.seq == last)).scalar_one()
    head = Head(last, "archive", end, time.time(), "")
    head = head._replace(signature=signature_of(key, head.text()))
    digest = hashlib.sha256()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        for line in (*_lines(connection, last), canonical({"head": head._asdict()})):
            data = line.encode() + b"\n"
            digest.update(data)
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    sync_directory(path.absolute().parent)
    return Archived(begin, last, digest.hexdigest())


def take_out(connection: Connection, key: bytes, done: Archived, now: float) -> Head:
    """Take out what a file has, and note it; part of a transaction of the one writer.

    Returns:
        A head of the end, with the entry that tells of this.
    Raises:
        Conflict: The entries are others than those of the file.
    """
    rows = connection.execute(
        select(func.min(AUDIT.c.seq), func.max(AUDIT.c.seq), func.count()).where(
            AUDIT.c.seq <= done.last
        )
    ).one()
    if tuple(rows) != (done.first, done.last, done.last - done.first + 1):
        raise Conflict("the audit was changed while it was archived; nothing was taken out")
    end = connection.execute(select(AUDIT.c.hash).where(AUDIT.c.seq == done.last)).scalar_one()
    history = _history(connection, done.last)
    connection.execute(delete(AUDIT).where(AUDIT.c.seq <= done.last))
    connection.execute(delete(AUDIT_HEADS).where(AUDIT_HEADS.c.seq < done.last))
    set_head(connection, key, "archive", done.last, end, now)
    act = operator_act("audit.archive", f"{done.first}-{done.last}", now)
    entry = {**act, "body": done.digest, **history}
    append(connection, key, [entry], now)
    seq = connection.execute(select(func.max(AUDIT.c.seq))).scalar_one()
    last = connection.execute(select(AUDIT.c.hash).where(AUDIT.c.seq == seq)).scalar_one()
    return set_head(connection, key, "head", seq, last, now)


def check_archive(path: Path, key: bytes) -> Archived:
    """See that a file holds what was written to it.

    Raises:
        ArchiveRefused: It does not; the message names the entry.
        OSError: It cannot be read.
    """
    data = path.read_bytes()
    try:
        *entries, end = [json.loads(line) for line in data.splitlines()]
        head = Head(**end["head"])
        first = int(entries[0]["seq"])
        last = first + len(entries) - 1
        before = START if first == 1 else None
        for number, found in enumerate(entries, first):
            right = signature_of(key, found["entry"]) == found["signature"]
            inside = json.loads(found["entry"])["seq"] if right else None
            follows = before is None or chained(before, found["entry"]) == found["hash"]
            if not right or inside != number or not follows or found["seq"] != number:
                raise ArchiveRefused(f"{path}: entry {number} is not what was written")
            before = found["hash"]
    except (ValueError, TypeError, KeyError, IndexError):
        raise ArchiveRefused(f"{path}: expected an archive of the audit") from None
    if not head.is_signed(key) or (head.seq, head.hash) != (last, before):
        raise ArchiveRefused(f"{path}: its head is not that of entry {last}")
    return Archived(first, last, hashlib.sha256(data).hexdigest())


def _last_before(connection: Connection, before: float) -> int | None:
    """The last of the entries that are all from before a time."""
    later = connection.execute(
        select(func.min(AUDIT.c.seq)).where(AUDIT.c.at >= before)
    ).scalar_one()
    asked = select(func.max(AUDIT.c.seq))
    if later is not None:
        asked = asked.where(AUDIT.c.seq < later)
    found: int | None = connection.execute(asked).scalar_one()
    return found


def _lines(connection: Connection, last: int) -> Iterator[str]:
    after = 0
    while after < last:
        asked = select(AUDIT.c.seq, AUDIT.c.entry, AUDIT.c.hash, AUDIT.c.signature)
        rows = connection.execute(
            asked.where(AUDIT.c.seq > after, AUDIT.c.seq <= last)
            .order_by(AUDIT.c.seq)
            .limit(_AT_ONCE)
        ).all()
        for row in rows:
            yield canonical(dict(row._mapping))
        after = rows[-1].seq


def _history(connection: Connection, last: int) -> dict[str, int]:
    """How far the history of models is in the audit, which goes out with its entries."""
    row = connection.execute(
        select(AUDIT.c.entry)
        .where(AUDIT.c.seq <= last, AUDIT.c.entry.contains('"history":', autoescape=True))
        .order_by(AUDIT.c.seq.desc())
        .limit(1)
    ).scalar()
    return {} if row is None else {"history": int(json.loads(row)["history"])}
