"""Text in: checked, encoded, windowed; and what a card for it may not say."""

from __future__ import annotations

import zlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pytest

from aiaas_client.protocol.predictions import Classification, Embedding, Ranking, Similarity
from aiaas_server.core.errors import InvalidInput, LoadFailed
from aiaas_server.tasks.text import tokenized
from tests.task_bundles import MEANINGS, MOOD_CARD, MOODS, table_model, tokenizer

CARD = MOOD_CARD
FILES = {"tokenizer.json": tokenizer()}


def classifier(open_version: Any, **preprocessing: Any) -> Any:
    model = table_model(MOODS, ("input_ids", "attention_mask"), pooled=True)
    return open_version(model, {**CARD, "preprocessing": preprocessing}, FILES)


def test_a_tokenized_text_has_a_label_and_all_scores(open_version: Any) -> None:
    found = classifier(open_version).predict("good film")
    assert isinstance(found, Classification)
    assert found.label == "positive"
    assert found.score == pytest.approx(1 / (1 + np.exp(-2)), abs=1e-6)
    assert list(found.scores) == ["positive", "negative"]


def test_top_k_shortens_the_scores(open_version: Any) -> None:
    assert list(classifier(open_version).predict("good film", top_k=1).scores) == ["positive"]


def test_windows_of_a_long_text_are_averaged(open_version: Any) -> None:
    opened = classifier(open_version, max_tokens=4, pad_to=1)
    text = "good film tea tea bad film tea tea"
    prepared = opened.task.preprocess(text, opened.task.params())
    assert prepared.rows == 2
    found = opened.predict(text)
    assert found.scores == pytest.approx({"negative": 0.5, "positive": 0.5}, abs=1e-6)


def test_windows_share_the_stride(open_version: Any) -> None:
    opened = classifier(open_version, max_tokens=4, stride=1, pad_to=1)
    rows = opened.task.preprocess("good film tea bad tea", opened.task.params()).tensors
    assert rows["input_ids"].tolist() == [[2, 4, 5, 3], [3, 5, 0, 0]]
    assert rows["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]


def test_truncation_reads_the_beginning_only(open_version: Any) -> None:
    opened = classifier(open_version, max_tokens=3, long_text="truncate")
    assert opened.predict("good film tea bad bad bad").label == "positive"


def test_hashed_features_are_those_of_the_formula(open_version: Any) -> None:
    size = 101
    table = np.zeros((size, 2))
    table[1 + zlib.crc32("好评".encode()) % (size - 1)] = [0, 3]
    model = table_model(table, ("input_ids",), pooled=True)
    settings = {"features": "hashed", "buckets": size, "pad_to": 4}
    opened = open_version(model, {**CARD, "preprocessing": settings})
    tensors = opened.task.preprocess("好评", opened.task.params()).tensors
    expected = sorted(1 + zlib.crc32(g.encode()) % (size - 1) for g in ("好", "评", "好评"))
    assert tensors["input_ids"].tolist() == [[*expected, 0]]
    assert opened.predict("好评").label == "positive"


def test_every_character_of_a_long_hashed_text_is_in_a_window(open_version: Any) -> None:
    model = table_model(np.zeros((101, 2)), ("input_ids",), pooled=True)
    settings = {"features": "hashed", "buckets": 101, "max_tokens": 8, "ngrams": [1], "stride": 2}
    opened = open_version(model, {**CARD, "preprocessing": settings})
    text = "".join(chr(0x4E00 + i) for i in range(37))
    prepared = opened.task.preprocess(text, opened.task.params())
    seen = set(prepared.tensors["input_ids"].ravel().tolist()) - {0}
    assert seen == {1 + zlib.crc32(c.encode()) % 100 for c in text}


def test_graphs_that_take_strings_get_the_text(
    open_version: Any, onnx_models: SimpleNamespace
) -> None:
    model = onnx_models.identity("BYTES", ["batch", 1])
    card = {**CARD, "labels": ["a"], "preprocessing": {"features": "text", "lowercase": True}}
    opened = open_version(model, card)
    tensors = opened.task.preprocess("Grün", opened.task.params()).tensors
    assert tensors["x"].tolist() == [["grün".encode()]]


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        pytest.param("", "text is empty; a text of 1 to 200,000 characters", id="empty"),
        pytest.param(" \n\t ", "text is empty", id="only whitespace"),
        pytest.param("x" * 10_000_000, "got 10,000,000 characters", id="10 MB"),
        pytest.param(7, "got a number; a text of", id="number"),
        pytest.param(None, "got null; a text of", id="null"),
        pytest.param(["a"], "got a list; a text of", id="list"),
        pytest.param(b"abc", "got bytes; a text of", id="bytes"),
    ],
)
def test_bad_texts_are_told_with_what_is_accepted(
    open_version: Any, payload: Any, told: str
) -> None:
    with pytest.raises(InvalidInput) as raised:
        classifier(open_version).predict(payload)
    assert told in raised.value.message


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        pytest.param(
            {"labels": ["a", "b", "c"]}, "the card names 3, output 'out' has 2", id="labels"
        ),
        pytest.param({"labels": []}, "needs 'labels'", id="no labels"),
        pytest.param(
            {"preprocessing": {"tokeniser": "x"}},
            "preprocessing: unknown key 'tokeniser'; known: features, tokenizer",
            id="unknown setting",
        ),
        pytest.param(
            {"postprocessing": {"activation": "relu"}}, "postprocessing: 'activation'", id="value"
        ),
        pytest.param(
            {"preprocessing": {"tokenizer": "t.json"}}, "asset 't.json' is missing", id="asset"
        ),
        pytest.param({"labels": "labels.txt"}, "asset 'labels.txt' is missing", id="label file"),
        pytest.param(
            {"postprocessing": {"output": "logits"}},
            "the card names output 'logits', the model has 'out'",
            id="output",
        ),
        pytest.param({"lables": ["a"]}, "unknown key 'lables'; known: format_version", id="card"),
        pytest.param(
            {"task": "text-clasification"}, "unknown task 'text-clasification'", id="task"
        ),
        pytest.param({"assets": {"tokenizer.json": "0" * 64}}, "expected sha256 0000", id="digest"),
        pytest.param(
            {"preprocessing": {"features": "hashed"}}, "needs a model of one input", id="inputs"
        ),
    ],
)
def test_a_card_that_does_not_fit_is_refused_at_load(
    open_version: Any, changed: dict[str, Any], told: str
) -> None:
    model = table_model(MOODS, ("input_ids", "attention_mask"), pooled=True)
    with pytest.raises(LoadFailed) as raised:
        open_version(model, {**CARD, **changed}, FILES)
    assert told in raised.value.message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("labels.txt", b"negative\npositive\n", id="lines"),
        pytest.param("labels.json", b'["negative", "positive"]', id="list"),
        pytest.param("labels.json", b'{"1": "positive", "0": "negative"}', id="by index"),
    ],
)
def test_labels_may_lie_beside_the_model(open_version: Any, name: str, content: bytes) -> None:
    model = table_model(MOODS, ("input_ids", "attention_mask"), pooled=True)
    opened = open_version(model, {**CARD, "labels": name}, {**FILES, name: content})
    assert opened.predict("bad film").label == "negative"


