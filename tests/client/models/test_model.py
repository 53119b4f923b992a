"""A handle asks for metadata once, checks inputs by it, copes when model or server differ."""

from __future__ import annotations

import asyncio
import inspect
import threading

import numpy as np
import pandas as pd
import pytest

from aiaas_client import AsyncClient, Client
from aiaas_client._errors import (
    BadRequestError,
    ConfigurationError,
    DtypeError,
    InputError,
    MissingInputError,
    ModelNotFoundError,
    NotSupportedError,
    OptionTypeError,
    ProtocolError,
    ShapeError,
    UnknownInputError,
    VersionNotFoundError,
)
from aiaas_client._models.async_model import AsyncModel
from aiaas_client._models.model import Model
from aiaas_client.testing import FakeServer, tensor

X = tensor("x", "FP32", [-1, 2])
Y = tensor("y", "FP32", [-1, 2])
Z = tensor("z", "FP32", [-1, 2])


@pytest.fixture
def server():
    with FakeServer() as server:
        server.add(
            "double",
            lambda x: {"y": x * 2, "z": x + 1},
            inputs=[X],
            outputs=[Y, Z],
            max_batch_size=8,
            versions=["1", "2"],
        )
        yield server


def paths(server):
    return [request.path for request in server.requests]


def test_infer_gives_writable_arrays_and_the_call_s_facts(client):
    result = client.model("double").infer(x=[[1, 2]])
    assert result["y"].tolist() == [[2, 4]]
    result["y"][0, 0] = 7
    assert (result.model_name, result.model_version, result.attempts) == ("double", "2", 1)
    assert result.timing.total > 0
    assert result.request_id


async def test_infer_in_tasks(async_client):
    result = await async_client.model("double").infer(x=[[1, 2]])
    assert result["y"].tolist() == [[2, 4]]
    assert (await async_client.model("double").infer_one(x=[1, 2]))["y"].tolist() == [2, 4]


def test_the_metadata_is_fetched_once(server, client):
    model = client.model("double")
    for _ in range(3):
        model.infer(x=[[1, 2]])
    assert model.metadata().outputs == [Y, Z]
    assert paths(server).count("/v2/models/double") == 1


def test_many_threads_fetch_the_metadata_once(server, client):
    model = client.model("double")
    with server.hold(path="/v2/models/double") as gate:
        threads = [threading.Thread(target=model.infer, args=([[1, 2]],)) for _ in range(8)]
        for thread in threads:
            thread.start()
        gate.wait_for(1)
        gate.release()
        for thread in threads:
            thread.join()
    assert paths(server).count("/v2/models/double") == 1
    assert len(server.infer_requests) == 8


async def test_many_tasks_fetch_the_metadata_once(server, async_client):
    model = async_client.model("double")
    await asyncio.gather(*(model.infer(x=[[1, 2]]) for _ in range(8)))
    assert paths(server).count("/v2/models/double") == 1


# The first loop ends with its connections open, as under a caller's own second `asyncio.run`.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_handle_works_on_a_second_event_loop(server):
    client = AsyncClient(server.url)
    model = client.model("double")

    async def both():
        return await asyncio.gather(*(model.infer(x=[[1, 2]]) for _ in range(3)))

    async def last():
        server.add("double", lambda x: x, inputs=[X], outputs=[Y])
        await model.refresh()
        results = await both()
        await client.close()
        return results

    assert len(asyncio.run(both())) == 3
    assert len(asyncio.run(last())) == 3


@pytest.mark.parametrize(
    ("inputs", "error", "text"),
    [
        ({}, MissingInputError, "missing input 'x'"),
        ({"X": [[1, 2]]}, UnknownInputError, "unknown input 'X'"),
        ({"x": [[1, 2, 3]]}, ShapeError, r"input 'x': expected shape \(-1, 2\), got \(1, 3\)"),
        ({"x": [["a", "b"]]}, DtypeError, "input 'x': expected FP32"),
    ],
    ids=["missing", "unknown", "shape", "dtype"],
)
def test_bad_inputs_are_never_sent(server, client, inputs, error, text):
    with pytest.raises(error, match=text) as caught:
        client.model("double").infer(inputs)
    assert caught.value.model == "double"
    assert server.infer_requests == []


def test_inputs_may_be_a_mapping_a_lone_value_or_a_frame(server, client):
    model = client.model("double")
    expected = [[2, 4]]
    assert model.infer({"x": [[1, 2]]})["y"].tolist() == expected
    assert model.infer([[1, 2]])["y"].tolist() == expected
    assert model.infer(pd.DataFrame({"a": [1], "b": [2]}))["y"].tolist() == expected
    with pytest.raises(InputError, match="input 'x' was given twice"):
        model.infer({"x": [[1, 2]]}, x=[[1, 2]])


