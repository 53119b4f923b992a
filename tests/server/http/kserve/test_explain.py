"""`:explain` over HTTP: records, rows without a card, texts and pictures, and what it refuses."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from onnx import helper
from PIL import Image

from tests.graphs import model, takes_long, value
from tests.server.http.serving import AsgiCaller
from tests.task_bundles import MOOD_CARD, MOODS, PARTS, table_model, tokenizer, write_bundle

OpenApp = Callable[..., Awaitable[AsgiCaller]]
WEIGHTS = np.array([2.0, -1.0, 0.0], np.float32)
PRICE_CARD = {
    "task": "tabular-regression",
    "preprocessing": {
        "columns": [
            {"name": "rooms"},
            {"name": "age"},
            {"name": "kind", "kind": "category", "categories": ["flat", "house"]},
        ]
    },
}
SURE_CARD = {
    "task": "tabular-classification",
    "labels": ["no", "yes"],
    "preprocessing": {
        "columns": [
            {"name": "a"},
            {
                "name": "c",
                "kind": "category",
                "categories": ["x", "y", "z"],
                "encode": "one-hot",
            },
        ]
    },
    "postprocessing": {"output": "y", "activation": "softmax"},
}
PIXELS_CARD = {
    "task": "tabular-regression",
    "preprocessing": {"columns": [{"name": "p", "kind": "array", "shape": [2, 2]}]},
}
BACKGROUND = [[1.0, 10.0, "flat"], [3.0, 20.0, "house"]]


def linear(weights: Any, name: str = "x") -> bytes:
    """`x` (n, features) -> `y` (n, outputs) = x @ weights."""
    matrix = np.asarray(weights, np.float32)
    matrix = matrix[:, None] if matrix.ndim == 1 else matrix
    return model(
        [helper.make_node("MatMul", [name, "w"], ["y"])],
        [value(name, ["n", matrix.shape[0]])],
        [value("y", ["n", matrix.shape[1]])],
        w=matrix,
    )


def product(features: int) -> bytes:
    """`x` (n, features) -> `y` (n, 1): the first times the second, and nothing of the others."""
    nodes = [
        helper.make_node("Gather", ["x", "zero"], ["a"], axis=1),
        helper.make_node("Gather", ["x", "one"], ["b"], axis=1),
        helper.make_node("Mul", ["a", "b"], ["y"]),
    ]
    places = {"zero": np.array([0], np.int64), "one": np.array([1], np.int64)}
    return model(nodes, [value("x", ["n", features])], [value("y", ["n", 1])], **places)


def bright() -> bytes:
    """`image` (n, 1, 8, 8) -> `p` (n, 2): the mean of the upper left quarter, and the rest to 1."""
    weights = np.zeros((8, 8), np.float32)
    weights[:4, :4] = 1 / 16
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["light"]),
        helper.make_node("Sub", ["one", "light"], ["dark"]),
        helper.make_node("Concat", ["dark", "light"], ["p"], axis=1),
    ]
    return model(
        nodes,
        [value("image", ["n", 1, 8, 8])],
        [value("p", ["n", 2])],
        w=weights.reshape(64, 1),
        one=np.float32(1),
    )


BRIGHT_CARD = {
    "task": "image-classification",
    "labels": ["dark", "light"],
    "preprocessing": {
        "resize": "exact",
        "channels": "grey",
        "scale": 1 / 255,
    },
    "postprocessing": {"activation": "none", "top_k": 1},
}


def png(pixels: Any) -> dict[str, str]:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(buffer, "PNG")
    return {"b64": base64.b64encode(buffer.getvalue()).decode()}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    write_bundle(root, "price", PRICE_CARD, linear(WEIGHTS))
    write_bundle(root, "sure", SURE_CARD, linear([[1, 0], [0, 1], [0, 0], [0, 2]]))
    golden = {"instances": [[0.0, "x"], [2.0, "y"]], "predictions": ["no", "yes"]}
    (root / "sure" / "1" / "golden.json").write_text(json.dumps(golden))
    for name, made in (("plain", linear([[1, 2], [3, 4]])), ("wide", product(20))):
        (root / name / "1").mkdir(parents=True)
        (root / name / "1" / "model.onnx").write_bytes(made)
    tensor = {"datatype": "FP32", "shape": [2, 2], "data": [0, 0, 2, 2]}
    golden = {"inputs": {"x": tensor}, "outputs": {"y": tensor}}
    (root / "plain" / "1" / "golden.json").write_text(json.dumps(golden))
    write_bundle(root, "pixels", PIXELS_CARD, linear([1, 2, 3, 4]))
    files = {"tokenizer.json": tokenizer()}
    write_bundle(root, "moods", MOOD_CARD, table_model(MOODS, PARTS, pooled=True), files)
    write_bundle(root, "bright", BRIGHT_CARD, bright())
    write_bundle(root, "vectors", {"task": "text-embedding"},
                 table_model(MOODS, PARTS, pooled=False), files)  # fmt: skip
    return root


@pytest.fixture
def adapter() -> str:
    """The routes are the same behind every door."""
    return "bare"


@pytest_asyncio.fixture
async def slow(tmp_path: Path, open_app: OpenApp) -> AsgiCaller:
    """A server of one model that takes some milliseconds for each run."""
    (tmp_path / "one" / "slow" / "1").mkdir(parents=True)
    (tmp_path / "one" / "slow" / "1" / "model.onnx").write_bytes(takes_long(100))
    return await open_app(tmp_path / "one")


@pytest_asyncio.fixture
async def call(repository: Path, open_app: OpenApp) -> AsgiCaller:
    return await open_app(repository)


async def explained(
    call: AsgiCaller, name: str, instances: Any, **parameters: Any
) -> list[dict[str, Any]]:
    body = {"instances": instances, "parameters": parameters}
    answer = await call("POST", f"/v1/models/{name}:explain", body)
    assert answer.status == 200, answer.body
    document = answer.json()
    assert document["model_name"] == name
    assert document["model_version"] == "1"
    found: list[dict[str, Any]] = document["explanations"]
    for one in found:
        added = sum(part["contribution"] for part in one["contributions"])
        assert one["base"] + added == pytest.approx(one["prediction"], abs=1e-5)
    return found


async def refused(call: AsgiCaller, name: str, body: Any, status: int = 400) -> str:
    answer = await call("POST", f"/v1/models/{name}:explain", body)
    assert answer.status == status, answer.body
    text: str = answer.json()["error"]
    return text


async def test_records_are_explained_by_their_columns(call: AsgiCaller) -> None:
    house = {"rooms": 5, "age": 10, "kind": "house"}
    (found,) = await explained(call, "price", [house], background=BACKGROUND)
    assert found["method"] == "exact"
    assert found["complete"]
    assert found["output"] == "value"
    assert found["background"] == "2 instances of the call"
    assert found["prediction"] == 0.0
    assert found["base"] == -11.0
    parts = {one["feature"]: one for one in found["contributions"]}
    assert list(parts) == ["rooms", "age", "kind"]
    assert [one["contribution"] for one in parts.values()] == [6.0, 5.0, 0.0]  # weight x distance
    assert parts["kind"]["value"] == "house"
    assert found["samples"] == 2 + 1 + 6 * 2  # both ends, and every coalition over two rows


async def test_a_golden_set_is_the_background_and_one_hot_columns_go_together(
    call: AsgiCaller,
) -> None:
    instances = [[1.0, "z"], {"a": 0.0, "c": "x"}]
    found = await explained(call, "sure", instances, output="yes")
    assert [one["output"] for one in found] == ["yes", "yes"]
    assert found[0]["background"] == "2 instances of the version's golden set"
    assert [part["feature"] for part in found[0]["contributions"]] == ["a", "c"]
    by_index = await explained(call, "sure", instances, output=1)
    assert by_index == found
    predicted = await explained(call, "sure", instances)
    answer = await call("POST", "/v1/models/sure:predict", {"instances": instances})
    for one, prediction in zip(predicted, answer.json()["predictions"], strict=True):
        assert one["output"] == prediction["label"]
        assert one["prediction"] == pytest.approx(prediction["score"])


async def test_rows_of_a_model_without_a_card_have_numbered_features(call: AsgiCaller) -> None:
    (found,) = await explained(call, "plain", [[1.0, 2.0]])
    assert found["background"] == "2 rows of the version's golden set"
    assert found["output"] == "1"  # the larger one
    assert [one["feature"] for one in found["contributions"]] == ["x[0]", "x[1]"]
    assert [one["contribution"] for one in found["contributions"]] == [0.0, 4.0]
    versioned = await call(
        "POST", "/v1/models/plain/versions/1:explain", {"instances": [[1.0, 2.0]]}
    )
    assert versioned.json()["explanations"] == [found]


async def test_each_number_of_an_array_is_a_feature(call: AsgiCaller) -> None:
    square = [[1, 0], [1, 1]]
    for instance in ({"p": square}, [1, 0, 1, 1]):
        (found,) = await explained(call, "pixels", [instance], background=[[0, 0, 0, 0]])
        parts = {one["feature"]: one["contribution"] for one in found["contributions"]}
        assert parts == {"p[0]": 1, "p[1]": 0, "p[2]": 3, "p[3]": 4}


async def test_many_features_are_sampled_with_errors_and_a_seed(call: AsgiCaller) -> None:
    background = np.random.default_rng(0).normal(size=(5, 20)).tolist()
    row = [3.0, 2.0, *([1.0] * 18)]
    (found,) = await explained(call, "wide", [row], background=background, seed=3)
    assert found["method"] == "permutation"
    parts = found["contributions"]
    # Of a product the exact values are known: the mean of what each adds first and last.
    means = np.array(background).mean(axis=0)
    both = np.mean([b[0] * b[1] for b in background])
    first = ((3 * means[1] - both) + (6 - 2 * means[0])) / 2
    assert abs(parts[0]["contribution"] - first) <= 4 * parts[0]["error"] + 1e-6
    assert all(abs(part["contribution"]) < 1e-6 for part in parts[2:])
    (again,) = await explained(call, "wide", [row], background=background, seed=3)
    assert again["samples"] == found["samples"]
    told, same = ([p["contribution"] for p in one["contributions"]] for one in (found, again))
    assert told == pytest.approx(same, abs=1e-6)
    few = await explained(call, "wide", [row], background=background, samples=120)
    assert few[0]["samples"] <= 120
    assert few[0]["background"] == "2 instances of the call"


async def test_words_of_a_text_have_weights_where_they_stand(call: AsgiCaller) -> None:
    text = "good film, not bad tea"
    (found,) = await explained(call, "moods", [text], output="positive")
    parts = {one["feature"]: one for one in found["contributions"]}
    assert list(parts) == ["good", "film", "not", "bad", "tea"]
    for word, part in parts.items():
        assert text[part["start"] : part["end"]] == word
    assert parts["good"]["contribution"] > 0.3
    assert parts["bad"]["contribution"] == pytest.approx(-parts["good"]["contribution"])
    assert parts["film"]["contribution"] == pytest.approx(0, abs=1e-7)
    assert found["base"] == pytest.approx(0.5)
    assert found["method"] == "exact"
    chinese = (await explained(call, "moods", ["好 good 电影"], output="positive"))[0]
    assert [one["feature"] for one in chinese["contributions"]] == ["好", "good", "电", "影"]


async def test_a_long_text_is_told_in_stretches(call: AsgiCaller) -> None:
    text = " ".join(["film"] * 30 + ["good"] + ["tea"] * 30)
    (found,) = await explained(call, "moods", [text], output="positive", samples=400)
    best = max(found["contributions"], key=lambda one: one["contribution"])
    assert "good" in best["feature"]
    assert found["samples"] <= 400
    assert found["method"] == "permutation"


async def test_cells_of_a_picture_have_weights(call: AsgiCaller) -> None:
    pixels = np.zeros((8, 8))
    pixels[:4, :4] = 255
    (found,) = await explained(call, "bright", [png(pixels)], samples=400)
    assert found["output"] == "light"
    assert found["size"] == [8, 8]
    heat = np.zeros((8, 8))
    for part in found["contributions"]:
        x, y, width, height = part["box"]
        heat[y : y + height, x : x + width] = part["contribution"]
    assert heat[:3, :3].min() > 0
    assert np.abs(heat[5:, 5:]).max() < 1e-6
    assert found["background"].startswith("the picture's mean colour, rgb(64")


REFUSED: list[tuple[str, Any, str]] = [
    ("price", {"instances": []}, "instances: List should have at least 1 item"),
    ("price", {"instance": [1]}, "unknown member 'instance'; did you mean 'instances'?"),
    ("price", {"instances": [[1, 2, "flat"]]}, "give instances to compare with as 'parameters"),
    (
        "sure",
        {"instances": [[1, "x"]], "parameters": {"output": "yess"}},
        "has no output 'yess'; did you mean 'yes'?",
    ),
    ("sure", {"instances": [[1, "x"]], "parameters": {"output": 2}}, "expected 0 to 1, got 2"),
    (
        "sure",
        {"instances": [[1, "x"]], "parameters": {"sample": 2}},
        "unknown member 'parameters.sample'; did you mean 'samples'?",
    ),
    (
        "sure",
        {"instances": [[1, "x"]], "parameters": {"samples": 20_000_000}},
        "parameters.samples: Input should be less than",
    ),
    ("sure", {"instances": [[1, "x"], [1, "q"]]}, "instance 1: column 'c': 'q' is not among"),
    ("sure", {"instances": [{"a": 1}]}, "missing columns 'c'"),
    (
        "sure",
        {"instances": [[1, "x"]], "parameters": {"background": [[1, "q"]]}},
        "parameters.background: instance 0: column 'c': 'q'",
    ),
    (
        "sure",
        {"instances": [[1, "x"]], "parameters": {"samples": 2}},
        "parameters.samples: expected at least",
    ),
    ("plain", {"instances": [[1.0]]}, "expected a list of 2 numbers, got 1"),
    ("plain", {"instances": ["text"]}, "expected a list of 2 numbers, got str"),
    ("moods", {"instances": [""]}, "text is empty"),
    (
        "moods",
        {"instances": ["good"], "parameters": {"background": ["bad"]}},
        "only records and rows of numbers have a background",
    ),
    ("bright", {"instances": [{"b64": "AAAA"}]}, "the image is not a PNG"),
    ("vectors", {"instances": ["good"]}, "of task 'text-embedding' cannot be explained; what"),
]


async def test_what_cannot_be_explained_is_said(call: AsgiCaller) -> None:
    for name, body, told in REFUSED:
        assert told in await refused(call, name, body), body


async def test_other_bodies_and_models_are_refused(call: AsgiCaller) -> None:
    answer = await call("POST", "/v1/models/moods:explain", b"x", {"Content-Type": "image/png"})
    assert answer.status == 415
    assert (await call("POST", "/v1/models/none:explain", b"{}")).status == 404


async def test_the_document_of_the_api_tells_of_it(call: AsgiCaller) -> None:
    paths = (await call("GET", "/openapi.json")).json()["paths"]
    told = paths["/v1/models/{model}:explain"]["post"]
    asked = told["requestBody"]["content"]["application/json"]["schema"]
    assert asked["required"] == ["instances"]
    assert (
        "explanations"
        in told["responses"]["200"]["content"]["application/json"]["schema"]["properties"]
    )


async def test_a_client_that_leaves_stops_it(slow: AsgiCaller) -> None:
    body = {"instances": [[1, 2, 3, 4]], "parameters": {"background": [[0, 0, 0, 0]]}}
    work = asyncio.ensure_future(slow("POST", "/v1/models/slow:explain", body))
    served = slow.app.pool.find("slow")
    assert served is not None
    while not served.in_use:  # noqa: ASYNC110  # nobody tells of it
        await asyncio.sleep(0)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert served.in_use == 0


async def test_a_deadline_that_is_too_short_is_told(slow: AsgiCaller) -> None:
    body = {"instances": [[1, 2, 3, 4]], "parameters": {"background": [[0, 0, 0, 0]]}}
    headers = {"X-Request-Timeout-Ms": "1"}
    answer = await slow("POST", "/v1/models/slow:explain", body, headers)
    assert answer.status in (504, 408)
