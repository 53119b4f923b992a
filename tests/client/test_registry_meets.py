"""Where parts of the registry meet one another, and the rest of the server: over real HTTP."""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from aiaas_client import Client, ConflictError, Golden
from aiaas_client.protocol.management import Draft, Policy
from aiaas_server.app import create_app
from aiaas_server.settings import Settings
from tests import task_bundles
from tests.graphs import value
from tests.server.http.serving import LiveServer, serving
from tests.server.process.conftest import start_aiaas as start_aiaas  # a fixture
from tests.server.registry.deploying import request_for
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

ONE = np.ones((1, 4), np.float32)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with an empty registry; each test brings models of its own."""
    data = tmp_path_factory.mktemp("meets") / "data"
    # No request may take longer than a moment; bringing files may.
    settings = Settings(data=data, disk_reserve_bytes=0, default_deadline=1.0)
    with serving(create_app(settings)) as live:
        yield live


@pytest.fixture
def client(server: LiveServer) -> Iterator[Client]:
    with Client(server.url) as made:
        yield made


class Caller(threading.Thread):
    """Calls a model without naming a version until it is told to stop; nothing may fail."""

    def __init__(self, url: str, name: str) -> None:
        super().__init__()
        self._url, self._name = url, name
        self.stop = threading.Event()
        self.answers: list[float] = []
        self.wrong = ""

    def run(self) -> None:
        with Client(self._url, max_retries=0) as client:
            while not self.stop.is_set() and not self.wrong:
                try:
                    self.answers.append(answer(client, self._name))
                except Exception as error:
                    self.wrong = repr(error)


def answer(client: Client, name: str, version: str | int | None = None) -> float:
    """What a model makes of 1."""
    return float(client.model(name, version).infer(ONE).array[0, 0])


def test_a_version_that_is_deployed_serves_at_once_and_nobody_waits_for_it(
    server: LiveServer, client: Client, onnx_models: SimpleNamespace
) -> None:
    client.models.deploy("live", onnx_models.scale(1.0))
    assert answer(client, "live") == 1.0
    caller = Caller(server.url, "live")
    caller.start()
    try:
        client.models.deploy("live", onnx_models.scale(2.0))  # as the latest
        assert answer(client, "live") == 2.0
        client.models.deploy("live", onnx_models.scale(3.0), alias="production")
        assert answer(client, "live") == 3.0
        client.models.deploy("live", onnx_models.scale(4.0), alias="canary")
        assert (answer(client, "live"), answer(client, "live", "canary")) == (3.0, 4.0)
    finally:
        caller.stop.set()
        caller.join()
    assert caller.wrong == ""
    assert caller.answers == sorted(caller.answers)
    assert set(caller.answers) >= {1.0, 2.0, 3.0}


def test_deploying_as_production_is_a_promotion(
    client: Client, onnx_models: SimpleNamespace
) -> None:
    for factor in (1.0, 2.0):
        client.models.deploy("split", onnx_models.scale(factor))
    client.models.split("split", {1: 0.5, 2: 0.5})
    client.models.deploy("split", onnx_models.scale(3.0), alias="production")
    assert client.models.about("split").shares == {3: 1.0}
    assert client.models.rollback("split").shares == {1: 0.5, 2: 0.5}


def test_what_retention_has_erased_cannot_be_rolled_back_to(
    client: Client, onnx_models: SimpleNamespace
) -> None:
    client.models.deploy("kept", onnx_models.scale(1.0))
    client.models.pin("kept", 1)
    client.models.deploy("kept", onnx_models.scale(2.0), alias="production")
    client.models.deploy("kept", onnx_models.scale(3.0), alias="production")
    client.models.update("kept", policy=Policy(keep_last=1))
    client.models.deploy("kept", onnx_models.scale(4.0))
    states = {one.version: one.state for one in client.models.versions("kept")}
    assert states == {1: "verified", 2: "erased", 3: "verified", 4: "verified"}
    with pytest.raises(ConflictError, match="version 2 of model 'kept' is erased"):
        client.models.rollback("kept")
    assert answer(client, "kept") == 3.0
    assert [one.version for one in client.models.monitoring("kept").versions] == [3]
    kinds = [one.kind for one in client.models.history("kept")]
    assert kinds[:3] == ["erased", "deployed", "updated"]


def test_a_golden_set_is_the_reference_from_the_first_request_on(
    client: Client, onnx_models: SimpleNamespace
) -> None:
    rows = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    golden = Golden({"x": rows}, {"y": 2 * rows})
    client.models.deploy("seen", onnx_models.scale(2.0), golden=golden)
    profile = client.models.profile("seen", 1)
    assert (profile.source, profile.rows) == ("golden", 200)
    assert {f"x[{column}]" for column in range(4)} < {one["name"] for one in profile.features}
    client.model("seen").infer(rows)
    drift = client.models.monitoring("seen").version(1).drift
    assert drift is not None
    assert (drift.source, drift.verdict, drift.rows) == ("golden", "ok", 200)
    client.models.deploy("seen", onnx_models.scale(3.0), golden=Golden({"x": ONE}, {"y": 3 * ONE}))
    assert client.models.drift("seen", 2).versions[0].verdict == "unknown"  # one row is none


def test_weights_in_a_file_beside_the_model(client: Client, tmp_path: Path) -> None:
    weight = np.eye(600, dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [value("x", ["n", 600])],
        [value("y", ["n", 600])],
        [numpy_helper.from_array(weight, "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    path = tmp_path / "wide.onnx"
    onnx.save(made, path, save_as_external_data=True, location="weights.bin")
    assert (tmp_path / "weights.bin").stat().st_size > 1 << 20
    version = client.models.deploy("wide", path)
    assert {file.name for file in version.files} == {"model.onnx", "weights.bin"}
    x = np.random.default_rng(0).normal(size=(2, 600)).astype(np.float32)
    assert np.array_equal(client.model("wide").infer(x).array, x)
    place = client.models.export("wide", tmp_path / "wide.bundle")
    assert (place / "weights.bin").read_bytes() == (tmp_path / "weights.bin").read_bytes()


def test_tasks_and_pipelines_of_the_registry(client: Client, tmp_path: Path) -> None:
    parts, words = task_bundles.PARTS, task_bundles.tokenizer()
    for name, card, table, pooled in (
        ("moods", task_bundles.MOOD_CARD, task_bundles.MOODS, True),
        ("vectors", task_bundles.VECTOR_CARD, task_bundles.MEANINGS, False),
    ):
        model = task_bundles.table_model(table, parts, pooled=pooled)
        done = client.models.deploy(name, model, card=card, assets={"tokenizer.json": words})
        assert done.card is not None
    moods = client.text_classification("moods")
    assert moods.predict("good film").label == "positive"
    assert moods.predict("bad film").label == "negative"
    (tmp_path / "model.json").write_text(str(task_bundles.BEST_CARD).replace("'", '"'), "utf-8")
    assert client.models.deploy("best", tmp_path).files[0].name == "model.json"
    payload = {"query": "good", "documents": ["bad tea", "good film"]}
    assert client.model("best").predict(payload).label == "positive"


def test_a_file_that_comes_slowly_outlasts_the_deadline_of_a_request(
    server: LiveServer, client: Client, onnx_models: SimpleNamespace
) -> None:
    """As any HTTP client sends it: one long body."""
    content = onnx_models.scale(7.0)
    files = {"model.onnx": content, "notes.txt": bytes(64)}
    request = request_for(files)
    draft = Draft.model_validate(
        post(server, "/api/v1/models/slow/drafts", request.model_dump_json().encode())
    )
    base = f"/api/v1/models/slow/drafts/{draft.id}"
    for name, body in files.items():
        head = f"PUT {base}/files/{name} HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as sock:
            sock.sendall(head.encode())
            pause = 1.5 / len(body) if name == "notes.txt" else 0.0  # past `default_deadline`
            for byte in body if pause else ():
                threading.Event().wait(pause)
                sock.sendall(bytes([byte]))
            if not pause:
                sock.sendall(body)
            assert sock.recv(65536).startswith(b"HTTP/1.1 200 "), name
    post(server, f"{base}/commit", b"")
    assert answer(client, "slow") == 7.0


def post(server: LiveServer, path: str, body: bytes) -> Any:
    """What a POST is answered, as JSON."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=120)
    try:
        connection.request("POST", path, body, {"content-type": "application/json"})
        told = connection.getresponse()
        text = told.read()
        assert told.status in (200, 201), text
        return json.loads(text)
    finally:
        connection.close()