def test_inputs_named_like_options_go_into_the_mapping(server, client):
    server.add(
        "odd",
        lambda outputs, timeout: {"inputs": outputs + timeout},
        inputs=[tensor("outputs", "FP32", [1]), tensor("timeout", "FP32", [1])],
        outputs=[tensor("inputs", "FP32", [1])],
    )
    model = client.model("odd")
    assert model.infer({"outputs": [1.0], "timeout": [2.0]}, timeout=5.0)["inputs"] == [3.0]


def test_infer_one_adds_and_strips_the_batch_dimension(client):
    result = client.model("double").infer_one(x=[1, 2])
    assert result["y"].tolist() == [2, 4]
    with pytest.raises(ShapeError, match=r"expected shape \(2,\), got \(1, 2\)"):
        client.model("double").infer_one(x=[[1, 2]])


def test_infer_one_leaves_a_model_without_batches_alone(server, client):
    shapes = {"inputs": [tensor("x", "FP32", [2])], "outputs": [tensor("y", "FP32", [1])]}
    server.add("plain", lambda x: {"y": x.sum(keepdims=True)}, **shapes)
    assert client.model("plain").infer_one(x=[1, 2])["y"].tolist() == [3]


def test_outputs_are_chosen_in_order(server, client):
    model = client.model("double")
    assert list(model.infer(x=[[1, 2]], outputs=["z", "y"])) == ["z", "y"]
    assert list(model.infer(x=[[1, 2]], outputs="z")) == ["z"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"classification": 1}, {"y": [[b"10.0:1"]], "z": [[b"6.0:1"]]}),
        ({"classification": 1, "outputs": "z"}, {"z": [[b"6.0:1"]]}),
        (
            {"classification": {"z": 2}, "outputs": "y"},
            {"y": [[2, 10]], "z": [[b"6.0:1", b"2.0:0"]]},
        ),
    ],
    ids=["all", "one", "by name"],
)
def test_classification(client, options, expected):
    result = client.model("double").infer(x=[[1, 5]], **options)
    assert {name: array.tolist() for name, array in result.items()} == expected


def test_options_travel_in_the_protocol_s_terms(server, client):
    client.model("double").infer(
        x=[[1, 2]], priority=2, queue_timeout=0.5, request_id="abc", parameters={"mode": "fast"}
    )
    (request,) = server.infer_requests
    expected = {"mode": "fast", "priority": 2, "timeout": 500_000}
    assert {k: request.infer.parameters[k] for k in expected} == expected
    assert request.infer.id == "abc"


@pytest.mark.parametrize(
    "options", [{"outputs": ["q"]}, {"outputs": ["y", "q"]}, {"classification": {"q": 2}}]
)
def test_an_unknown_output_is_never_asked_for(server, client, options):
    told = r"model 'double': unknown output 'q'; expected 'y', 'z'"
    with pytest.raises(InputError, match=told) as caught:
        client.model("double").infer(x=[[1, 2]], **options)
    assert (caught.value.tensor, caught.value.got) == ("q", "'q'")
    assert not server.infer_requests


@pytest.fixture
def pair(server):
    """A model with two inputs that takes at most 8 rows."""
    inputs = [tensor("a", "FP32", [-1, 2]), tensor("b", "FP32", [-1, 2])]
    server.add("pair", lambda a, b: a + b, inputs=inputs, outputs=[Y], max_batch_size=8)
    return inputs


def rows(count):
    return np.ones((count, 2), np.float32)


def test_what_is_no_batch_is_told_without_a_request_where_the_limits_are_known(
    server, client, pair
):
    model = client.model("pair")
    list(model.infer_many([{"a": [1, 2], "b": [3, 4]}]))  # which reads them
    before = len(server.infer_requests)
    told = "input 'b': expected one batch size for all inputs, 2 rows, as in 'a', got 3"
    with pytest.raises(ShapeError, match=told):
        model.infer(a=rows(2), b=rows(3))
    told = "input 'a': expected at most 8 rows, the model's max_batch_size, got 9; infer_array"
    with pytest.raises(ShapeError, match=told) as caught:
        model.infer(a=rows(9), b=rows(9))
    assert (caught.value.expected, caught.value.got) == ("at most 8 rows", "9 rows")
    assert len(server.infer_requests) == before
    server.add("pair", lambda a, b: a + b, inputs=pair, outputs=[Y], max_batch_size=16)
    assert model.infer(a=rows(9), b=rows(9))["y"].shape == (9, 2)


