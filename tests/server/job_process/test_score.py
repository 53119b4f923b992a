"""Every row of a data set is answered once: whatever it is made of, and whoever dies meanwhile."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from aiaas_server.job_process.pace import Pace
from aiaas_server.job_process.shards import Shards
from aiaas_server.job_process.tables import read_table
from aiaas_server.job_process.watch import PipeWatch
from aiaas_server.jobs.orders import CheckpointLine, LaidCheckpoint, Order, Product, ProgressLine
from aiaas_server.jobs.table import Field, Table
from tests import graphs, task_bundles
from tests.server.job_process import cards
from tests.server.job_process.at_hand import end, lines_from, made, made_here, refused_here, start

RANDOM = np.random.default_rng(7)
FIELDS = [Field("a", "number"), Field("b", "number"), Field("name", "text")]


def order(tmp_path: Path, rows: int, spec: dict[str, Any] | None = None, **more: Any) -> Order:
    """To tell on which side of 0.3 points are; row 3 has no `a`."""
    if not (tmp_path / "m").exists():
        cards.bundle(tmp_path / "m", cards.sides(0.3), cards.SIDES)
    random = np.random.default_rng(rows)
    a = random.normal(size=rows)
    a[3] = np.nan
    names = np.array([f"row {at}" for at in range(rows)], object)
    laid = cards.dataset(
        tmp_path / "d.parquet", "d@1", FIELDS, a=a, b=random.normal(size=rows), name=names
    )
    return Order(
        job="j",
        spec={"kind": "score", "model": "m@3", "dataset": "d@1", **(spec or {})},
        datasets={"d@1": laid},
        versions={"m@3": cards.version(tmp_path / "m", "m@3")},
        **more,
    )


def scored(product: Product, directory: Path) -> Table:
    """The data set that was made."""
    (found,) = product.datasets
    table = read_table(directory / found.path)
    assert found.rows == table.rows
    assert [(one.name, one.kind) for one in found.columns] == list(table.fields)
    return table


def test_labels_with_scores_and_what_failed(tmp_path: Path) -> None:
    """The kept columns, label, score, one score a class; a row that fails says why."""
    asked = order(tmp_path, 1500)
    product = made(asked, tmp_path)
    found = scored(product, tmp_path)
    given = read_table(tmp_path / "d.parquet")
    assert found.names == [
        *("a", "b", "name", "prediction", "score", "score:left", "score:right", "error")
    ]
    assert found["name"].tolist() == given["name"].tolist()
    answered = np.arange(1500) != 3
    told = np.where(given["a"] > 0.3, "right", "left")
    assert found["prediction"][answered].tolist() == told[answered].tolist()
    assert found["prediction"][3] is None
    assert np.isnan(found["score"][3])
    assert "column 'a'" in found["error"][3]
    assert all(text is None for text in found["error"][answered])
    both = found["score:left"] + found["score:right"]
    assert both[answered] == pytest.approx(np.ones(1499))
    assert product.metrics == {"rows": 1500, "failed": 1}
    assert product.datasets[0].name == "m-scores"
    assert product.datasets[0].lineage == {"job": "j", "model": "m@3", "dataset": "d@1"}


def test_kept_columns_are_chosen(tmp_path: Path) -> None:
    """By name; answers have their names to themselves."""
    found = made_here(order(tmp_path, 8, {"keep": ["name"], "output": "sides"}), tmp_path)
    assert found.datasets[0].name == "sides"
    assert scored(found, tmp_path).names[:2] == ["name", "prediction"]
    error = refused_here(order(tmp_path, 8, {"keep": ["nam"]}), tmp_path)
    assert "no column 'nam'; there are a, b, name" in error.message
    again = [Field("a", "number"), Field("b", "number"), Field("score", "number")]
    values = {field.name: np.ones(4) for field in again}
    laid = cards.dataset(tmp_path / "again.parquet", "d@1", again, **values)
    asked = order(tmp_path, 8).model_copy(update={"datasets": {"d@1": laid}})
    assert made_here(asked, tmp_path).details["left_out"] == ["score"]
    spec = {**asked.spec, "keep": ["score"]}
    error = refused_here(asked.model_copy(update={"spec": spec}), tmp_path)
    assert "column 'score' has the name of one of the answers' columns" in error.message


def _answers(tmp_path: Path, model: Path, field: Field, values: Any) -> Table:
    rows = cards.dataset(tmp_path / "d.parquet", "d@1", [field], **{field.name: values})
    asked = Order(
        job="j",
        spec={"kind": "score", "model": "m@1", "dataset": "d@1"},
        datasets={"d@1": rows},
        versions={"m@1": cards.version(model, "m@1")},
    )
    return scored(made_here(asked, tmp_path), tmp_path)


def test_texts_and_vectors(tmp_path: Path) -> None:
    """A text is answered by a label, or by a vector; an empty one fails alone."""
    files = {"tokenizer.json": task_bundles.tokenizer()}
    parts = task_bundles.PARTS
    moods = task_bundles.table_model(task_bundles.MOODS, parts, pooled=True)
    task_bundles.write_bundle(tmp_path, "moods", task_bundles.MOOD_CARD, moods, files)
    vectors = task_bundles.table_model(task_bundles.MEANINGS, parts, pooled=False)
    task_bundles.write_bundle(tmp_path, "vectors", task_bundles.VECTOR_CARD, vectors, files)
    texts = np.array(["good tea", " ", "bad film"], object)
    found = _answers(tmp_path, tmp_path / "moods" / "1", Field("review", "text"), texts)
    assert found["prediction"].tolist() == ["positive", None, "negative"]
    found = _answers(tmp_path, tmp_path / "vectors" / "1", Field("review", "text"), texts)
    assert found.kind("embedding") == "array"
    assert found["embedding"].shape == (3, 2)
    assert found["embedding"][0] == pytest.approx([0.5**0.5, 0.5**0.5])
    assert np.isnan(found["embedding"][1]).all()
    assert "text is empty" in found["error"][1]


def test_pictures(tmp_path: Path) -> None:
    """An encoded picture a row; what is no picture fails alone; pictures are not carried over."""
    from onnx import helper

    nodes = [
        helper.make_node("ReduceMean", ["pixels"], ["means"], axes=[2, 3], keepdims=0),
    ]
    model = graphs.model(
        nodes,
        [graphs.value("pixels", ["n", 3, 4, 4])],
        [graphs.value("means", ["n", 3])],
    )
    card = {
        "task": "image-classification",
        "labels": ["red", "green", "blue"],
        "preprocessing": {"scale": 1 / 255, "mean": [0, 0, 0], "std": [1, 1, 1]},
    }
    cards.bundle(tmp_path / "m", model, card)
    values = np.array([_picture((255, 0, 0)), b"no picture", _picture((0, 0, 255))], object)
    found = _answers(tmp_path, tmp_path / "m", Field("picture", "image"), values)
    assert found["prediction"].tolist() == ["red", None, "blue"]
    assert found["score:blue"][2] == pytest.approx(1.0)
    assert "picture" not in found


def _picture(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return file.getvalue()


def test_arrays(tmp_path: Path) -> None:
    """The values of an array are the columns of the card, in order."""
    cards.bundle(tmp_path / "m", cards.sides(0.3), cards.SIDES)
    values = RANDOM.normal(size=(40, 2)).astype(np.float32)
    found = _answers(tmp_path, tmp_path / "m", Field("point", "array"), values)
    told = np.where(values[:, 0] > 0.3, "right", "left")
    assert found["prediction"].tolist() == told.tolist()


@pytest.mark.slow
def test_a_killed_job_goes_on_and_no_row_is_there_twice(tmp_path: Path) -> None:
    """Kill -9 after a checkpoint: the second process does the rest, and the data set is whole."""
    card = {
        "task": "tabular-regression",
        "preprocessing": {"columns": [{"name": name} for name in "abcd"]},
    }
    cards.bundle(tmp_path / "m", graphs.takes_long(1500), card)
    fields = [Field(name, "number") for name in "abcd"]
    values = {name: RANDOM.normal(size=40_000) for name in "abcd"}
    asked = order(tmp_path, 4)
    laid = cards.dataset(tmp_path / "d.parquet", "d@1", fields, **values)
    asked = asked.model_copy(update={"datasets": {"d@1": laid}})
    process = start(asked, tmp_path)
    line = next(line for line in lines_from(process) if isinstance(line, CheckpointLine))
    process.kill()
    end(process)
    assert 0 < line.step < 40_000
    again = tmp_path / "again"
    again.mkdir()
    checkpoint = LaidCheckpoint(step=line.step, path=str(tmp_path / line.path))
    second = asked.model_copy(update={"attempt": 2, "checkpoint": checkpoint})
    process = start(second, again)
    steps = [one.progress.step for one in lines_from(process) if isinstance(one, ProgressLine)]
    end(process)
    assert min(step for step in steps if step) > line.step
    found = read_table(again / "out" / "scores.parquet")
    assert found["a"].tolist() == values["a"].tolist()
    assert found["value"] == pytest.approx(2 * values["a"], rel=1e-5)


def test_checkpoints_hold_all_rows_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is one file of all rows that are done; one of other columns is not gone on from."""
    monkeypatch.chdir(tmp_path)
    now = [0.0]
    schema = pa.schema([pa.field("x", pa.int64())])
    asked = Order(job="j", spec={"kind": "score"})
    kept = LaidCheckpoint(step=6, path="checkpoints/6")
    with Path("told").open("wb", buffering=0) as out:
        shards = Shards(schema, PipeWatch(out, asked), Pace(lambda: now[0]))
        for start_at in range(0, 9, 3):
            now[0] += 0.6
            shards.add(pa.table({"x": list(range(start_at, start_at + 3))}, schema))
        shards.finish(Path("whole"))
        assert parquet.read_table("checkpoints/6")["x"].to_pylist() == list(range(6))
        assert parquet.read_table("whole")["x"].to_pylist() == list(range(9))
        restored = PipeWatch(out, asked.model_copy(update={"checkpoint": kept}))
        shards = Shards(schema, restored)
        assert shards.rows == 6
        shards.add(pa.table({"x": [6]}, schema))
        shards.finish(Path("second"))
        assert parquet.read_table("second")["x"].to_pylist() == list(range(7))
        other = pa.schema([pa.field("y", pa.int64())])
        assert Shards(other, restored).rows == 0
