"""What is handed to `predict` arrives as the same thing, or is refused before anything is sent."""

from __future__ import annotations

import base64
import io
import json
import wave
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from PIL import Image

from aiaas_client import InputError
from aiaas_client._payloads import encode, is_slow, records_of, wav
from aiaas_server.tasks.images import decode_image

RNG = np.random.default_rng(0)
NOISE = Image.fromarray(RNG.integers(0, 256, (7, 5, 4), np.uint8))


def file_of(image: Image.Image, kind: str, orientation: int, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, kind, exif=exif, **options)
    return buffer.getvalue()


def sent(payload: Any) -> bytes:
    return base64.b64decode(json.loads(encode(payload))["b64"])


def palette(**info: Any) -> Image.Image:
    image = NOISE.convert("RGB").quantize(20)
    image.info |= info
    return image


DEEP = Image.fromarray(RNG.integers(0, 65536, (7, 5), np.uint16))
FILES = [
    pytest.param(NOISE.convert("RGB"), "PNG", {}, id="RGB"),
    pytest.param(NOISE, "PNG", {}, id="RGBA"),
    pytest.param(NOISE.convert("L"), "PNG", {}, id="L"),
    pytest.param(NOISE.convert("LA"), "PNG", {}, id="LA"),
    pytest.param(NOISE.convert("1"), "PNG", {}, id="1"),
    pytest.param(palette(), "PNG", {}, id="P"),
    pytest.param(palette(), "PNG", {"transparency": 3}, id="P, a transparent entry"),
    pytest.param(palette(), "PNG", {"transparency": bytes(range(0, 200, 10))}, id="P, many"),
    pytest.param(NOISE.convert("L"), "PNG", {"transparency": 77}, id="L, a transparent grey"),
    pytest.param(DEEP, "PNG", {}, id="I;16"),
    pytest.param(DEEP, "PNG", {"transparency": DEEP.getpixel((1, 2))}, id="I;16, transparent"),
    pytest.param(DEEP, "TIFF", {}, id="I;16 TIFF"),
    pytest.param(NOISE.convert("CMYK"), "JPEG", {}, id="CMYK"),
    pytest.param(NOISE.convert("CMYK"), "TIFF", {}, id="CMYK TIFF"),
    pytest.param(NOISE.convert("RGB"), "JPEG", {}, id="JPEG"),
    pytest.param(NOISE.convert("L"), "JPEG", {}, id="grey JPEG"),
    pytest.param(NOISE.convert("RGB").convert("LAB"), "TIFF", {}, id="LAB"),
    pytest.param(NOISE.convert("YCbCr"), "TIFF", {}, id="YCbCr"),
    pytest.param(NOISE, "WEBP", {"lossless": True}, id="WebP"),
]


@pytest.mark.parametrize(("image", "kind", "options"), FILES)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_pillow_image_shows_what_its_file_shows(
    image: Image.Image, kind: str, options: dict[str, Any], orientation: int
) -> None:
    content = file_of(image, kind, orientation, **options)
    opened = Image.open(io.BytesIO(content))
    expected = decode_image(content)
    assert expected.shape[:2] == ((5, 7) if orientation > 4 else (7, 5))
    assert decode_image(sent(opened)).tolist() == expected.tolist()
    assert decode_image(sent(opened)).tolist() == expected.tolist(), "handed over twice"
    if kind != "TIFF":  # pillow itself turns such a file as it reads it
        assert opened.getexif().get(0x0112) == orientation, "the caller's own image is as it was"
    assert decode_image(opened).tolist() == expected.tolist()


