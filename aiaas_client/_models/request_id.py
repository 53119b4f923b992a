"""The id that a caller gives a request: it travels in a header and in the body."""

from __future__ import annotations

import re

from aiaas_client._errors import ConfigurationError
from aiaas_client._send.options import of_type

_is_plain = re.compile(r"[A-Za-z0-9._-]{0,128}").fullmatch


def checked_request_id(request_id: str) -> str:
    """Check an id; "" has one made.

    Raises:
        OptionTypeError: it is no text.
        ConfigurationError: it holds what a header or a log should not.
    """
    of_type("request_id", request_id, str, "text")
    if not _is_plain(request_id):
        raise ConfigurationError(
            "request_id: expected at most 128 letters, digits, '.', '_' or '-' of ASCII, "
            f"got {request_id[:128]!r}"
        )
    return request_id
