"""SIGTERM while a model writes: streams go on to their end, or as long as there is time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_llm import write_model


@contextmanager
def streaming(server: Any, answers: int) -> Iterator[HTTPResponse]:
    """Ask for a stream of many tokens, whose first event has been read."""
    asked = {
        "model": "tiny",
        "prompt": "the quick",
        "n": answers,
        "max_tokens": 400,
        "ignore_eos": True,
        "stream": True,
    }
    with closing(server.http()) as connection:
        connection.request("POST", "/v1/completions", json.dumps(asked))
        with connection.getresponse() as answer:
            assert answer.status == 200
            assert answer.readline().startswith(b"data: {")
            yield answer


def stopped(server: Any) -> list[str]:
    """The output of a server that has been told to stop, and did."""
    code = server.exit_code(60)
    server.to_the_end()
    lines: list[str] = server.lines
    assert code == 0, lines
    return lines


@pytest.fixture
def writers(tmp_path: Path) -> Path:
    """A repository with a model that writes."""
    write_model(tmp_path / "models")
    return tmp_path / "models"


def test_a_stream_is_written_to_its_end(start_aiaas: Any, writers: Path) -> None:
    server = start_aiaas("--models", writers, drain_timeout="300")
    with streaming(server, 24) as stream:
        server.signal()
        assert stream.read().endswith(b"data: [DONE]\n\n")
    assert any("stopping: requests to answer: 1," in line for line in stopped(server))


def test_a_stream_that_takes_longer_than_the_drain_is_cut(start_aiaas: Any, writers: Path) -> None:
    server = start_aiaas("--models", writers, drain_timeout="0.2")
    with streaming(server, 128) as stream:
        server.signal()
        with pytest.raises((HTTPException, OSError)):
            stream.read()
    assert any("cutting 1 requests" in line for line in stopped(server))
