"""Typed handles of tasks: what a caller's checker is told of their answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, assert_type

import numpy as np
import numpy.typing as npt

from aiaas_client import (
    AiaasError,
    AsyncClient,
    AsyncTaskModel,
    Classification,
    Client,
    Detections,
    Embedding,
    Explanation,
    OcrText,
    Ranking,
    Regression,
    Similarity,
    Speech,
    TaskModel,
)


def threads(client: Client, pixels: npt.NDArray[np.uint8]) -> None:
    sentiment = client.text_classification("sentiment", version=1)
    assert_type(sentiment, TaskModel[Classification])
    assert_type(sentiment.predict("text", top_k=1), Classification)
    assert_type(sentiment.predict(["one", "two"]), list[Classification])
    for one in sentiment.predict_many(["one", "two"]):
        assert_type(one, Classification)
    for either in sentiment.predict_many(["one"], on_error="return"):
        assert_type(either, Classification | AiaasError)

    layout = client.object_detection("layout")
    assert_type(layout.predict(pixels), Detections)
    assert_type(layout.predict(Path("page.png")), Detections)
    assert_type(layout.predict([b"one", b"two"]), list[Detections])
    assert_type(client.ocr("pp-ocr").predict("page.png").text, str)
    assert_type(client.ocr("pp-ocr").predict(b"png"), OcrText)

    house = client.task(Regression, "house")
    assert_type(house, TaskModel[Regression])
    assert_type(house.predict({"rooms": 3, "city": "Oslo"}), Regression)
    assert_type(house.predict([3.0, 1.5]), Regression)
    assert_type(house.predict([[3.0, 1.5], [2.0, 1.0]]), list[Regression])

    vectors = client.text_embedding("minilm")
    assert_type(vectors.predict("text"), Embedding)
    assert_type(vectors.similarity(["a", "b"]), Similarity)
    assert_type(vectors.rank("query", ["a", "b"]), Ranking)
    assert_type(client.task(Speech, "voice").predict("hello"), Speech)
    assert_type(client.model("any").predict("text"), Any)
    assert_type(client.predict("any", "text"), Any)
    assert_type(client.model("any").explain("text", samples=100), Explanation)
    assert_type(house.explain([3.0, 1.5], background=[[1.0, 1.0]]), Explanation)
    assert_type(layout.explain([b"one", b"two"]), list[Explanation])
    client.task("ocr", "any")  # type: ignore[arg-type]


async def loop(client: AsyncClient) -> None:
    sentiment = client.text_classification("sentiment")
    assert_type(sentiment, AsyncTaskModel[Classification])
    assert_type(await sentiment.predict("text"), Classification)
    assert_type(await sentiment.predict(["one"]), list[Classification])
    async for one in sentiment.predict_many(["one", "two"]):
        assert_type(one, Classification)
    house = client.task(Regression, "house", version="2")
    assert_type(await house.predict({"rooms": 3}), Regression)
    assert_type(await client.model("any").explain("text"), Explanation)
    assert_type(await house.explain([{"rooms": 3}]), list[Explanation])
    assert_type(await client.text_embedding("minilm").rank("query", ["a"]), Ranking)