def test_the_frame_that_a_pillow_image_shows_is_sent() -> None:
    frames = [Image.new("RGB", (3, 2), colour) for colour in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    opened = Image.open(buffer)
    assert decode_image(sent(opened))[0, 0].tolist() == [255, 0, 0]
    opened.seek(1)
    assert decode_image(sent(opened))[0, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize("mode", ["HSV", "PA", "La", "RGBa", "RGBX"])
def test_modes_that_no_file_has_are_converted_or_refused(mode: str) -> None:
    source = {"PA": "P", "La": "LA", "RGBa": "RGBA"}.get(mode, "RGB")
    image = Image.new(source, (3, 2)).convert(mode)
    try:
        expected = decode_image(image)
    except Exception:
        with pytest.raises(InputError, match="the picture cannot be sent"):
            encode(image)
    else:
        assert decode_image(sent(image)).tolist() == expected.tolist()


def test_pictures_that_a_model_cannot_see_are_refused() -> None:
    for image in (Image.new("F", (2, 2)), Image.new("I", (2, 2)), Image.new("RGB", (0, 2))):
        with pytest.raises(InputError, match="the picture cannot be sent"):
            encode(image)
    cut = Image.open(io.BytesIO(file_of(NOISE, "PNG", 1)[:80]))
    with pytest.raises(InputError, match="the picture cannot be sent"):
        encode(cut)


def heard(samples: Any, rate: Any = 8_000) -> tuple[int, np.ndarray]:
    with wave.open(io.BytesIO(sent((samples, rate)))) as file:
        frames = file.readframes(file.getnframes())
        return file.getnchannels(), np.frombuffer(frames, "<i2")


@pytest.mark.parametrize(
    "dtype", [np.float16, np.float32, np.float64, ">f4", np.longdouble, np.int16, ">i2"]
)
def test_samples_of_every_type_are_heard_alike(dtype: Any) -> None:
    values = np.array([0, 0.5, -0.5, 1, -1])
    if np.dtype(dtype).kind == "i":
        values = np.round(values * 32767)
    channels, samples = heard(values.astype(dtype))
    assert channels == 1
    assert samples.tolist() == pytest.approx([0, 16384, -16384, 32767, -32767], abs=1)


def test_a_little_over_full_scale_is_clipped_and_channels_are_kept() -> None:
    assert heard(np.array([1.2, -1.9]))[1].tolist() == [32767, -32767]
    channels, samples = heard(np.array([[0.0, 1.0], [1.0, 0.0]]), 8_000.0)
    assert (channels, samples.tolist()) == (2, [0, 32767, 32767, 0])
    assert heard(np.zeros(1, np.float32))[1].tolist() == [0]


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        pytest.param(
            (np.full(9, 9_000.0), 8_000), "floats from -1 to 1, got 9,000", id="int16 size"
        ),
        pytest.param((np.full(9, 2.5), 8_000), "floats from -1 to 1, got 2.5", id="too loud"),
        pytest.param(
            (np.zeros((2, 99)), 8_000), r"\(2, 99\) at 8000; .* its transpose", id="turned"
        ),
        pytest.param((np.zeros((1, 70_000)), 8_000), "its transpose", id="turned mono"),
        pytest.param(
            (np.zeros((99, 9)), 8_000), r"of up to 8 channels .*\(99, 9\)", id="9 channels"
        ),
        pytest.param((np.zeros((9, 9, 9)), 8_000), r"\(9, 9, 9\)", id="three axes"),
        pytest.param((np.zeros((0, 2)), 8_000), "1 sample or more", id="no sample"),
        pytest.param((np.zeros((9, 0)), 8_000), r"\(9, 0\)", id="no channel"),
        pytest.param((np.array([0, np.nan]), 8_000), "must be finite", id="NaN"),
        pytest.param((np.zeros(9), 0), "a rate of 1 to 192,000", id="rate 0"),
        pytest.param((np.zeros(9), 2**40), "a rate of 1 to 192,000", id="a huge rate"),
        pytest.param(
            (np.zeros(9), 8_000.5), "a whole number of samples a second", id="half a rate"
        ),
        pytest.param((np.zeros(9), np.nan), "a whole number of samples a second", id="NaN as rate"),
        pytest.param((np.zeros(9), "8000"), "a whole number of samples a second", id="a text"),
        pytest.param((8_000, np.zeros(9)), r"got \(rate, samples\)", id="scipy's order"),
        pytest.param((np.zeros(9, np.int32), 8_000), "floats or int16, got int32", id="int32"),
        pytest.param((np.zeros(9, complex), 8_000), "floats or int16, got complex", id="complex"),
        pytest.param(
            (np.ma.masked_array([0.5, 9], mask=[False, True]), 8_000),
            "1 samples are masked",
            id="mask",
        ),
    ],
)
def test_recordings_that_would_be_heard_wrong_are_refused(payload: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        encode(payload)


def test_wav_is_what_other_programs_read() -> None:
    soundfile = pytest.importorskip("soundfile")
    samples = RNG.uniform(-1, 1, (50, 6))
    found, rate = soundfile.read(io.BytesIO(wav(samples, 44_100)))
    assert (found.shape, rate) == ((50, 6), 44_100)
    assert found == pytest.approx(samples, abs=1e-4)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param(
            np.datetime64("2020-01-02T03:04:05", "ns"), '"2020-01-02T03:04:05.000000000"', id="ns"
        ),
        pytest.param(np.datetime64("2020-01-02"), '"2020-01-02"', id="a day"),
        pytest.param(np.array(["2020-01-02", "NaT"], "M8[D]"), '["2020-01-02",null]', id="days"),
        pytest.param(
            pd.Timestamp("2020-01-02", tz="Asia/Tokyo"), '"2020-01-02T00:00:00+09:00"', id="zone"
        ),
        pytest.param(pd.NaT, "null", id="no time"),
        pytest.param(pd.NA, "null", id="nothing"),
        pytest.param(np.uint64(2**64 - 59), str(2**64 - 59), id="unsigned"),
        pytest.param(np.float32(0.5), "0.5", id="a number of numpy"),
        pytest.param(np.bool_(True), "true", id="a truth of numpy"),
        pytest.param({"a": np.nan}, '{"a":NaN}', id="NaN"),
        pytest.param({1: "a\0b"}, r'{"1":"a\u0000b"}', id="NUL"),
        pytest.param(memoryview(b"abcd")[::2], '{"b64":"YWM="}', id="every other byte"),
        pytest.param(np.ma.masked_array([1, 2], mask=False), "[1,2]", id="nothing masked"),
    ],
)
def test_values_have_one_json(value: Any, text: str) -> None:
    assert encode(value).decode() == text


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(np.ma.masked_array([1, 2], mask=[True, False]), id="a mask"),
        pytest.param(
            np.ma.masked_array(np.zeros((2, 2), np.uint8), mask=True), id="a masked picture"
        ),
        pytest.param([np.ma.masked], id="the masked constant"),
        pytest.param(np.timedelta64(1, "s"), id="a span of time"),
        pytest.param(np.zeros(2, [("a", "f4")]), id="a structured array"),
        pytest.param(1j, id="complex"),
        pytest.param(Decimal("0.1"), id="a decimal"),
        pytest.param({1, 2}, id="a set"),
        pytest.param(object(), id="an object"),
        pytest.param("\ud800", id="half a character"),
        pytest.param(np.zeros((0, 4), np.uint8), id="a picture without rows"),
    ],
)
def test_what_has_no_json_is_refused(value: Any) -> None:
    with pytest.raises(InputError):
        encode({"a": value})


def test_frames_of_both_libraries_give_the_same_records() -> None:
    columns = {"i": [1, None], "t": ["x", None], "f": [0.5, 1.5]}
    pandas = pd.DataFrame(columns).astype({"i": "Int64", "t": "category"})
    texts = [json.loads(encode(record)) for record in records_of(pandas)]
    assert texts[0] == {"i": 1, "t": "x", "f": 0.5}
    assert texts[1]["i"] is None
    assert [json.loads(encode(r)) for r in records_of(pl.DataFrame(columns))] == [
        {"i": 1, "t": "x", "f": 0.5},
        {"i": None, "t": None, "f": 1.5},
    ]


def test_a_frame_with_two_columns_of_one_name_is_refused() -> None:
    with pytest.raises(InputError, match="two columns 'a'"):
        records_of(pd.DataFrame([[1, 2]], columns=["a", "a"]))


def test_long_recordings_are_not_made_on_an_event_loop(tmp_path: Path) -> None:
    assert is_slow((np.zeros(100_000, np.float32), 8_000))
    assert not is_slow((np.zeros(10, np.float32), 8_000))
    assert is_slow(tmp_path)
