"""`aiaas predict`: what it takes, what it prints, and how it ends."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from aiaas_client._commands import register
from aiaas_client._commands_predict import table_of
from aiaas_client.protocol.predictions import Box, Detections, Embedding, Segment, Segments
from aiaas_server.app import create_app
from aiaas_server.settings import Settings
from tests.server.http.serving import serving
from tests.task_bundles import write_repository

Aiaas = Callable[..., Any]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, onnx_models: SimpleNamespace) -> Iterator[str]:
    repository = write_repository(tmp_path_factory.mktemp("models"), onnx_models)
    with serving(create_app(Settings(models=repository))) as server:
        yield server.url


@pytest.fixture
def aiaas(url: str) -> Aiaas:
    app = typer.Typer()
    register(app)

    def run(*arguments: str, stdin: bytes | None = None) -> Any:
        return CliRunner().invoke(app, ["predict", *arguments, "--url", url], input=stdin)

    return run


def digit(path: Path) -> Path:
    pixels = np.zeros((28, 28), np.uint8)
    pixels[5:20, 12:15] = 255
    Image.fromarray(pixels).save(path)
    return path


def document(done: Any) -> Any:
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_text_is_given_in_any_way(aiaas: Aiaas, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("good film\n", "utf-8")
    expected = document(aiaas("moods", "--text", "good film", "--json"))
    assert expected["label"] == "positive"
    assert document(aiaas("moods", "good film", "--json")) == expected
    assert document(aiaas("moods", str(tmp_path / "note.txt"), "--json")) == expected
    assert document(aiaas("moods", "-", "--json", stdin=b"good film")) == expected


def test_the_table_shows_labels_and_scores(aiaas: Aiaas) -> None:
    done = aiaas("moods", "--text", "bad")
    assert done.exit_code == 0
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["label", "score"]
    assert lines[1][0] == "negative"


def test_a_picture_is_a_file(aiaas: Aiaas, tmp_path: Path) -> None:
    path = digit(tmp_path / "digit.png")
    found = document(aiaas("digits", str(path), "--json", "-p", "top_k=2"))
    assert found["label"] in "0123456789"
    assert len(found["scores"]) == 2
    assert (
        document(aiaas("digits", "-", "--json", "-p", "top_k=2", stdin=path.read_bytes())) == found
    )


def test_records_come_as_json_or_csv(aiaas: Aiaas, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("b,a\n2,1\n4,3.5\n", "utf-8")
    (tmp_path / "rows.json").write_text('[{"a": 1, "b": 2}, [3.5, 4]]', "utf-8")
    one = document(aiaas("table", '{"a": 1, "b": 2}', "--json"))
    assert one["values"] == {"a": 1.0, "b": 2.0}
    for name in ("rows.csv", "rows.json"):
        found = document(aiaas("table", str(tmp_path / name), "--json"))
        assert [row["value"] for row in found] == [1.0, 3.5]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        pytest.param(("moods",), 2, "expected a file, -, or --text", id="nothing"),
        pytest.param(("moods", "--text", ""), 1, "text is empty", id="empty"),
        pytest.param(("none", "--text", "a"), 1, "none", id="model"),
        pytest.param(("digits", "none.png"), 2, "no file 'none.png'", id="no file"),
        pytest.param(("table", "a=1"), 2, "expected JSON, a record", id="no JSON"),
        pytest.param(("moods", "a", "-p", "x"), 2, "--param: expected name=value", id="param"),
        pytest.param(("moods", "a", "--draw", "x.png"), 2, "--draw: expected one", id="draw"),
        pytest.param(("moods", "a", "-o", "x.wav"), 2, "--output: expected one", id="output"),
    ],
)
def test_wrong_use_is_one_line_and_an_exit_code(
    aiaas: Aiaas, arguments: tuple[str, ...], code: int, told: str
) -> None:
    done = aiaas(*arguments)
    assert done.exit_code == code, done.output
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("prediction", "columns", "rows"),
    [
        pytest.param(
            Detections(
                boxes=(Box(label="cat", score=0.9, x1=1, y1=2, x2=3, y2=4),), width=9, height=9
            ),
            ["label", "score", "x1", "y1", "x2", "y2", "points"],
            1,
            id="boxes",
        ),
        pytest.param(
            Segments(segments=(Segment(start=0, end=1), Segment(start=2, end=3)), duration=4),
            ["start", "end", "score", "label"],
            2,
            id="segments",
        ),
        pytest.param(Embedding(vector=(0.5,) * 384), ["field", "value"], 1, id="vector"),
    ],
)
def test_every_prediction_has_a_table(prediction: Any, columns: list[str], rows: int) -> None:
    table = table_of(prediction)
    assert [column.header for column in table.columns] == columns
    assert table.row_count >= rows


def test_what_was_found_is_drawn_on_a_copy() -> None:
    picture = np.full((60, 80, 3), 255, np.uint8)
    box = Box(label="cat", score=0.9, x1=10, y1=20, x2=70, y2=50)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    drawn = Detections(boxes=(box,), width=80, height=60).draw(buffer.getvalue())
    assert drawn.size == (80, 60)
    assert drawn.getpixel((40, 50)) != (255, 255, 255)
    assert drawn.getpixel((40, 35)) == (255, 255, 255)
    assert (picture == 255).all()
