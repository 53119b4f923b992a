"""The gate: a model that is served otherwise than it was trained does not pass."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from aiaas_server.job_process.served import Served, served
from aiaas_server.job_process.train_parity import (
    UNSEEN,
    ParityFailed,
    check_parity,
    edges_of,
    evenly,
)
from aiaas_server.job_process.train_search import Silent
from aiaas_server.job_process.worker import told
from aiaas_server.jobs.orders import Order
from aiaas_server.jobs.recipes import recipe
from aiaas_server.jobs.recipes.recipe import Array, Diverged, Exported, Fitted, Training
from aiaas_server.jobs.table import Field, Table

CLASSES = ("a", "b")


def frame() -> Table:
    random = np.random.default_rng(1)
    fields = [Field("x", "number"), Field("n", "integer"), Field("c", "category")]
    values = {
        "x": random.normal(size=60),
        "n": random.integers(0, 9, 60),
        "c": random.choice(["red", "blue"], 60).astype(object),
    }
    return Table(fields, values)


class Shifted(Fitted):
    """Answers as another, but for the rows in which it does not."""

    def __init__(self, whole: Fitted, by: float, column: str, value: object) -> None:
        self._whole, self._by, self._column, self._value = whole, by, column, value

    def answer(self, features: Table) -> Array:
        found = self._whole.answer(features).copy()
        rows = np.array([value == self._value for value in features[self._column]])
        found[rows, 0] += self._by
        return found

    def export(self, directory: Path) -> Exported:
        return self._whole.export(directory)


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    target = (frame()["x"] > 0).astype(np.float64)
    found = recipe("knn-classifier")
    return found.fit(found.params(), Training(frame(), target, CLASSES), Silent(Path()))


@pytest.fixture(scope="module")
def bundle(fitted: Fitted, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("bundle")
    card = fitted.export(directory).card
    (directory / "model.json").write_text(json.dumps(card))
    with served(directory) as found:
        yield found


def test_neighbours_are_served_as_they_were_trained(fitted: Fitted, bundle: Served) -> None:
    found = check_parity(fitted, bundle, frame(), CLASSES, 1e-6)
    assert found["rows"] == 60 + 6 + 3
    assert found["largest_difference"] < 1e-6


def test_a_row_of_the_training_that_differs_is_shown(fitted: Fitted, bundle: Served) -> None:
    wrong = Shifted(fitted, 0.25, "x", frame()["x"][17])
    with pytest.raises(ParityFailed, match="1 of 60 rows, row 17 of the training first") as caught:
        check_parity(wrong, bundle, frame(), CLASSES, 1e-4)
    error = told(caught.value, Order(job="j", spec={}))
    assert error.code == "parity"
    (row,) = error.details["rows"]
    assert row["values"]["n"] == frame()["n"][17]
    assert row["trained"][0] == pytest.approx(row["served"][0] + 0.25)


def test_a_row_at_the_edge_that_differs_is_shown(fitted: Fitted, bundle: Served) -> None:
    wrong = Shifted(fitted, 0.1, "c", UNSEEN)
    with pytest.raises(ParityFailed, match="values never seen first"):
        check_parity(wrong, bundle, frame(), CLASSES, 1e-4)
    check_parity(Shifted(fitted, 1e-5, "c", UNSEEN), bundle, frame(), CLASSES, 1e-4)


def test_a_model_of_no_numbers_has_diverged(fitted: Fitted, bundle: Served) -> None:
    with pytest.raises(Diverged, match="not a number"):
        check_parity(Shifted(fitted, np.nan, "c", "red"), bundle, frame(), CLASSES, 1e-4)


def test_the_edges_are_gaps_zeros_extremes_and_what_was_never_seen() -> None:
    found = edges_of(frame())
    rows = dict(zip(found.names, range(found.table.rows), strict=True))
    x, n, c = (found.table[name] for name in ("x", "n", "c"))
    assert np.isnan(x[rows["everything is missing"]])
    assert np.isnan(n[rows["'n' is missing"]])
    assert not np.isnan(x[rows["'n' is missing"]])
    assert c[rows["'c' is missing"]] is None
    assert c[rows["values never seen"]] == UNSEEN
    assert (x[rows["zeros"]], n[rows["largest"]]) == (0.0, frame()["n"].max())
    assert x[rows["beyond all"]] > 10 * frame()["x"].max()


def test_rows_are_drawn_evenly() -> None:
    assert evenly(5, 10).tolist() == [0, 1, 2, 3, 4]
    found = evenly(1000, 11)
    assert (found[0], found[-1], len(found)) == (0, 999, 11)
