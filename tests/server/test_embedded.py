"""The server in the caller's process uses the same door: loading on demand, and counting."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aiaas_server.core.errors import ModelNotFound, ModelUnavailable
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.pool import opener
from aiaas_server.embedded import EmbeddedServer
from aiaas_server.settings import Settings

MIB = 1 << 20
INPUTS = {"x": np.ones((1, 4), np.float32)}


@pytest.fixture(params=[0, 500 * MIB], ids=["all loaded", "with a memory budget"])
def server(
    request: pytest.FixtureRequest, make_repository: Any, onnx_models: SimpleNamespace
) -> Iterator[EmbeddedServer]:
    models = make_repository({"m": onnx_models.scale(), "n": onnx_models.scale(3.0)})
    server = EmbeddedServer(Settings(models=models, memory_budget_bytes=request.param))
    server.start()
    yield server
    server.close()


def test_the_caller_and_the_queue_find_the_model(server: EmbeddedServer) -> None:
    model, outcome = server.infer("m", None, INPUTS, ("y",))
    assert model.name == "m"
    assert outcome.outputs["y"].tolist() == [[2, 2, 2, 2]]
    model, outcome = server.infer_queued("n", 1, INPUTS, (), 30.0).result(30)
    assert (model.name, model.version) == ("n", 1)
    assert outcome.outputs["y"].tolist() == [[3, 3, 3, 3]]


def test_errors_are_those_of_a_served_process_and_counted(server: EmbeddedServer) -> None:
    with pytest.raises(ModelNotFound) as caught:
        server.infer("nobody", None, INPUTS, ())
    with pytest.raises(ModelNotFound):
        server.infer_queued("nobody", None, INPUTS, (), 30.0).result(30)
    told = server.refusal(caught.value, "mine")
    assert told.status == 404
    assert b'"request_id":"mine"' in told.body
    answered = server.submit(server.answer("GET", "/v2/models/nobody", [], ())).result(30)
    assert answered.status == 404
    page = server.submit(server.answer("GET", "/metrics", [], ())).result(30)
    assert b'aiaas_errors_total{code="model_not_found"} 2' in page.body


async def test_an_event_loop_does_not_wait_for_a_load(server: EmbeddedServer) -> None:
    run = server.infer_queued("m", None, INPUTS, (), 30.0)
    _, outcome = await asyncio.wrap_future(run)
    assert outcome.outputs["y"].tolist() == [[2, 2, 2, 2]]


@pytest.fixture
def room_for_one(
    make_repository: Any, onnx_models: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> Iterator[EmbeddedServer]:
    monkeypatch.setattr(opener, "estimate", lambda *_: 1000)
    monkeypatch.setattr(opener.Opener, "size_of_files", lambda *_: 1000)
    models = make_repository({name: onnx_models.scale() for name in "abc"})
    server = EmbeddedServer(Settings(models=models, memory_budget_bytes=1500))
    server.start()
    yield server
    server.close()


def test_a_model_that_runs_in_a_callers_thread_makes_no_room(
    room_for_one: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go_on = threading.Event(), threading.Event()
    infer_now = LoadedModel.infer_now

    def waiting(model: LoadedModel, *arguments: Any) -> Any:
        entered.set()
        assert go_on.wait(30)
        return infer_now(model, *arguments)

    monkeypatch.setattr(LoadedModel, "infer_now", waiting)
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(room_for_one.infer, "a", None, INPUTS, ())
        assert entered.wait(30)
        with pytest.raises(ModelUnavailable, match="can be made free now"):
            room_for_one.infer("b", None, INPUTS, ())
        go_on.set()
        assert running.result(30)[1].outputs["y"].tolist() == [[2, 2, 2, 2]]
    assert room_for_one.infer("b", None, INPUTS, ())[0].name == "b"


def test_a_model_that_went_the_moment_it_was_found_is_loaded_again(
    room_for_one: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = room_for_one.infer("a", None, INPUTS, ())
    room_for_one.infer("b", None, INPUTS, ())
    pool = room_for_one._app.pool
    find, stale = pool.find, [first]
    monkeypatch.setattr(pool, "find", lambda *key: stale.pop() if stale else find(*key))
    model, outcome = room_for_one.infer("a", None, INPUTS, ())
    assert model is not first
    assert outcome.outputs["y"].tolist() == [[2, 2, 2, 2]]


def test_many_threads_and_more_models_than_room(room_for_one: EmbeddedServer) -> None:
    """Each call is answered, or told that there is no room; never by a model that has gone."""

    def ask(number: int) -> str:
        name = "abc"[number % 3]
        try:
            model, outcome = room_for_one.infer(name, None, INPUTS, ())
        except ModelUnavailable as error:
            return error.message
        assert model.name == name
        return str(outcome.outputs["y"].tolist())

    with ThreadPoolExecutor(4) as threads:
        answers = set(threads.map(ask, range(60)))
    assert "[[2.0, 2.0, 2.0, 2.0]]" in answers
    assert all(text.startswith("[[2.0") or "memory budget" in text for text in answers), answers
