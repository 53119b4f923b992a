"""Which predictions are answered past ASGI, and that both ways give the same."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiaas_server.core.model import LoadedModel
from tests.server.http.edge_caller import EdgeCaller, wire_form
from tests.server.http.serving import Answer, AsgiCaller
from tests.task_bundles import (
    MOOD_CARD,
    MOODS,
    PARTS,
    table_model,
    tokenizer,
    write_bundle,
)
from tests.waiting import until

OpenApp = Callable[..., Awaitable[Any]]
MOODS_URL = "/v1/models/moods:predict"
ITS_OWN = {"date", "server", "x-request-id"}


@pytest.fixture
def adapter() -> str:
    """These tests ask the other way themselves."""
    return "lane"


HOT: dict[str, tuple[str, Any]] = {
    "text": ("/predict", {"text": "good film", "model": "moods"}),
    "versioned": ("/predict", {"text": "good film", "model": "moods", "version": 1}),
    "task": ("/predict", {"text": "good", "task": "text-embedding"}),
    "no model": ("/predict", {"text": "good"}),
    "params": ("/predict", {"text": "good film", "top_k": 1, "params": {}}),
    "texts": ("/predict", {"text": ["good", "bad film", ""]}),
    "similarity": ("/predict", {"texts": ["good", "good film"]}),
    "record": ("/predict", {"features": {"a": 1, "b": 2}}),
    "v1": (MOODS_URL, {"instances": ["good"]}),
    "v1 with a version": ("/v1/models/moods/versions/1:predict", {"instances": ["good"]}),
    "mixed shapes": (MOODS_URL, {"instances": ["good", "good tea tea tea tea tea tea tea tea"]}),
    "mixed outcomes": (MOODS_URL, {"instances": ["good", "", 7, "bad"]}),
    "all wrong": (MOODS_URL, {"instances": ["", 7]}),
    "one wrong": ("/predict", {"text": "", "model": "moods"}),
    "unknown param": ("/predict", {"text": "a", "params": {"topk": 1}}),
    "no instances": (MOODS_URL, {"instances": []}),
    "unknown member": ("/predict", {"txt": "a"}),
    "no JSON": ("/predict", b"{"),
    "nothing": ("/predict", b""),
    "no model takes it": ("/predict", {"audio": "aaaa"}),
}
PASSED_ON: dict[str, tuple[str, Any]] = {
    "a pipeline": ("/v1/models/best:predict", {"instances": ["bad"]}),
    "many": (MOODS_URL, {"instances": ["good"] * 5}),
    "a long text": (MOODS_URL, {"instances": ["good " * 500]}),
    "a large body": (MOODS_URL, b'{"instances": ["good"]}' + b" " * (129 << 10)),
    "no such model": ("/v1/models/none:predict", {"instances": ["good"]}),
    "no such version": ("/v1/models/moods/versions/7:predict", {"instances": ["good"]}),
    "no such named": ("/predict", {"text": "good", "model": "none"}),
}


def told(answer: Answer) -> tuple[int, Any, dict[str, str]]:
    """All of an answer but what is that one answer's own."""
    document = answer.json()
    document.pop("request_id", None)
    headers = {name: value for name, value in answer.headers.items() if name not in ITS_OWN}
    if "request_id" in answer.json():
        headers.pop("content-length")  # the ids may differ in length
    return answer.status, document, headers


@pytest.mark.parametrize(("path", "body"), HOT.values(), ids=HOT.keys())
async def test_what_is_light_is_answered_past_asgi_and_both_ways_alike(
    repository: Path, open_app: OpenApp, path: str, body: Any
) -> None:
    call: EdgeCaller = await open_app(repository)
    headers = {"content-type": "application/json"}
    answer = await call("POST", path, body, headers)
    assert call.passed_on == []
    assert told(answer) == told(await AsgiCaller(call.app)("POST", path, body, headers))
    assert all(model.in_use == 0 for model in call.app.pool.models())


@pytest.mark.parametrize(("path", "body"), PASSED_ON.values(), ids=PASSED_ON.keys())
async def test_all_else_is_passed_on_and_answered_alike(
    repository: Path, open_app: OpenApp, path: str, body: Any
) -> None:
    call: EdgeCaller = await open_app(repository)
    answer = await call("POST", path, body)
    assert call.passed_on == [path]
    assert told(answer) == told(await AsgiCaller(call.app)("POST", path, body))


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        ("/predict", b"good film", "text/plain"),
        ("/predict?model=moods", b'{"text": "good film"}', "application/json"),
        ("/predict", b"--x", " Multipart/form-data; boundary=x"),
        (MOODS_URL, b"good film", "text/plain; charset=utf-8"),
    ],
)
async def test_raw_bodies_and_queries_are_passed_on(
    repository: Path, open_app: OpenApp, path: str, body: bytes, kind: str
) -> None:
    call: EdgeCaller = await open_app(repository)
    headers = {"Content-Type": kind}
    answer = await call("POST", path, body, headers)
    assert call.passed_on == [path.partition("?")[0]]
    assert told(answer) == told(await AsgiCaller(call.app)("POST", path, body, headers))


