"""Predictions over HTTP: KServe's V1 routes, the simple form, raw bodies, and what each refuses."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from aiaas_server.app import Application, create_app
from aiaas_server.core.describe.bundle import Bundles
from aiaas_server.core.events import Caller
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.http.kserve.payloads import COMPARED, OTHERS, SIMPLE_KINDS
from aiaas_server.http.oip.statistics import model_stats
from aiaas_server.repository.repository import Repository
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.settings import Settings
from aiaas_server.tasks import Tasks
from tests.server.http.serving import Answer, AsgiCaller
from tests.task_bundles import (
    MOOD_CARD,
    MOODS,
    PARTS,
    table_model,
    tokenizer,
    write_bundle,
    write_repository,
)

OpenApp = Callable[..., Awaitable[AsgiCaller]]
MOODS_URL = "/v1/models/moods:predict"


@pytest_asyncio.fixture
async def call(repository: Path, open_app: OpenApp) -> AsgiCaller:
    return await open_app(repository)


def png(width: int = 28, height: int = 28) -> bytes:
    pixels = np.zeros((height, width), np.uint8)
    pixels[5:20, 12:15] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def b64(content: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(content).decode()}


async def test_the_smallest_call_answers_the_predictions_own_fields(call: AsgiCaller) -> None:
    answer = await call("POST", "/predict", b'{"text": "good film"}')
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    document = answer.json()
    assert document["label"] == "positive"
    assert document["model"] == "moods"
    assert document["score"] == pytest.approx(document["scores"]["positive"])


async def test_curls_own_content_type_is_json(call: AsgiCaller) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await call("POST", "/predict", b'{"text": "bad"}', headers)
    assert answer.json()["label"] == "negative"


async def test_a_list_of_texts_has_a_list_of_predictions(call: AsgiCaller) -> None:
    answer = await call("POST", "/predict", {"text": ["good", "bad"], "top_k": 1})
    found = answer.json()["predictions"]
    assert [one["label"] for one in found] == ["positive", "negative"]
    assert [len(one["scores"]) for one in found] == [1, 1]


async def test_instances_answer_predictions_in_order(call: AsgiCaller) -> None:
    texts = ["good", "bad tea", "good film tea tea tea tea tea tea tea tea", "bad"]
    answer = await call("POST", MOODS_URL, {"instances": texts})
    labels = [one["label"] for one in answer.json()["predictions"]]
    assert labels == ["positive", "negative", "positive", "negative"]
    assert answer.headers["x-aiaas-task"] == "text-classification"
    assert answer.headers["x-aiaas-version"] == "1"


async def test_mixed_outcomes_are_told_per_instance(call: AsgiCaller) -> None:
    answer = await call("POST", MOODS_URL, {"instances": ["good", "", 7, "bad"]})
    assert answer.status == 200
    first, empty, number, last = answer.json()["predictions"]
    assert (first["label"], last["label"]) == ("positive", "negative")
    assert empty["code"] == number["code"] == "invalid_request"
    assert "text is empty" in empty["error"]
    assert "got a number" in number["error"]


async def test_when_no_instance_can_be_answered_it_is_the_first_ones_error(
    call: AsgiCaller,
) -> None:
    answer = await call("POST", MOODS_URL, {"instances": ["", 7]})
    assert answer.status == 400
    assert answer.json()["error"].startswith("instance 0: text is empty")


async def test_instances_share_batches(repository: Path, open_app: OpenApp) -> None:
    call = await open_app(repository, batch_cap=False)  # which sizes pay is timed
    await call("POST", MOODS_URL, {"instances": ["good film"] * 200})
    model = call.app.pool.resolve("moods")
    assert model_stats("moods", 1, model.statistics)["inference_count"] == 200
    assert model_stats("moods", 1, model.statistics)["execution_count"] <= 20


async def test_padding_that_the_card_allows_changes_no_prediction(
    tmp_path: Path, open_app: OpenApp
) -> None:
    pad = {name: {"axis": 1} for name in PARTS}
    card = {**MOOD_CARD, "preprocessing": {"pad_to": 1}, "batching": {"pad": pad, "max_waste": 0.9}}
    model, files = table_model(MOODS, PARTS, pooled=True), {"tokenizer.json": tokenizer()}
    write_bundle(tmp_path / "m", "moods", card, model, files)
    call = await open_app(tmp_path / "m")
    texts = ["good" + " tea" * count for count in range(8)]
    alone = [(await call("POST", "/predict", {"text": text})).json()["score"] for text in texts]
    answer = await call("POST", MOODS_URL, {"instances": texts})
    assert [one["score"] for one in answer.json()["predictions"]] == pytest.approx(alone)


async def test_many_callers_at_once_get_their_own_answers(call: AsgiCaller) -> None:
    words = ["good", "bad", "good film", "bad tea"] * 15
    answers = await asyncio.gather(*(call("POST", "/predict", {"text": w}) for w in words))
    labels = [answer.json()["label"] for answer in answers]
    assert labels == ["positive" if "good" in word else "negative" for word in words]


@pytest.mark.parametrize(
    ("payload", "model"),
    [
        pytest.param({"text": "tea"}, "moods", id="text"),
        pytest.param({"image": b64(png())}, "digits", id="image"),
        pytest.param({"features": {"a": 1, "b": 2}}, "table", id="record"),
        pytest.param({"features": [1, 2]}, "table", id="row"),
    ],
)
async def test_the_model_for_a_payload_is_found_by_its_kind(
    call: AsgiCaller, payload: dict[str, Any], model: str
) -> None:
    answer = await call("POST", "/predict", payload)
    assert answer.status == 200, answer.body
    assert answer.json()["model"] == model


async def test_texts_and_documents_are_for_the_embedding_model(call: AsgiCaller) -> None:
    same = await call("POST", "/predict", {"texts": ["good", "good film"]})
    assert same.json()["matrix"][0][1] == pytest.approx(1.0)
    ranked = await call("POST", "/predict", {"query": "tea", "documents": ["bad", "tea"]})
    assert [one["index"] for one in ranked.json()["ranking"]] == [1, 0]


async def test_a_task_may_be_named_in_place_of_a_model(call: AsgiCaller) -> None:
    answer = await call("POST", "/predict", {"text": "good", "task": "text-embedding"})
    assert answer.json()["vector"] == [1.0, 0.0]


async def test_an_ambiguous_call_lists_the_models(
    tmp_path: Path, open_app: OpenApp, onnx_models: SimpleNamespace
) -> None:
    model, files = table_model(MOODS, PARTS, pooled=True), {"tokenizer.json": tokenizer()}
    for name in ("english", "other"):
        write_bundle(tmp_path / "two", name, MOOD_CARD, model, files)
    call = await open_app(tmp_path / "two")
    answer = await call("POST", "/predict", {"text": "good"})
    assert answer.status == 400
    assert "name one of 'english', 'other'" in answer.json()["error"]
    named = await call("POST", "/predict", {"text": "good", "model": "other"})
    assert named.json()["model"] == "other"


@pytest.mark.parametrize("key", ["text", "text-classification"])
async def test_the_operator_names_the_default(tmp_path: Path, open_app: OpenApp, key: str) -> None:
    model, files = table_model(MOODS, PARTS, pooled=True), {"tokenizer.json": tokenizer()}
    for name in ("english", "other"):
        write_bundle(tmp_path / "two", name, MOOD_CARD, model, files)
    call = await open_app(tmp_path / "two", default_models={key: "other"})
    answer = await call("POST", "/predict", {"text": "good"})
    assert answer.json()["model"] == "other"


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        pytest.param({}, 400, "expected exactly one of text, image", id="nothing"),
        pytest.param({"text": "a", "image": {}}, 400, "got text, image", id="two payloads"),
        pytest.param({"txt": "a"}, 400, "unknown member 'txt'; known: text", id="unknown member"),
        pytest.param({"text": ""}, 400, "text is empty", id="empty"),
        pytest.param({"text": []}, 400, "'text' is an empty list", id="empty list"),
        pytest.param({"text": 5}, 400, "got a number; a text of", id="number"),
        pytest.param({"text": "a", "model": 5}, 400, "'model': expected a text", id="model kind"),
        pytest.param({"text": "a", "model": "x"}, 404, "'x' is not found", id="unknown model"),
        pytest.param({"text": "a", "task": "x"}, 404, "for task 'x'; models", id="unknown task"),
        pytest.param({"audio": b64(b"x")}, 404, "no model here is for audio", id="no such model"),
        pytest.param(
            {"text": "a", "params": {"topk": 1}},
            400,
            "unknown key 'topk'; known: top_k",
            id="param",
        ),
        pytest.param({"text": "a", "top_k": 0}, 400, "params: 'top_k'", id="top_k"),
        pytest.param({"image": "***"}, 400, "not base64", id="base64"),
        pytest.param({"image": {"url": "x"}}, 400, 'expected {"b64"', id="not b64"),
        pytest.param({"image": b64(b"text")}, 400, "PNG", id="text as picture"),
        pytest.param({"features": {"a": 1}}, 400, "missing columns 'b'", id="missing column"),
        pytest.param(
            {"features": {"a": 1, "b": 2, "c": 3}}, 400, "unknown columns 'c'", id="extra column"
        ),
        pytest.param({"features": [1, None]}, 400, "column 'b': got None", id="None"),
        pytest.param(b'{"features": [1, NaN]}', 400, "column 'b': got NaN", id="NaN"),
        pytest.param({"text": "x" * 200_001}, 400, "got 200,001 characters", id="long text"),
        pytest.param(b"[1]", 400, "expected a JSON object", id="list"),
        pytest.param(b"{", 400, "not valid JSON", id="broken JSON"),
        pytest.param(b"", 400, "expected exactly one of", id="empty body"),
    ],
)
async def test_bad_calls_are_told_what_was_wrong(
    call: AsgiCaller, body: Any, status: int, told: str
) -> None:
    answer = await call("POST", "/predict", body)
    assert answer.status == status, answer.body
    assert told in answer.json()["error"]
    assert answer.json()["request_id"]


async def test_raw_bodies_come_under_their_own_type(call: AsgiCaller) -> None:
    text = await call("POST", "/predict", b"good film", {"Content-Type": "text/plain"})
    assert text.json()["label"] == "positive"
    image = await call("POST", "/predict?top_k=2", png(), {"Content-Type": "image/png"})
    assert image.json()["model"] == "digits"
    assert len(image.json()["scores"]) == 2
    same = await call("POST", "/v1/models/digits:predict", png(), {"Content-Type": "image/png"})
    assert same.json()["predictions"][0]["label"] == image.json()["label"]


@pytest.mark.parametrize(
    ("path", "body", "kind", "status", "told"),
    [
        pytest.param(
            "/predict", b"hi", "", 400, "; no Content-Type is read as JSON, a raw", id="no type"
        ),
        pytest.param(
            "/predict", b"hi", "application/x", 400, "text/plain, application/octet", id="own type"
        ),
        pytest.param(MOODS_URL, b"hi", "", 400, "image/*, audio/*", id="no type, by name"),
        pytest.param(
            "/predict", b"--x", "multipart/form-data; boundary=x", 415, "send JSON, or", id="form"
        ),
        pytest.param("/predict", b"\xff\xfe", "text/plain", 400, "not UTF-8", id="not UTF-8"),
        pytest.param(MOODS_URL, png(), "image/png", 400, "takes a text, got an image", id="kind"),
        pytest.param(
            "/predict?model=digits", png()[:60], "image/png", 400, "damaged", id="cut picture"
        ),
    ],
)
async def test_bad_raw_bodies_are_told(
    call: AsgiCaller, path: str, body: bytes, kind: str, status: int, told: str
) -> None:
    answer = await call("POST", path, body, {"Content-Type": kind})
    assert answer.status == status
    assert told in answer.json()["error"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        pytest.param({}, "'instances': expected a list", id="no instances"),
        pytest.param({"instances": []}, "'instances': expected a list", id="empty"),
        pytest.param({"instances": "good"}, "'instances': expected a list", id="text"),
        pytest.param({"instances": ["a"], "parameters": 1}, "expected an object", id="params"),
    ],
)
async def test_bad_v1_bodies_are_told(call: AsgiCaller, body: Any, told: str) -> None:
    answer = await call("POST", MOODS_URL, body)
    assert answer.status == 400
    assert told in answer.json()["error"]


async def test_a_body_over_the_limit_is_413(repository: Path, open_app: OpenApp) -> None:
    call = await open_app(repository, max_body_bytes=1000, max_json_bytes=500)
    answer = await call("POST", "/predict", {"text": "x" * 600})
    assert answer.status == 413
    raw = {"Content-Type": "text/plain"}
    assert (await call("POST", "/predict", b"good " * 150, raw)).status == 200
    assert (await call("POST", "/predict", b"good " * 300, raw)).status == 413


async def test_a_deadline_that_cannot_be_met_is_504(call: AsgiCaller) -> None:
    texts = ["good " * 20_000] * 12
    answer = await call("POST", MOODS_URL, {"instances": texts}, {"X-Request-Timeout-Ms": "5"})
    assert answer.status == 504
    assert answer.json()["code"] == "deadline_exceeded"


async def test_kserve_and_openai_read_the_same_model_document(call: AsgiCaller) -> None:
    document = (await call("GET", "/v1/models/moods")).json()
    assert (document["name"], document["ready"]) == ("moods", True)
    assert (document["id"], document["object"]) == ("moods", "model")
    assert document["task"] == "text-classification"
    assert set(document["prediction_schema"]["properties"]) == {"label", "score", "scores"}
    assert "top_k" in document["params_schema"]["properties"]


async def test_the_list_of_models(call: AsgiCaller) -> None:
    document = (await call("GET", "/v1/models")).json()
    assert document["object"] == "list"
    names = ["best", "digits", "each", "moods", "table", "vectors"]
    assert [one["id"] for one in document["data"]] == names


async def test_openai_routes_name_a_version_behind_the_model(call: AsgiCaller) -> None:
    told = {}
    for model in ("vectors", "vectors@1", "vectors@9", "vectors@staging", "vectors@"):
        told[model] = await call("POST", "/v1/embeddings", {"model": model, "input": "good"})
    plain = told["vectors"].json()["data"]
    assert plain == told["vectors@1"].json()["data"] == told["vectors@"].json()["data"]
    for model in ("vectors@9", "vectors@staging"):
        assert told[model].status == 404
        assert model.partition("@")[2] in told[model].json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        pytest.param("GET", "/v1/models/none", b"", id="model"),
        pytest.param("POST", "/v1/embeddings", {"model": "none", "input": "a"}, id="embeddings"),
    ],
)
async def test_errors_of_openai_routes_are_objects(
    call: AsgiCaller, method: str, path: str, body: Any
) -> None:
    answer = await call(method, path, body)
    assert answer.status == 404
    error = answer.json()["error"]
    assert error["code"] == "model_not_found"
    assert error["type"] == "invalid_request_error"
    assert answer.headers["x-should-retry"] == "false"


async def test_errors_of_v1_predict_are_ours(call: AsgiCaller) -> None:
    answer = await call("POST", "/v1/models/none:predict", {"instances": ["a"]})
    assert answer.status == 404
    assert answer.json()["code"] == "model_not_found"
    assert isinstance(answer.json()["error"], str)


async def test_a_model_without_a_card_says_how_to_call_it(
    tmp_path: Path, open_app: OpenApp, onnx_models: SimpleNamespace
) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "plain.onnx").write_bytes(onnx_models.scale())
    call = await open_app(tmp_path / "bare")
    answer = await call("POST", "/v1/models/plain:predict", {"instances": ["a"]})
    assert answer.status == 400
    assert "has no task" in answer.json()["error"]
    assert "/v2/models/plain/infer" in answer.json()["error"]


async def test_the_card_of_a_bare_file_lies_beside_it(tmp_path: Path, open_app: OpenApp) -> None:
    root = tmp_path / "bare"
    root.mkdir()
    (root / "moods.onnx").write_bytes(table_model(MOODS, PARTS, pooled=True))
    (root / "moods.json").write_text(json.dumps(MOOD_CARD))
    (root / "tokenizer.json").write_bytes(tokenizer())
    call = await open_app(root)
    assert (await call("POST", "/predict", {"text": "bad"})).json()["label"] == "negative"


async def test_a_card_that_does_not_fit_is_refused_at_load_and_stops_nothing_else(
    tmp_path: Path, open_app: OpenApp
) -> None:
    model, files = table_model(MOODS, PARTS, pooled=True), {"tokenizer.json": tokenizer()}
    wrong = {**MOOD_CARD, "labels": ["a", "b", "c"]}
    write_bundle(tmp_path / "two", "wrong", wrong, model, files)
    write_bundle(tmp_path / "two", "right", MOOD_CARD, model, files)
    call = await open_app(tmp_path / "two")
    index = {one["name"]: one for one in (await call("POST", "/v2/repository/index")).json()}
    assert index["wrong"]["state"] == "UNAVAILABLE"
    assert index["wrong"]["reason"] == "labels: the card names 3, output 'out' has 2"
    assert (await call("POST", "/predict", {"text": "good"})).json()["model"] == "right"


async def test_a_pipeline_runs_its_steps_on_the_server(call: AsgiCaller) -> None:
    payload = {"query": "bad film", "documents": ["good film", "bad film tea", "tea"]}
    answer = await call("POST", "/v1/models/best:predict", {"instances": [payload]})
    assert answer.status == 200, answer.body
    assert answer.json()["predictions"][0]["label"] == "negative"
    assert answer.headers["x-aiaas-task"] == "text-classification"


async def test_the_versions_of_steps_are_chosen_for_who_calls(repository: Path) -> None:
    found = Repository(repository)
    config, asked = Settings(models=repository), []

    def choose(name: str, caller: Caller) -> None:
        asked.append((name, caller.request_id))

    bundles = Bundles(found.read_beside, Tasks().open)
    pool = ModelPool(found, open_session, config, bundles=bundles, choose=choose)
    payload = {"query": "bad film", "documents": ["good film", "bad film tea"]}
    async with Application(pool, config) as app:
        call = AsgiCaller(app)
        body, headers = {"instances": [payload]}, {"x-request-id": "mine"}
        answer = await call("POST", "/v1/models/best:predict", body, headers)
    assert answer.status == 200, answer.body
    assert {("best", "mine"), ("vectors", "mine"), ("moods", "mine")} == set(asked)


async def test_a_step_may_run_once_an_item(call: AsgiCaller) -> None:
    payload = {"query": "bad", "documents": ["good film", "bad film tea"]}
    answer = await call("POST", "/v1/models/each:predict", {"instances": [payload]})
    items = answer.json()["predictions"][0]["items"]
    assert [item["label"] for item in items] == ["negative", "positive"]
    assert [len(item["scores"]) for item in items] == [1, 1]


async def test_steps_of_many_payloads_are_batched(repository: Path, open_app: OpenApp) -> None:
    # Which sizes pay is timed, and noise on a busy machine may say that none does.
    call = await open_app(repository, batch_cap=False)
    payload = {"query": "bad", "documents": ["good film", "bad film"]}
    counts = call.app.pool.resolve("moods").statistics
    for _ in range(4):  # a first run may be on the loop, alone
        before = counts.inference_count, counts.execution_count
        await call("POST", "/v1/models/each:predict", {"instances": [payload] * 16})
    assert counts.inference_count - before[0] == 32
    assert counts.execution_count - before[1] <= 8


@pytest.mark.parametrize(
    ("instance", "told"),
    [
        pytest.param({"query": "bad"}, "step 1 ('vectors'): got an object with", id="first step"),
        pytest.param("bad", "step 2 ('moods'): the former step's answer has no", id="second step"),
    ],
)
async def test_an_error_in_a_pipeline_names_the_step(
    call: AsgiCaller, instance: Any, told: str
) -> None:
    answer = await call("POST", "/v1/models/best:predict", {"instances": [instance]})
    assert answer.status == 400
    assert told in answer.json()["error"]


async def test_a_step_that_is_not_served_is_named(tmp_path: Path, open_app: OpenApp) -> None:
    card = {"task": "pipeline", "steps": [{"model": "gone"}]}
    write_bundle(tmp_path / "m", "chain", card, None)
    call = await open_app(tmp_path / "m")
    answer = await call("POST", "/v1/models/chain:predict", {"instances": ["a"]})
    assert answer.status == 404
    assert "step 1 ('gone')" in answer.json()["error"]


async def test_a_pipeline_has_no_tensors(call: AsgiCaller) -> None:
    answer = await call("POST", "/v2/models/best/infer", {"inputs": []})
    assert answer.status == 400


WORDS = st.sampled_from(["good", "", "bad", "text", "b64", "model", "top_k", "ranking", "\ud83d"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
MEMBERS = st.sampled_from([*SIMPLE_KINDS, *COMPARED, *OTHERS, "instances", "parameters"])
BODIES = st.dictionaries(MEMBERS, VALUES, max_size=4)
PATHS = ["/predict", "/v1/embeddings"] + [
    f"/v1/models/{name}:predict" for name in ("moods", "vectors", "table", "digits", "best", "each")
]


@pytest.fixture(scope="module")
def post(
    tmp_path_factory: pytest.TempPathFactory, onnx_models: SimpleNamespace
) -> Iterator[Callable[[str, Any], Answer]]:
    """Sends a document to an application on a loop of its own, for synchronous properties."""
    root = write_repository(tmp_path_factory.mktemp("models"), onnx_models)
    with asyncio.Runner() as runner:
        app = create_app(Settings(models=root))
        runner.run(app.start())
        call = AsgiCaller(app)
        yield lambda path, body: runner.run(call("POST", path, json.dumps(body).encode()))
        runner.run(app.close())


@settings(max_examples=60, deadline=None)
@given(calls=st.lists(st.tuples(st.sampled_from(PATHS), BODIES), min_size=1, max_size=8))
def test_no_body_whatever_makes_the_server_fail(
    post: Callable[[str, Any], Answer], calls: list[tuple[str, dict[str, Any]]]
) -> None:
    for path, body in calls:
        answer = post(path, body)
        assert answer.status < 500, (path, body, answer.body)
        assert answer.status == 200 or answer.json()["error"]
