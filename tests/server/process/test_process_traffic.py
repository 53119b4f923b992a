"""Traffic of every kind meets reloads, unloads, stops, and models that do not serve."""

from __future__ import annotations

import json
import signal
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.server.http.test_route_table import OF_MODEL, OF_VERSION
from tests.server.process.asking import Asker, Place
from tests.task_bundles import write_bundle, write_repository

pytestmark = pytest.mark.slow

LOAD = ("POST", "/v2/repository/models/{model}/load")
UNLOAD = ("POST", "/v2/repository/models/{model}/unload")
INFERENCE = [
    key
    for key in OF_MODEL
    if key[0] == "POST" and key[1].endswith(("infer", "generate", "generate_stream", "predict"))
] + [("POST", "/v1/embeddings")]
PIPELINE = ("POST", "/v1/models/{model}:predict")
BEST = {"instances": [{"query": "tea", "documents": ["good film", "bad tea"]}]}


class Traffic:
    """Asks every inference route over and over, each thread on a connection of its own.

    Attributes:
        statuses: How often each was answered, by operation and status.
        lost: Requests that got no answer; none is expected but when the server ends.
    """

    def __init__(self, place: Place, threads: int) -> None:
        self._place = place
        self._stop = threading.Event()
        self._enough = threading.Event()
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.bodies: dict[tuple[str, int], bytes] = {}
        self.lost: list[BaseException] = []
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(threads)]

    def _ask(self, number: int) -> None:
        try:
            with self._place.asking() as asker:
                while not self._stop.is_set():
                    key = INFERENCE[number % len(INFERENCE)]
                    self._note(key[1], asker.call(key))
                    path = "/v1/models/best:predict"
                    self._note(path, asker.send("POST", path, json.dumps(BEST).encode()))
                    number += 1
        except OSError as error:
            self.lost.append(error)

    def _note(self, path: str, answer: Any) -> None:
        self.statuses[path, answer.status] += 1
        self.bodies[path, answer.status] = answer.body
        if sum(self.statuses.values()) > 50:
            self._enough.set()

    def start(self) -> None:
        """Begin; returns when it flows."""
        for thread in self._threads:
            thread.start()
        assert self._enough.wait(60)

    def stop(self) -> None:
        """End; every request that was sent is answered."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    @property
    def refused(self) -> dict[tuple[str, int], bytes]:
        """What was answered with an error."""
        return {key: body for key, body in self.bodies.items() if key[1] != 200}


@contextmanager
def traffic(place: Place, threads: int = 6) -> Iterator[Traffic]:
    """Traffic while the block runs."""
    flowing = Traffic(place, threads)
    flowing.start()
    try:
        yield flowing
    finally:
        flowing.stop()


@pytest.fixture
def serve_all(
    start_aiaas: Any, tmp_path: Path, onnx_models: SimpleNamespace
) -> Callable[..., tuple[Any, Place]]:
    """Start a server with a model of every kind."""

    def start(*options: str) -> tuple[Any, Place]:
        root = write_repository(tmp_path / "models", onnx_models)
        server = start_aiaas("--models", root, *options)
        return server, Place(server.port)

    return start


@pytest.mark.parametrize(
    "options",
    [
        (),
        pytest.param(("--workers", "2"), marks=pytest.mark.slow),
        pytest.param(("--memory-budget", "500MiB"), marks=pytest.mark.slow),
        pytest.param(("--watch",), marks=pytest.mark.slow),
    ],
    ids=["one", "workers", "budget", "watch"],
)
def test_a_reload_costs_no_request_on_any_route(serve_all: Any, options: tuple[str, ...]) -> None:
    _, place = serve_all(*options)
    with traffic(place) as flowing, place.asking() as asker:
        for number in range(5):
            for model in ("table", "moods", "vectors", "best"):
                config = json.dumps({"parameters": {"n": {"string_value": str(number)}}})
                body = json.dumps({"parameters": {"config": config}}).encode()
                answer = asker.send("POST", LOAD[1].replace("{model}", model), body)
                assert answer.status == 200, answer.body
    assert flowing.lost == []
    assert flowing.refused == {}


def test_while_models_come_and_go_each_request_is_answered_or_told_so(serve_all: Any) -> None:
    _, place = serve_all()
    with traffic(place) as flowing, place.asking() as asker:
        for _ in range(5):
            for model in ("table", "moods", "vectors"):
                assert asker.call(UNLOAD, model=model).status == 200
                assert asker.call(LOAD, model=model).status == 200
    assert flowing.lost == []
    for (path, status), body in flowing.refused.items():
        assert status in (404, 503), (path, status, body)
        assert b"unloaded" in body or b"not at ready state" in body, (path, body)


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGTERM, id="term"),
        pytest.param(signal.SIGHUP, id="hup", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    "options",
    [(), pytest.param(("--workers", "2"), marks=pytest.mark.slow)],
    ids=["one", "workers"],
)
def test_a_stop_answers_or_refuses_what_is_in_flight_on_every_route(
    serve_all: Any, options: tuple[str, ...], number: int
) -> None:
    server, place = serve_all(*options)
    with traffic(place) as flowing:
        server.signal(number)
        assert server.exit_code() == 0
    for (path, status), body in flowing.refused.items():
        assert status == 503, (path, body)
        assert b"stopping" in body, (path, body)
    # A connection that was kept open may meet the close; nothing else is lost.
    assert len(flowing.lost) <= 6
    server.to_the_end()
    assert "Traceback" not in "\n".join(server.lines)


@pytest.fixture
def odd_models(tmp_path: Path, onnx_models: SimpleNamespace) -> Path:
    """Models of every kind, and some that cannot be served, each for another reason."""
    root = write_repository(tmp_path / "models", onnx_models)
    write_bundle(root, "slow", {"task": "tabular-regression"}, onnx_models.busy())
    (root / "slow" / "1" / "model.json").unlink()
    warmup = {"steps": {"data_type": "TYPE_INT64", "dims": [1], "input_data_file": "steps"}}
    config = {"model_warmup": [{"name": "slow", "inputs": warmup}]}
    (root / "slow" / "config.json").write_text(json.dumps(config))
    (root / "slow" / "warmup").mkdir()
    (root / "slow" / "warmup" / "steps").write_bytes(struct.pack("<q", 100_000_000))
    write_bundle(root, "broken", {"task": "digits"}, b"no model")
    write_bundle(root, "unknown_task", {"task": "nonsense"}, onnx_models.scale())
    write_bundle(root, "bad_config", {"task": "digits"}, onnx_models.mlp())
    (root / "bad_config" / "config.pbtxt").write_text('max_batch_size: "secret"')
    (root / "astray").mkdir()
    (root / "astray" / "model.onnx").write_bytes(onnx_models.scale())
    (root / "empty").mkdir()
    return root


WHY = {
    "broken": "damaged",
    "unknown_task": "unknown task 'nonsense'",
    "bad_config": "config.pbtxt: line 1",
    "astray": "move it to astray/1/model.onnx",
    "empty": "a model lies at empty/1/model.onnx",
}


def message_of(answer: Any) -> str:
    """The text of an error, in whichever dialect."""
    error = answer.json()["error"]
    return str(error["message"] if isinstance(error, dict) else error)


def asked(asker: Asker, model: str, *, load: bool = True) -> Iterator[tuple[Any, Any]]:
    """Every operation of a model but unloading, and its answer."""
    for key in sorted({*OF_MODEL, *OF_VERSION}):
        if key != UNLOAD and (load or key != LOAD):
            yield key, asker.call(key, model=model)


def test_what_loads_still_is_told_so_on_every_route(start_aiaas: Any, odd_models: Path) -> None:
    server = start_aiaas("--models", odd_models, told="listening on", until="")
    with Place(server.port).asking() as asker:
        for model in ("slow", "table"):  # that is opened, and one that waits for its turn
            for key, answer in asked(asker, model, load=False):
                assert answer.status == 503, (key, answer.body)
                assert answer.headers["retry-after"] == "1", key
                assert f"model '{model}' is not at ready state" in message_of(answer), key
        index = {
            entry["name"]: entry for entry in asker.call(("POST", "/v2/repository/index")).json()
        }
        assert index["slow"]["state"] == index["table"]["state"] == "LOADING"
        assert index["digits"]["state"] == "READY"
        assert asker.call(("POST", "/v1/models/{model}:predict")).status == 200
        assert asker.call(("GET", "/v2/health/ready")).status != 200
    server.signal()
    assert server.exit_code() == 0
    server.to_the_end()


@pytest.mark.parametrize(
    "budget",
    [pytest.param(False, id="plain"), pytest.param(True, id="budget", marks=pytest.mark.slow)],
)
def test_what_cannot_be_served_says_why_on_every_route(
    start_aiaas: Any, odd_models: Path, budget: bool
) -> None:
    options = ("--memory-budget", "500MiB") if budget else ()
    server = start_aiaas("--models", odd_models, *options, load_models="" if budget else "digits")
    with Place(server.port).asking() as asker:
        for model, why in WHY.items():
            tried = asker.call(LOAD, model=model)
            assert tried.status in (400, 404), tried.body
            for key, answer in asked(asker, model):
                assert answer.status in (400, 404), (key, answer.body)
                assert why in message_of(answer), (key, answer.body)
                assert str(odd_models.parent) not in answer.body.decode()
                assert "secret" not in answer.body.decode()
                assert "retry-after" not in answer.headers
        assert asker.call(UNLOAD, model="digits").status == 200
        for key, answer in asked(asker, "digits", load=False):
            assert answer.status == 404, (key, answer.body)
            assert "unloaded" in message_of(answer), (key, answer.body)
