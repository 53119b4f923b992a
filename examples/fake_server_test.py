"""How to test code that calls models, without any model: `pytest examples/fake_server_test.py`.

The code under test is `sentiment`, here; it talks to a real server on a loopback port whose models
are Python functions and whose faults come when asked for.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from aiaas_client import Client, ServiceUnavailableError
from aiaas_client.testing import FakeServer, tensor


def sentiment(client: Client, text: str) -> str:
    """Your own code: calls a model that takes a text and gives two scores."""
    scores = client.model("sentiment").infer_one(text=text)["scores"]
    return "positive" if scores[1] > scores[0] else "negative"


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        server.add(
            "sentiment",
            lambda text: {"scores": np.array([[0.2, 0.8]] * len(text), np.float32)},
            inputs=[tensor("text", "BYTES", [-1])],
            outputs=[tensor("scores", "FP32", [-1, 2])],
            max_batch_size=8,
        )
        yield server


def test_the_higher_score_wins(server: FakeServer) -> None:
    with Client(server.url) as client:
        assert sentiment(client, "wonderful") == "positive"


def test_a_busy_server_is_asked_again(server: FakeServer) -> None:
    server.fail(503, times=1, retry_after=0.0)
    with Client(server.url) as client:
        assert sentiment(client, "wonderful") == "positive"
    assert len(server.infer_requests) == 2


def test_a_server_that_stays_busy_is_told_to_the_caller(server: FakeServer) -> None:
    server.fail(503, times=10, retry_after=0.0)
    with Client(server.url) as client, pytest.raises(ServiceUnavailableError) as caught:
        sentiment(client, "wonderful")
    assert caught.value.attempts == 3
