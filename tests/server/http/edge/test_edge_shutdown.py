"""The edge under a server that is not ours: uvicorn stops, and nothing keeps it."""

from __future__ import annotations

import json
import socket
import threading
from http.client import HTTPConnection

import uvicorn

from aiaas_server.app import create_app
from aiaas_server.http.edge.connection import make_protocol
from aiaas_server.settings import Settings
from tests.waiting import wait_until


def test_a_busy_connection_ends_after_its_answer_when_uvicorn_stops(make_repository, onnx_models):
    app = create_app(Settings(models=make_repository({"busy": onnx_models.busy()})))
    config = uvicorn.Config(app, http=make_protocol(), ws="none", log_level="error")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        address = listener.getsockname()
        try:
            wait_until(lambda: app.pool.ready_versions("busy") == [1])
            connection = HTTPConnection(*address, timeout=120)
            steps = {"name": "steps", "datatype": "INT64", "shape": [1], "data": [200_000]}
            connection.request(
                "POST", "/v2/models/busy/infer", json.dumps({"inputs": [steps]}).encode()
            )
            statistics = app.pool.resolve("busy").statistics
            wait_until(lambda: statistics.pending == 1)
            assert server.servers[0].is_serving()
        finally:
            server.should_exit = True
        wait_until(lambda: not server.servers[0].is_serving())
        answer = connection.getresponse()
        assert answer.read()
        assert answer.headers["Connection"] == "close"
        thread.join(30)
        assert not thread.is_alive()
        connection.close()
