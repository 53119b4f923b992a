"""What the infer route answers: forms, codings, ids, order, extensions."""

from __future__ import annotations

import gzip
import json
import zlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

INFER = "/v2/models/simple/infer"
ONES = {"name": "INPUT0", "datatype": "INT32", "shape": [1, 16], "data": [1] * 16}
TWOS = {"name": "INPUT1", "datatype": "INT32", "shape": [1, 16], "data": [2] * 16}
BOTH = {"inputs": [ONES, TWOS]}
LENGTH = "inference-header-content-length"


@pytest.fixture(params=["bare", "lane"])
def adapter(request: pytest.FixtureRequest) -> Any:
    """Both ways to the one function that answers."""
    return request.param


@pytest.fixture
def repository(make_repository: Any, onnx_models: SimpleNamespace) -> Any:
    root = make_repository(
        {
            "simple": onnx_models.simple(),
            "scale": onnx_models.scale(),
            "free": onnx_models.identity("FP32", ["batch", "n", "m"]),
            "scalar": onnx_models.identity("FP32", []),
            "text": onnx_models.identity("BYTES", ["batch", 1]),
            "labelled": onnx_models.scale(),
        },
        configs={
            "labelled": json.dumps(
                {
                    "max_batch_size": 4,
                    "output": [
                        {
                            "name": "y",
                            "data_type": "TYPE_FP32",
                            "dims": [4],
                            "label_filename": "labels.txt",
                        }
                    ],
                }
            )
        },
    )
    (root / "labelled" / "labels.txt").write_text("cat\ndog\n", "utf-8")
    return root


def split(answer: Any) -> tuple[dict[str, Any], bytes]:
    """The JSON part and the binary part."""
    length = int(answer.headers[LENGTH])
    return json.loads(answer.body[:length]), answer.body[length:]


async def test_json_in_and_out_is_flat(open_app: Any, repository: Any) -> None:
    call = await open_app(repository)
    nested = ONES | {"data": [[1] * 8, [1] * 8]}
    answer = await call("POST", INFER, {"inputs": [nested, TWOS], "id": "7"})
    assert answer.headers["content-type"] == "application/json"
    assert LENGTH not in answer.headers
    assert answer.json() == {
        "id": "7",
        "model_name": "simple",
        "model_version": "1",
        "outputs": [
            {"name": "OUTPUT0", "datatype": "INT32", "shape": [1, 16], "data": [3] * 16},
            {"name": "OUTPUT1", "datatype": "INT32", "shape": [1, 16], "data": [-1] * 16},
        ],
    }


async def test_outputs_come_in_the_order_asked_for(open_app: Any, repository: Any) -> None:
    call = await open_app(repository)
    asked = [{"name": "OUTPUT1"}, {"name": "OUTPUT0"}]
    answer = (await call("POST", INFER, BOTH | {"outputs": asked})).json()
    assert [output["name"] for output in answer["outputs"]] == ["OUTPUT1", "OUTPUT0"]
    one = (await call("POST", INFER, BOTH | {"outputs": asked[:1]})).json()
    assert [output["name"] for output in one["outputs"]] == ["OUTPUT1"]


@pytest.mark.parametrize("extra", [{}, {"id": ""}, {"id": None}, {"unknown": {"deep": [1]}}])
async def test_absent_and_empty_ids_and_unknown_keys_leave_no_trace(
    open_app: Any, repository: Any, extra: dict[str, Any]
) -> None:
    call = await open_app(repository)
    answer = await call("POST", INFER, BOTH | extra)
    assert answer.status == 200
    assert list(answer.json()) == ["model_name", "model_version", "outputs"]


async def test_each_output_chooses_its_form(open_app: Any, repository: Any) -> None:
    call = await open_app(repository)
    asked = [{"name": "OUTPUT0", "parameters": {"binary_data": True}}, {"name": "OUTPUT1"}]
    document, tail = split(await call("POST", INFER, BOTH | {"outputs": asked}))
    first, second = document["outputs"]
    assert first == {
        "name": "OUTPUT0",
        "datatype": "INT32",
        "shape": [1, 16],
        "parameters": {"binary_data_size": 64},
    }
    assert second["data"] == [-1] * 16
    assert "parameters" not in second
    assert np.frombuffer(tail, "<i4").tolist() == [3] * 16