def embedder(open_version: Any, **postprocessing: Any) -> Any:
    model = table_model(MEANINGS, ("input_ids", "attention_mask"), pooled=False)
    card = {"task": "text-embedding", "postprocessing": postprocessing}
    return open_version(model, card, FILES)


def test_a_vector_is_the_mean_of_its_tokens_with_length_one(open_version: Any) -> None:
    found = embedder(open_version).predict("good tea")
    assert isinstance(found, Embedding)
    assert found.vector == pytest.approx((0.5**0.5, 0.5**0.5))
    assert found.tokens == 2
    assert np.asarray(found).dtype == np.float32


def test_padding_to_a_longer_neighbour_changes_nothing(open_version: Any) -> None:
    opened = embedder(open_version, normalize=False)
    both = opened.predict({"texts": ["good", "good film tea tea tea tea tea tea bad"]})
    assert isinstance(both, Similarity)
    alone = np.asarray(opened.predict("good film tea tea tea tea tea tea bad"))
    cosine = alone[0] / np.linalg.norm(alone)
    assert both.matrix[0][1] == pytest.approx(cosine, abs=1e-6)


def test_documents_are_ranked_by_their_likeness_to_the_query(open_version: Any) -> None:
    payload = {"query": "good film", "documents": ["bad film", "tea", "good"]}
    found = embedder(open_version).predict(payload, top_k=2)
    assert isinstance(found, Ranking)
    assert [(r.index, r.text) for r in found.ranking] == [(2, "good"), (1, "tea")]


def test_token_ids_are_a_text_too(open_version: Any) -> None:
    opened = embedder(open_version)
    assert opened.predict({"tokens": [2, 5]}) == opened.predict("good tea")


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        pytest.param({"tokens": [6]}, "token ids from 0 to 5", id="token out of range"),
        pytest.param({"tokens": []}, "token ids from 0 to 5", id="no tokens"),
        pytest.param({"texts": []}, "texts: got 0 texts; a list of 1 to", id="no texts"),
        pytest.param({"texts": ["a", ""]}, "texts[1] is empty", id="an empty text"),
        pytest.param({"query": "a"}, "got an object with 'query'", id="query alone"),
        pytest.param({"query": "", "documents": ["a"]}, "query is empty", id="empty query"),
        pytest.param(3, "got a number", id="number"),
    ],
)
def test_what_an_embedding_does_not_take_is_told(
    open_version: Any, payload: Any, told: str
) -> None:
    with pytest.raises(InvalidInput) as raised:
        embedder(open_version).predict(payload)
    assert told in raised.value.message


def test_vectors_are_shortened_only_where_the_card_allows(open_version: Any) -> None:
    with pytest.raises(InvalidInput, match="cannot be shortened"):
        embedder(open_version).predict("good", dimensions=1)
    found = embedder(open_version, dimensions=True).predict("good tea", dimensions=1)
    assert found.vector == pytest.approx((1.0,))
    with pytest.raises(InvalidInput, match="expected 1 to 2, got 3"):
        embedder(open_version, dimensions=True).predict("good", dimensions=3)


def test_pooling_must_fit_the_output(open_version: Any) -> None:
    with pytest.raises(LoadFailed, match="needs an output of 2 dimensions, 'out' has 3"):
        embedder(open_version, pooling="none")


def test_a_broken_tokenizer_is_refused_at_load(open_version: Any) -> None:
    model = table_model(MOODS, ("input_ids", "attention_mask"), pooled=True)
    with pytest.raises(LoadFailed, match=r"'tokenizer\.json' is no tokenizer"):
        open_version(model, CARD, {"tokenizer.json": orjson.dumps({"a": 1})})


def test_a_text_that_the_tokenizer_cannot_read_is_told() -> None:
    from tokenizers import Tokenizer, models

    words = Tokenizer(models.WordLevel({"good": 0}, unk_token="[UNK]"))
    assert tokenized(words, "good").ids == [0]
    with pytest.raises(InvalidInput, match=r"tokenizer cannot read the text: .*\[UNK\]"):
        tokenized(words, "tea")
