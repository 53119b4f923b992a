"""The chain of audit entries: how one is written, hashed, signed and put behind the last.

An entry is canonical JSON. Its hash is SHA-256 of the hash before it and that text, so that none
can be edited, taken out or moved without all hashes behind it. Its signature, by a key that is not
in the database, tells which entry was touched where somebody computes all these anew. Heads are
signed ends of the chain: by them a tail that was cut off is missed.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

from sqlalchemy import Connection, delete, insert, select

from aiaas_server.state.tenant_tables import AUDIT, AUDIT_HEADS

START: Final = "0" * 64
"""The hash before the first entry."""
HEAD_EVERY: Final = 1000  # entries
LONGEST: Final = 255  # characters of a text in an entry
_secret = re.compile(r"aias_([a-z0-9]{12})_[A-Za-z0-9_-]+").sub

Kind = Literal["head", "archive"]
Draft = Mapping[str, Any]
"""An entry before it has its number."""


class Head(NamedTuple):
    """A signed end of the chain.

    Attributes:
        kind: `archive` where the entries up to it were taken out.
    """

    seq: int
    kind: Kind
    hash: str
    at: float
    signature: str

    def text(self) -> str:
        """What is signed."""
        return canonical({"seq": self.seq, "kind": self.kind, "hash": self.hash, "at": self.at})

    def is_signed(self, key: bytes) -> bool:
        """Whether the server of this key has signed it."""
        return hmac.compare_digest(signature_of(key, self.text()), self.signature)


class Appended(NamedTuple):
    """What came of writing entries: their numbers, and a head if it was time for one."""

    seqs: list[int]
    head: Head | None


def canonical(members: Mapping[str, Any]) -> str:
    """The one text of a document: sorted, without spaces, in ASCII."""
    return json.dumps(members, sort_keys=True, separators=(",", ":"), allow_nan=False)


def chained(before: str, entry: str) -> str:
    """The hash of an entry behind the hash of another."""
    return hashlib.sha256(bytes.fromhex(before) + entry.encode()).hexdigest()


def signature_of(key: bytes, text: str) -> str:
    """What proves that this server wrote a text."""
    return hmac.digest(key, text.encode(), "sha256").hex()


def clean(text: str) -> str:
    """A text as an entry may have it: short, and without the secret of a key in it."""
    return _secret(r"aias_\1", text)[:LONGEST]


def operator_act(act: str, name: str, now: float) -> Draft:
    """An entry of what the operator did by a command, without a server.

    It goes into the transaction that does it: `append(connection, key, [operator_act(…)], now)`
    with `ServerSecret.derive("audit")` as the key.
    """
    return {
        "at": now,
        "tenant": "default",
        "actor": "operator",
        "act": act,
        "object": clean(name),
        "result": "done",
    }


def end_of(connection: Connection) -> tuple[int, str]:
    """The number and hash that the next entry comes behind.

    Where a head is further on, the tail was cut off: its numbers are not used again, so that
    the hole can be seen for ever.
    """
    last = connection.execute(
        select(AUDIT.c.seq, AUDIT.c.hash).order_by(AUDIT.c.seq.desc()).limit(1)
    ).first()
    head = last_head(connection)
    if head is not None and (last is None or head.seq > last.seq):
        return head.seq, head.hash
    return (0, START) if last is None else (last.seq, last.hash)


def append(connection: Connection, key: bytes, drafts: Sequence[Draft], now: float) -> Appended:
    """Write entries, in order; part of one transaction of the one writer."""
    before, last = end_of(connection)
    rows = []
    for seq, draft in enumerate(drafts, before + 1):
        entry = canonical({**draft, "seq": seq})
        last = chained(last, entry)
        copied = {name: draft[name] for name in ("tenant", "at", "actor", "act")}
        signature = signature_of(key, entry)
        rows.append({**copied, "seq": seq, "entry": entry, "hash": last, "signature": signature})
    if rows:
        connection.execute(insert(AUDIT), rows)
    after = before + len(rows)
    due = after // HEAD_EVERY > before // HEAD_EVERY
    head = set_head(connection, key, "head", after, last, now) if due else None
    return Appended([row["seq"] for row in rows], head)


def add_head(connection: Connection, key: bytes, now: float) -> Head | None:
    """Sign the end of the chain; None where the last head is that already."""
    seq, last = end_of(connection)
    known = last_head(connection)
    if seq == 0 or (known is not None and known.seq >= seq):
        return None
    return set_head(connection, key, "head", seq, last, now)


def set_head(
    connection: Connection, key: bytes, kind: Kind, seq: int, last: str, now: float
) -> Head:
    """Sign one point of the chain, in place of the head that may be there."""
    head = Head(seq, kind, last, now, "")
    head = head._replace(signature=signature_of(key, head.text()))
    connection.execute(delete(AUDIT_HEADS).where(AUDIT_HEADS.c.seq == seq))
    connection.execute(insert(AUDIT_HEADS).values(head._asdict()))
    return head


def last_head(connection: Connection) -> Head | None:
    """The furthest head."""
    row = connection.execute(
        select(AUDIT_HEADS).order_by(AUDIT_HEADS.c.seq.desc()).limit(1)
    ).first()
    return None if row is None else Head(**row._mapping)
