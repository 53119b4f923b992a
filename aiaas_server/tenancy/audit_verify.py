"""Walks over the whole audit, and says which entry is not as it was written.

An entry is right where its signature is of its text, the number in the text is that of its place,
the columns beside it say the same, and its hash follows from the one before. What fails says what
was done: a text that nobody signed was edited, a signed one in another place was moved or copied,
a number that is not there was taken out.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import Connection, Row, select

from aiaas_client.protocol.audit import Finding, FindingKind, Verification
from aiaas_server.state.tenant_tables import AUDIT, AUDIT_HEADS
from aiaas_server.tenancy.audit_chain import START, Head, chained, signature_of

_MOST: Final = 1000  # findings and unfinished acts that are told
_COPIED: Final = ("tenant", "at", "actor", "act")
_AT_ONCE: Final = 1000


def verify(connection: Connection, key: bytes, kept: Head | str) -> Verification:
    """Check everything, on one state of the database.

    Args:
        key: What entries and heads are signed with.
        kept: The head outside the database, read before that state, or why there is none.
    """
    return _Walk(connection, key, kept).verification()


class _Walk:
    """One walk from the first entry to the last."""

    def __init__(self, connection: Connection, key: bytes, kept: Head | str) -> None:
        self._connection = connection
        self._key = key
        self._kept = kept
        self._findings: list[Finding] = []
        self._places: dict[int, int] = {}  # of entries in a wrong place: place -> own number
        self._absent: set[int] = set()  # numbers whose entry is not in its place
        self._open: set[int] = set()  # begun, without a result so far
        self._entries = self._first = self._last = 0
        self._signed = 0  # entries and heads whose signature is right

    def verification(self) -> Verification:
        heads = self._heads()
        archived = max((h.seq for h in heads.values() if h.kind == "archive"), default=0)
        end = max(heads, default=0)
        if isinstance(self._kept, Head) and self._kept.is_signed(self._key):
            end = max(end, self._kept.seq)
            heads.setdefault(self._kept.seq, self._kept)
        self._entries_behind(archived, heads, end)
        self._misplaced()
        self._cut_off(archived, end)
        checked = self._count_heads()
        if self._entries + checked and not self._signed:
            text = "nothing is signed with this server's secret: expected that which wrote it"
            self._findings = [_finding("secret", self._first, self._last, text)]
        found = sorted(self._findings, key=lambda one: (one.seq, one.last))
        return Verification(
            intact=not found,
            first=self._first,
            last=self._last,
            entries=self._entries,
            heads=checked,
            archived=archived,
            findings=tuple(found[:_MOST]),
            unfinished=tuple(sorted(self._open)[:_MOST]),
        )

    def _tell(self, kind: FindingKind, seq: int, text: str, last: int | None = None) -> None:
        if len(self._findings) <= 10 * _MOST:
            self._findings.append(_finding(kind, seq, seq if last is None else last, text))

    # Heads

    def _heads(self) -> dict[int, Head]:
        """Those that this server has signed."""
        good = {}
        asked = select(AUDIT_HEADS).order_by(AUDIT_HEADS.c.seq)
        for row in self._connection.execute(asked):
            head = Head(**row._mapping)
            if head.is_signed(self._key):
                good[head.seq] = head
                self._signed += 1
            else:
                self._tell("head", head.seq, f"the head of entry {head.seq} was changed")
        if isinstance(self._kept, Head):
            if not self._kept.is_signed(self._key):
                text = "the head outside the database was changed"
                self._tell("head_file", self._kept.seq, text)
        elif good:
            self._tell("head_file", max(good), f"the head outside the database {self._kept}")
        return good

    def _count_heads(self) -> int:
        found = self._connection.execute(select(AUDIT_HEADS.c.seq)).all()
        return len(found)

    # Entries

    def _entries_behind(self, archived: int, heads: dict[int, Head], end: int) -> None:
        expected = archived + 1
        start = heads[archived].hash if archived else START
        before: tuple[str, ...] = (start,)  # hashes that the next one may follow; none: unknown
        for row in self._rows():
            self._first = self._first or row.seq
            self._last = row.seq
            self._entries += 1
            if row.seq <= archived:
                text = f"entry {row.seq} was inserted: those up to {archived} were archived"
                self._tell("inserted", row.seq, text)
                continue
            if row.seq > expected:
                self._missing(expected, row.seq - 1)
                before = ()
            expected = row.seq + 1
            before = self._entry(row, before, heads, end)

    def _rows(self) -> Iterator[Row[Any]]:
        after: int | None = None
        while True:
            asked = select(AUDIT).order_by(AUDIT.c.seq).limit(_AT_ONCE)
            if after is not None:
                asked = asked.where(AUDIT.c.seq > after)
            rows = self._connection.execute(asked).all()
            yield from rows
            if len(rows) < _AT_ONCE:
                return
            after = rows[-1].seq

    def _entry(
        self, row: Row[Any], before: tuple[str, ...], heads: dict[int, Head], end: int
    ) -> tuple[str, ...]:
        """Check one entry.

        Returns:
            The hashes that the next one may follow.
        """
        seq = row.seq
        right = hmac.compare_digest(signature_of(self._key, row.entry), row.signature)
        follows = [chained(one, row.entry) for one in before]
        if not right:
            self._absent.add(seq)
            if seq > end:
                self._tell(
                    "inserted", seq, f"entry {seq} was inserted: this server wrote none there"
                )
            else:
                self._tell(
                    "edited", seq, f"entry {seq} was edited: its text is not what was signed"
                )
            return row.hash, *follows
        self._signed += 1
        document = json.loads(row.entry)
        if document["seq"] != seq:
            self._absent.add(seq)
            self._places[seq] = document["seq"]
            return ()
        self._note(document)
        head = heads.get(seq)
        for name in _COPIED:
            if document[name] != getattr(row, name):
                self._tell("edited", seq, f"entry {seq} was edited: its column '{name}'")
        if before and row.hash not in follows:
            self._tell("edited", seq, f"entry {seq} was edited: its hash")
            return row.hash, *follows
        if head is not None and head.hash != row.hash:
            text = f"the hashes up to entry {seq} were computed anew: its head says another"
            self._tell("head", seq, text)
        return (row.hash,)

    def _note(self, document: dict[str, Any]) -> None:
        if document["result"] == "begun":
            self._open.add(document["seq"])
        elif "begun" in document:
            self._open.discard(document["begun"])

    def _missing(self, first: int, last: int) -> None:
        self._absent.update(range(first, min(last, first + 10 * _MOST) + 1))
        which = f"entry {first} was" if first == last else f"entries {first} to {last} were"
        self._tell("removed", first, f"{which} removed", last)

    def _misplaced(self) -> None:
        """Signed entries in places that are not theirs: copies, or the whole order is another."""
        for place, own in self._places.items():
            at_home = self._first <= own <= self._last and own not in self._absent
            if at_home:
                text = f"entry {place} was inserted: it is a copy of entry {own}"
                self._tell("inserted", place, text)
            else:
                text = f"the order was changed: in place {place} stands entry {own}"
                self._tell("reordered", place, text)

    def _cut_off(self, archived: int, end: int) -> None:
        last = max(self._last, archived)
        if end > last:
            which = f"entry {end} was" if end == last + 1 else f"entries {last + 1} to {end} were"
            self._tell("cut", last + 1, f"the end was cut off: {which} removed", end)


def _finding(kind: FindingKind, seq: int, last: int, text: str) -> Finding:
    return Finding(kind=kind, seq=seq, last=last, text=text)
