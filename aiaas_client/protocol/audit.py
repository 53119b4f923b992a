"""The audit: what was done to a server, by whom, and whether the record of it is whole.

Source: `docs/tenants.md`. Times are seconds since 1970, UTC; digests are SHA-256 in hexadecimal.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from aiaas_client.protocol.documents import Told

Result = Literal["begun", "done", "failed", "abandoned", "refused"]
FindingKind = Literal[
    "edited", "removed", "reordered", "inserted", "cut", "head", "head_file", "secret"
]

_VERBS = {"POST": "create", "PUT": "set", "PATCH": "update", "DELETE": "delete"}
_NAMED = {
    "models.drafts.commit": "models.deploy",
    "datasets.drafts.commit": "datasets.upload",
    # No acts: pieces of uploads, whose commit is one, and labels of what was predicted.
    "models.drafts.files.set": "",
    "datasets.drafts.files.set": "",
    "feedback.create": "",
}


def act_named(method: str, path: str) -> str:
    """What an operation is called: `POST /jobs/{job}/cancel` is `jobs.cancel`; "" is no act.

    What ends in an s is no verb but a collection: `POST /models/{model}/drafts` makes one of them.

    Args:
        path: Below `/api/v1`, its parameters in braces.
    """
    words = [part for part in path.strip("/").split("/") if "{" not in part]
    is_verb = method == "POST" and "}" in path and not path.endswith(("}", "s"))
    name = ".".join(words if is_verb else [*words, _VERBS[method]])
    return _NAMED.get(name, name)


class AuditEntry(Told):
    """One entry; never a key, a tensor or a body.

    Attributes:
        seq: Its number; there is no gap between them.
        actor: The id of a key, "operator" or "server".
        address: Where it came from; "*" of refusals of too many addresses to be named.
        act: The operation, such as `models.deploy`; `authenticate` of a key that was refused.
        object: What it was done to: `m/3`, a key's id.
        scope: What a key needs for it.
        result: An act is `begun` and then `done` or `failed`, or `abandoned` where the client
            left first; who may not ask is `refused`.
        status, code: Of the answer; 0 and "" where there was none yet.
        begun: Of a result, the entry of its beginning.
        count: Of refusals that are told together, how many.
        body: Digest of the request's body, or "".
        before, after: Digests of what the history has of the change, or "".
        hash: SHA-256 of the hash of the entry before this one and the text of this one.
    """

    shown: ClassVar[tuple[str, ...]] = ("seq", "actor", "act", "object", "result", "status")

    seq: int
    at: float
    tenant: str
    actor: str
    address: str = ""
    request_id: str = ""
    act: str
    object: str = ""
    scope: str = ""
    result: Result
    status: int = 0
    code: str = ""
    begun: int | None = None
    count: int | None = None
    body: str = ""
    before: str = ""
    after: str = ""
    hash: str = ""


class Finding(Told):
    """Something that is not as it was written.

    Attributes:
        seq, last: The entries that it is about, first and last.
        text: In words.
    """

    kind: FindingKind
    seq: int
    last: int
    text: str


class Verification(Told):
    """What walking over the whole audit has found.

    Attributes:
        intact: There are no findings.
        first, last: The entries that are there; 0 where there are none.
        entries, heads: How many were checked.
        archived: Up to this entry they were taken out by an operator; 0 if none was.
        findings: At most 1,000, in order.
        unfinished: Acts that were begun and have no result: they go on now, or the server ended
            while they did. That is no tampering. The first 1,000.
    """

    intact: bool
    first: int = 0
    last: int = 0
    entries: int = 0
    heads: int = 0
    archived: int = 0
    findings: tuple[Finding, ...] = ()
    unfinished: tuple[int, ...] = ()


class ActCount(Told):
    """How often something was done by somebody in a month."""

    act: str
    tenant: str
    actor: str
    done: int = 0
    failed: int = 0
    abandoned: int = 0


class RefusalCount(Told):
    """How often somebody was refused in a month, by reason and address."""

    code: str
    address: str
    count: int


class KeyUse(Told):
    """How a key was used.

    Attributes:
        last_used: Null if never.
        unused: It was not used for 90 days, or since it was made, if that is longer ago.
        used_scopes: Those that it is known to have used.
        never_used: Scopes that it has and is not known to have used: they could be taken away.
    """

    id: str
    tenant: str
    name: str = ""
    state: str = "active"
    last_used: float | None = None
    unused: bool = False
    used_scopes: tuple[str, ...] = ()
    never_used: tuple[str, ...] = ()


class AuditReport(Told):
    """The periodic audit of a month: who did what, who was refused, which keys are too many.

    Attributes:
        month: `2026-11`, in UTC.
        entries: Of the month.
        acts, refusals: The most frequent first.
        keys: All that are good, and how they were used.
        idle_tenants: Active ones without an act or a request in the month.
    """

    month: str
    made: float
    entries: int = 0
    acts: tuple[ActCount, ...] = ()
    refusals: tuple[RefusalCount, ...] = ()
    keys: tuple[KeyUse, ...] = ()
    idle_tenants: tuple[str, ...] = ()
