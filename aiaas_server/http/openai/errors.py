"""Errors of the OpenAI routes: an object, as the official client reads it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import orjson

from aiaas_client.protocol.errors import ErrorCode
from aiaas_server.http.errors import MAX_TEXT, Problem

# `:predict` and `:explain` under /v1/models are KServe's, with our own error body.
_is_openai = re.compile(
    r"/v1/(models(/[^/:]+)?|embeddings|completions|chat/completions|responses(/.*)?"
    r"|audio/[^/]+|images/[^/]+|moderations|(files|batches)(/.*)?)"
).fullmatch
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}


@dataclass(frozen=True, slots=True)
class OpenAIProblem(Problem):
    """A problem whose body is `{"error": {"message", "type", "param", "code"}}`."""

    def error(self) -> dict[str, str | None]:
        """The object of the error; its text is cut at 512 characters."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {
            "message": self.message[:MAX_TEXT].encode("utf-8", "replace").decode(),
            "type": _TYPES.get(self.status, kind),
            "param": None,
            "code": self.code.value,
        }

    def body(self, request_id: str) -> bytes:
        """Write the body."""
        return orjson.dumps({"error": self.error(), "request_id": request_id})


def openai_problem(problem: Problem) -> OpenAIProblem:
    """The same problem in OpenAI's form."""
    retry = (b"x-should-retry", b"true" if problem.retryable else b"false")
    return OpenAIProblem(
        problem.status,
        problem.code,
        problem.message,
        problem.retryable,
        (*problem.headers, retry),
    )


def for_path(problem: Problem, path: str) -> Problem:
    """The problem in the form that callers of `path` read.

    A base URL without `/v1` is told of: OpenAI's client shows the path to nobody.
    """
    if problem.code is ErrorCode.NOT_FOUND and _is_openai(f"/v1{path}"):
        text = f"{problem.message}: {path}; did you mean /v1{path}?"
        return openai_problem(replace(problem, message=text))
    return openai_problem(problem) if _is_openai(path) else problem
