"""What predictions stand on, asked of a server: `explain` of every handle."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from aiaas_client._api import explaining as calls
from aiaas_client._send.sender import limited
from aiaas_client._send.work import Local

if TYPE_CHECKING:
    from collections.abc import Generator

    from aiaas_client._api.call import Call
    from aiaas_client._payloads import Payload, Payloads
    from aiaas_client._send.work import Work

Explained = TypeVar("Explained")  # one explanation, or what is awaited for it
ManyExplained = TypeVar("ManyExplained")


class Explains(Generic[Explained, ManyExplained], ABC):
    """What a handle can tell of why a model answers as it does."""

    name: str
    version: str | None
    _sender: Any
    _carry_out: Any  # does what steps ask for: `carry_out`, or `acarry_out`

    @overload
    def explain(
        self,
        payload: Payloads,
        /,
        *,
        output: str | int | None = ...,
        samples: int | None = ...,
        seed: int = ...,
        background: Any = ...,
        timeout: float | None = ...,
        deadline: float | None = ...,
    ) -> ManyExplained: ...
    @overload
    def explain(
        self,
        payload: Payload,
        /,
        *,
        output: str | int | None = ...,
        samples: int | None = ...,
        seed: int = ...,
        background: Any = ...,
        timeout: float | None = ...,
        deadline: float | None = ...,
    ) -> Explained: ...
    @overload
    def explain(
        self,
        payload: Any,
        /,
        *,
        output: str | int | None = ...,
        samples: int | None = ...,
        seed: int = ...,
        background: Any = ...,
        timeout: float | None = ...,
        deadline: float | None = ...,
    ) -> Any: ...
    def explain(
        self,
        payload: Any,
        /,
        *,
        output: str | int | None = None,
        samples: int | None = None,
        seed: int = 0,
        background: Any = None,
        timeout: float | None = None,
        deadline: float | None = None,
    ) -> Any:
        """What a prediction stands on: an `Explanation`, or a list of them for a list or a frame.

        The server works it out behind all other requests, and tells what it has when the deadline
        comes: see `complete`, and the `error` of each contribution.

        Args:
            payload: As for `predict`; of a model without a card a row of numbers.
            output: The label, or the index, that is explained; by default what is predicted.
            samples: Most rows that the model is asked for each payload.
            seed: Of what is drawn; equal seeds and samples give equal explanations.
            background: Records to compare with; by default those that the version brings along.
            timeout: Seconds for each phase of a request, instead of the client's.
            deadline: Seconds for the whole call with its retries, instead of the client's.
        Raises:
            BadRequestError: The server says what is wrong, or what it needs besides.
            NotSupportedError: The server has no explanations.
        """
        asked = calls.Asked(output, samples, seed, background)
        sender = limited(self._sender, timeout, deadline)
        return self._carry_out(self._explained(payload, asked), sender)

    def _explained(self, payload: Any, asked: calls.Asked) -> Work[Any]:
        files = yield from self._takes_files()
        make = partial(calls.explain, self.name, self.version, payload, asked, files=files)
        return (yield (yield Local(make)))

    @abstractmethod
    def _takes_files(self) -> Generator[Call[Any], Any, bool]:
        """Whether a text is the path of a file; yields what has to be sent to know."""
