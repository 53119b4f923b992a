"""Profiles: what is looked at of tensors, how it is counted, and that no input is kept."""

from __future__ import annotations

import json

import numpy as np
import pytest

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.describe.card import Card
from aiaas_server.core.signature import Signature, TensorSpec
from aiaas_server.monitor.features import Layout
from aiaas_server.monitor.profile import make_profile, profile_from, read_profile

RNG = np.random.default_rng(3)


def signature(inputs: list[TensorSpec], outputs: list[TensorSpec], batch: int = 8) -> Signature:
    return Signature("m", inputs, outputs, batch)


TABLE = signature(
    [TensorSpec("x", "FP32", (-1, 3)), TensorSpec("city", "BYTES", (-1, 1))],
    [TensorSpec("label", "INT64", (-1,)), TensorSpec("probabilities", "FP32", (-1, 3))],
)
CARD = Card.model_validate(
    {
        "task": "tabular-classification",
        "labels": ["red", "green", "blue"],
        "preprocessing": {"columns": [{"name": "age"}, {"name": "height"}, {"name": "smokes"}]},
    }
)


def rows(count: int) -> dict[str, Array]:
    x = RNG.normal(size=(count, 3)).astype(np.float32)
    x[:, 2] = RNG.integers(0, 2, count)
    x[0, 0] = np.nan
    cities = np.array([[b"Rome"], [b"Oslo"]], object)[RNG.integers(0, 2, count)]
    return {"x": x, "city": cities}


def answers(count: int) -> dict[str, Array]:
    scores = RNG.random((count, 3)).astype(np.float32)
    return {"label": scores.argmax(axis=1), "probabilities": scores}


def test_columns_have_the_cards_names_and_predictions_theirs() -> None:
    profile = profile_from(TABLE, rows(400), answers(400), card=CARD)
    assert profile is not None
    found = {one.name: one for one in profile.features}
    assert set(found) == {
        "age", "height", "smokes", "city", "city.length", "label", "probabilities.best",
        "probabilities.top",
    }  # fmt: skip
    assert found["age"].kind == "number"
    assert found["age"].counts[-1] == 1, "the missing one is counted apart"
    assert found["smokes"].values == (0.0, 1.0)
    assert found["city"].values == ("Oslo", "Rome")
    assert found["probabilities.best"].values == ("blue", "green", "red")
    assert found["label"].role == "prediction"
    assert all(sum(one.counts) == 400 for one in profile.features)


def test_counts_add_up_whatever_the_order_and_the_parts() -> None:
    profile = profile_from(TABLE, rows(400), card=CARD)
    assert profile is not None
    layout = Layout(TABLE, CARD)
    seen = rows(90)
    whole = profile.empty()
    profile.count(layout.inputs([seen]), whole)
    parts = profile.empty()
    singles = [{n: a[i : i + 1] for n, a in seen.items()} for i in reversed(range(90))]
    profile.count(layout.inputs(singles[:50]), parts)
    profile.count(layout.inputs(singles[50:]), parts)
    assert [one.tolist() for one in whole] == [one.tolist() for one in parts]


def test_a_profile_comes_back_as_it_was_written() -> None:
    profile = profile_from(TABLE, rows(100), answers(100), card=CARD)
    assert profile is not None
    again = read_profile(json.loads(json.dumps(profile.document())))
    assert (again.features, again.id, again.rows) == (profile.features, profile.id, 100)
    with pytest.raises(ValueError, match="expected format 1, got 2"):
        read_profile({**profile.document(), "format": 2})


