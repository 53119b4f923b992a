"""A recording from anywhere to one channel of samples at the rate a model wants.

Accepted: WAV (8, 16, 24 and 32 bits, floating point), FLAC and Ogg files. Channels are averaged,
the rate is changed by band-limited resampling. Length and rate are read from the header and checked
before a sample is decoded. Decoding goes block by block: what is held is one channel at the rate
that is wanted.

A program that writes to a pipe cannot know the length and makes one up, or leaves 0 (`as_piped`).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from aiaas_server.core.errors import InvalidInput
from aiaas_server.tasks.task import need

Samples = npt.NDArray[np.float32]

# The decoder knows two dozen formats; only files that begin like these are handed to it.
BEGINNINGS = (b"RIFF", b"fLaC", b"OggS")
ACCEPTED = "a WAV, FLAC or Ogg recording"
LOWEST_RATE, HIGHEST_RATE = 4_000, 192_000  # samples a second
MOST_CHANNELS = 8
MAX_SECONDS = 600.0
MOST_VALUES = 60_000_000  # samples times channels
BLOCK = 1 << 18  # values decoded at a time
BLOCK_ALIGN = slice(32, 34)  # of a WAV file whose description comes first, as all have it
UNKNOWN_FRAMES = 1 << 62  # what the decoder tells where a header does not
# Lengths that a WAV file of a pipe claims: ffmpeg all ones, SoX 0x7FFFF000, arecord 0x80000000.
MADE_UP = 0x7FF0_0000


class Sound(NamedTuple):
    """Samples `(n,)` float32, -1 to 1, one channel; `rate` of them a second."""

    samples: Samples
    rate: int

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate


class _Limits(NamedTuple):
    seconds: float
    values: int

    def most(self, file: Any) -> float:
        """Samples of a channel that are accepted."""
        return min(self.seconds * int(file.samplerate), self.values / int(file.channels))


def need_audio() -> None:
    """Import what decodes audio, when a task is opened.

    Raises:
        LoadFailed: It is not installed.
    """
    need("soundfile")
    need("soxr")


def decode_audio(
    payload: object,
    *,
    rate: int,
    max_seconds: float = MAX_SECONDS,
    most_values: int = MOST_VALUES,
) -> Sound:
    """The recording at `rate` samples a second.

    Args:
        payload: The bytes of a file.
        rate: Wanted by the model.
        max_seconds: Longer recordings are refused before they are decoded.
        most_values: The same for samples times channels, which decoding takes its time for.
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
    limits = _Limits(max_seconds, most_values)
    return Sound(_decoded(as_piped(content), rate, limits), rate)


def encode_wav(sound: Sound) -> bytes:
    """A WAV file of one channel, 16 bits; louder samples than 1 are clipped."""
    values = np.rint(np.clip(sound.samples, -1, 1) * 32767).astype("<i2").tobytes()
    form = struct.pack("<HHIIHH", 1, 1, sound.rate, sound.rate * 2, 2, 16)
    chunks = (
        b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(values))
    )
    return b"RIFF" + struct.pack("<I", 4 + len(chunks) + len(values)) + b"WAVE" + chunks + values


def as_piped(content: bytes) -> bytes:
    """A WAV file whose header claims a made-up length or none, with the length of what is there.

    Any other content comes back as it is.
    """
    place, size = _data_chunk(content)
    rest = len(content) - place
    made_up = size >= MADE_UP and size > rest
    if place == 0 or not (made_up or (size == 0 and rest and not _are_chunks(content, place))):
        return content
    block = max(1, int.from_bytes(content[BLOCK_ALIGN], "little"))
    told = struct.pack("<I", (rest - rest % block) & 0xFFFFFFFF)
    whole = struct.pack("<I", (len(content) - 8) & 0xFFFFFFFF)
    return content[:4] + whole + content[8 : place - 4] + told + content[place:]


