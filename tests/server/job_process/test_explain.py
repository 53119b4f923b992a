"""What a version looks at, over a data set: columns that matter, curves, and files of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from aiaas_server.jobs.orders import LaidCheckpoint, Order
from aiaas_server.jobs.table import Field
from tests.server.http.kserve.test_explain import PRICE_CARD, linear
from tests.server.job_process import cards
from tests.server.job_process.at_hand import made, made_here, refused_here
from tests.task_bundles import MOOD_CARD, MOODS, PARTS, table_model, tokenizer

RANDOM = np.random.default_rng(5)
POINTS = RANDOM.normal(size=(120, 2))
TRUE = np.where(POINTS[:, 0] > 0, "right", "left").astype(object)
FIELDS = [Field("a", "number"), Field("b", "number"), Field("side", "category")]


def order(tmp_path: Path, **more: Any) -> Order:
    """To explain a version that looks at the first of two columns."""
    cards.bundle(tmp_path / "m", cards.sides(0.0), cards.SIDES)
    rows = cards.dataset(
        tmp_path / "d.parquet", "d@1", FIELDS, a=POINTS[:, 0], b=POINTS[:, 1], side=TRUE
    )
    spec = {"kind": "explain", "model": "m@3", "dataset": "d@1", "target": "side", **more}
    laid = cards.version(tmp_path / "m", "m@3")
    return Order(job="j", spec=spec, datasets={"d@1": rows}, versions={"m@3": laid})


@pytest.mark.slow
def test_the_column_that_matters_is_first_and_the_other_has_nothing(tmp_path: Path) -> None:
    found = made(order(tmp_path, repeats=3), tmp_path)
    first, second = found.table
    assert (first["feature"], second["feature"]) == ("a", "b")
    assert first["importance"] == pytest.approx(0.5, abs=0.15)  # what is left is a guess
    assert first["error"] > 0
    assert second["importance"] == second["error"] == 0
    assert found.metrics == {"rows": 120, "metric": "accuracy", "baseline": 1.0}
    curve = found.details["curves"]["a"]
    assert len(curve["values"]) == 20
    assert curve["values"][0] == pytest.approx(POINTS[:, 0].min())
    (label,) = curve["lines"]
    line = curve["lines"][label]
    assert line == sorted(line)
    assert line[0] < 0.1 < 0.9 < line[-1]
    flat = found.details["curves"]["b"]["lines"][label]
    assert max(flat) - min(flat) < 1e-6
    assert set(found.files) == {
        "report.html", "importance.svg", "dependence-1.svg", "dependence-2.svg",
    }  # fmt: skip
    for name, path in found.files.items():
        text = (tmp_path / path).read_text("utf-8")
        if name.endswith("svg"):
            assert ElementTree.fromstring(text).tag.endswith("svg")
        else:
            assert "What m@3 looks at" in text


@pytest.mark.slow
def test_numbers_and_categories_have_curves_as_well(tmp_path: Path) -> None:
    """Of a linear model the curve of a column is a line with its weight."""
    cards.bundle(tmp_path / "m", linear([2.0, -1.0, 5.0]), PRICE_CARD)
    rooms, age = RANDOM.normal(3, 1, 200), RANDOM.integers(0, 50, 200)
    kind = np.where(RANDOM.random(200) > 0.5, "house", "flat").astype(object)
    price = 2 * rooms - age + 5.0 * (kind == "house")
    fields = [
        Field("rooms", "number"),
        Field("age", "integer"),
        Field("kind", "category"),
        Field("price", "number"),
    ]
    rows = cards.dataset(
        tmp_path / "d.parquet", "d@1", fields, rooms=rooms, age=age, kind=kind, price=price
    )
    spec = {
        "kind": "explain",
        "model": "m@1",
        "dataset": "d@1",
        "target": "price",
        "rows": 60,
        "repeats": 2,
    }
    laid = cards.version(tmp_path / "m", "m@1")
    asked = Order(job="j", spec=spec, datasets={"d@1": rows}, versions={"m@1": laid})
    found = made_here(asked, tmp_path)
    assert found.metrics["rows"] == 60
    assert found.metrics["metric"] == "r2"
    assert [row["feature"] for row in found.table] == ["age", "kind", "rooms"]
    curves = found.details["curves"]
    assert curves["kind"]["values"] == ["flat", "house"]
    flat, house = curves["kind"]["lines"]["value"]
    assert house - flat == pytest.approx(5, abs=1e-4)
    places, line = curves["rooms"]["values"], curves["rooms"]["lines"]["value"]
    np.testing.assert_allclose(np.diff(line), 2 * np.diff(places), atol=1e-4)
    assert all(isinstance(one, int) for one in curves["age"]["values"])


def test_it_goes_on_from_a_checkpoint_and_tells_the_same(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    whole = made_here(order(tmp_path / "one", repeats=2, curves=0), tmp_path / "one")
    drops = whole.details["drops"]
    kept = tmp_path / "two" / "kept.json"
    kept.write_text(json.dumps({"a": drops["a"]}))
    again = order(tmp_path / "two", repeats=2, curves=0).model_copy(
        update={"checkpoint": LaidCheckpoint(step=1, path="kept.json")}
    )
    assert made_here(again, tmp_path / "two").details["drops"] == drops


def test_versions_of_texts_are_refused_and_told_how(tmp_path: Path) -> None:
    moods = table_model(MOODS, PARTS, pooled=True)
    place = cards.bundle(tmp_path / "m", moods, MOOD_CARD)
    (place / "tokenizer.json").write_bytes(tokenizer())
    fields = [Field("text", "text"), Field("label", "category")]
    rows = cards.dataset(
        tmp_path / "d.parquet", "d@1", fields,
        text=np.array(["good", "bad"], object), label=np.array(["positive", "negative"], object),
    )  # fmt: skip
    spec = {"kind": "explain", "model": "m@1", "dataset": "d@1"}
    laid = cards.version(place, "m@1")
    asked = Order(job="j", spec=spec, datasets={"d@1": rows}, versions={"m@1": laid})
    assert "explained by model.explain" in refused_here(asked, tmp_path).message