async def test_binary_data_output_holds_where_an_output_does_not_say(
    open_app: Any, repository: Any
) -> None:
    call = await open_app(repository)
    all_binary = BOTH | {"parameters": {"binary_data_output": True}}
    document, tail = split(await call("POST", INFER, all_binary))
    assert [o["parameters"]["binary_data_size"] for o in document["outputs"]] == [64, 64]
    assert len(tail) == 128
    asked = [{"name": "OUTPUT0"}, {"name": "OUTPUT1", "parameters": {"binary_data": False}}]
    document, tail = split(await call("POST", INFER, all_binary | {"outputs": asked}))
    assert ["data" in output for output in document["outputs"]] == [False, True]
    assert len(tail) == 64


async def test_empty_binary_outputs_send_no_inference_header(
    open_app: Any, repository: Any
) -> None:
    call = await open_app(repository)
    empty = {"name": "x", "datatype": "FP32", "shape": [0, 4], "data": []}
    asked = [{"name": "y", "parameters": {"binary_data": True}}]
    answer = await call("POST", "/v2/models/scale/infer", {"inputs": [empty], "outputs": asked})
    assert answer.headers["content-type"] == "application/json"
    assert LENGTH not in answer.headers
    assert answer.json()["outputs"][0]["parameters"] == {"binary_data_size": 0}


async def test_a_header_over_a_body_without_binary_data(open_app: Any, repository: Any) -> None:
    call = await open_app(repository)
    body = json.dumps(BOTH).encode()
    assert (await call("POST", INFER, body, {LENGTH: str(len(body))})).status == 200


async def test_a_scalar_keeps_rank_0(open_app: Any, repository: Any) -> None:
    call = await open_app(repository)
    for data in (2.5, [2.5]):
        one = {"name": "x", "datatype": "FP32", "shape": [], "data": data}
        answer = (await call("POST", "/v2/models/scalar/infer", {"inputs": [one]})).json()
        assert answer["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [], "data": [2.5]}]


async def test_the_raw_form_solves_one_variable_dimension(open_app: Any, repository: Any) -> None:
    call = await open_app(repository)
    row = np.arange(4, dtype="<f4")
    answer = await call("POST", "/v2/models/scale/infer", row.tobytes(), {LENGTH: "0"})
    document, tail = split(answer)
    assert document["outputs"][0]["shape"] == [1, 4]
    np.testing.assert_array_equal(np.frombuffer(tail, "<f4"), row * 2)
    free = await call("POST", "/v2/models/free/infer", row.tobytes(), {LENGTH: "0"})
    assert free.status == 400
    several = await call("POST", INFER, row.tobytes(), {LENGTH: "0"})
    assert several.status == 400
    text = await call("POST", "/v2/models/text/infer", "é".encode(), {LENGTH: "0"})
    document, tail = split(text)
    assert tail == b"\x02\0\0\0" + "é".encode()


@pytest.mark.parametrize(
    ("coding", "squeeze"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("identity", bytes)],
)
async def test_compressed_bodies(open_app: Any, repository: Any, coding: str, squeeze: Any) -> None:
    call = await open_app(repository)
    body = squeeze(json.dumps(BOTH).encode())
    answer = await call("POST", INFER, body, {"content-encoding": coding})
    assert answer.json()["outputs"][0]["data"] == [3] * 16


@pytest.mark.parametrize(
    ("coding", "expand"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)]
)
async def test_compressed_answers_keep_the_length_of_the_json(
    open_app: Any, repository: Any, coding: str, expand: Any
) -> None:
    call = await open_app(repository)
    asked = BOTH | {"parameters": {"binary_data_output": True}}
    plain = await call("POST", INFER, asked)
    answer = await call("POST", INFER, asked, {"accept-encoding": f"{coding};q=0.9, br"})
    assert answer.headers["content-encoding"] == coding
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert answer.headers[LENGTH] == plain.headers[LENGTH]
    assert expand(answer.body) == plain.body


async def test_a_setting_ignores_accept_encoding(open_app: Any, repository: Any) -> None:
    call = await open_app(repository, compression=False)
    answer = await call("POST", INFER, BOTH, {"accept-encoding": "gzip"})
    assert "content-encoding" not in answer.headers
    assert answer.status == 200


async def test_only_infer_answers_are_compressed(open_app: Any, repository: Any) -> None:
    call = await open_app(repository)
    for path in ("/v2", "/v2/models/simple", "/metrics", "/v2/models/nobody"):
        answer = await call("GET", path, b"", {"accept-encoding": "gzip"})
        assert "content-encoding" not in answer.headers