def _data_chunk(content: bytes) -> tuple[int, int]:
    """Where a WAV file's samples begin and how many bytes its header says; 0, 0 when nowhere."""
    if content[:4] != b"RIFF":
        return 0, 0
    place = 12
    while place + 8 <= len(content):
        kind, size = struct.unpack_from("<4sI", content, place)
        if kind == b"data":
            return place + 8, size
        place += 8 + size + size % 2
    return 0, 0


def _are_chunks(content: bytes, place: int) -> bool:
    """Whether what follows an empty chunk of samples is further chunks up to the very end."""
    while place + 8 <= len(content):
        kind, size = struct.unpack_from("<4sI", content, place)
        if not (kind.isascii() and kind.decode("latin-1").isprintable()):
            return False
        place += 8 + size + size % 2
    return place in (len(content), len(content) + 1)


def _decoded(content: bytes, rate: int, limits: _Limits) -> Samples:
    """One channel of samples `(n,)`, `rate` a second."""
    from aiaas_server.tasks.straight_file import StraightFile

    try:
        with StraightFile(io.BytesIO(content)) as file:
            _check(file, limits)
            samples, count = _mixed(file, rate, limits.most(file))
            declared, from_rate = file.frames, file.samplerate
    except InvalidInput:
        raise
    except Exception as error:  # the decoder's own, and what its wrapper raises on odd files
        reason = " ".join(str(error).split()).rpartition(": ")[2][:120] or type(error).__name__
        raise InvalidInput(
            f"the audio is damaged or cut off ({len(content)} bytes came): {reason}"
        ) from None
    place, size = _data_chunk(content)
    if count < declared < UNKNOWN_FRAMES or place + size > len(content):
        raise InvalidInput(
            f"the audio is cut off: its header promises more than the {count} samples "
            f"({count / from_rate:.2f} s) that came"
        )
    if not count:
        raise InvalidInput("the audio has no samples")
    return samples


def _mixed(file: Any, rate: int, most: float) -> tuple[Samples, int]:
    """The mean of all channels at `rate`, and how many samples it came from.

    The decoder may know no length and be unable to seek.
    """
    change = _rate_change(file.samplerate, rate)
    parts = []
    count = 0
    rows = max(1, BLOCK // file.channels)
    while True:
        block = file.read(rows, dtype="float32", always_2d=True)
        if not np.isfinite(block).all():
            raise InvalidInput("the audio has samples that are not numbers (NaN or infinite)")
        count += len(block)
        if count > most:
            raise _too_long(f"more than {most / file.samplerate:.1f} s", most, file)
        is_last = len(block) < rows
        parts.append(change(block.mean(axis=1, dtype=np.float32), is_last))
        if is_last:
            return np.concatenate(parts), count


def _rate_change(from_rate: int, to_rate: int) -> Callable[[Samples, bool], Samples]:
    """Blocks, and whether it is the last one, to blocks of the same sound at another rate."""
    if from_rate == to_rate:
        return lambda block, is_last: block
    import soxr

    stream: Any = soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32")
    return lambda block, is_last: stream.resample_chunk(block, last=is_last)


def _check(file: Any, limits: _Limits) -> None:
    if not LOWEST_RATE <= file.samplerate <= HIGHEST_RATE:
        raise InvalidInput(
            f"the audio has {file.samplerate} samples a second, "
            f"expected {LOWEST_RATE:,} to {HIGHEST_RATE:,}"
        )
    if file.channels > MOST_CHANNELS:
        raise InvalidInput(
            f"the audio has {file.channels} channels, at most {MOST_CHANNELS} are accepted"
        )
    if limits.most(file) < file.frames < UNKNOWN_FRAMES:
        told = f"{file.frames / file.samplerate:.1f} s"
        raise _too_long(told, limits.most(file), file)


def _too_long(told: str, most: float, file: Any) -> InvalidInput:
    return InvalidInput(
        f"the audio is too long: {told}, at most {most / file.samplerate:g} s are accepted"
    )