def test_free_text_is_told_by_its_length_only() -> None:
    """What callers write is never kept, and neither is a category that hardly ever came."""
    texts = [[f"my secret number {index}".encode()] for index in range(200)]
    common = [[b"yes"]] * 120 + [[b"no"]] * 79 + [[b"a rare secret"]]
    specs = [TensorSpec("text", "BYTES", (-1, 1)), TensorSpec("answer", "BYTES", (-1, 1))]
    inputs = {"text": np.array(texts, object), "answer": np.array(common, object)}
    profile = profile_from(signature(specs, []), inputs)
    assert profile is not None
    assert "secret" not in json.dumps(profile.document())
    found = {one.name: one for one in profile.features}
    assert set(found) == {"text.length", "answer", "answer.length"}
    assert found["answer"].values == ("no", "yes")
    assert found["answer"].counts == (79, 120, 1, 0)


def test_wide_tensors_are_a_few_statistics_an_item() -> None:
    picture = signature([TensorSpec("pixels", "UINT8", (-1, 3, 16, 16))], [])
    tokens = signature([TensorSpec("ids", "INT64", (-1, -1))], [])
    seen = RNG.integers(0, 255, (40, 3, 16, 16)).astype(np.uint8)
    made = profile_from(picture, {"pixels": seen})
    assert made is not None
    assert [one.name for one in made.features] == [
        "pixels.mean", "pixels.std", "pixels.zeros", "pixels.length",
    ]  # fmt: skip
    layout = Layout(tokens)
    calls = [{"ids": np.ones((1, length), np.int64)} for length in (3, 5, 3, 900)]
    blocks = layout.inputs(calls)
    assert sorted(x for block in blocks for x in block.values[:, 3]) == [3.0, 3.0, 5.0, 900.0]


def test_embeddings_are_compared_with_their_mean_vector() -> None:
    spec = [TensorSpec("vector", "FP32", (-1, 384))]
    texts = signature([TensorSpec("n", "FP32", (-1, 1))], spec)
    card = Card.model_validate({"task": "text-embedding"})
    centre = RNG.normal(size=384)
    near = (centre + RNG.normal(0, 0.5, (200, 384))).astype(np.float32)
    profile = profile_from(texts, {"n": np.ones((200, 1), np.float32)}, {"vector": near}, card=card)
    assert profile is not None
    assert [one.name for one in profile.features] == ["n", "vector.cosine", "vector.norm"]
    again = read_profile(json.loads(json.dumps(profile.document())))
    counts = again.empty()
    far = RNG.normal(size=(50, 384)).astype(np.float32)
    again.count(Layout(texts, card).outputs([{"vector": far}]), counts)
    assert counts[1][0] == 50, "all below the lowest edge of the cosines"


def test_what_a_model_without_batches_gets_is_one_item() -> None:
    layout = Layout(signature([TensorSpec("x", "FP32", (4,))], [], batch=0))
    blocks = layout.inputs([{"x": np.arange(4, dtype=np.float32)}] * 3)
    assert [block.values.shape for block in blocks] == [(3, 4)]


@pytest.mark.parametrize(
    ("outputs", "answer", "expected"),
    [
        ([TensorSpec("y", "FP32", (-1, 1))], {"y": np.array([[1.5], [2.5]])}, [1.5, 2.5]),
        ([TensorSpec("label", "INT64", (-1,))], {"label": np.array([2, 0])}, [2, 0]),
        (
            [TensorSpec("name", "BYTES", (-1,))],
            {"name": np.array([b"a", b"b"], object)},
            ["a", "b"],
        ),
        ([TensorSpec("p", "FP32", (-1, 3))], {"p": np.eye(3)[[2, 0]]}, ["2", "0"]),
        ([TensorSpec("vector", "FP32", (-1, 5000))], {"vector": np.ones((2, 5000))}, []),
    ],
    ids=["number", "class", "text", "scores", "neither"],
)
def test_the_answer_of_each_item_is_remembered_as_one_value(
    outputs: list[TensorSpec], answer: dict[str, Array], expected: list[object]
) -> None:
    assert Layout(signature([], outputs)).predicted([answer, {}]) == [expected, []]


def test_too_few_rows_are_no_reference() -> None:
    assert profile_from(TABLE, rows(19), card=CARD) is None
    with pytest.raises(ValueError, match="at least 20 rows, got 0"):
        make_profile([], "golden")