def test_the_limits_are_not_read_only_to_check_a_batch(server, client, pair):
    with pytest.raises(BadRequestError):
        client.model("pair").infer(a=rows(9), b=rows(9))
    assert not [path for path in paths(server) if path.endswith("/config")]


@pytest.mark.parametrize("given", ["a\r\nX-Evil: 1", "a\n", "two words", "\u00e4", "a" * 129])
@pytest.mark.parametrize("method", ["infer", "infer_one", "generate", "generate_stream"])
def test_an_id_that_no_header_should_carry_is_refused(server, client, method, given):
    model = client.model("double")
    with pytest.raises(ConfigurationError, match="request_id: expected at most 128 letters") as e:
        getattr(model, method)(x=[[1, 2]], request_id=given)
    assert repr(given[:128]) in str(e.value)
    with pytest.raises(OptionTypeError, match="request_id: expected text, got int"):
        getattr(model, method)(x=[[1, 2]], request_id=7)
    assert not server.requests


@pytest.mark.parametrize("version", ["", 1.0, True, b"1"])
def test_what_is_no_version_is_refused_by_name(client, version):
    with pytest.raises(InputError, match="version: expected the name of a version") as e:
        client.model("double", version=version)
    assert str(e.value).endswith(f"got {version!r}")


def test_a_version_is_asked_for(server, client):
    assert client.model("double", 1).infer(x=[[1, 2]]).model_version == "1"
    with pytest.raises(VersionNotFoundError):
        client.model("double", "9").infer(x=[[1, 2]])


def test_an_unknown_model_is_told(client):
    with pytest.raises(ModelNotFoundError, match="nothing"):
        client.model("nothing").infer(x=[1])


def test_binary_is_the_default_and_json_an_option(server, client):
    model = client.model("double")
    assert model.infer(x=[[1, 2]])["y"].tolist() == [[2, 4]]
    assert model.infer(x=[[1, 2]], binary=False)["y"].tolist() == [[2, 4]]
    assert [request.binary for request in server.infer_requests] == [True, False]


def test_a_server_without_binary_gets_json_from_then_on():
    with FakeServer(binary=False) as server, Client(server.url) as client:
        server.add("double", lambda x: {"y": x * 2}, inputs=[X], outputs=[Y])
        model = client.model("double")
        assert model.infer(x=[[1, 2]])["y"].tolist() == [[2, 4]]
        assert model.infer(x=[[1, 2]])["y"].tolist() == [[2, 4]]
        assert client.model("double").infer(x=[[1, 2]])["y"].tolist() == [[2, 4]]  # all handles
        assert [request.binary for request in server.infer_requests] == [True, *[False] * 3]
        with pytest.raises(BadRequestError):
            model.infer(x=[[1, 2]], binary=True)


def test_a_refusal_by_a_server_that_lists_binary_is_not_repeated_in_json(server, client):
    server.fail(400, "no such thing")
    with pytest.raises(BadRequestError, match="no such thing"):
        client.model("double").infer(x=[[1, 2]])
    assert len(server.infer_requests) == 1


def test_a_refusal_without_a_change_is_not_repeated(server, client):
    model = client.model("double")
    model.infer(x=[[1, 2]])
    server.clear()
    server.fail(400, "no such thing")
    with pytest.raises(BadRequestError, match="no such thing"):
        model.infer(x=[[1, 2]])
    assert len(server.infer_requests) == 1


def test_unchanged_metadata_is_not_sent_again(server, client):
    model = client.model("double")
    first = model.metadata()
    server.clear()
    assert model.refresh() is first
    (request,) = server.requests
    assert request.headers["if-none-match"]


def test_a_model_that_changed_is_asked_about_again(server, client):
    model = client.model("double")
    model.infer(x=[[1, 2]])
    wider = {"inputs": [tensor("x", "FP32", [-1, 3])], "outputs": [tensor("y", "FP32", [-1, 3])]}
    server.add("double", lambda x: {"y": x * 3}, **wider)
    assert model.infer(x=[[1, 2, 3]])["y"].tolist() == [[3, 6, 9]]  # refused by the old metadata
    renamed = {
        "inputs": [tensor("x", "INT64", [-1, 3])],
        "outputs": [tensor("y", "INT64", [-1, 3])],
    }
    server.add("double", lambda x: {"y": x * 4}, **renamed)
    assert model.infer(x=[[1, 2, 3]])["y"].dtype == np.int64  # refused by the server


