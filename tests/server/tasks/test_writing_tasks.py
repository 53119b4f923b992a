"""Text to text and speech to text on tiny models whose answers follow from their making."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from aiaas_server.core.errors import InvalidInput, LoadFailed, ModelNotFound
from aiaas_server.tasks.audio import Sound, encode_wav
from aiaas_server.tasks.log_mel import RATE, log_mel, mel_filters
from tests.graphs import model, value
from tests.speech_models import SIGNS, recognition, spelled, spelling_model

WORDS = ["<pad>", "</s>", "<unk>", "one", "two", "eins", "zwei", "low", "high"]
END = WORDS.index("</s>")


def tokenizer() -> bytes:
    """Words to numbers, an end token after them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", END)]
    )
    made.add_special_tokens(["<pad>", "</s>", "<unk>"])
    return made.to_str().encode()


def encoder() -> bytes:
    """Each token as a row with a one at its number; masked rows are empty."""
    nodes = [
        helper.make_node("OneHot", ["input_ids", "depth", "values"], ["hot"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "axis"], ["column"]),
        helper.make_node("Mul", ["hot", "column"], ["last_hidden_state"]),
    ]
    size = ["batch", "length"]
    kind = TensorProto.INT64
    inputs = [value("input_ids", size, kind), value("attention_mask", size, kind)]
    return model(
        nodes,
        inputs,
        [value("last_hidden_state", [*size, len(WORDS)])],
        depth=np.int64(len(WORDS)),
        values=np.array([0, 10], np.float32),
        axis=np.array([2], np.int64),
    )


def decoder(translate: dict[str, str], width: int = len(WORDS), with_mask: bool = True) -> bytes:
    """The word after t tokens is the translation of the encoder's row t."""
    weights = np.zeros((width, len(WORDS)), np.float32)
    for word in range(min(width, len(WORDS))):
        weights[word, WORDS.index(translate.get(WORDS[word], WORDS[word]))] = 1
    nodes = [
        helper.make_node("Shape", ["input_ids"], ["count"], start=1, end=2),
        helper.make_node("Slice", ["encoder_hidden_states", "zero", "count", "one"], ["rows"]),
        helper.make_node("MatMul", ["rows", "weights"], ["logits"]),
    ]
    inputs = [
        value("input_ids", ["rows", "length"], TensorProto.INT64),
        value("encoder_hidden_states", ["rows", "source", width]),
    ]
    if with_mask:
        inputs.append(value("encoder_attention_mask", ["rows", "source"], TensorProto.INT64))
    return model(
        nodes,
        inputs,
        [value("logits", ["rows", "written", len(WORDS)])],
        zero=np.array([0], np.int64),
        one=np.array([1], np.int64),
        weights=weights,
    )


STEP = {"model": "words-decoder", "input": "input_ids"}
TRANSLATION = {
    "task": "text-to-text",
    "postprocessing": {"decoder": STEP, "begin": [0], "end": END, "max_new_tokens": 8},
}


@pytest.fixture
def translator(open_bundle: Any) -> Any:
    german = decoder({"one": "eins", "two": "zwei"})
    assets = {"tokenizer.json": tokenizer()}
    return open_bundle(encoder(), TRANSLATION, assets, {"words-decoder": german})


@pytest.mark.parametrize("beams", [1, 3])
def test_words_are_translated_until_the_end_token(translator: Any, beams: int) -> None:
    written = translator.predict("one two two", beams=beams)
    assert written.text == "eins zwei zwei"
    assert written.tokens == 3
    assert written.finish_reason == "stop"
    assert 0.9 < written.score <= 1


