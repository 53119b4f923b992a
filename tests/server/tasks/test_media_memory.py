"""What the worst pictures and recordings cost each task in memory: no more than a usual one.

The tasks run in a process of their own, since the peak of a process is all that can be read.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import pack

import pytest

ROOM = 160  # MB above what the imports take; one thin picture took 12,800
SIZES = [(20_000, 1), (1, 20_000), (50_000, 1), (1, 50_000), (100_000, 1), (1, 100_000), (1, 1)]


def png(width: int, height: int) -> bytes:
    """A white picture; some hundred bytes at any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return pack(">I", len(data)) + kind + data + pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    rows = zlib.compress((b"\0" + b"\xff" * ((width + 7) // 8)) * height, 9)
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def tasks() -> Iterator[tuple[str, Callable[[bytes], object]]]:
    """Name and preprocessing of every media task, as far as it holds pictures and samples."""
    from aiaas_server.core.describe.card import Assets, Card
    from aiaas_server.core.signature import Signature, TensorSpec
    from aiaas_server.tasks.audio import decode_audio
    from aiaas_server.tasks.digits import Digits
    from aiaas_server.tasks.face_cascade import CascadeSettings, FaceCascade, _scaled
    from aiaas_server.tasks.images import decode_image
    from aiaas_server.tasks.ocr import Ocr, OcrSettings, straightened
    from aiaas_server.tasks.pixels import ImageInput, ImageTensor

    spec = TensorSpec("x", "FP32", (-1, 3, 224, 224))
    for resize in ("exact", "shorter", "fit"):
        for filter in ("bicubic", "lanczos", "sampled"):
            settings = ImageInput(resize=resize, shorter_side=256, filter=filter)
            tensor = ImageTensor(settings, spec)
            yield f"{resize} {filter}", lambda content, tensor=tensor: tensor(decode_image(content))
    card = Card.model_validate({"task": "digits", "preprocessing": {"box": 20}})
    signature = Signature(
        "m", (TensorSpec("x", "FP32", (-1, 784)),), (TensorSpec("y", "FP32", (-1, 10)),)
    )
    digits = Digits(card, Assets(lambda name: b"", {}), signature, {})
    yield "digits", lambda content: digits.preprocess(content, digits.params())
    step = {"model": "m", "input": "x"}
    ocr_settings = OcrSettings.model_validate({"recogniser": step, "characters": "c"})
    ocr = Ocr("x", ("a",), ImageInput(), ocr_settings)

    def read(content: bytes) -> None:
        import numpy as np

        pixels, _, _ = ocr._open(content)
        right, lower = pixels.shape[1] - 1, pixels.shape[0] - 1
        whole = np.array([[0, 0], [right, 0], [right, lower], [0, lower]], np.float64)
        ocr._lines(ocr._crops(pixels, [whole] * 8), 4800)
        straightened(pixels, whole)

    yield "ocr", read
    cascade_settings = CascadeSettings.model_validate({"refine": step, "output": step})
    cascade = FaceCascade("x", "face", cascade_settings)

    def look(content: bytes) -> None:
        picture, _ = cascade._open(content)
        for scale in cascade._scales(picture):
            _scaled(picture, scale)

    yield "cascade", look
    for rate in (8_000, 16_000):
        yield f"audio {rate}", lambda content, rate=rate: decode_audio(content, rate=rate)


def recordings() -> Iterator[tuple[str, bytes]]:
    import numpy as np
    import soundfile

    for rate, channels, seconds in ((192_000, 1, 20), (4_000, 8, 600), (16_000, 1, 600)):
        file = io.BytesIO()
        samples = np.zeros((rate * seconds, channels), np.int16)
        soundfile.write(file, samples, rate, format="FLAC", subtype="PCM_16")
        yield f"{rate} Hz, {channels} channels", file.getvalue()


def main() -> None:
    """Print the highest peak in MB above the first, and what reached it."""
    from resource import RUSAGE_SELF, getrusage

    from aiaas_server.core.errors import InvalidInput

    def peak() -> int:
        return getrusage(RUSAGE_SELF).ru_maxrss >> 10

    sounds = list(recordings())
    pictures = [(f"{w} x {h}", png(w, h)) for w, h in SIZES]
    pictures += [
        ("claims 40,000 x 40,000", png(40_000, 1).replace(pack(">I", 1), pack(">I", 40_000), 1))
    ]
    every = list(tasks())
    first = peak()
    told = {}
    for name, run in every:
        for what, content in sounds if name.startswith("audio") else pictures:
            before = peak()
            with contextlib.suppress(InvalidInput):
                run(content)
            if peak() > before + 20:
                told[f"{name}: {what}"] = peak() - first
    print(json.dumps({"above": peak() - first, "by": told}))


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read in kB, as Linux tells it")
def test_the_worst_shapes_take_no_more_memory_than_a_usual_picture() -> None:
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-m", "tests.server.tasks.test_media_memory"],
        cwd=root, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["above"] < ROOM, told


if __name__ == "__main__":
    main()
