"""What the known servers say when they refuse or fail, in one form."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from aiaas_client import _errors as errors

KEPT_TEXT = 500  # characters of a server's text that reach an exception's message
KEPT_CODE = 64


class ErrorDetails(NamedTuple):
    """A server's own words: text, stable code, and whether a repeat can help."""

    text: str
    code: str = ""
    retryable: bool | None = None
    is_known: bool = True  # False: not in the form of any known server


def read_error(body: bytes) -> ErrorDetails:
    """Read the body of an answer that is an error."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return ErrorDetails(clean(body[: 4 * KEPT_TEXT].decode("utf-8", "replace")), is_known=False)
    return error_in(document)


def error_in(document: Any) -> ErrorDetails:
    """Read `{"error": text}`, `{"error": {"message": ...}}`, `{"detail": ...}` and the like."""
    if not isinstance(document, dict):
        return ErrorDetails(clean(str(document)), is_known=False)
    error = document.get("error", document.get("detail", ""))
    source = error if isinstance(error, dict) else document
    text = error.get("message", "") if isinstance(error, dict) else error
    code, retryable = source.get("code"), source.get("retryable")
    return ErrorDetails(
        clean(text if isinstance(text, str) else json.dumps(text)),
        clean(code, KEPT_CODE) if isinstance(code, str) else "",
        retryable if isinstance(retryable, bool) else None,
        is_known=bool(text),
    )


def clean(text: str, most: int = KEPT_TEXT) -> str:
    """Cut and escape a stranger's text, so that it can neither flood nor steer who reads it."""
    text = text[: 4 * most].strip()
    if not text.isprintable():
        text = "".join(one if one.isprintable() else errors.escaped(one) for one in text)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def stream_error(document: Any, model: str | None) -> errors.APIStatusError | None:
    """Give the error that an event tells of, None for any other event.

    The status of such an answer was 200 long before, so the class follows the code alone.
    """
    if not isinstance(document, dict) or not document.get("error"):
        return None
    told = error_in(document)
    kind = errors.code_class(told.code) or errors.InferenceFailedError
    return kind(
        f"{told.text or 'no reason given'} (in the event stream)",
        status_code=200,
        code=told.code,
        retryable=told.retryable,
        model=model,
    )
