"""A recording that comes with a package: ten seconds of read speech."""

from __future__ import annotations

from aiaas_server.zoo.packages import PackagedFile, fetch

SPEECH = PackagedFile(
    "useful-moonshine-onnx",
    "20251121",
    "moonshine_onnx/assets/beckett.wav",
    "e5a26b3d29e5b0bc8dbd72c11d16a3808a4ec0ac45b21f12a27d2a2fe5c5ae61",
)
SPOKEN = "Ever tried, ever failed. No matter, try again. Fail again. Fail better."
"""What is said in it, as `whisper-tiny-en` writes it."""


def speech() -> bytes:
    """The recording's file, WAV, fetched if it is not there yet."""
    for _ in fetch((SPEECH,)):
        pass
    return SPEECH.path.read_bytes()