async def test_classification_uses_the_label_file(open_app: Any, repository: Any) -> None:
    call = await open_app(repository)
    one = {"name": "x", "datatype": "FP32", "shape": [2, 4], "data": [1, 2, 4, 3, 4, 3, 2, 1]}
    asked = [{"name": "y", "parameters": {"classification": 3}}]
    sent = {"inputs": [one], "outputs": asked}
    answer = (await call("POST", "/v2/models/labelled/infer", sent)).json()
    assert answer["outputs"] == [
        {
            "name": "y",
            "datatype": "BYTES",
            "shape": [2, 3],
            "data": [
                "8.000000:2",
                "6.000000:3",
                "4.000000:1:dog",
                "8.000000:0:cat",
                "6.000000:1:dog",
                "4.000000:2",
            ],
        }
    ]


async def test_chunked_bodies_are_joined(open_app: Any, repository: Any) -> None:
    call = await open_app(repository)
    body = json.dumps(BOTH).encode()
    pieces = tuple(body[start : start + 50] for start in range(0, len(body), 50))
    for headers in ({}, {"content-length": str(len(body))}):
        assert (await call("POST", INFER, pieces, headers)).status == 200


@pytest.mark.parametrize("adapter", ["bare"])  # a connection waits for the rest
async def test_a_body_shorter_than_announced_is_refused(open_app: Any, repository: Any) -> None:
    call = await open_app(repository)
    body = json.dumps(BOTH).encode()
    short = await call("POST", INFER, body[:-1], {"content-length": str(len(body))})
    assert short.status == 400


async def test_large_json_is_parsed_off_the_loop_with_the_same_answer(
    open_app: Any, repository: Any
) -> None:
    call = await open_app(repository, offload_json_bytes=100)
    answer = await call("POST", INFER, BOTH)
    assert answer.json()["outputs"][0]["data"] == [3] * 16
    assert (await call("POST", INFER, b"{" * 200)).status == 400


async def test_a_parameter_that_is_no_finite_number_is_400(open_app: Any, repository: Any) -> None:
    call = await open_app(repository)
    body = json.dumps({**BOTH, "parameters": {"temperature": float("nan")}}).encode()
    answer = await call("POST", INFER, body)
    assert answer.status == 400
    assert "'temperature': expected a finite number" in answer.json()["error"]


async def test_an_answer_tells_how_long_it_waited_and_ran(open_app: Any, repository: Any) -> None:
    call = await open_app(repository)
    answer = await call("POST", INFER, BOTH)
    told = dict(entry.split(";dur=") for entry in answer.headers["server-timing"].split(", "))
    assert set(told) == {"queue", "compute"}
    assert float(told["queue"]) >= 0
    assert 0 < float(told["compute"]) < 60_000


async def test_request_parameters_are_accepted(open_app: Any, repository: Any) -> None:
    call = await open_app(repository)
    parameters = {"priority": 1, "timeout": 10**6, "sequence_id": 3, "mine": "x", "headers": "h"}
    assert (await call("POST", INFER, BOTH | {"parameters": parameters})).status == 200


async def test_the_same_text_with_other_bytes_gives_other_numbers(
    open_app: Any, repository: Any
) -> None:
    """A remembered request text must never bring back remembered tensors."""
    call = await open_app(repository)
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "x",
                    "datatype": "FP32",
                    "shape": [1, 4],
                    "parameters": {"binary_data_size": 16},
                }
            ]
        }
    ).encode()
    for number in range(5):
        row = np.full(4, number, "<f4")
        headers = {LENGTH: str(len(head))}
        answer = await call("POST", "/v2/models/scale/infer", head + row.tobytes(), headers)
        assert answer.json()["outputs"][0]["data"] == (row * 2).tolist()
    assert (await call("POST", "/v2/models/scale/infer", head + b"1234", headers)).status == 400


async def test_a_run_that_outlasts_its_deadline_is_504(
    open_app: Any, make_repository: Any, onnx_models: SimpleNamespace, tmp_path: Any
) -> None:
    call = await open_app(make_repository({"busy": onnx_models.busy()}, root=tmp_path / "b"))
    headers = {"x-request-timeout-ms": "50"}
    for count in (2000, 10**7):  # the first run shows that the model is slow, the second must stop
        steps = {"name": "steps", "datatype": "INT64", "shape": [1], "data": [count]}
        answer = await call("POST", "/v2/models/busy/infer", {"inputs": [steps]}, headers)
    assert (answer.status, answer.json()["code"]) == (504, "deadline_exceeded")