def test_the_limit_is_told(translator: Any) -> None:
    written = translator.predict("one two one", max_new_tokens=2)
    assert written.text == "eins zwei"
    assert written.finish_reason == "length"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "is empty", id="empty"),
        pytest.param(7, "got a number", id="number"),
        pytest.param("one " * 600, "has 601 tokens, at most 512 are accepted", id="tokens"),
        pytest.param("x" * 20_001, "20,001 characters", id="characters"),
    ],
)
def test_what_cannot_be_translated_is_said(translator: Any, text: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        translator.predict(text)


def test_a_card_without_its_parts_is_refused(open_bundle: Any, onnx_models: Any) -> None:
    with pytest.raises(LoadFailed, match=r"asset 'tokenizer.json' is missing"):
        open_bundle(encoder(), TRANSLATION)
    with pytest.raises(LoadFailed, match=r"asset 'tokenizer.json' is no tokenizer"):
        open_bundle(encoder(), TRANSLATION, {"tokenizer.json": b"{}"})
    with pytest.raises(LoadFailed, match=r"an encoder takes 'input_ids' .* got x"):
        open_bundle(onnx_models.identity(), TRANSLATION, {"tokenizer.json": tokenizer()})
    with pytest.raises(LoadFailed, match=r"postprocessing: 'decoder' is missing"):
        open_bundle(encoder(), {"task": "text-to-text"}, {"tokenizer.json": tokenizer()})
    alone = open_bundle(encoder(), TRANSLATION, {"tokenizer.json": tokenizer()})
    with pytest.raises(ModelNotFound, match="words-decoder"):
        alone.predict("one")


@pytest.mark.parametrize(
    "vocabulary",
    [json.dumps(SIGNS), json.dumps({sign: i for i, sign in enumerate(SIGNS)})],
    ids=["list", "object"],
)
def test_signs_are_read_runs_merged_and_blanks_dropped(open_bundle: Any, vocabulary: str) -> None:
    bundle = open_bundle(spelling_model(), recognition(), {"vocab.json": vocabulary.encode()})
    heard = bundle.predict(spelled("_AA_A|B__CC_"))
    assert heard.text == "AA BC"
    assert heard.duration == pytest.approx(12 * 0.03)
    (segment,) = heard.segments
    assert segment.label == "AA BC"
    assert segment.score > 0.9


def test_long_recordings_are_heard_in_windows(open_bundle: Any) -> None:
    assets = {"vocab.json": json.dumps(SIGNS).encode()}
    bundle = open_bundle(spelling_model(), recognition(window=0.15, cut="evenly"), assets)
    heard = bundle.predict(spelled("_ABC_" + "_____" + "_C_B_"))
    assert heard.text == "ABC CB"
    assert [(round(s.start, 2), round(s.end, 2)) for s in heard.segments] == [
        (0, 0.15),
        (0.3, 0.45),
    ]


def test_a_vocabulary_that_does_not_fit_is_refused(open_bundle: Any) -> None:
    short = {"vocab.json": json.dumps(SIGNS[:-1]).encode()}
    with pytest.raises(LoadFailed, match=r"has 4 signs, output 'logits' has 5"):
        open_bundle(spelling_model(), recognition(), short)
    other = {"vocab.json": json.dumps(["-", *SIGNS[1:]]).encode()}
    with pytest.raises(LoadFailed, match=r"the blank '<pad>' is not among its signs"):
        open_bundle(spelling_model(), recognition(), other)
    gap = {"vocab.json": json.dumps({"A": 5}).encode()}
    with pytest.raises(LoadFailed, match="without gaps"):
        open_bundle(spelling_model(), recognition(), gap)
    with pytest.raises(LoadFailed, match=r"'log-mel' need one input of 3 dimensions"):
        open_bundle(spelling_model(), recognition(features="log-mel"), short)


def tones_encoder(seconds: int) -> bytes:
    """Each second's mean spectrum as a row `bands + 1`, then a row that only means the end."""
    end = np.zeros((1, 1, 81), np.float32)
    end[0, 0, 80] = 100
    nodes = [
        helper.make_node("Exp", ["input_features"], ["loudness"]),
        helper.make_node("AveragePool", ["loudness"], ["mean"], kernel_shape=[100], strides=[100]),
        helper.make_node("Transpose", ["mean"], ["rows"], perm=[0, 2, 1]),
        helper.make_node("Pad", ["rows", "wider"], ["wide"]),
        helper.make_node("Concat", ["wide", "end"], ["last_hidden_state"], axis=1),
    ]
    return model(
        nodes,
        [value("input_features", ["batch", 80, seconds * 100])],
        [value("last_hidden_state", ["batch", seconds + 1, 81])],
        wider=np.array([0, 0, 0, 0, 0, 1], np.int64),
        end=end,
    )


def tones_decoder() -> bytes:
    """Says `low` or `high` for each row of the encoder, and the end for its last."""
    weights = np.zeros((81, len(WORDS)), np.float32)
    weights[:40, WORDS.index("low")] = 1
    weights[40:80, WORDS.index("high")] = 1
    weights[80, END] = 1
    nodes = [
        helper.make_node("Shape", ["input_ids"], ["count"], start=1, end=2),
        helper.make_node("Slice", ["encoder_hidden_states", "zero", "count", "one"], ["rows"]),
        helper.make_node("MatMul", ["rows", "weights"], ["logits"]),
    ]
    inputs = [
        value("input_ids", ["rows", "length"], TensorProto.INT64),
        value("encoder_hidden_states", ["rows", "source", 81]),
    ]
    return model(
        nodes,
        inputs,
        [value("logits", ["rows", "written", len(WORDS)])],
        zero=np.array([0], np.int64),
        one=np.array([1], np.int64),
        weights=weights,
    )


def tone(hertz: float, seconds: float = 1.0) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    return (0.5 * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def test_an_encoder_and_a_decoder_write_what_is_heard(open_bundle: Any) -> None:
    card = {
        "task": "automatic-speech-recognition",
        "preprocessing": {"features": "log-mel", "window": 3},
        "postprocessing": {
            "kind": "encoder-decoder",
            "decoder": STEP,
            "mask": "",
            "begin": [0],
            "end": END,
        },
    }
    assets = {"tokenizer.json": tokenizer()}
    bundle = open_bundle(tones_encoder(3), card, assets, {"words-decoder": tones_decoder()})
    clip = np.concatenate([tone(300), tone(5000), tone(400)])
    assert bundle.predict(encode_wav(Sound(clip, RATE))).text == "low high low"


def test_a_tone_lies_in_its_band() -> None:
    corners = mel_filters(80).argmax(axis=1) * RATE / 400
    for hertz in (400, 1000, 3000, 6000):
        spectrum = log_mel(tone(hertz), 80, 1.0)[0].mean(axis=1)
        assert corners[spectrum.argmax()] == pytest.approx(hertz, rel=0.06)


def test_filters_have_the_area_one_and_the_spectrogram_its_range() -> None:
    area = mel_filters(80).sum(axis=1) * RATE / 400
    assert area[20:] == pytest.approx(1, abs=0.15)
    spectrogram = log_mel(tone(1000, 0.4), 128, 2.0)
    assert spectrogram.shape == (1, 128, 200)
    assert spectrogram.max() - spectrogram.min() == pytest.approx(2, abs=1e-5)
    silence = log_mel(np.zeros(0, np.float32), 80, 1.0)
    assert silence == pytest.approx(np.full((1, 80, 100), -1.5))