def test_all_workers_serve_what_one_of_them_was_told(
    start_aiaas: Any, tmp_path: Path, onnx_models: SimpleNamespace
) -> None:
    command = start_aiaas("--data", tmp_path / "data", "--workers", "2")
    url = f"http://{command.host}:{command.port}"

    asked: Counter[int] = Counter()

    def everywhere() -> set[float]:
        """What each of the workers answers."""
        found: dict[str, float] = {}
        while len(found) < 2:
            worker, told = asked_anew(command)
            asked[int(told)] += 1  # a version multiplies by its number
            found[worker] = told
        return set(found.values())

    with Client(url) as client:
        for factor in (1.0, 2.0, 3.0):
            client.models.deploy("m", onnx_models.scale(factor))
            assert everywhere() == {factor}
        for version in (1, 2, 3):
            client.models.promote("m", version)
            assert everywhere() == {float(version)}
        client.models.rollback("m")
        assert everywhere() == {2.0}
        wait_until(lambda: counted(client) == asked, f"{asked} requests were never all counted")
        client.models.delete("m", 2, force=True, replacement=1)
        assert everywhere() == {1.0}


def counted(client: Client) -> dict[int, int]:
    """By version, the requests that monitoring knows of."""
    return {one.version: one.requests for one in client.models.monitoring("m").versions}


def asked_anew(command: Any) -> tuple[str, float]:
    """Which worker answers a new connection, and what it makes of 1."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1.0] * 4}
    connection = command.http()
    try:
        headers = {"content-type": "application/json"}
        connection.request("POST", "/v2/models/m/infer", json.dumps({"inputs": [tensor]}), headers)
        told = connection.getresponse()
        text = told.read()
        assert told.status == 200, text
        return str(told.getheader("x-aiaas-worker")), json.loads(text)["outputs"][0]["data"][0]
    finally:
        connection.close()
