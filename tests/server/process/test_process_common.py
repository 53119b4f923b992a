"""Several workers act as one server: told the same, counted together, ready together."""

from __future__ import annotations

import base64
import json
import os
import resource
import signal
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from multiprocessing import shared_memory
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from tests.ports import free_port
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

IDS = ("1/2", "2/2")


class Worker:
    """A connection to one certain worker."""

    def __init__(self, connection: HTTPConnection, pid: int) -> None:
        self.connection = connection
        self.process = psutil.Process(pid)

    def ask(self, method: str, path: str, document: Any = None) -> tuple[int, Any]:
        """One request; the answer's status and its JSON, or text where it is none."""
        body = b"" if document is None else json.dumps(document).encode()
        self.connection.request(method, path, body)
        answer = self.connection.getresponse()
        content = answer.read()
        is_json = answer.getheader("content-type") == "application/json"
        return answer.status, json.loads(content) if is_json else content.decode()

    def get(self, path: str) -> Any:
        status, document = self.ask("GET", path)
        assert status == 200, document
        return document

    def infer(self, model: str = "tiny") -> int:
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}
        return self.ask("POST", f"/v2/models/{model}/infer", {"inputs": [tensor]})[0]

    def load(self, model: str, **parameters: Any) -> tuple[int, Any]:
        path = f"/v2/repository/models/{model}/load"
        return self.ask("POST", path, {"parameters": parameters})

    def unload(self, model: str) -> tuple[int, Any]:
        return self.ask("POST", f"/v2/repository/models/{model}/unload")

    def serves(self, model: str) -> bool:
        return self.ask("GET", f"/v2/models/{model}/ready")[0] == 200

    def is_loading(self, model: str) -> bool:
        return self.ask("GET", f"/v2/models/{model}")[0] == 503


@contextmanager
def workers_of(server: Any) -> Iterator[dict[str, Worker]]:
    """A connection to each of the two workers, by name."""
    found: dict[str, Worker] = {}
    opened: list[HTTPConnection] = []
    end = time.monotonic() + 60
    try:
        while len(found) < 2:
            assert time.monotonic() < end, found
            connection = server.http()
            opened.append(connection)
            connection.request("GET", "/v2/health/live")
            answer = connection.getresponse()
            answer.read()
            if connection.sock is None:
                continue  # a worker on its way out answers, and closes the connection
            name = answer.getheader("x-aiaas-worker")
            found.setdefault(name, Worker(connection, owner_of(server, connection)))
        yield found
    finally:
        for connection in opened:
            connection.close()


def owner_of(server: Any, connection: HTTPConnection) -> int:
    """The process that holds the other end of a connection."""
    port = connection.sock.getsockname()[1]
    workers = {child.pid for child in psutil.Process(server.process.pid).children()}
    for held in psutil.net_connections("tcp"):
        if held.pid in workers and held.raddr and held.raddr.port == port:
            return int(held.pid)
    raise AssertionError("no worker holds the connection")


def is_ready(server: Any) -> bool:
    """Whether the server is ready, asked on a connection of its own."""
    try:
        return bool(server.get("/v2/health/ready")[0] == 200)
    except OSError:
        return False


def sample(page: str, name: str) -> float:
    """The sum over the samples of a metric whose lines begin with `name`."""
    found = [line.rpartition(" ")[2] for line in page.splitlines() if line.startswith(name)]
    assert found, name
    return sum(map(float, found))


@pytest.fixture
def models(make_repository: Any, onnx_models: SimpleNamespace) -> Path:
    """A repository with two tiny models, and one that takes long to load by its warm-up."""
    warmup = {"steps": {"data_type": "TYPE_INT64", "dims": [1], "input_data_file": "steps"}}
    slow = json.dumps({"model_warmup": [{"name": "slow", "inputs": warmup}]})
    repository: Path = make_repository(
        {"tiny": onnx_models.identity(), "second": onnx_models.scale(), "slow": onnx_models.busy()},
        configs={"slow": slow},
    )
    (repository / "slow" / "warmup").mkdir()
    (repository / "slow" / "warmup" / "steps").write_bytes(struct.pack("<q", 100_000_000))
    return repository


@pytest.fixture
def two(start_aiaas: Any, models: Path) -> Any:
    """Start two workers that serve `tiny` and, because they were told so, `second`."""

    def start(*arguments: str, **settings: str) -> Any:
        options = ["--models", models, "--workers", "2", *arguments]
        server = start_aiaas(*options, "--load-model", "tiny", **settings)
        with workers_of(server) as workers:
            assert workers["1/2"].load("second")[0] == 200
        return server

    return start


