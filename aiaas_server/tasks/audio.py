"""A recording from anywhere to one channel of samples at the rate a model wants.

Accepted: WAV (8, 16, 24 and 32 bits, floating point), FLAC and Ogg files. Channels are averaged,
the rate is changed by band-limited resampling. Length and rate are read from the header and checked
before a sample is decoded.
"""

from __future__ import annotations

import io
import struct
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from aiaas_server.core.errors import InvalidInput

from .task import need

Samples = npt.NDArray[np.float32]

# The decoder knows two dozen formats; only files that begin like these are handed to it.
BEGINNINGS = (b"RIFF", b"fLaC", b"OggS")
ACCEPTED = "a WAV, FLAC or Ogg recording"
LOWEST_RATE, HIGHEST_RATE = 4_000, 192_000  # samples a second
MOST_CHANNELS = 8
MAX_SECONDS = 600.0
MOST_VALUES = 60_000_000  # samples times channels: 240 MB once decoded


class Sound(NamedTuple):
    """Samples `(n,)` float32, -1 to 1, one channel; `rate` of them a second."""

    samples: Samples
    rate: int

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate


def need_audio() -> None:
    """Import what decodes audio, when a task is opened.

    Raises:
        LoadFailed: It is not installed.
    """
    need("soundfile")
    need("soxr")


def decode_audio(payload: object, *, rate: int, max_seconds: float = MAX_SECONDS) -> Sound:
    """The recording at `rate` samples a second.

    Args:
        payload: The bytes of a file.
        rate: Wanted by the model.
        max_seconds: Longer recordings are refused before they are decoded.
    Raises:
        InvalidInput: Not a recording, damaged, empty, too long, or of a kind not accepted.
    """
    if not isinstance(payload, bytes | bytearray | memoryview):
        raise InvalidInput(f"audio is {ACCEPTED} as bytes, got {type(payload).__name__}")
    content = bytes(payload)
    if not content:
        raise InvalidInput(f"the audio is empty (0 bytes), expected {ACCEPTED}")
    if not content.startswith(BEGINNINGS):
        raise InvalidInput(f"the audio is not {ACCEPTED}; it begins with {content[:16]!r}")
    decoded, from_rate = _decoded(content, max_seconds)
    if not np.isfinite(decoded).all():
        raise InvalidInput("the audio has samples that are not numbers (NaN or infinite)")
    return Sound(resampled(decoded.mean(axis=1, dtype=np.float32), from_rate, rate), rate)


def resampled(samples: Samples, from_rate: int, to_rate: int) -> Samples:
    """The same sound with another number of samples a second."""
    if from_rate == to_rate:
        return np.ascontiguousarray(samples)
    import soxr

    changed: Samples = soxr.resample(samples, from_rate, to_rate).astype(np.float32)
    return changed


def encode_wav(sound: Sound) -> bytes:
    """A WAV file of one channel, 16 bits; louder samples than 1 are clipped."""
    values = np.rint(np.clip(sound.samples, -1, 1) * 32767).astype("<i2").tobytes()
    form = struct.pack("<HHIIHH", 1, 1, sound.rate, sound.rate * 2, 2, 16)
    chunks = (
        b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(values))
    )
    return b"RIFF" + struct.pack("<I", 4 + len(chunks) + len(values)) + b"WAVE" + chunks + values


def _decoded(content: bytes, max_seconds: float) -> tuple[Samples, int]:
    """Samples `(n, channels)` and their rate."""
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            _check(file, max_seconds)
            samples = np.asarray(file.read(dtype="float32", always_2d=True), np.float32)
            declared, from_rate = file.frames, file.samplerate
    except soundfile.SoundFileError as error:
        reason = " ".join(str(error).split()).rpartition(": ")[2][:120]
        raise InvalidInput(
            f"the audio is damaged or cut off ({len(content)} bytes came): {reason}"
        ) from None
    if len(samples) < declared or _is_cut(content):
        raise InvalidInput(
            f"the audio is cut off: its header promises more than the {len(samples)} samples "
            f"({len(samples) / from_rate:.2f} s) that came"
        )
    if not len(samples):
        raise InvalidInput("the audio has no samples")
    return samples, from_rate


def _check(file: Any, max_seconds: float) -> None:
    if not LOWEST_RATE <= file.samplerate <= HIGHEST_RATE:
        raise InvalidInput(
            f"the audio has {file.samplerate} samples a second, "
            f"expected {LOWEST_RATE:,} to {HIGHEST_RATE:,}"
        )
    if file.channels > MOST_CHANNELS:
        raise InvalidInput(
            f"the audio has {file.channels} channels, at most {MOST_CHANNELS} are accepted"
        )
    most = min(max_seconds * file.samplerate, MOST_VALUES / file.channels)
    if file.frames > most:
        raise InvalidInput(
            f"the audio is too long: {file.frames / file.samplerate:.1f} s, "
            f"at most {most / file.samplerate:g} s are accepted"
        )


def _is_cut(content: bytes) -> bool:
    """Whether a WAV file's data chunk promises more bytes than there are.

    The decoder takes what is there without a word; sizes of 0 and of all ones are what programs
    write that stream and cannot know the length.
    """
    if content[:4] != b"RIFF":
        return False
    place = 12
    while place + 8 <= len(content):
        kind, size = struct.unpack_from("<4sI", content, place)
        if kind == b"data":
            return size not in (0, 0xFFFFFFFF, 0x7FFFFFFF) and place + 8 + size > len(content)
        place += 8 + size + size % 2
    return False
