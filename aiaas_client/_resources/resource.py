"""What resources share: the sender that their calls go through, and their whole answers."""

from __future__ import annotations

from typing import Any

from aiaas_client._send.raw import WithRawResponse


class Resource:
    """Something that a client has, such as `client.keys`."""

    _carry_out: Any  # does what steps ask for: `carry_out`, or `acarry_out`

    def __init__(self, sender: Any) -> None:
        self._sender = sender

    @property
    def with_raw_response(self) -> WithRawResponse:
        """The same calls, giving the whole answer: status, headers, bytes and `.parse()`."""
        return WithRawResponse(self, self._sender)
