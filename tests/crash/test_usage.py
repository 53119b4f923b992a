"""Usage through kill -9: never more than was answered, and no less than was told before."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.crash.nursery import Nursery
from tests.crash.server import Server
from tests.postgres import Postgres, why_not
from tests.server.tenancy.amounts import amounts_of
from tests.waiting import wait_until

CLIENTS = 4
ROW_BYTES = 16
LATE = 3.0
"""Seconds of work that may be lost; a second on a machine that has time for its threads."""


class Load:
    """Clients that ask one after another, until their server is gone.

    Attributes:
        answered: When each answer came, and the rows of its request.
    """

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url).netloc
        self.answered: list[tuple[float, int]] = []
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _ask(self, number: int) -> None:
        connection = HTTPConnection(self._address, timeout=60)
        try:
            for turn in range(10**9):
                rows = 1 + (number + turn) % 3
                tensor: Any = {"name": "x", "datatype": "FP32", "shape": [rows, 4]}
                tensor["data"] = [1.0] * 4 * rows
                body = json.dumps({"inputs": [tensor]})
                connection.request("POST", "/v2/models/m/infer", body)
                answer = connection.getresponse()
                answer.read()
                if answer.status == 503:
                    return  # it is being stopped
                assert answer.status == 200
                self.answered.append((time.monotonic(), rows))
        except (OSError, HTTPException):
            pass  # it was killed
        finally:
            connection.close()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive()


@pytest.fixture
def server(tmp_path: Path, make_repository: Any, onnx_models: SimpleNamespace) -> Any:
    root = make_repository({"m": onnx_models.scale(2)})
    nursery = Nursery()
    made: list[Server] = []

    def make(environment: dict[str, str], *options: str) -> Server:
        options = ("--models", str(root), *options)
        made.append(Server(nursery, tmp_path / "place", tmp_path / "data", environment, options))
        return made[0]

    yield make
    for one in made:
        one.kill()
    nursery.close()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[dict[str, str], str]]:
    """Variables of a server, and its database as SQLAlchemy writes it."""
    if request.param == "sqlite":
        yield {}, f"sqlite:///{tmp_path / 'data' / 'state.db'}"
        return
    if reason := why_not():
        pytest.skip(reason)
    postgres = Postgres()
    url = postgres.make_database()
    yield {"AIAAS_SERVER_DATABASE_URL": url}, url.replace("postgresql:", "postgresql+psycopg:", 1)
    postgres.remove()


def kill_under_load(
    server: Server, url: str, usage: Path, counts: SimpleNamespace, pause: float
) -> None:
    """One round: load, until some of it is counted; a kill; and what is counted then."""
    server.start()
    load = Load(server.url)
    wait_until(lambda: amounts_of(url).get(("requests",), 0) > counts.requests)
    time.sleep(pause)  # any moment will do
    told = amounts_of(url)
    killed = time.monotonic()
    server.kill()
    load.join()
    server.start()
    wait_until(lambda: not list(usage.glob("*.journal")))
    found = amounts_of(url)
    server.kill()
    requests, rows = len(load.answered), sum(rows for _, rows in load.answered)
    assert found["requests",] <= counts.requests + requests
    assert found["rows",] <= counts.rows + rows
    assert found["requests",] >= told["requests",]
    assert found["rows",] >= told["rows",]
    assert found["bytes_in",] == found["bytes_out",] == ROW_BYTES * found["rows",]
    early = sum(at < killed - LATE for at, _ in load.answered)
    assert found["requests",] - counts.requests >= early
    counts.requests, counts.rows = found["requests",], found["rows",]


@pytest.mark.parametrize(
    "rounds", [pytest.param(2), pytest.param(10, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_usage_is_never_more_than_was_answered(
    server: Any, where: tuple[dict[str, str], str], tmp_path: Path, rounds: int
) -> None:
    environment, url = where
    draw = random.Random(rounds)
    counts = SimpleNamespace(requests=0, rows=0)
    made = server(environment)
    for _ in range(rounds):
        pause = draw.uniform(0.0, 2.0 if rounds > 2 else 0.5)
        kill_under_load(made, url, tmp_path / "data" / "usage", counts, pause)
    assert counts.requests > 0


def test_a_server_that_is_stopped_loses_nothing(server: Any, tmp_path: Path) -> None:
    made = server({}, "--workers", "2")
    made.start()
    load = Load(made.url)
    wait_until(lambda: len(load.answered) > 50)
    made.stop()
    load.join()
    found = amounts_of(f"sqlite:///{tmp_path / 'data' / 'state.db'}")
    in_flight = found["requests",] - len(load.answered)
    assert 0 <= in_flight <= CLIENTS  # answered, on connections that were closed meanwhile
    assert not list((tmp_path / "data" / "usage").glob("*.journal"))
