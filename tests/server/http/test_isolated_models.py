"""Models in processes of their own answer on every route as they do in the server's process."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from aiaas_server.app import Application
from aiaas_server.core.describe.bundle import Bundles
from aiaas_server.core.describe.config import ModelConfig
from aiaas_server.core.describe.stored import StoredModel
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.generate.opening import open_generator
from aiaas_server.repository.repository import Repository
from aiaas_server.runtimes.isolated.keeper import Terms
from aiaas_server.runtimes.isolated.orders import Order
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.runtimes.sandbox import SandboxedSession, open_isolated
from aiaas_server.settings import Settings
from aiaas_server.tasks import Tasks
from tests import tiny_llm
from tests.server.generate import forms
from tests.server.http.serving import AsgiCaller
from tests.server.runtimes.isolated.conftest import HERE as DOUBLES
from tests.server.runtimes.isolated.conftest import doubles
from tests.task_bundles import write_repository
from tests.waiting import until

pytestmark = pytest.mark.slow  # a process for each model
Start = Callable[..., Awaitable[tuple[AsgiCaller, ModelPool]]]


class Apart(Repository):
    """A directory whose models all are to run in processes of their own."""

    def find(self, name: str) -> StoredModel | None:
        found = super().find(name)
        return None if found is None else replace(found, isolated=True)


@pytest_asyncio.fixture
async def start() -> AsyncIterator[Start]:
    """`call, pool = await start(root, kind)`: a server of that kind of repository."""
    async with AsyncExitStack() as stack:

        async def make(
            root: Path, kind: type[Repository] = Apart, **more: Any
        ) -> tuple[AsgiCaller, ModelPool]:
            settings = Settings()
            repository = kind(root)
            bundles = Bundles(repository.read_beside, Tasks().open, open_generator)
            more = {"open_isolated": open_isolated, **more}
            pool = ModelPool(repository, open_session, settings, (), bundles, **more)
            return AsgiCaller(await stack.enter_async_context(Application(pool, settings))), pool

        yield make


CALLS: list[tuple[str, Any]] = [
    ("/predict", {"text": "good film", "model": "moods"}),
    ("/v1/embeddings", {"model": "vectors", "input": "good"}),
    (
        "/v1/models/best:predict",
        {"instances": [{"query": "good", "documents": ["bad film", "good film"]}]},
    ),
    (
        "/v1/chat/completions",
        {
            "model": "tiny",
            "messages": [{"role": "user", "content": "the river"}],
            "temperature": 0,
            "max_tokens": 24,
        },
    ),
    (
        "/v2/models/table/infer",
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]},
    ),
]


@pytest.mark.parametrize("kept", ["shared", "separate"])
async def test_tasks_pipelines_and_models_that_write_answer_the_same(
    start: Start, onnx_models: SimpleNamespace, tmp_path: Path, kept: Any
) -> None:
    root = write_repository(tmp_path / "m", onnx_models)
    tiny_llm.write_model(root, kept=kept)
    apart, pool = await start(root)
    here, _ = await start(root, Repository)
    assert {m.session.metadata.get("isolation") for m in pool.models() if m.session.inputs} == {
        "process"
    }
    for path, body in CALLS:
        answers = [await call("POST", path, body) for call in (here, apart)]
        assert [answer.status for answer in answers] == [200, 200], (path, answers[1].body)
        ours, theirs = (_lasting(answer.json()) for answer in answers)
        assert ours == theirs, path


def _lasting(answer: Any) -> Any:
    """An answer without ids and times."""
    if isinstance(answer, dict):
        passing = ("id", "created", "timings", "system_fingerprint", "latency_ms")
        return {key: _lasting(of) for key, of in answer.items() if key not in passing}
    return [_lasting(one) for one in answer] if isinstance(answer, list) else answer


async def test_requests_run_beside_the_event_loop_and_a_death_is_told(
    start: Start, onnx_models: SimpleNamespace, tmp_path: Path
) -> None:
    root = write_repository(tmp_path / "m", onnx_models)
    call, pool = await start(root)
    model = pool.find("table")
    assert model is not None
    path, body = CALLS[-1]
    for _ in range(20):
        assert (await call("POST", path, body)).status == 200
    assert not model.scheduler._costs.is_inline(None, 8)
    isolation = model.session.isolation  # type: ignore[attr-defined]
    os.kill(model.session._keeper.worker(None).pid, signal.SIGKILL)  # type: ignore[attr-defined]
    await until(lambda: isolation.restarts == 1)
    assert (await call("POST", path, body)).status == 200
    page = (await call("GET", "/metrics")).body.decode()
    assert 'aiaas_sandbox_deaths_total{model="table",version="1"} 1' in page
    assert 'aiaas_sandbox_restarts_total{model="table",version="1"} 1' in page
    assert 'aiaas_sandbox_quarantined{model="moods",version="1"} 0' in page
    for _ in range(3):
        deaths = isolation.deaths
        os.kill(model.session._keeper.worker(None).pid, signal.SIGKILL)  # type: ignore[attr-defined]
        await until(lambda before=deaths: isolation.deaths > before)  # type: ignore[misc]
        if isolation.quarantined:
            break
        await until(lambda: model.session._keeper._worker is not None)  # type: ignore[attr-defined]
    refused = await call("POST", path, body)
    assert refused.status == 503
    assert "quarantined" in refused.json()["error"]
    listed = (await call("POST", "/v2/repository/index", {})).json()
    (entry,) = [one for one in listed if one["name"] == "table"]
    assert entry["state"] == "UNAVAILABLE"
    assert "3 times within 60 s" in entry["reason"]
    assert (await call("GET", "/v2/models/table/ready")).status == 400
    assert (await call("GET", "/v2/health/ready")).status == 200, "others are well"
    told = (await call("GET", "/v2/models/table")).json()["isolation"]
    assert told.startswith("process; quarantined: ")
    assert (await call("POST", *CALLS[0])).status == 200
    assert (await call("POST", "/v2/repository/models/table/load", {})).status == 200
    assert (await call("POST", path, body)).status == 200


async def test_each_process_of_a_model_that_writes_with_two_is_known(
    start: Start, tmp_path: Path
) -> None:
    """Both take memory, both may die too often, and neither stays where one cannot be used."""
    place = tiny_llm.write_model(tmp_path / "m", with_past="later.onnx")
    (place / "model.onnx").write_bytes(forms.beginning())
    (place / "later.onnx").write_bytes(forms.going_on())
    call, pool = await start(tmp_path / "m")
    model = pool.find("tiny")
    assert model is not None
    assert (await call("POST", *CALLS[3])).status == 200
    first, second = model.isolations
    both = first.memory_bytes + second.memory_bytes
    assert model.statistics.memory_bytes >= both > first.memory_bytes > 0
    second.quarantined, second.deaths = "it died", 3
    page = (await call("GET", "/metrics")).body.decode()
    assert 'aiaas_sandbox_quarantined{model="tiny",version="1"} 1' in page
    assert 'aiaas_sandbox_deaths_total{model="tiny",version="1"} 3' in page
    assert (await call("POST", "/v2/repository/models/tiny/load", {})).status == 200
    again = pool.find("tiny")
    assert again is not None
    assert [one.quarantined for one in again.isolations] == ["", ""]

    (place / "later.onnx").write_bytes(forms.beginning())  # goes on with nothing
    assert (await call("POST", "/v2/repository/models/tiny/load", {})).status == 400
    kept = "aiaas-keeps-tiny"  # the threads of those that serve on
    await until(lambda: [one.name for one in threading.enumerate()].count(kept) == 2)


async def test_a_server_that_cannot_keep_them_apart_does_not_serve_them(
    start: Start, onnx_models: SimpleNamespace, tmp_path: Path
) -> None:
    root = write_repository(tmp_path / "m", onnx_models)
    call, pool = await start(root, open_isolated=None)
    assert [model.name for model in pool.models() if model.session.inputs] == []
    told = (await call("POST", "/v2/repository/index", {})).body.decode()
    assert "it is to run in a process of its own, which is not offered here" in told


@pytest.mark.parametrize(
    ("does", "status", "code"),
    [("aborts", 500, "model_crashed"), ("killed", 422, "inference_failed")],
)
async def test_a_process_that_ends_in_a_request_is_told_once_and_not_tried_again(
    start: Start, tmp_path: Path, does: str, status: int, code: str
) -> None:
    """Sent on once more it would end the next process, too."""
    sent: list[int] = []
    started: list[bool] = []

    def open_double(model: Any, config: Any = None, **_: Any) -> SandboxedSession:
        order = Order(
            path=None,
            size=0,
            config=ModelConfig(name=does),
            threads=1,
            memory_bytes=1 << 30,
            filters=True,
        )
        session = SandboxedSession(order, name=does, terms=Terms(entry=f"{DOUBLES}.standing_in"))
        run = session.run

        def counted(inputs: Any, *rest: Any) -> Any:
            if not started:
                return [inputs["x"]]  # while it is warmed up it lives
            sent.append(1)
            return run(inputs, *rest)

        session.run = counted  # type: ignore[method-assign]
        return session

    (tmp_path / "m" / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "m" / "1" / "model.onnx").write_bytes(doubles())
    call, _ = await start(tmp_path / "m", open_isolated=open_double)
    started.append(True)
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
    answer = await call("POST", "/v2/models/m/infer", body)
    assert (answer.status, answer.json()["code"]) == (status, code), answer.body
    assert answer.json()["retryable"] is False
    assert "retry-after" not in answer.headers
    assert len(sent) == 1
