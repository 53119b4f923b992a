"""predict, predict_many, predict_frame: over HTTP and in process, from threads and on a loop."""

from __future__ import annotations

import asyncio
import io
import json
import pickle
import wave
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from aiaas_client import (
    AsyncClient,
    BadRequestError,
    BulkError,
    Client,
    InputError,
    ModelNotFoundError,
    NotSupportedError,
    OptionTypeError,
)
from aiaas_client import _payloads as payloads
from aiaas_client.protocol.predictions import (
    Classification,
    Label,
    Ranking,
    Record,
    Regression,
    Speech,
    read_prediction,
)
from aiaas_client.testing import FakeServer
from aiaas_server.app import create_app
from aiaas_server.settings import Settings
from tests.server.http.serving import serving
from tests.task_bundles import write_repository


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, onnx_models: SimpleNamespace) -> Path:
    return write_repository(tmp_path_factory.mktemp("models"), onnx_models)


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[str]:
    with serving(create_app(Settings(models=repository))) as live:
        yield live.url


@pytest.fixture(scope="module", params=["http", "local"])
def client(request: pytest.FixtureRequest, repository: Path, server: str) -> Iterator[Client]:
    made = Client(server) if request.param == "http" else Client.local(repository)
    with made as client:
        yield client


def stroke(shape: tuple[int, ...] = (28, 28)) -> Any:
    pixels = np.zeros(shape, np.uint8)
    pixels[5:20, 12:15] = 255
    return pixels


def png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(stroke()).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_text_has_its_prediction(client: Client) -> None:
    found = client.model("moods").predict("good film")
    assert isinstance(found, Classification)
    assert found.label == "positive"


def test_the_client_predicts_in_one_call(client: Client) -> None:
    assert client.predict("moods", "bad", top_k=1).scores.keys() == {"negative"}
    assert client.predict("moods", "bad", version=1).label == "negative"


def test_a_list_has_a_list(client: Client) -> None:
    found = client.model("moods").predict(["good", "bad"])
    assert [one.label for one in found] == ["positive", "negative"]


def test_what_is_wrong_with_a_payload_is_raised(client: Client) -> None:
    with pytest.raises(BadRequestError, match="text is empty; a text of 1 to"):
        client.model("moods").predict("")
    with pytest.raises(BadRequestError, match="unknown key 'topk'; known: top_k"):
        client.model("moods").predict("good", topk=1)


def test_many_keep_their_order_over_many_requests(client: Client) -> None:
    words = ["good", "bad tea", "good film"] * 60
    labels = [one.label for one in client.model("moods").predict_many(words, max_rows=7)]
    assert labels == ["positive" if "good" in word else "negative" for word in words]


def test_a_failed_payload_takes_its_own_place(client: Client) -> None:
    words = ["good", "", "bad", "x" * 300_000]
    found = list(client.model("moods").predict_many(words, on_error="return"))
    assert [type(one) for one in found] == [
        Classification, BadRequestError, Classification, BadRequestError,
    ]  # fmt: skip
    assert found[1].index == 1
    assert found[1].status_code == 400


def test_failures_are_raised_at_the_end(client: Client) -> None:
    with pytest.raises(BulkError, match="1 of 3 items failed; the first is item 1") as raised:
        list(client.model("moods").predict_many(["good", "", "bad"]))
    assert isinstance(raised.value.failures[1], BadRequestError)


def test_payloads_are_read_no_further_than_needed(client: Client) -> None:
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "good"

    running = client.model("moods").predict_many(endless(), max_rows=4, concurrency=2)
    assert next(running).label == "positive"
    running.close()
    assert read <= 4 * 4


def test_one_payload_is_not_many(client: Client) -> None:
    with pytest.raises(InputError, match="got one str"):
        client.model("moods").predict_many("good")


