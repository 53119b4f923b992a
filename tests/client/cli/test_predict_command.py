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

from aiaas_client._cli.commands import register
from aiaas_client._cli.predict import table_of
from aiaas_client.protocol.predictions import (
    Box,
    Detections,
    Embedding,
    Segment,
    Segments,
    SpokenSegment,
    Transcript,
)
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


BAD_ROWS = "b,a\n2,1\n4,x\n5\n6,7\n"


def test_the_first_row_that_is_wrong_is_told_by_number_and_column(
    aiaas: Aiaas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.csv").write_text(BAD_ROWS, "utf-8")
    done = aiaas("table", str(tmp_path / "rows.csv"))
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("aiaas: record 2, line 3: column 'a': ")
    (tmp_path / "rows.json").write_text('[{"a": 1, "b": 2}, {"a": 1}]', "utf-8")
    monkeypatch.chdir(tmp_path)  # a long path is told in short
    for name in ("rows.csv", "rows.json"):
        done = aiaas("table", "rows.json", name)
        assert done.stderr.startswith("aiaas: rows.json, record 2: ")


def test_rows_that_are_wrong_are_skipped_and_counted_where_that_is_asked(
    aiaas: Aiaas, tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text(BAD_ROWS, "utf-8")
    done = aiaas("table", str(tmp_path / "rows.csv"), "--on-error", "skip", "--json")
    first, unfit, short, last = document(done)
    assert (first["value"], last["value"]) == (1.0, 7.0)
    assert unfit["error"].startswith("record 2, line 3: column 'a': ")
    assert short["error"] == "record 3, line 4: expected 2 cells as in the header, got 1"
    told = done.stderr.splitlines()
    assert [line.partition(": column")[0] for line in told] == [
        "aiaas: skipped: record 2, line 3",
        f"aiaas: skipped: {short['error']}",
        "aiaas: 2 of 4 skipped",
    ]
    as_tables = aiaas("table", str(tmp_path / "rows.csv"), "--on-error", "skip")
    assert as_tables.stdout.count("values  {") == 2


def test_skipping_every_payload_is_a_failure_and_a_missing_model_is_never_skipped(
    aiaas: Aiaas,
) -> None:
    done = aiaas("moods", "--text", "", "--on-error", "skip")
    assert done.exit_code == 1
    assert done.stderr.endswith("aiaas: 1 of 1 skipped\n")
    done = aiaas("none", "--text", "a", "--on-error", "skip")
    assert (done.exit_code, "skipped" in done.stderr) == (1, False)


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
        pytest.param(
            Transcript(
                text="one",
                segments=(SpokenSegment(start=0, end=1, label="one", tokens=(1, 2)),),
                duration=1,
            ),
            ["start", "end", "score", "label"],
            1,
            id="transcript",
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


def test_inline_json_is_json_in_a_file(aiaas: Aiaas, tmp_path: Path) -> None:
    cases = {
        "moods": ['"good film"', '["good film", "bad film"]', "[not json", '{"half'],
        "table": ['{"a": 1, "b": 2}', "[3.5, 4]", '[{"a": 1, "b": 2}, [3.5, 4]]'],
        "best": ['{"query": "good", "documents": ["good film", "bad tea"]}'],
    }
    for model, texts in cases.items():
        for text in texts:
            name = "payload.json" if text.endswith(("]", "}", '"')) else "payload.txt"
            (tmp_path / name).write_text(text, "utf-8")
            inline = document(aiaas(model, text, "--json"))
            assert document(aiaas(model, str(tmp_path / name), "--json")) == inline
            assert document(aiaas(model, "-", "--json", stdin=text.encode())) == inline


@pytest.mark.parametrize(
    "name",
    [
        "missing.json", "missing.txt", "missing.CSV", "dir/missing", "./missing.md", "~/a b.txt",
        "/tmp/my notes.txt", "..\\missing.json", "photo.jpeg",
    ],
)  # fmt: skip
@pytest.mark.parametrize("model", ["moods", "table"])
def test_what_looks_like_a_missing_file_is_no_text(aiaas: Aiaas, model: str, name: str) -> None:
    done = aiaas(model, name)
    assert done.exit_code == 2, done.output
    assert f"no file {name!r}; a text is given by --text" in done.stderr


@pytest.mark.parametrize("text", ["Is 3/4 good?", "good.", "e.g. json", "good film.txt", "v1.5"])
def test_a_text_with_a_slash_or_a_point_is_still_a_text(aiaas: Aiaas, text: str) -> None:
    assert document(aiaas("moods", text, "--json")) == document(
        aiaas("moods", "--text", text, "--json")
    )


def test_a_payload_and_a_text_together_are_refused(aiaas: Aiaas) -> None:
    done = aiaas("moods", "good", "--text", "bad")
    assert done.exit_code == 2
    assert "expected a payload or --text, got both: 'good' and 'bad'" in done.stderr


def test_a_misspelt_model_is_told_the_nearest(aiaas: Aiaas) -> None:
    done = aiaas("Mood", "good")
    assert done.exit_code == 1
    assert "did you mean 'moods'?" in done.stderr


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_text_file_is_read_with_its_byte_order_mark(
    aiaas: Aiaas, tmp_path: Path, encoding: str
) -> None:
    (tmp_path / "note.txt").write_bytes("good film".encode(encoding))
    (tmp_path / "rows.csv").write_bytes("b,a\n2,1\n".encode(encoding))
    expected = document(aiaas("moods", "--text", "good film", "--json"))
    assert document(aiaas("moods", str(tmp_path / "note.txt"), "--json")) == expected
    assert document(aiaas("table", str(tmp_path / "rows.csv"), "--json"))["value"] == 1.0


@pytest.fixture
def local(tmp_path: Path, onnx_models: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Aiaas:
    """Runs in process over a repository that has a damaged model, too."""
    repository = write_repository(tmp_path, onnx_models)
    (repository / "broken.onnx").write_bytes(b"no model")
    app = typer.Typer()
    register(app)

    def run(*arguments: str) -> Any:
        options = ["predict", *arguments, "--models", str(repository)]
        return CliRunner().invoke(app, options)

    return run


def test_in_process_only_the_model_asked_for_is_loaded(
    local: Aiaas, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "aiaas_server")
    assert document(local("moods", "--text", "good film", "--json"))["label"] == "positive"
    opened = [record.getMessage() for record in caplog.records]
    assert not [line for line in opened if "moods" not in line]


def test_in_process_a_pipeline_has_its_parts(local: Aiaas) -> None:
    given = json.dumps({"query": "good", "documents": ["good film", "bad film"]})
    assert local("best", given).exit_code == 0


@pytest.mark.parametrize(
    ("model", "told"),
    [("broken", "is damaged"), ("moodz", "did you mean 'moods'?")],
)
def test_in_process_an_error_speaks_of_no_http(local: Aiaas, model: str, told: str) -> None:
    done = local(model, "--text", "good")
    assert done.exit_code == 1
    assert told in done.stderr
    assert "HTTP" not in done.stderr
