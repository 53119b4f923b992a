"""Recordings of every kind become one channel at the wanted rate, or a message says why not."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given
from hypothesis import strategies as st

from aiaas_server.core.errors import InvalidInput
from aiaas_server.tasks.audio import BLOCK, Sound, decode_audio, encode_wav

RATE = 16_000


def tone(rate: int = RATE, seconds: float = 0.5, pitch: float = 440.0) -> np.ndarray:
    time = np.arange(round(rate * seconds)) / rate
    return (0.5 * np.sin(2 * np.pi * pitch * time)).astype(np.float32)


def recorded(
    samples: np.ndarray, rate: int = RATE, kind: str = "WAV", form: str = "PCM_16"
) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=form)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "form", "tolerance"),
    [
        pytest.param("WAV", "PCM_U8", 0.01, id="8 bits"),
        pytest.param("WAV", "PCM_16", 1e-4, id="16 bits"),
        pytest.param("WAV", "PCM_24", 1e-6, id="24 bits"),
        pytest.param("WAV", "PCM_32", 1e-6, id="32 bits"),
        pytest.param("WAV", "FLOAT", 1e-7, id="floating point"),
        pytest.param("WAV", "ULAW", 0.02, id="telephone"),
        pytest.param("WAVEX", "PCM_24", 1e-6, id="extensible"),
        pytest.param("FLAC", "PCM_16", 1e-4, id="flac"),
        pytest.param("OGG", "VORBIS", 0.1, id="ogg"),
    ],
)
def test_every_form_gives_the_samples_back(kind: str, form: str, tolerance: float) -> None:
    sound = decode_audio(recorded(tone(), RATE, kind, form), rate=RATE)
    assert sound.rate == RATE
    assert sound.samples.dtype == np.float32
    assert sound.samples == pytest.approx(tone(), abs=tolerance)


def test_channels_are_averaged() -> None:
    both = np.stack([tone(), np.zeros(8000, np.float32)], axis=1)
    assert decode_audio(recorded(both), rate=RATE).samples == pytest.approx(tone() / 2, abs=1e-3)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000, 96_000])
def test_other_rates_become_the_wanted_one(rate: int) -> None:
    sound = decode_audio(recorded(tone(rate), rate, form="FLOAT"), rate=RATE)
    assert len(sound.samples) == pytest.approx(8000, abs=2)
    assert sound.seconds == pytest.approx(0.5, abs=1e-3)
    middle = slice(1000, 7000)
    assert sound.samples[middle] == pytest.approx(tone()[middle], abs=0.01)


def test_what_the_lower_rate_cannot_hold_is_removed_not_folded() -> None:
    high = recorded(tone(96_000, pitch=20_000), 96_000, form="FLOAT")
    assert np.abs(decode_audio(high, rate=RATE).samples[500:-500]).max() < 0.01


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        pytest.param(
            b"", r"the audio is empty \(0 bytes\), expected a WAV, FLAC or Ogg", id="empty"
        ),
        pytest.param(
            b"ID3\x04 some music", r"is not a WAV, FLAC or Ogg recording; it begins", id="mp3"
        ),
        pytest.param(b"RIFF", r"damaged or cut off \(4 bytes came\)", id="only a beginning"),
        pytest.param(recorded(tone())[:30], r"damaged or cut off", id="header cut"),
        pytest.param(
            recorded(tone())[:2044],
            r"cut off: .* more than the 1000 samples \(0.06 s\)",
            id="wav cut",
        ),
        pytest.param(recorded(tone(), kind="FLAC")[:2000], r"damaged or cut off", id="flac cut"),
        pytest.param(recorded(tone()[:0]), r"the audio has no samples", id="no samples"),
        pytest.param(
            recorded(tone(), 1000),
            r"has 1000 samples a second, expected 4,000 to 192,000",
            id="rate",
        ),
        pytest.param(
            recorded(np.zeros((10, 12), np.float32)), r"12 channels, at most 8", id="channels"
        ),
        pytest.param(
            recorded(np.array([0, np.nan], np.float32), form="FLOAT"),
            r"samples that are not numbers",
            id="nan",
        ),
        pytest.param("voice.wav", r"recording as bytes, got str", id="str"),
    ],
)
def test_what_is_wrong_with_a_recording_is_said(payload: object, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        decode_audio(payload, rate=RATE)


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_block_by_block_is_as_at_once(rate: int) -> None:
    """Longer than a block in stereo, so that the rate is changed across several."""
    sound = np.random.default_rng(0).uniform(-0.9, 0.9, (BLOCK + 1234, 2)).astype(np.float32)
    file = io.BytesIO()
    soundfile.write(file, sound, rate, format="WAV", subtype="FLOAT")
    found = decode_audio(file.getvalue(), rate=RATE).samples
    expected = soxr.resample(sound.mean(axis=1, dtype=np.float32), rate, RATE)
    assert found.tolist() == expected.tolist()


def test_what_takes_long_to_decode_is_refused_by_its_number_of_values() -> None:
    with pytest.raises(InvalidInput, match=r"too long: 0.5 s, at most 0.25 s are accepted"):
        decode_audio(recorded(tone()), rate=RATE, most_values=RATE // 4)


def test_a_long_recording_is_refused_before_decoding() -> None:
    with pytest.raises(InvalidInput, match=r"too long: 0.5 s, at most 0.4 s are accepted"):
        decode_audio(recorded(tone()), rate=RATE, max_seconds=0.4)


def test_a_header_that_claims_hours_is_refused() -> None:
    content = bytearray(recorded(tone(), kind="FLAC"))
    # The stream's length: 36 bits that end the 18 bytes of its description, before the digest.
    content[8 + 13] |= 0x0F
    content[8 + 14 : 8 + 18] = b"\xff" * 4
    with pytest.raises(InvalidInput, match="too long"):
        decode_audio(bytes(content), rate=RATE)


def piped(content: bytes, length: int) -> bytes:
    """The WAV file as a program writes it that cannot go back and fill the length in."""
    changed = bytearray(content)
    place = content.index(b"data") + 4
    struct.pack_into("<I", changed, place, length)
    struct.pack_into("<I", changed, 4, (length + place - 4) & 0xFFFFFFFF)
    return bytes(changed)


@pytest.mark.parametrize(
    "length",
    [
        pytest.param(0xFFFFFFFF, id="ffmpeg"),
        pytest.param(0x7FFFF000, id="SoX"),
        pytest.param(0x80000000, id="arecord"),
        pytest.param(0x7FFFFFFE, id="arecord, three bytes a sample"),
        pytest.param(0, id="GStreamer"),
    ],
)
@pytest.mark.parametrize("form", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT", "ULAW", "MS_ADPCM"])
def test_a_wav_file_of_a_pipe_is_heard_to_its_end(length: int, form: str) -> None:
    content = recorded(tone(), form=form)
    whole = decode_audio(content, rate=RATE).samples
    heard = decode_audio(piped(content, length), rate=RATE).samples
    assert heard[: len(whole)].tolist() == whole[: len(heard)].tolist()
    assert len(heard) == pytest.approx(len(whole), abs=64)


def test_a_piped_file_cut_inside_a_sample_ends_with_the_sample_before() -> None:
    stereo = np.stack([tone(), tone()], axis=1)
    content = piped(recorded(stereo), 0xFFFFFFFF)
    assert len(decode_audio(content[:-3], rate=RATE).samples) == 7999


def test_an_empty_recording_with_chunks_behind_it_is_still_empty() -> None:
    content = recorded(tone()[:0]) + b"LIST" + struct.pack("<I", 4) + b"INFO"
    with pytest.raises(InvalidInput, match="the audio has no samples"):
        decode_audio(content, rate=RATE)


def test_a_flac_stream_of_unknown_length_is_heard_to_its_end_and_no_longer_than_allowed() -> None:
    content = bytearray(recorded(tone(), kind="FLAC"))
    content[8 + 13] &= 0xF0
    content[8 + 14 : 8 + 18] = bytes(4)
    assert decode_audio(bytes(content), rate=RATE).samples == pytest.approx(tone(), abs=1e-4)
    with pytest.raises(InvalidInput, match=r"too long: more than 0.4 s, at most 0.4 s"):
        decode_audio(bytes(content), rate=RATE, max_seconds=0.4)


@pytest.mark.parametrize("form", ["GSM610", "G721_32", "NMS_ADPCM_16", "IMA_ADPCM", "ALAW"])
def test_what_telephone_recorders_write_is_heard(form: str) -> None:
    sound = decode_audio(recorded(tone(8_000), 8_000, form=form), rate=RATE)
    assert sound.seconds == pytest.approx(0.5, abs=0.07)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG"])
@pytest.mark.parametrize("channels", [1, 2, 6, 8])
@pytest.mark.parametrize("count", [1, 7, 40_000])
def test_any_number_of_samples_and_channels(kind: str, channels: int, count: int) -> None:
    samples = np.full((count, channels), 0.25, np.float32)
    form = {"OGG": "VORBIS", "WAV": "PCM_24", "FLAC": "PCM_24"}[kind]
    sound = decode_audio(recorded(samples, kind=kind, form=form), rate=RATE)
    assert len(sound.samples) == count
    if kind != "OGG":
        assert sound.samples == pytest.approx(np.full(count, 0.25), abs=1e-6)


@pytest.mark.parametrize("error", [ValueError, TypeError, OSError, SystemError, AssertionError])
def test_whatever_the_decoder_raises_is_told_as_a_damaged_recording(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: object, *args: object, **options: object) -> None:
        raise error("inside the decoder")

    monkeypatch.setattr(soundfile.SoundFile, "read", fails)
    with pytest.raises(InvalidInput, match=r"damaged or cut off .*: inside the decoder"):
        decode_audio(recorded(tone()), rate=RATE)


def test_what_is_written_is_read_back() -> None:
    content = encode_wav(Sound(tone(), RATE))
    assert content[:4] == b"RIFF"
    assert decode_audio(content, rate=RATE).samples == pytest.approx(tone(), abs=1e-4)
    loud = encode_wav(Sound(np.array([2, -2], np.float32), RATE))
    assert decode_audio(loud, rate=RATE).samples == pytest.approx([1, -1], abs=1e-3)


RECORDING = recorded(tone(seconds=0.01))
SMALL_FLAC = recorded(tone(seconds=0.01), kind="FLAC")


@given(st.data())
def test_damage_never_ends_in_another_error(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from([RECORDING, SMALL_FLAC])))
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(1, len(content)))]
    assert outcome(bytes(content)) in ("decoded", "said")


def outcome(content: bytes) -> str:
    try:
        decode_audio(content, rate=RATE)
    except InvalidInput as error:
        return "said" if error.message.startswith("the audio") else error.message
    return "decoded"