def test_what_one_worker_is_told_all_have_done_when_the_call_returns(
    two: Any, onnx_models: SimpleNamespace
) -> None:
    server = two()
    encoded = base64.b64encode(onnx_models.identity()).decode()
    config = json.dumps({"max_batch_size": 3})
    with workers_of(server) as workers:
        first, other = (workers[name] for name in IDS)
        assert first.unload("second") == (200, {"name": "second", "unload": True})
        assert not other.serves("second")
        assert other.load("second", config=config)[0] == 200
        assert first.get("/v2/models/second/config")["max_batch_size"] == 3
        uploaded = {"config": config, "file:7/model.onnx": encoded}
        assert first.load("brought", **uploaded)[0] == 200
        assert other.get("/v2/models/brought")["versions"] == ["7"]
        assert other.infer("brought") == 200
        assert first.ask("POST", "/v2/logging", {"log_verbose_level": 2})[0] == 200
        assert other.get("/v2/logging")["log_verbose_level"] == 2
        assert other.ask("POST", "/v2/trace/setting", {"trace_rate": "7"})[0] == 200
        assert first.get("/v2/trace/setting")["trace_rate"] == "7"
        path = "/v2/models/tiny/trace/setting"
        assert first.ask("POST", path, {"trace_count": "3"})[0] == 200
        assert other.get(path)["trace_count"] == "3"


def test_a_load_that_fails_is_told_and_changes_nothing_anywhere(two: Any) -> None:
    server = two()
    with workers_of(server) as workers:
        for worker in workers.values():
            status, answer = worker.load("second", config='{"max_batch_size": "many"}')
            assert status == 400, answer
            status, answer = worker.load("nowhere")
            assert status in (400, 404), answer
        assert [worker.infer("tiny") for worker in workers.values()] == [200, 200]
        assert all(worker.serves("second") for worker in workers.values())


def test_a_load_that_one_worker_refuses_is_undone_by_the_other(two: Any) -> None:
    server = two()
    with workers_of(server) as workers:
        first, other = (workers[name] for name in IDS)
        assert first.unload("second")[0] == 200
        # The worker that is asked comes last; it has no descriptor left to read the model with.
        before = first.process.rlimit(resource.RLIMIT_NOFILE)
        first.process.rlimit(resource.RLIMIT_NOFILE, (3, before[1]))
        status, answer = first.load("second")
        first.process.rlimit(resource.RLIMIT_NOFILE, before)
        assert status >= 400
        assert "worker 1 refused" in answer["error"]
        assert not other.serves("second")
        assert first.load("second")[0] == 200
        assert other.serves("second")


def test_a_restarted_worker_has_what_the_others_have(
    two: Any, onnx_models: SimpleNamespace
) -> None:
    server = two()
    encoded = base64.b64encode(onnx_models.identity()).decode()
    config = json.dumps({"max_batch_size": 3})
    with workers_of(server) as workers:
        first = workers["1/2"]
        assert first.load("brought", **{"config": config, "file:7/model.onnx": encoded})[0] == 200
        assert first.unload("second")[0] == 200
        assert first.ask("POST", "/v2/logging", {"log_verbose_level": 2})[0] == 200
        assert first.ask("POST", "/v2/logging", {"log_info": False})[0] == 200
        for worker in workers.values():
            worker.process.kill()
    server.line("worker 1 ended")
    server.line("worker 2 ended")
    wait_until(lambda: is_ready(server), "ready")
    with workers_of(server) as workers:
        for worker in workers.values():
            assert worker.get("/v2/models/brought/config")["max_batch_size"] == 3
            assert not worker.serves("second")
            told = worker.get("/v2/logging")
            assert (told["log_verbose_level"], told["log_info"]) == (2, False)
            assert worker.infer("brought") == 200


def test_a_worker_killed_while_it_loads_costs_the_load_and_nothing_else(two: Any) -> None:
    server = two()
    with workers_of(server) as workers:
        asked, tries = workers["1/2"], workers["2/2"]
        answers: list[tuple[int, Any]] = []
        asking = threading.Thread(target=lambda: answers.append(asked.load("slow")))
        asking.start()
        wait_until(lambda: tries.is_loading("slow"), "loading")
        tries.process.kill()
        asking.join(30)
        ((status, answer),) = answers
        assert status == 400
        assert "worker 2 ended" in answer["error"]
        assert not asked.is_loading("slow")
        assert asked.infer() == 200
    wait_until(lambda: is_ready(server), "ready")


def test_a_worker_that_is_not_done_in_time_is_replaced_and_caught_up(two: Any) -> None:
    server = two(worker_timeout="1.5")
    with workers_of(server) as workers:
        asked, stuck = workers["1/2"], workers["2/2"]
        stuck.process.suspend()
        assert asked.infer() == 200
        assert asked.get("/v2/models/tiny/stats")  # counted without the stuck one
        assert asked.ask("POST", "/v2/logging", {"log_verbose_level": 3})[0] == 200
    server.line("worker 2 did not carry out 'logging'")
    wait_until(lambda: is_ready(server), "ready")
    with workers_of(server) as workers:
        levels = [w.get("/v2/logging")["log_verbose_level"] for w in workers.values()]
        assert levels == [3, 3]


