"""The audit of a fake server: two entries an act, as a server has them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from fnmatch import fnmatchcase

from aiaas_client.protocol.audit import (
    ActCount,
    AuditEntry,
    AuditReport,
    Finding,
    Verification,
    act_named,
)
from aiaas_client.testing.answers import page, told
from aiaas_client.testing.fake_model import FakeError
from aiaas_client.testing.state import Answer, RecordedRequest

_WRITING = ("POST", "PUT", "PATCH", "DELETE")


class FakeAudit:
    """What was done.

    Attributes:
        entries: In order; change them to have `verify` find it.
    """

    def __init__(self) -> None:
        self.entries: list[AuditEntry] = []
        self._written: list[AuditEntry] = []

    def note(self, request: RecordedRequest, rest: Sequence[str], status: int) -> None:
        """A request was answered: two entries where it was an act."""
        if request.method not in _WRITING or not rest:
            return
        is_name = [index % 2 == 1 for index in range(len(rest))]
        path = "/".join("{x}" if name else part for part, name in zip(rest, is_name, strict=True))
        act = act_named(request.method, f"/{path}")
        if not act:
            return
        name = "/".join(part for part, wanted in zip(rest, is_name, strict=True) if wanted)
        seq = len(self.entries) + 1
        begun = AuditEntry(
            seq=seq,
            at=time.time(),
            tenant="default",
            actor="operator",
            address="127.0.0.1",
            act=act,
            object=name,
            result="begun",
        )
        result = "done" if status < 400 else "failed"
        ended = {"seq": seq + 1, "begun": seq, "result": result, "status": status}
        for entry in (begun, begun.model_copy(update=ended)):
            self.entries.append(entry)
            self._written.append(entry)

    def answer(self, request: RecordedRequest, rest: Sequence[str]) -> Answer:
        """Answer what is asked of it."""
        match rest:
            case []:
                found = [entry for entry in reversed(self.entries) if _is_wanted(entry, request)]
                return page(request, found, "seq")
            case ["verify"]:
                return told(self._verified())
            case ["report"]:
                return told(self._report(request.query.get("month", "")))
        raise FakeError(404, "Not Found")

    def _verified(self) -> Verification:
        findings = [
            Finding(kind="edited", seq=old.seq, last=old.seq, text=f"entry {old.seq} was edited")
            for old, new in zip(self._written, self.entries, strict=False)
            if old != new
        ]
        written, there = len(self._written), len(self.entries)
        if there < written:
            text = f"the end was cut off: entries {there + 1} to {written} were removed"
            findings.append(Finding(kind="cut", seq=there + 1, last=written, text=text))
        first = min(1, there)
        return Verification(
            intact=not findings, first=first, last=there, entries=there, findings=tuple(findings)
        )

    def _report(self, month: str) -> AuditReport:
        of_month = [
            one for one in self.entries if time.strftime("%Y-%m", time.gmtime(one.at)) == month
        ]
        counts = [
            ActCount(
                act=act,
                tenant="default",
                actor="operator",
                done=sum(1 for one in of_month if one.act == act and one.result == "done"),
                failed=sum(1 for one in of_month if one.act == act and one.result == "failed"),
            )
            for act in sorted({one.act for one in of_month})
        ]
        return AuditReport(month=month, made=time.time(), entries=len(of_month), acts=tuple(counts))


def _is_wanted(entry: AuditEntry, request: RecordedRequest) -> bool:
    query = request.query
    since, until = float(query.get("since", "-inf")), float(query.get("until", "inf"))
    exact = all(
        query.get(name, getattr(entry, name)) == getattr(entry, name)
        for name in ("actor", "object", "result", "tenant")
    )
    return exact and since <= entry.at < until and fnmatchcase(entry.act, query.get("act", "*"))
