"""Logs leave the process whole, in order, without secrets, and never hold the event loop."""

from __future__ import annotations

import io
import json
import logging
import queue
from collections.abc import Iterator

import pytest

from aiaas_server.observe.logging import (
    MAX_MESSAGE,
    AccessRecord,
    BoundedHandler,
    access_logger,
    redact,
    start_logging,
)

RECORD = AccessRecord("GET", "/v2", 200, 0.00123456, 10, 0, "id-1", "127.0.0.1")
logger = logging.getLogger("aiaas_server")


@pytest.fixture
def text() -> Iterator[io.StringIO]:
    """Where the log is written."""
    with io.StringIO() as stream:
        yield stream


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("Authorization: Bearer abc.DEF-1", "Authorization: Bearer [removed]"),
        ("'authorization': 'bearer abc'", "'authorization': 'bearer [removed]'"),
        ("X-API-Key: abc", "X-API-Key: [removed]"),
        ('{"x-api-key": "abc"}', '{"x-api-key": "[removed]"}'),
        ("key aias_0123456789ab_secret used", "key aias_[removed] used"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_secrets_are_taken_out(given: str, expected: str) -> None:
    assert redact(given) == expected


def test_plain_lines_have_time_level_and_message(text: io.StringIO) -> None:
    writer = start_logging("info", stream=text)
    logger.warning("model %r", "m")
    logger.debug("not this")
    access_logger()(RECORD)
    writer.stop()
    first, second = text.getvalue().splitlines()
    assert first.endswith(" WARNING model 'm'")
    assert second.endswith(' INFO 127.0.0.1 "GET /v2" 200 10B 1.2ms id-1')


def test_json_lines_hold_access_fields_and_tracebacks(text: io.StringIO) -> None:
    writer = start_logging("info", as_json=True, stream=text)
    access_logger()(RECORD)
    try:
        raise ValueError("Bearer hidden-token")
    except ValueError:
        logger.exception("it broke\nhere")
    writer.stop()
    access, failure = map(json.loads, text.getvalue().splitlines())
    assert {key: access[key] for key in ("method", "status", "duration", "request_id")} == {
        "method": "GET",
        "status": 200,
        "duration": 0.001235,
        "request_id": "id-1",
    }
    assert failure["message"] == "it broke\nhere"
    assert "ValueError" in failure["exception"]
    assert "hidden-token" not in text.getvalue()


def test_a_long_message_is_cut(text: io.StringIO) -> None:
    writer = start_logging("info", as_json=True, stream=text)
    logger.error("%s", "x" * 10_000)
    writer.stop()
    assert json.loads(text.getvalue())["message"] == "x" * MAX_MESSAGE


def test_a_full_queue_drops_lines_and_counts_them() -> None:
    handler = BoundedHandler(queue.Queue(2))
    record = logging.makeLogRecord({"msg": "m"})
    for _ in range(5):
        handler.handle(record)
    assert handler.dropped == 3


def test_stopping_gives_the_loggers_back(text: io.StringIO) -> None:
    before = list(logger.handlers)
    start_logging("info", stream=text).stop()
    assert logger.handlers == before
