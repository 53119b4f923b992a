"""One record of every request, for those who want to look on."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Final, Literal, NamedTuple, Protocol

from aiaas_client.protocol.scopes import EVERY_SCOPE
from aiaas_server.core.statistics import FailureReason


class Identity(NamedTuple):
    """Whose request it is, as the key check found out.

    Attributes:
        tenant: Who pays and whose models it may see.
        key_id: The key it came with, or "" where none is asked for.
        scopes: What the key may do.
        plan: Names the limits of the tenant, or "".
        weight: Its tenant's part of a busy machine, beside those of the others.
    """

    tenant: str = "default"
    key_id: str = ""
    scopes: frozenset[str] = EVERY_SCOPE
    plan: str = ""
    weight: float = 1.0


OPERATOR = Identity()
"""Everyone on a server without keys, and whoever carries the server's one static key."""


COST_LINE: Final = b"x-cost: "
"""Begins the header line that tells what one answer costs: `X-Cost: 0.00025 EUR`."""


class Visit(Protocol):
    """What is kept of one request while it is here, on a server with tenants.

    Attributes:
        headers: Lines that its answer carries besides, each with its end: of limits, of its cost.
    """

    headers: bytes

    def leave(self) -> None:
        """It has got its answer, or nobody waits for one any more; called at least once."""
        ...


class Entrance(Protocol):
    """Lets requests in by what their tenant may use."""

    def enter(self, identity: Identity, path: str) -> Visit:
        """Let one in; must be quick.

        Raises:
            ServerError: It may not come in now.
        """
        ...


class Refusal(NamedTuple):
    """A request that was turned away for who asked it.

    Attributes:
        status: 401, 403, 400 of a key that came as none may, or 429 of who guesses.
        code: Of the error, as the protocol has it.
        address: The client's, without a port.
        act: What was asked for; "" where that was not looked at.
        tenant, key_id: Whose key it came with; "" where it was none.
    """

    status: int
    code: str
    address: str
    act: str = ""
    tenant: str = ""
    key_id: str = ""


class Caller(NamedTuple):
    """Who asks: what the front door knows of a request, handed down with it.

    Attributes:
        request_id: The id under which the caller and the log know the request.
        traceparent: W3C trace context of the caller, well-formed, or "".
        tracestate: What belongs to it, or "".
        identity: Whose request it is.
        sticky: What it wants to be told apart from others by, where traffic is split; or "".
        shadow: Nobody asked: it is a copy of a request, run to be compared. No tap is shown it,
            nobody pays for it, and it says nothing of what callers get.
        visit: What is kept of the request while it is here, where something is.
        errand: Of a shadow: a run that a larger call needs, as one of an explanation. It is no
            request, but what it computes is paid for.
    """

    request_id: str = ""
    traceparent: str = ""
    tracestate: str = ""
    identity: Identity = OPERATOR
    sticky: str = ""
    shadow: bool = False
    visit: Visit | None = None
    errand: bool = False


NOBODY = Caller()
CALLER: ContextVar[Caller] = ContextVar("aiaas_caller", default=NOBODY)
"""Of the request that this task answers; read when it is accepted."""


class Units(NamedTuple):
    """How much a request asked for.

    Attributes:
        rows: Items in the request; 0 of one that was not accepted.
        tokens_in: Of its prompt, where the model generates text.
        tokens_out: Generated for it.
        bytes_in: Of the tensors that it was run with; payloads count as what was made of them.
        bytes_out: Of the tensors of its answer; 0 where it got none, and of text.
    """

    rows: int
    tokens_in: int = 0
    tokens_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


Ending = Literal["answered", "cached", "abandoned", "failed"]
"""How a request went: it was run and answered; it was answered by the response cache; a run began,
but its caller left, or the deadline passed; or it got an error, or left before anything was run."""


class InferenceRecord(NamedTuple):
    """One request, answered or failed.

    Attributes:
        units: How much it asked for.
        batch_rows: Items in the execution it was part of, 0 if it never ran.
        queue_seconds: Acceptance to start of the execution.
        compute_seconds: The execution: input, run and output.
        total_seconds: Acceptance to answer.
        failure: None when it succeeded.
        caller: Who asked.
        ending: How it went, for those who have it paid.
        own_ns: Its part of the execution, by rows, in nanoseconds; of one that was abandoned, as
            far as that had come. Those of a batch add up to its time.
        owner: The tenant whose model it is, which the caller's need not be.
    """

    model: str
    version: int
    units: Units
    batch_rows: int
    queue_seconds: float
    compute_seconds: float
    total_seconds: float
    failure: FailureReason | None
    caller: Caller = NOBODY
    ending: Ending = "answered"
    own_ns: int = 0
    owner: str = OPERATOR.tenant


class Observer(Protocol):
    """Called once a request, before its answer leaves; must be quick.

    That is on the event loop, or in the caller's thread where a model is run in it.
    """

    def __call__(self, record: InferenceRecord) -> None: ...


class Watch(Protocol):
    """Looks on at the calls of one version that bring payloads instead of tensors; must be quick.

    That is on the event loop or in one of its threads.
    """

    def phase(self, name: Literal["preprocess", "postprocess"], ns: int) -> None:
        """Payloads of one run were made into tensors, or its outputs into predictions."""
        ...

    def answered(self, caller: Caller, answers: Sequence[object]) -> None:
        """A call is answered: a prediction, or an error, for each payload in its order."""
        ...
