"""Several attempts of one request are paid once: hedges over two nodes, retries, who leaves."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr

from aiaas_client import Client
from aiaas_server.app import Application, create_app
from aiaas_server.settings import Settings
from aiaas_server.state.database import Database
from aiaas_server.tenancy import usage_rows
from tests.graphs import takes_long
from tests.server.http.serving import LiveServer, serving
from tests.server.tenancy.amounts import read_amounts
from tests.waiting import wait_until

STEPS = 8_000  # a good part of a second
PATH = "/v2/models/m/infer"


class Nodes:
    """Servers of one database, and what it says was used."""

    def __init__(self, servers: list[LiveServer], database: Database) -> None:
        self.servers = servers
        self._database = database

    def counted(self) -> dict[str, int]:
        found = self._database.read_now(read_amounts)
        return {unit: amount for (unit,), amount in found.items()}

    def settled(self, requests: int) -> bool:
        """Whether so many requests, and no attempts, are known."""
        waiting = self._database.read_now(usage_rows.attempts)
        return not waiting and self.counted().get("requests") == requests

    def left(self) -> int:
        """Attempts whose callers left, as the models' statistics count them."""
        return sum(loaded(one.app).statistics.failures["CANCELED"] for one in self.servers)


def loaded(app: Application) -> Any:
    found = app.pool.find("m", 1)
    assert found is not None
    return found


@pytest.fixture
def nodes(tmp_path: Path, state_url: str, make_repository: Any) -> Iterator[Nodes]:
    root = make_repository(
        {"m": takes_long(STEPS)}, configs={"m": json.dumps({"max_batch_size": 0})}
    )
    data = tmp_path / "data" if "postgresql" in state_url else tmp_path
    url = SecretStr(state_url) if "postgresql" in state_url else None
    settings = Settings(models=root, data=data, database_url=url)
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(create_app(settings))) for _ in range(2)]
        database = Database(state_url)
        stack.callback(database.close)
        yield Nodes(servers, database)


def ask(server: LiveServer, request_id: str) -> HTTPConnection:
    """Send a request, whose answer is not read yet."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1.0] * 4}
    connection = HTTPConnection(server.address, timeout=120)
    body = json.dumps({"inputs": [tensor]})
    connection.request("POST", PATH, body, {"X-Request-Id": request_id})
    return connection


def leave(server: LiveServer, request_id: str) -> None:
    """Send a request, and leave while it runs."""
    scheduler: Any = loaded(server.app).scheduler
    before = loaded(server.app).statistics.failures["CANCELED"]
    connection = ask(server, request_id)
    instances = scheduler._dispatcher.instances
    wait_until(lambda: scheduler._dispatcher.idle < instances)
    # Reset: a client that only says that it sends no more may wait for its answer.
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    wait_until(lambda: loaded(server.app).statistics.failures["CANCELED"] == before + 1)
    wait_until(lambda: scheduler._dispatcher.idle == instances)


def answered(server: LiveServer, request_id: str) -> None:
    connection = ask(server, request_id)
    assert connection.getresponse().status == 200
    connection.close()


@pytest.mark.slow
def test_a_hedge_is_paid_once(nodes: Nodes) -> None:
    urls = [f"http://{one.address}" for one in nodes.servers]
    with Client(urls, hedge_after=0.05, deadline=120) as client:
        model = client.model("m")
        for _ in range(3):
            model.infer(x=np.ones((2, 4), np.float32))
        wait_until(lambda: nodes.settled(3))
    assert nodes.left() > 0  # a hedge began, and lost
    assert nodes.counted() == {"requests": 3, "rows": 3, "bytes_in": 96, "bytes_out": 96}


@pytest.mark.slow
def test_a_table_of_attempts(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = nodes.servers
    answered(one, "again")
    answered(one, "again")  # an id that was answered: a new request
    wait_until(lambda: nodes.settled(2))
    leave(one, "retry")
    answered(one, "retry")  # one request
    leave(one, "elsewhere")
    answered(other, "elsewhere")  # one request
    wait_until(lambda: nodes.settled(4))
    monkeypatch.setattr(usage_rows, "GRACE", 1.0)
    leave(one, "gone")  # nobody waits, but it ran
    leave(one, "again")  # the third time: paid as well
    wait_until(lambda: nodes.settled(6))
    assert nodes.counted() == {"requests": 6, "rows": 6, "bytes_in": 96, "bytes_out": 64}
