"""Spoken words out of Debian's packages pocketsphinx-testdata and alsa-utils, and what is said."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from aiaas_server.tasks.audio import Sound, decode_audio, encode_wav

RATE = 16_000
_SPOKEN = Path("/usr/share/pocketsphinx/test/data")
_SOUNDS = Path("/usr/share/sounds/alsa")
_AUSTEN = _SPOKEN / "librivox"


class Clip(NamedTuple):
    """`said` is the package's own transcript; `heard` is what Whisper tiny.en makes of it."""

    name: str
    path: Path
    said: str
    heard: str


CLIPS = (
    Clip(
        "dashwood",
        _AUSTEN / "sense_and_sensibility_01_austen_64kb-0870.wav",
        "and mister john dashwood had then leisure to consider how much there might be prudently "
        "in his power to do for them",
        "And Mr. John Dashwood had then leisure to consider how much there might be prudently in "
        "his power to do for them.",
    ),
    Clip(
        "disposed",
        _AUSTEN / "sense_and_sensibility_01_austen_64kb-0880.wav",
        "he was not an ill disposed young man",
        "He was not an old-sposed young man.",
    ),
    Clip(
        "selfish",
        _AUSTEN / "sense_and_sensibility_01_austen_64kb-0890.wav",
        "unless to be rather cold hearted and rather selfish is to be ill disposed",
        "Unless to be rather cold-hearted and rather selfish is to be ill-disposed.",
    ),
    Clip(
        "respectable",
        _AUSTEN / "sense_and_sensibility_01_austen_64kb-0920.wav",
        "had he married a more amiable woman he might have been made still more respectable than "
        "he was",
        "Had he married a more amiable woman, he might have been made still more respectable than "
        "he was.",
    ),
    Clip(
        "amiable",
        _AUSTEN / "sense_and_sensibility_01_austen_64kb-0930.wav",
        "he might even have been made amiable himself",
        "He might even have been made amiable himself.",
    ),
    Clip("forward", _SPOKEN / "goforward.raw", "go forward ten meters", "Go forward 10 meters."),
    Clip(
        "something",
        _SPOKEN / "something.raw",
        "go somewhere and do something",
        "Go somewhere and do something.",
    ),
    Clip("ten", _SPOKEN / "cards/001.wav", "ten of clubs", "10 of clubs."),
    Clip("seven", _SPOKEN / "cards/003.wav", "seven of clubs", "7 of clubs."),
    Clip("center", _SOUNDS / "Front_Center.wav", "front center", "Front, center."),
)
NOISE = Clip("noise", _SOUNDS / "Noise.wav", "", "")

_NUMBERS = {"10": "ten", "7": "seven", "mr": "mister"}


def recording(clip: Clip) -> bytes:
    """The WAV file; the test is skipped where the package is not installed."""
    if not clip.path.exists():
        pytest.skip("needs Debian's packages pocketsphinx-testdata and alsa-utils")
    content = clip.path.read_bytes()
    if clip.path.suffix == ".raw":
        samples = np.frombuffer(content, "<i2").astype(np.float32) / 32768
        return encode_wav(Sound(samples, RATE))
    return content


def joined(
    times: int, pause: float
) -> tuple[npt.NDArray[np.float32], list[tuple[float, float, str]]]:
    """The sentences of the novel one after another, and when each is said, in seconds."""
    parts: list[npt.NDArray[np.float32]] = []
    told: list[tuple[float, float, str]] = []
    place = 0
    for clip in CLIPS[:5] * times:
        samples = decode_audio(recording(clip), rate=RATE).samples
        told.append((place / RATE, (place + len(samples)) / RATE, clip.said))
        parts += [samples, np.zeros(round(pause * RATE), np.float32)]
        place += len(samples) + len(parts[-1])
    return np.concatenate(parts), told


def word_errors(said: str, heard: str) -> int:
    """Words to be put in, left out or changed (Levenshtein), signs and capitals aside."""
    wanted, found = _words(said), _words(heard)
    row = list(range(len(found) + 1))
    for index, word in enumerate(wanted, 1):
        above, row[0] = row[0], index
        for place, other in enumerate(found, 1):
            above, row[place] = (
                row[place],
                min(row[place] + 1, row[place - 1] + 1, above + (word != other)),
            )
    return row[-1]


def _words(text: str) -> list[str]:
    found = re.findall(r"[a-z0-9']+", text.lower())
    return [_NUMBERS.get(word, word) for word in found]
