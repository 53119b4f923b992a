"""Any request to a server, for what has no method of its own."""

from __future__ import annotations

import json as _json
from urllib.parse import quote

from aiaas_client import _errors as errors
from aiaas_client._api.call import Call, Response

SUCCESS = frozenset(range(200, 300))
_NOT_REPEATED = frozenset({"POST", "PATCH"})
_UNQUOTED = "/:?#[]@!$&'()*+,;=%~"  # what has a meaning in a target, or was quoted before


def raw_call(
    method: str,
    path: str,
    *,
    json: object = None,
    content: bytes | str | None = None,
    retryable: bool | None = None,
) -> Call[Response]:
    """Give the call of `client.request`, which is read as it comes.

    Raises:
        ConfigurationError: the method, the path or the body make no request.
    """
    if not (str(method).isascii() and str(method).isalpha()):
        raise errors.ConfigurationError(f"method: expected one like 'GET', got {method!r}")
    if not str(path).startswith("/"):
        raise errors.ConfigurationError(
            f"path: expected one from the root of the base URL, like '/v2', got {path!r}"
        )
    verb = str(method).upper()
    body, headers = _body(json, content)
    return Call(
        verb,
        quote(str(path), safe=_UNQUOTED),
        _whole,
        headers=headers,
        content=None if body is None else [body],
        content_length=len(body or b""),
        retryable=verb not in _NOT_REPEATED if retryable is None else retryable,
        accept=SUCCESS,
    )


def _body(
    json: object, content: bytes | str | None
) -> tuple[bytes | None, tuple[tuple[bytes, bytes], ...]]:
    if json is None:
        if content is not None and not isinstance(content, bytes | str):
            raise errors.OptionTypeError(
                f"content: expected bytes or text, got {type(content).__name__}"
            )
        return content.encode() if isinstance(content, str) else content, ()
    if content is not None:
        raise errors.ConfigurationError("json, content: expected one of them, got both")
    try:
        text = _json.dumps(json, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise errors.ConfigurationError(f"json: {error}") from error
    return text.encode(), ((b"Content-Type", b"application/json"),)


def _whole(response: Response) -> Response:
    return response
