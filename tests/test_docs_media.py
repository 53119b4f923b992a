"""The Python of `docs/tasks_media.md` runs in order, on the packaged models."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from zoo import photographs
from zoo.samples import encoded, page, photograph

DOCUMENT = Path(__file__).parents[1] / "docs" / "tasks_media.md"
BLOCK = re.compile(r"^```py\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_code_of_the_document_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "coffee.png").write_bytes(photograph(photographs.COFFEE))
    (tmp_path / "astronaut.png").write_bytes(photograph(photographs.ASTRONAUT))
    (tmp_path / "scan.png").write_bytes(photograph(photographs.PAGE))
    (tmp_path / "page.png").write_bytes(encoded(page()))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "document"}
    for number, block in enumerate(BLOCK.findall(DOCUMENT.read_text("utf-8")), 1):
        exec(compile(block, f"{DOCUMENT.name}, block {number}", "exec"), names)
    names["client"].close()  # type: ignore[attr-defined]  # made by the first block
    printed = capsys.readouterr().out
    for expected in (
        "espresso 0.95",
        "figure_caption 0.9",
        "Let us first determine",
        "speech from",
    ):
        assert expected in printed
    assert {"found.png", "read.png", "spoken.wav"} <= {p.name for p in tmp_path.iterdir()}


def test_pictures_are_small() -> None:
    pictures = sorted((DOCUMENT.parent / "pictures").glob("*.png"))
    assert len(pictures) >= 3
    assert all(picture.stat().st_size < 60_000 for picture in pictures)