@pytest.mark.parametrize(
    "picture",
    [
        pytest.param(png(), id="bytes"),
        pytest.param(stroke(), id="grey array"),
        pytest.param(np.repeat(stroke()[:, :, None], 3, 2), id="colour array"),
        pytest.param(Image.fromarray(stroke()), id="PIL"),
        pytest.param({"b64": payloads._plain(png())["b64"]}, id="base64"),
    ],
)
def test_pictures_come_in_every_form(client: Client, picture: Any) -> None:
    expected = client.model("digits").predict(png())
    assert client.model("digits").predict(picture).scores == pytest.approx(expected.scores)


def test_a_large_file_travels_as_it_is(client: Client, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1100, 1100), np.uint8)
    path = tmp_path / "large.png"
    Image.fromarray(pixels).save(path)
    assert path.stat().st_size > payloads.LARGE_FILE
    by_array = client.model("digits").predict(pixels, top_k=3)
    assert client.model("digits").predict(path, top_k=3) == by_array
    assert client.task(Classification, "digits").predict(path.read_bytes(), top_k=3) == by_array
    with pytest.raises(BadRequestError, match="takes a text, got a file"):
        client.model("moods").predict(path)


def test_files_come_as_paths(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "digit.png"
    path.write_bytes(png())
    expected = client.model("digits").predict(png())
    assert client.model("digits").predict(path) == expected
    assert client.task(Classification, "digits").predict(str(path)) == expected
    typed = client.task(Classification, "digits")
    with pytest.raises(FileNotFoundError) as caught:
        typed.predict(str(tmp_path / "none.png"))
    assert isinstance(caught.value, InputError)
    assert "none.png" in str(caught.value)
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), FileNotFoundError)
    with pytest.raises(InputError, match="directory"):
        typed.predict(tmp_path)
    (failed,) = typed.predict_many([tmp_path / "none.png"], on_error="return")
    assert isinstance(failed, FileNotFoundError)


def test_records_rows_and_frames(client: Client) -> None:
    table = client.task(Regression, "table")
    assert table.predict({"b": 2, "a": 1}).values == {"a": 1.0, "b": 2.0}
    assert table.predict([1.0, 2.0]).value == 1.0
    assert [one.value for one in table.predict([[1.0, 2.0], [3.0, 4.0]])] == [1.0, 3.0]
    frame = pd.DataFrame({"b": [2, 4], "a": [1.0, 3.0]})
    assert [one.value for one in client.model("table").predict(frame)] == [1.0, 3.0]
    assert client.model("table").predict(frame.iloc[1]).value == 3.0
    rows = client.model("table").predict(np.array([[5.0, 6.0], [7.0, 8.0]]))
    assert [one.value for one in rows] == [5.0, 7.0]


def test_a_frame_gets_columns_of_predictions(client: Client) -> None:
    frame = pd.DataFrame({"a": [1.0, 3.0], "b": [2.0, 4.0]}, index=["x", "y"])
    found = client.model("table").predict_frame(frame, prefix="p_")
    assert list(found.columns) == ["a", "b", "p_value", "p_a", "p_b"]
    assert found["p_value"].to_dict() == {"x": 1.0, "y": 3.0}
    assert list(frame.columns) == ["a", "b"]


def test_a_column_of_a_frame_may_be_the_payload(client: Client) -> None:
    frame = pd.DataFrame({"review": ["good", "bad"], "id": [1, 2]})
    found = client.text_classification("moods").predict_frame(frame, column="review")
    assert found["predicted_label"].tolist() == ["positive", "negative"]
    with pytest.raises(InputError, match="no column 'text'; it has review, id"):
        client.model("moods").predict_frame(frame, column="text")


def test_failed_rows_of_a_frame_are_told(client: Client) -> None:
    frame = pd.DataFrame({"a": [1.0, float("nan")], "b": [2.0, 4.0]})
    found = client.model("table").predict_frame(frame, on_error="return")
    assert found["predicted_value"].isna().tolist() == [False, True]
    assert "column 'a': got NaN" in found["predicted_error"][1]


