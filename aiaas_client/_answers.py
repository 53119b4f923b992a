"""What an answer other than the expected one means, as the known servers put it."""

from __future__ import annotations

import json
import re
from typing import Any

from aiaas_client import _errors as errors
from aiaas_client._calls import Call, Response
from aiaas_client._retry import parse_retry_after

KEPT_ERROR_BYTES = 2048


def status_error(response: Response, call: Call[Any], wall: float) -> errors.APIStatusError:
    """Give the error for an answer whose status the call does not accept."""
    text, code, retryable = _read_error_body(bytes(response.body))
    kind = errors.status_class(response.status, code)
    if call.optional and _is_absent(response.status, code, text, call.model):
        kind = errors.NotSupportedError
        text = text or f"{call.method} {call.path} is not offered by this server"
    if 300 <= response.status < 400:
        text = f"redirect to {response.headers.get('location', '?')!r} not followed"
    return kind(
        f"{text or 'no reason given'} (HTTP {response.status})",
        status_code=response.status,
        code=code,
        retryable=retryable,
        retry_after=parse_retry_after(response.headers, wall),
        body=bytes(response.body[:KEPT_ERROR_BYTES]),
        request_id=response.request_id,
        model=call.model,
    )


def _is_absent(status: int, code: str, text: str, model: str | None) -> bool:
    """Whether an optional endpoint is missing, as against the model it was asked about."""
    if status in (405, 501):
        return True
    names_model = model is not None and re.search(rf"(?<!\w){re.escape(model)}(?!\w)", text)
    return status == 404 and code in ("", "not_found") and not names_model


def _read_error_body(body: bytes) -> tuple[str, str, bool | None]:
    """Read text, code and the server's word on retrying, as any of the known servers put them."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return body[:200].decode("utf-8", "replace").strip(), "", None
    if not isinstance(document, dict):
        return str(document)[:200], "", None
    error = document.get("error", document.get("detail", ""))
    source = error if isinstance(error, dict) else document
    text = error.get("message", "") if isinstance(error, dict) else error
    code, retryable = source.get("code"), source.get("retryable")
    return (
        text if isinstance(text, str) else json.dumps(text)[:500],
        code if isinstance(code, str) else "",
        retryable if isinstance(retryable, bool) else None,
    )
