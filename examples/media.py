"""Pictures and sound: what is on them, where, what is written there, who speaks when.

Models come out of packages (`aiaas pull` does the same from a shell) and run in this process.
Annotated pictures are left in the directory given, or in the cache.
Needs the extras `demo` and `tts`.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

from PIL import Image
from zoo import photographs, samples

from aiaas_client import Client, Segments, Speech
from aiaas_server.zoo.packages import cache_dir
from aiaas_server.zoo.pull import pull

MODELS = ("efficientnet-lite0", "layout", "faces", "pp-ocr", "hibari", "silero-vad")


def main(out: Path) -> None:
    """Predict with each model and draw what was found."""
    repository = cache_dir() / "zoo"
    for name in MODELS:
        pull(name, repository, report=print)
    out.mkdir(parents=True, exist_ok=True)
    with Client.local(repository) as client:
        show_pictures(client, out)
        show_sound(client, out)
    print(f"pictures and sound are in {out}")


def show_pictures(client: Client, out: Path) -> None:
    """Labels, parts of a page, faces, lines of text."""
    coffee = samples.photograph(photographs.COFFEE)
    label = client.image_classification("efficientnet-lite0").predict(coffee)
    print(f"coffee.png shows: {label.label} {label.score:.3f}")

    page = samples.page()
    layout = client.object_detection("layout").predict(page)
    for box in layout.boxes:
        print(f"  {box.label:14} {box.score:.3f}  at {box.x1:.0f}, {box.y1:.0f}")
    save(layout.draw(page), out / "layout.png", width=425)

    astronaut = samples.photograph(photographs.ASTRONAUT)
    faces = client.object_detection("faces").predict(astronaut)
    print(f"astronaut.png has {len(faces.boxes)} face")
    save(faces.draw(astronaut), out / "faces.png", width=320)

    scan = samples.photograph(photographs.PAGE)
    text = client.ocr("pp-ocr").predict(scan)
    print(f"page.png reads: {text.text.splitlines()[1]}")
    save(text.draw(scan), out / "ocr.png", width=768)


def show_sound(client: Client, out: Path) -> None:
    """A sentence spoken, and heard again."""
    speech = client.task(Speech, "hibari").predict("Hello there. This is a test of a voice.")
    print(f"spoken: {speech.duration:.2f} s, {speech.save(out / 'hello.wav').name}")
    heard = client.task(Segments, "silero-vad").predict(speech.audio)
    for segment in heard.segments:
        print(f"  speech from {segment.start:.2f} s to {segment.end:.2f} s")


def save(picture: Image.Image, path: Path, width: int) -> None:
    """A small file: `width` pixels wide, 64 colours."""
    height = round(picture.height * width / picture.width)
    small = picture.resize((width, height), Image.Resampling.LANCZOS).quantize(64)
    file = io.BytesIO()
    small.save(file, "PNG", optimize=True)
    path.write_bytes(file.getvalue())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=cache_dir() / "media", help="directory")
    main(parser.parse_args().out)
