"""Every domain error has a row, and every problem is told in the same JSON form."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
from starlette.exceptions import HTTPException

from aiaas_client.protocol.errors import ErrorCode
from aiaas_client.protocol.inference import CodecError
from aiaas_client.protocol.messages import ErrorBody
from aiaas_server.core import errors as core
from aiaas_server.http.errors import ROWS, HttpError, Problem, problem_of


def leaves(root: type[core.ServerError]) -> Iterator[type[core.ServerError]]:
    for kind in root.__subclasses__():
        yield kind
        yield from leaves(kind)


def test_every_domain_error_has_a_row() -> None:
    """Those of the core have their own; what a room makes of one is told as that."""
    known = set(leaves(core.ServerError))
    assert set(ROWS) == {kind for kind in known if kind.__module__ == core.__name__}
    assert [kind for kind in known if ROWS.keys().isdisjoint(kind.__mro__)] == []


@pytest.mark.parametrize("kind", ROWS, ids=lambda kind: kind.__name__)
def test_a_row_gives_status_code_and_message(kind: type[core.ServerError]) -> None:
    problem = problem_of(kind("model 'm': text"))
    row = ROWS[kind]
    assert (problem.status, problem.code) == (row.status, row.code)
    assert (problem.message == "model 'm': text") == (kind is not core.InferenceFailed)
    assert problem.retryable == row.retryable
    assert any(name == b"retry-after" for name, _ in problem.headers) == row.tells_when


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (CodecError("x"), 400, "invalid_request"),
        (CodecError("x", ErrorCode.INVALID_JSON), 400, "invalid_json"),
        (CodecError("x", ErrorCode.PAYLOAD_TOO_LARGE), 413, "payload_too_large"),
        (HTTPException(404), 404, "not_found"),
        (HTTPException(405, headers={"Allow": "GET"}), 405, "method_not_allowed"),
        (HttpError(429, ErrorCode.RATE_LIMITED, "x", retry_after=5), 429, "rate_limited"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_errors_of_other_rooms(error: Exception, status: int, code: str) -> None:
    problem = problem_of(error)
    assert (problem.status, problem.code) == (status, code)


def test_an_unknown_exception_is_a_500_that_tells_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR, "aiaas_server"):
        problem = problem_of(KeyError("/secret/path"))
    assert problem.status == 500
    assert b"secret" not in problem.body("r")
    assert "secret" in caplog.text


def test_retry_after_is_whole_seconds_spread_by_a_fifth() -> None:
    def seconds(wait: float) -> int:
        headers = dict(problem_of(core.QueueFull("x", retry_after=wait)).headers)
        return int(headers[b"retry-after"])

    assert all(8 <= seconds(10) <= 12 for _ in range(50))
    assert seconds(0.01) == 1


@pytest.mark.parametrize(
    "text", ["plain", 'q"uote\\', "\ud800 lone", "x" * 5000, "\x00\x1f"], ids=repr
)
def test_the_body_is_always_valid_json_and_short(text: str) -> None:
    body = Problem(400, ErrorCode.INVALID_REQUEST, text).body("id-1")
    document = json.loads(body)
    assert list(document) == ["error", "code", "retryable", "request_id"]
    assert len(document["error"]) <= 512
    assert ErrorBody.model_validate(document).request_id == "id-1"
