"""Errors of the OpenAI routes: an object, as the official client reads it."""

from __future__ import annotations

import re
from dataclasses import dataclass

import orjson

from aiaas_server.http.errors import MAX_TEXT, Problem

# `:predict` and `:explain` under /v1/models are KServe's, with our own error body.
_is_openai = re.compile(
    r"/v1/(models(/[^/:]+)?|embeddings|completions|chat/completions|responses(/.*)?"
    r"|audio/[^/]+|(files|batches)(/.*)?)"
).fullmatch
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}


@dataclass(frozen=True, slots=True)
class OpenAIProblem(Problem):
    """A problem whose body is `{"error": {"message", "type", "param", "code"}}`."""

    def body(self, request_id: str) -> bytes:
        """Write the body; the text is cut at 512 characters."""
        text = self.message[:MAX_TEXT].encode("utf-8", "replace").decode()
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {
            "message": text,
            "type": _TYPES.get(self.status, kind),
            "param": None,
            "code": self.code.value,
        }
        return orjson.dumps({"error": error, "request_id": request_id})


def for_path(problem: Problem, path: str) -> Problem:
    """The problem in the form that callers of `path` read."""
    if not _is_openai(path):
        return problem
    retry = (b"x-should-retry", b"true" if problem.retryable else b"false")
    return OpenAIProblem(
        problem.status,
        problem.code,
        problem.message,
        problem.retryable,
        (*problem.headers, retry),
    )
