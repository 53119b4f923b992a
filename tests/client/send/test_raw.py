"""`with_raw_response`: the whole answer of any call of clients, handles and resources."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from aiaas_client import (
    BadRequestError,
    Classification,
    InputError,
    ProtocolError,
    RawResponse,
    ServiceUnavailableError,
)
from aiaas_client.testing import FakeServer, tensor


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        server.add(
            "double",
            lambda x: {"y": x * 2},
            inputs=[tensor("x", "FP32", [-1, 2])],
            outputs=[tensor("y", "FP32", [-1, 2])],
            max_batch_size=8,
        )
        server.add_task(
            "moods",
            lambda text: Classification(label=text, score=1.0),
            task="text-classification",
        )
        yield server


@pytest.fixture
def caller(either: Any, server: FakeServer) -> Any:
    return either(server.url)


def test_a_handle_s_inference_has_its_whole_answer(caller: Any, server: FakeServer) -> None:
    handle = caller.client.model("double")
    raw = caller.run(handle.with_raw_response.infer(x=[[1, 2]]))
    assert isinstance(raw, RawResponse)
    assert raw.status == 200
    assert raw.endpoint == server.url
    assert "inference-header-content-length" in raw.headers
    assert raw.parse()["y"].tolist() == [[2, 4]]
    one = caller.run(handle.with_raw_response.infer_one(x=[3, 4], deadline=5.0))
    assert one.parse()["y"].tolist() == [6, 8]


def test_a_prediction_has_its_whole_answer(caller: Any) -> None:
    typed = caller.client.text_classification("moods")
    raw = caller.run(typed.with_raw_response.predict("good"))
    assert json.loads(raw.body)["predictions"][0]["label"] == "good"
    assert raw.parse() == Classification(label="good", score=1.0)
    raw = caller.run(caller.client.with_raw_response.predict("moods", "bad"))
    assert raw.parse().label == "bad"


def test_handles_and_resources_of_a_raw_client_are_raw(caller: Any) -> None:
    raw = caller.client.with_raw_response
    assert caller.run(raw.model("double").infer(x=[[1, 2]])).status == 200
    assert caller.run(raw.model("double").config()).parse()["max_batch_size"] == 8
    assert caller.run(raw.models.config("double")).parse()["max_batch_size"] == 8
    assert raw.model("double").name == "double"


def test_an_answer_that_cannot_be_read_is_there_to_look_at(caller: Any, server: FakeServer) -> None:
    server.garbage(b"not json", times=2)
    raw = caller.run(caller.client.model("double").with_raw_response.infer(x=[[1, 2]]))
    assert raw.body == b"not json"
    with pytest.raises(ProtocolError):
        raw.parse()


def test_an_error_is_raised_as_ever(caller: Any, server: FakeServer) -> None:
    server.fail(400)
    with pytest.raises(BadRequestError):
        caller.run(caller.client.with_raw_response.infer("double", {}))


def test_the_options_of_a_call_hold_for_a_raw_one(caller: Any, server: FakeServer) -> None:
    server.fail(503)
    patient = caller.client.with_options(max_retries=0)
    with pytest.raises(ServiceUnavailableError):
        caller.run(patient.model("double").with_raw_response.infer(x=[[1, 2]], timeout=2.0))


@pytest.mark.parametrize("name", ["infer_many", "predict_many"])
def test_what_takes_many_requests_has_no_single_answer(caller: Any, name: str) -> None:
    raw = caller.client.model("double").with_raw_response
    with pytest.raises(InputError, match=f"{name} sends no single request"):
        getattr(raw, name)([[1, 2]])


def test_what_was_known_already_has_no_answer(caller: Any) -> None:
    handle = caller.client.model("double")
    caller.run(handle.metadata())
    with pytest.raises(InputError, match="metadata sends no single request"):
        caller.run(handle.with_raw_response.metadata())
    assert caller.run(handle.with_raw_response.refresh()).parse().name == "double"


def test_the_raw_view_has_no_other_names(caller: Any) -> None:
    with pytest.raises(AttributeError):
        caller.client.with_raw_response.nothing()


def test_the_views_are_of_the_kinds_that_they_are_declared_to_be(caller: Any) -> None:
    client = caller.client
    handle = client.with_raw_response.model("double")
    assert type(handle) is type(client.model("double").with_raw_response)
    models = client.with_raw_response.models
    assert type(models) is type(client.models.with_raw_response)
    for view in (models, client.models.with_raw_response):
        raw = caller.run(view.get("double"))
        assert (raw.status, raw.parse().name) == (200, "double")
    raw = caller.run(handle.statistics())
    assert raw.parse()[0].name == "double"


def test_jobs_and_data_sets_have_their_whole_answers(caller: Any) -> None:
    raw, rows = caller.client.with_raw_response, {"x": [1.0, 2.0], "label": ["a", "b"]}
    kept = caller.run(raw.datasets.upload("d", rows))
    assert (kept.status, kept.parse().ref) == (201, "d@1")
    assert [one.ref for one in caller.run(raw.datasets.list()).parse()] == ["d@1"]
    begun = caller.run(raw.jobs.train("m", recipe="logistic", dataset=kept.parse()))
    assert begun.status == 202
    assert begun.request_id
    job = caller.run(begun.parse().wait(timeout=30))  # a handle like any other
    assert job.state == "succeeded"
    assert caller.run(raw.jobs.get(job.id)).parse().id == job.id
    with pytest.raises(InputError, match="delete: expected"):
        caller.run(raw.datasets.delete("d"))


def test_what_a_client_has_of_tenants_has_its_whole_answers(
    caller: Any, server: FakeServer
) -> None:
    server.usage.add("m", at=1_793_577_600, requests=3)
    raw = caller.client.with_raw_response
    made = caller.run(raw.tenants.create("acme", plan="basic"))
    assert (made.status, made.parse().name) == (201, "acme")
    key = caller.run(raw.keys.create(name="ci", scopes=["infer"], expires=3600))
    assert key.parse().secret.startswith("aias_")
    assert key.parse().secret not in repr(key)
    assert [one.name for one in caller.run(raw.keys.list()).parse()].count("ci") == 1
    assert caller.run(raw.plans.get("basic")).parse().built_in
    used = caller.run(raw.usage.get(by=["model", "day"], start="2026-11-01", end="2026-12-01"))
    assert used.parse().total == {"requests": 3}
    one = caller.client.audit.with_raw_response
    assert caller.run(one.list()).status == 200
    assert caller.run(raw.whoami()).status == 200