async def test_a_model_that_changed_is_asked_about_again_in_tasks(server, async_client):
    model = async_client.model("double")
    await model.infer(x=[[1, 2]])
    wider = {"inputs": [tensor("x", "FP32", [-1, 3])], "outputs": [tensor("y", "FP32", [-1, 3])]}
    server.add("double", lambda x: {"y": x * 3}, **wider)
    assert (await model.infer(x=[[1, 2, 3]]))["y"].tolist() == [[3, 6, 9]]


def test_an_answer_that_does_not_fit_the_metadata_is_not_believed(server, client):
    server.add("liar", lambda x: {"y": x[:, :1]}, inputs=[X], outputs=[Y])
    with pytest.raises(
        ProtocolError, match=r"output 'y': expected FP32 \(-1, 2\), got float32 \(1, 1\)"
    ):
        client.model("liar").infer(x=[[1, 2]])


def test_a_server_without_metadata_gets_the_values_as_they_are(server, client):
    server.add("plain", lambda a: {"b": a + 1})
    model = client.model("plain")
    assert model.infer(a=np.arange(3, dtype=np.int16))["b"].tolist() == [1, 2, 3]
    assert model.infer_one(a=np.arange(3))["b"].tolist() == [1, 2, 3]
    with pytest.raises(NotSupportedError, match="has no metadata"):
        model.metadata()


def test_optional_inputs_may_be_left_out(server, client):
    server.add(
        "maybe",
        lambda x, mask=None: {"y": x},
        inputs=[X, tensor("mask", "FP32", [-1, 2])],
        outputs=[Y],
        max_batch_size=8,
        optional=["mask"],
    )
    assert client.model("maybe").infer(x=[[1, 2]])["y"].tolist() == [[1, 2]]
    assert len(list(client.model("maybe").infer_many([{"x": [1, 2]}]))) == 1


def test_config_statistics_and_ready(server, client):
    model = client.model("double")
    model.infer(x=[[1, 2], [3, 4]])
    assert model.config()["max_batch_size"] == 8
    assert [entry.inference_count for entry in model.statistics()] == [2]
    assert model.ready() is True
    server.remove("double")
    assert model.ready() is False


async def test_config_statistics_and_ready_in_tasks(async_client):
    model = async_client.model("double")
    await model.infer(x=[[1, 2], [3, 4]])
    assert (await model.config())["max_batch_size"] == 8
    assert [entry.inference_count for entry in await model.statistics()] == [2]
    assert await model.ready() is True
    assert (await model.metadata()).inputs == [X]


def test_a_deadline_of_one_call(server, client):
    model = client.model("double")
    model.metadata()
    with server.hold() as gate, pytest.raises(TimeoutError):
        model.infer(x=[[1, 2]], deadline=0.05)
    assert gate.is_open


def test_repr_names_model_and_version(client):
    assert repr(client.model("double")) == "Model('double')"
    assert repr(client.model("double", 2)) == "Model('double', version='2')"


def test_both_handles_have_the_same_names_and_arguments():
    def public(kind):
        members = inspect.getmembers(kind, inspect.isfunction)
        return {
            name: list(inspect.signature(f).parameters) for name, f in members if name[0] != "_"
        }

    assert public(Model) == public(AsyncModel)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"outputs": 5}, "outputs: expected names of outputs, got 5"),
        ({"parameters": 5}, "parameters: expected a mapping, got 5"),
        ({"priority": "high"}, "priority: expected a whole number, got 'high'"),
        ({"queue_timeout": "1"}, "queue_timeout: expected seconds, got '1'"),
        ({"request_id": 5}, "request_id: expected text, got int"),
        ({"binary": "yes"}, "binary: expected True, False or None, got 'yes'"),
        ({"classification": "all"}, "classification: expected a number, or one by output"),
    ],
)
def test_options_of_a_wrong_kind_are_named(server, client, options, told):
    with pytest.raises(OptionTypeError, match=told):
        client.model("double").infer(x=[[1, 2]], **options)
    assert server.requests == []


def test_an_answer_that_lacks_an_output_is_not_believed(server, client):
    server.add("less", lambda x: {"y": x}, inputs=[X], outputs=[Y, tensor("z", "FP32", [-1, 2])])
    with pytest.raises(ProtocolError, match="model 'less': expected output 'z', got \\['y'\\]"):
        client.model("less").infer(x=[[1, 2]])
    (failed,) = client.model("less").infer_many([[1, 2]], on_error="return")
    assert isinstance(failed, ProtocolError)