async def test_a_cached_answer_is_passed_on(tmp_path: Path, open_app: OpenApp) -> None:
    model, files = table_model(MOODS, PARTS, pooled=True), {"tokenizer.json": tokenizer()}
    write_bundle(tmp_path / "m", "moods", MOOD_CARD, model, files)
    (tmp_path / "m" / "moods" / "config.pbtxt").write_text("response_cache { enable: true }")
    call: EdgeCaller = await open_app(tmp_path / "m", response_cache_bytes=1 << 20)
    for _ in range(2):
        assert (await call("POST", "/predict", {"text": "good"})).json()["label"] == "positive"
    assert call.passed_on == ["/predict"] * 2


def waiting_repository(root: Path) -> Path:
    """`moods`, whose requests wait in the queue for ever, unless many come."""
    model, files = table_model(MOODS, PARTS, pooled=True), {"tokenizer.json": tokenizer()}
    write_bundle(root, "moods", MOOD_CARD, model, files)
    (root / "moods" / "config.pbtxt").write_text(
        "max_batch_size: 8\n"
        "dynamic_batching { max_queue_delay_microseconds: 600000000 preferred_batch_size: [ 8 ] }"
    )
    return root


def is_idle(model: LoadedModel) -> bool:
    return model.in_use == model.scheduler.pending == 0


@pytest.fixture(params=[["good"], ["good", "good tea tea tea tea tea tea tea tea tea tea"]])
def instances(request: pytest.FixtureRequest) -> list[str]:
    return list(request.param)


async def test_who_leaves_takes_what_was_begun_out_of_the_queue(
    tmp_path: Path, open_app: OpenApp, instances: list[str]
) -> None:
    call: EdgeCaller = await open_app(waiting_repository(tmp_path / "m"))
    model: LoadedModel = call.app.pool.resolve("moods")
    _, pipe = call.connect()
    pipe.send(b"".join(wire_form("POST", MOODS_URL, {"instances": instances}, {})))
    await until(lambda: model.scheduler.pending == len(instances))
    assert model.in_use == 1
    pipe.close()
    await until(lambda: is_idle(model))
    assert call.passed_on == []


@pytest.mark.parametrize("by_lane", [True, False])
async def test_a_deadline_in_the_queue_is_504(
    tmp_path: Path, open_app: OpenApp, instances: list[str], by_lane: bool
) -> None:
    call: EdgeCaller = await open_app(waiting_repository(tmp_path / "m"))
    other: Any = call if by_lane else AsgiCaller(call.app)
    headers = {"X-Request-Timeout-Ms": "30"}
    answer = await other("POST", MOODS_URL, {"instances": instances}, headers)
    assert answer.status == 504
    text = "model 'moods': the deadline passed before the prediction was ready"
    assert answer.json()["error"] == text
    assert is_idle(call.app.pool.resolve("moods"))
    assert call.passed_on == []


async def test_the_model_that_fits_is_found_anew_when_others_serve(
    tmp_path: Path, open_app: OpenApp
) -> None:
    root = tmp_path / "m"
    model, files = table_model(MOODS, PARTS, pooled=True), {"tokenizer.json": tokenizer()}
    write_bundle(root, "one", MOOD_CARD, model, files)
    call: EdgeCaller = await open_app(root)
    for _ in range(2):
        assert (await call("POST", "/predict", {"text": "good"})).json()["model"] == "one"
    write_bundle(root, "two", MOOD_CARD, model, files)
    assert (await call("POST", "/v2/repository/models/two/load")).status == 200
    answer = await call("POST", "/predict", {"text": "good"})
    assert "name one of 'one', 'two'" in answer.json()["error"]
    assert (await call("POST", "/v2/repository/models/one/unload")).status == 200
    assert (await call("POST", "/predict", {"text": "good"})).json()["model"] == "two"


async def test_scores_that_are_no_numbers_are_last(tmp_path: Path, open_app: OpenApp) -> None:
    table = np.zeros((6, 3))
    table[2] = [np.nan, 1, 2]
    card = {"task": "text-classification", "labels": ["none", "one", "two"]}
    files = {"tokenizer.json": tokenizer()}
    write_bundle(tmp_path / "m", "odd", card, table_model(table, ("input_ids",), True), files)
    call: EdgeCaller = await open_app(tmp_path / "m")
    answer = await call("POST", "/predict", {"text": "good"})
    assert list(json.loads(answer.body)["scores"]) == ["two", "one", "none"]
    assert call.passed_on == []
