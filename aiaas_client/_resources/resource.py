"""What resources share: the sender that their calls go through, and their whole answers."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from aiaas_client._send.raw import WithRawResponse

View = TypeVar("View", bound=WithRawResponse)


class Resource:
    """Something that a client has, such as `client.keys`."""

    _carry_out: Any  # does what steps ask for: `carry_out`, or `acarry_out`

    def __init__(self, sender: Any) -> None:
        self._sender = sender

    @property
    def with_raw_response(self) -> WithRawResponse:
        """The same calls, giving the whole answer: status, headers, bytes and `.parse()`."""
        return WithRawResponse(self, self._sender)


class Viewed(Generic[View]):
    """What gives whole answers by a view of its own, typed as its calls are."""

    _sender: Any
    _view: Any  # the class of the view, which says whose it is

    @property
    def with_raw_response(self) -> View:
        """The same calls, giving the whole answer: status, headers, bytes and `.parse()`."""
        found: View = self._view(self, self._sender)
        return found