def test_counts_are_those_of_all_workers_and_outlive_them(two: Any) -> None:
    metrics = free_port()
    server = two("--metrics-port", str(metrics))
    name = 'nv_inference_request_success{model="tiny",version="1"}'
    with workers_of(server) as workers:
        for worker, times in zip(workers.values(), (2, 3), strict=True):
            assert [worker.infer() for _ in range(times)] == [200] * times
            assert worker.ask("GET", "/v2/models/nowhere")[0] == 404
        for worker in workers.values():
            page = worker.get("/metrics")
            assert sample(page, name) == 5
            assert sample(page, 'aiaas_errors_total{code="model_not_found"}') == 2
            assert page.count("process_resident_memory_bytes{") == 2
            (entry,) = worker.get("/v2/models/tiny/stats")["model_stats"]
            assert entry["inference_count"] == 5
            counts = {entry["inference_stats"][part]["count"] for part in ("success", "queue")}
            assert counts == {5}
        connection = HTTPConnection(server.host, metrics, timeout=120)
        try:
            assert sample(Worker(connection, os.getpid()).get("/metrics"), name) == 5
        finally:
            connection.close()
        workers["2/2"].process.kill()
        server.line("worker 2 ended")
        assert sample(workers["1/2"].get("/metrics"), name) == 5
        assert workers["1/2"].infer() == 200
        assert sample(workers["1/2"].get("/metrics"), name) == 6


def test_the_server_is_ready_when_all_workers_are(two: Any) -> None:
    server = two()
    with workers_of(server) as workers:
        first, other = (workers[name] for name in IDS)
        wait_until(lambda: first.ask("GET", "/v2/health/ready")[0] == 200, "ready")
        other.process.kill()
        wait_until(lambda: first.ask("GET", "/v2/health/ready")[0] == 400, "not ready")
        wait_until(lambda: first.ask("GET", "/v2/health/ready")[0] == 200, "ready again")


def test_a_worker_that_is_stopped_leaves_without_a_lost_request(two: Any) -> None:
    server = two()
    stop = threading.Event()
    statuses: list[int] = []
    failures: list[BaseException] = []

    def keep_asking() -> None:
        connection = server.http()
        try:
            while not stop.is_set():
                statuses.append(Worker(connection, os.getpid()).infer())
        except BaseException as error:  # handed to the test
            failures.append(error)
        finally:
            connection.close()

    askers = [threading.Thread(target=keep_asking) for _ in range(8)]
    with workers_of(server) as workers:
        for asker in askers:
            asker.start()
        wait_until(lambda: len(statuses) > 100, "traffic")
        workers["2/2"].process.send_signal(signal.SIGTERM)
        server.line("worker 2 ended with code 0")
    wait_until(lambda: is_ready(server), "ready")
    stop.set()
    for asker in askers:
        asker.join(20)
    assert failures == []
    assert set(statuses) == {200}


def test_regions_of_shared_memory_are_registered_with_all_workers(two: Any) -> None:
    server = two(shared_memory="true")
    memory = shared_memory.SharedMemory(create=True, size=16)
    try:
        memory.buf[:8] = struct.pack("<2f", 3.0, 4.0)
        with workers_of(server) as workers:
            path = "/v2/systemsharedmemory/region/r"
            body = {"key": memory.name, "byte_size": 16}
            assert workers["1/2"].ask("POST", f"{path}/register", body)[0] == 200
            place = {"shared_memory_region": "r", "shared_memory_byte_size": 8}
            tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": place}
            for worker in workers.values():
                assert worker.get(f"{path}/status")[0]["byte_size"] == 16
                status, answer = worker.ask("POST", "/v2/models/tiny/infer", {"inputs": [tensor]})
                assert (status, answer["outputs"][0]["data"]) == (200, [3.0, 4.0])
            assert workers["2/2"].ask("POST", f"{path}/unregister")[0] == 200
            assert workers["1/2"].get("/v2/systemsharedmemory/status") == []
    finally:
        memory.close()
        memory.unlink()


def test_model_files_on_their_way_are_removed_even_when_the_parent_is_killed(
    two: Any, onnx_models: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    server = two()
    encoded = base64.b64encode(onnx_models.identity()).decode()
    with workers_of(server) as workers:
        config = json.dumps({"max_batch_size": 3})
        brought = {"config": config, "file:1/model.onnx": encoded}
        assert workers["1/2"].load("brought", **brought)[0] == 200
        processes = [worker.process for worker in workers.values()]
    assert list(tmp_path.glob("aiaas-workers-*/*/0"))
    os.kill(server.process.pid, signal.SIGKILL)
    assert psutil.wait_procs(processes, timeout=120)[1] == []
    assert list(tmp_path.glob("aiaas-workers-*")) == []
