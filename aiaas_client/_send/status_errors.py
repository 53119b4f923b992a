"""What an answer other than the expected one means, as the known servers put it."""

from __future__ import annotations

import re
from typing import Any

from aiaas_client import _errors as errors
from aiaas_client._api.call import Call, Response
from aiaas_client._api.failures import clean, read_error
from aiaas_client._config import LOCAL_ENDPOINT
from aiaas_client._send.pacing import read_limits
from aiaas_client._send.retry import parse_retry_after

KEPT_ERROR_BYTES = 2048
_limit = re.compile(r"([a-z]+(?:_[a-z]+)*): ").match


def status_error(response: Response, call: Call[Any], wall: float) -> errors.APIStatusError:
    """Give the error for an answer whose status the call does not accept."""
    told = read_error(bytes(response.body))
    text = told.text
    kind = errors.status_class(response.status, told.code)
    if call.absent and _has_no_such_routes(response.status, text, told.is_known):
        kind = errors.NotSupportedError
        text = call.absent
    elif (
        call.optional
        and not call.absent
        and _is_absent(response.status, told.code, text, call.model)
    ):
        kind = errors.NotSupportedError
        text = text or f"{call.method} {call.path} is not offered by this server"
    if 300 <= response.status < 400:
        location = clean(response.headers.get("location", "?"))
        text = f"redirect to {location!r} not followed"
    elif kind is errors.NotSupportedError and call.absent:
        pass  # it says what to do
    elif not told.is_known or (response.status == 404 and call.model is None and not call.absent):
        # Perhaps not a server of models at all, or not its address: say who was asked.
        asked = f"{call.method} {response.endpoint}{call.path}"
        said = "a page of HTML" if text.startswith("<") else text or "no reason given"
        text = f"{said}, answer to {asked}"
    status = "" if response.endpoint == LOCAL_ENDPOINT else f" (HTTP {response.status})"
    error = kind(
        f"{text or 'no reason given'}{status}",
        status_code=response.status,
        code=told.code,
        retryable=told.retryable,
        retry_after=parse_retry_after(response.headers, wall),
        body=bytes(response.body[:KEPT_ERROR_BYTES]),
        request_id=response.request_id,
        model=call.model,
    )
    if isinstance(error, errors.RateLimitError):
        _name_limit(error, told.text, response)
    return error


def _name_limit(error: errors.RateLimitError, text: str, response: Response) -> None:
    """Tell which limit it is, as our own server begins to say, or as headers do."""
    named, header = _limit(text), read_limits(response.headers)
    error.limit = named[1] if named else "" if header is None else header.name
    if header is not None and type(error) is errors.RateLimitError:
        error.remaining = header.remaining


def _is_absent(status: int, code: str, text: str, model: str | None) -> bool:
    """Whether an optional endpoint is missing, as against the model it was asked about."""
    if status in (405, 501):
        return True
    names_model = model is not None and re.search(rf"(?<!\w){re.escape(model)}(?!\w)", text)
    return status == 404 and code in ("", "not_found") and not names_model


def _has_no_such_routes(status: int, text: str, is_known: bool) -> bool:
    """Whether a server knows nothing of a route; of a thing that is not there it says which."""
    if status in (405, 501):
        return True
    return status == 404 and (not is_known or text.lower() in ("", "not found"))