def test_a_frame_goes_out_in_blocks_and_failures_keep_their_rows(client: Client) -> None:
    words = ["good", "bad tea", "good film"] * 20
    words[31] = ""
    frame, told = pd.DataFrame({"review": words}), []
    model = client.model("moods")
    found = model.predict_frame(
        frame, column="review", max_rows=7, concurrency=3, on_error="return",
        progress=lambda *seen: told.append(seen),
    )  # fmt: skip
    labels = ["positive" if "good" in word else "negative" for word in words]
    labels[31] = None
    assert found["predicted_label"].replace({np.nan: None}).tolist() == labels
    assert found["predicted_error"].notna().to_numpy().nonzero()[0].tolist() == [31]
    assert told[-1] == (60, 60)
    with pytest.raises(BulkError, match="1 of 60 items failed; the first is item 31") as raised:
        model.predict_frame(frame, column="review", max_rows=7)
    assert isinstance(raised.value.failures[31], BadRequestError)
    assert raised.value.failures[31].index == 31


def test_a_payload_that_cannot_be_sent_stays_in_its_row(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "digit.png"
    path.write_bytes(png())
    frame = pd.DataFrame({"file": [str(path), str(tmp_path / "none.png"), str(path)]})
    model = client.task(Classification, "digits")
    found = model.predict_frame(frame, column="file", on_error="return", max_rows=2)
    assert found["predicted_label"].notna().tolist() == [True, False, True]
    assert "none.png" in found["predicted_error"][1]


def test_polars_frames_keep_their_kind(client: Client) -> None:
    polars = pytest.importorskip("polars", reason="polars is not installed")
    frame = polars.DataFrame({"a": [1.0, 3.0], "b": [2.0, 4.0]})
    found = client.model("table").predict_frame(frame)
    assert found["predicted_value"].to_list() == [1.0, 3.0]


def test_embeddings_similarity_and_ranking(client: Client) -> None:
    vectors = client.text_embedding("vectors")
    assert vectors.predict("good").vector == (1.0, 0.0)
    assert [one.vector for one in vectors.predict(["good", "tea"])] == [(1.0, 0.0), (0.0, 1.0)]
    assert vectors.similarity(["good", "tea"]).matrix[0][1] == pytest.approx(0.0)
    ranking = vectors.rank("tea", ["bad", "tea", "good"], top_k=1)
    assert isinstance(ranking, Ranking)
    assert ranking.ranking[0].text == "tea"


def test_a_pipeline_answers_with_its_last_steps_type(client: Client) -> None:
    found = client.model("best").predict({"query": "bad", "documents": ["good", "bad tea"]})
    assert isinstance(found, Classification)
    assert found.label == "negative"


@pytest.mark.parametrize("kind", ["http", "local"])
async def test_the_asynchronous_client_does_the_same(
    kind: str, repository: Path, server: str, tmp_path: Path
) -> None:
    client = AsyncClient(server) if kind == "http" else AsyncClient.local(repository)

    async def words() -> AsyncIterator[str]:
        for word in ("good", "bad"):
            await asyncio.sleep(0)
            yield word

    async with client:
        model = client.model("moods")
        assert (await model.predict("good")).label == "positive"
        assert [one.label for one in await model.predict(["good", "bad"])] == [
            "positive", "negative",
        ]  # fmt: skip
        assert [one.label async for one in model.predict_many(words())] == ["positive", "negative"]
        assert (await client.predict("moods", "bad")).label == "negative"
        frame = pd.DataFrame({"a": [1.0], "b": [2.0]})
        found = await client.task(Regression, "table").predict_frame(frame)
        assert found["predicted_value"].tolist() == [1.0]
        ranking = await client.text_embedding("vectors").rank("tea", ["bad", "tea"])
        assert ranking.ranking[0].index == 1
        with pytest.raises(BulkError):
            await model.predict(["good", ""])
        path = tmp_path / "digit.png"
        path.write_bytes(png())
        assert await client.task(Classification, "digits").predict(
            str(path)
        ) == await client.predict("digits", stroke())


def test_a_recording_travels_as_wav() -> None:
    content = payloads.wav(np.array([[0.0, 1.0], [-1.0, 0.5]]), 8000)
    with wave.open(io.BytesIO(content)) as file:
        assert (file.getnchannels(), file.getframerate(), file.getnframes()) == (2, 8000, 2)
        samples = np.frombuffer(file.readframes(2), "<i2")
    assert samples.tolist() == [0, 32767, -32767, 16384]


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 1), (3, 5, 3), (3, 5, 4)])
def test_a_picture_travels_as_png(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    with Image.open(io.BytesIO(payloads.png(pixels))) as image:
        assert np.array_equal(np.asarray(image), pixels.squeeze())


@pytest.mark.parametrize(
    ("value", "told"),
    [
        pytest.param(object(), "got object; accepted: text, bytes", id="object"),
        pytest.param({1, 2}, "got set", id="set"),
        pytest.param("\ud800", "lone surrogate", id="surrogate"),
        pytest.param(np.zeros((2, 2, 7), np.uint8), "picture: expected uint8", id="channels"),
        pytest.param((np.zeros((1, 1, 1)), 8000), "recording: expected", id="recording"),
    ],
)
def test_what_cannot_be_sent_is_told_before_the_wire(value: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        payloads.encode(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param(pd.Timestamp("2024-05-01"), '"2024-05-01T00:00:00"', id="date"),
        pytest.param({"a": pd.NaT, "b": pd.NA}, '{"a":null,"b":null}', id="missing"),
        pytest.param({"a": np.float32(0.5), "b": np.int64(3)}, '{"a":0.5,"b":3}', id="scalars"),
        pytest.param([1, float("nan")], "[1,NaN]", id="NaN"),
    ],
)
def test_values_of_frames_have_their_json(value: Any, text: str) -> None:
    assert payloads.encode(value).decode() == text


def test_the_prediction_of_an_unknown_task_keeps_its_fields() -> None:
    found = read_prediction("somebodys-own", {"depth": 3})
    assert isinstance(found, Record)
    assert json.loads(found.model_dump_json()) == {"depth": 3}


def test_a_server_without_tasks_is_told_apart_from_a_missing_model(client: Client) -> None:
    with pytest.raises(ModelNotFoundError):
        client.model("none").predict("a")
    with FakeServer() as other, Client(other.url) as plain:
        other.fail(404, text="not found", path=":predict", code="not_found")
        with pytest.raises(NotSupportedError):
            plain.model("moods").predict("a")


def test_a_typed_handle_checks_the_task_of_the_card(client: Client) -> None:
    typed = client.text_classification("digits")
    for call in (typed.predict, lambda text: list(typed.predict_many([text]))):
        with pytest.raises(
            InputError, match="'digits': expected task 'text-classification', got task 'digits'"
        ):
            call("good film")
    with pytest.raises(InputError, match="expected a model that gives Speech, got task 'digits'"):
        client.task(Speech, "digits").predict("hello")
    with pytest.raises(InputError, match="'vectors': expected task 'ocr', got task 'text-emb"):
        client.ocr("vectors").predict("page.png")
    assert (
        client.task(Classification, "best")
        .predict({"query": "bad", "documents": ["good", "bad tea"]})
        .label
        == "negative"
    )  # what a pipeline gives is known with its answer only
    with pytest.raises(ModelNotFoundError):
        client.text_classification("none").predict("a")


async def test_a_typed_handle_checks_the_task_on_a_loop_too(server: str) -> None:
    async with AsyncClient(server) as client:
        with pytest.raises(InputError, match="expected task 'text-classification', got task 'd"):
            await client.text_classification("digits").predict("good film")
        typed = client.text_classification("digits")
        with pytest.raises(InputError, match="got task 'digits'"):
            _ = [one async for one in typed.predict_many(["good film"])]


def test_the_card_is_asked_for_once_by_a_client() -> None:
    with FakeServer() as fake, Client(fake.url) as client:
        fake.add_task("m", lambda text: {"label": text, "score": 1.0}, task="text-classification")
        for text in ("a", "b", "c"):
            assert client.text_classification("m").predict(text).label == text
        paths = [request.path for request in fake.requests]
    assert paths == ["/v1/models/m", *["/v1/models/m:predict"] * 3]


def test_a_model_that_was_replaced_by_one_of_the_right_task_is_taken() -> None:
    with FakeServer() as fake, Client(fake.url) as client:
        fake.add_task("m", lambda text: {"x": 1}, task="ocr")
        typed = client.text_classification("m")
        with pytest.raises(InputError, match="expected task 'text-classification', got task 'ocr'"):
            typed.predict("a")
        fake.add_task("m", lambda text: {"label": text, "score": 1.0}, task="text-classification")
        assert typed.predict("a").label == "a"


def test_a_model_without_a_task_is_told() -> None:
    with FakeServer() as fake, Client(fake.url) as client:
        fake.add_task("m", lambda text: {"x": 1}, task="")
        with pytest.raises(InputError, match="'m': expected task 'ocr', got no task"):
            client.ocr("m").predict(b"png")


def test_a_task_of_somebody_else_gives_records() -> None:
    with FakeServer() as fake, Client(fake.url) as client:
        fake.add_task("deep", lambda text: {"depth": len(text)}, task="somebodys-own")
        assert client.task(Record, "deep").predict("abc").model_dump() == {"depth": 3}


@pytest.mark.parametrize("wrong", [str, "ocr", Label, None])
def test_what_is_no_type_of_predictions_is_refused(wrong: Any) -> None:
    with (
        Client("http://127.0.0.1:1") as client,
        pytest.raises(OptionTypeError, match="prediction: expected one of Classification, .*, got"),
    ):
        client.task(wrong, "m")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"on_error": "ignore"}, "on_error: expected 'raise' or 'return', got 'ignore'"),
        ({"max_rows": 0}, "max_rows: expected at least 1, got 0"),
        ({"max_rows": "8"}, "max_rows: expected a whole number, got '8'"),
        ({"max_bytes": 1.5}, "max_bytes: expected a whole number, got 1.5"),
        ({"concurrency": True}, "concurrency: expected a whole number, got True"),
        ({"progress": "bar"}, "progress: expected a bool or a callable, got 'bar'"),
    ],
)
def test_options_of_a_wrong_kind_are_named(options: dict[str, Any], told: str) -> None:
    with Client("http://127.0.0.1:1") as client:
        frame = pd.DataFrame({"a": [1]})
        for call, given in (
            (client.model("m").predict_many, ["a"]),
            (client.model("m").infer_many, [1]),
            (client.model("m").predict_frame, frame),
        ):
            with pytest.raises((InputError, OptionTypeError), match=told):
                call(given, **options)


@pytest.mark.parametrize("many", ["predict_many", "infer_many"])
def test_what_cannot_be_iterated_is_told(client: Client, many: str) -> None:
    with pytest.raises(InputError, match="got int"):
        list(getattr(client.model("table"), many)(5))


def test_a_frame_is_refused_where_its_predictions_would_not_fit_its_rows(client: Client) -> None:
    frame = pd.DataFrame({"a": [1.0], "b": [2.0]})
    with pytest.raises(InputError, match="ordered: predictions of a frame keep the order"):
        client.model("table").predict_frame(frame, ordered=False)
    with pytest.raises(OptionTypeError, match="prefix: expected text, got None"):
        client.model("table").predict_frame(frame, prefix=None)
    twice = pd.DataFrame([["good", "bad"]], columns=["text", "text"])
    with pytest.raises(InputError, match="2 columns 'text'"):
        client.model("moods").predict_frame(twice, column="text")
