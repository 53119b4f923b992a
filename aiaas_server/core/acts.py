"""What is done to a server, as the audit is told of it: an act begins, is done, or is refused."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

from aiaas_server.core.events import Refusal


class Act(NamedTuple):
    """Something that somebody is about to do.

    Attributes:
        name: Of the operation, such as `models.deploy`.
        scope: What a key must be allowed to do for it.
        object: What it is done to: `m/3`, a key's id; "" of what is yet to be made.
        tenant: Whose it is.
        actor: A key's id, "operator" or "server".
        address: The client's, without a port.
        request_id: Of the request that asked for it.
    """

    name: str
    scope: str = ""
    object: str = ""
    tenant: str = "default"
    actor: str = "operator"
    address: str = ""
    request_id: str = ""


class Outcome(NamedTuple):
    """What became of an act.

    Attributes:
        result: `abandoned` is what the client left before it was answered; it may be done or not.
        status: Of the answer, as HTTP has it; 0 where there was none.
        code: Of the error, as the protocol has it, or "".
        object: What was made by it; "" is what the act named.
        body: SHA-256 of the request's body, hexadecimal; "" where it had none.
    """

    result: Literal["done", "failed", "abandoned"]
    status: int = 0
    code: str = ""
    object: str = ""
    body: str = ""


class Begun(NamedTuple):
    """An act whose beginning is on record.

    Attributes:
        seq: Of the entry.
        history: The newest entry of the registry's history before it.
    """

    act: Act
    seq: int
    history: int


class Acts(Protocol):
    """Keeps a record of what is done."""

    async def begin(self, act: Act) -> Begun:
        """Note that an act begins.

        Raises:
            ServerError: It cannot be noted: the act must not be carried out.
        """
        ...

    async def end(self, begun: Begun, outcome: Outcome) -> None:
        """Note what became of it; what cannot be written now is written later."""
        ...

    def refused(self, refusal: Refusal) -> None:
        """Note that somebody was refused; must be quick."""
        ...

    def used(self, key_id: str, scope: str) -> None:
        """A key made use of a scope; must be quick."""
        ...
