"""Trainings by the real process: from a table to a bundle that answers as it was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiaas_client.protocol.datasets import Split
from aiaas_client.protocol.jobs import JobError
from aiaas_server.job_process.served import served
from aiaas_server.job_process.train_parity import in_order
from aiaas_server.jobs.orders import CheckpointLine, Product, ProgressLine
from aiaas_server.jobs.splits import split_rows, texts_of
from aiaas_server.jobs.table import Field, Table
from aiaas_server.registry.verification.golden import compare_predictions, read_golden
from tests.server.job_process.ordering import (
    carry_out_each,
    lines_of,
    log_of,
    order_of,
    outcome_of,
)

pytestmark = pytest.mark.slow


def toy(name: str) -> Table:
    """One of scikit-learn's own data sets, with the labels as numbers."""
    from sklearn import datasets

    found = getattr(datasets, f"load_{name}")()
    fields = [Field(str(column), "number") for column in found.feature_names]
    values = {field.name: found.data[:, at] for at, field in enumerate(fields)}
    kind: Any = "number" if found.target.dtype.kind == "f" else "integer"
    return Table([*fields, Field("target", kind)], {**values, "target": found.target})


def spec_of(recipe: str, **more: Any) -> dict[str, Any]:
    return {"kind": "train", "model": "m", "recipe": recipe, "dataset": "d@1", **more}


CLASSES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "logistic": ("logistic-regression", "iris", {}),
    "svm": ("svm-classifier", "wine", {}),
    "linear svm": ("svm-classifier", "breast_cancer", {"kernel": "linear"}),
    "forest": ("random-forest-classifier", "breast_cancer", {"trees": 20}),
    "tree": ("decision-tree-classifier", "iris", {"max_depth": 3}),
    "boosting": ("gradient-boosting-classifier", "wine", {"rounds": 20, "early_stopping": True}),
    "neighbours": ("knn-classifier", "breast_cancer", {"neighbours": 7}),
}
VALUES: dict[str, dict[str, Any]] = {
    "linear-regression": {},
    "ridge": {},
    "lasso": {},
    "svm-regressor": {},
    "decision-tree-regressor": {"min_samples_leaf": 10},
    "random-forest-regressor": {"trees": 10},
    "gradient-boosting-regressor": {"rounds": 20},
    "knn-regressor": {"neighbours": 9},
}
SEARCH: dict[str, Any] = {
    "params": {"c": {"low": 0.01, "high": 100, "log": True}},
    "trials": 3,
    "method": "random",
    "folds": 2,
    "metric": "f1",
}
FRAME: dict[str, Any] = {
    "params": {"missing": "indicator"},
    "search": SEARCH,
    "class_weight": "balanced",
    "seed": 3,
}
"""Of a training by logistic regression on `people()`."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the trainings of this module are carried out, each in a directory of its name."""
    return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="module")
def products(place: Path) -> dict[str, Product | JobError]:
    """What all of them give, carried out by one process: imports are most of their time."""
    asked = {
        name: (spec_of(recipe, params=params, split={"validation": 0.1}), toy(data))
        for name, (recipe, data, params) in CLASSES.items()
    }
    asked |= {
        name: (spec_of(name, params=params, folds=2), toy("diabetes"))
        for name, params in VALUES.items()
    }
    asked["wrong"] = spec_of("ridge", target="lable"), people(20)
    asked["frame"] = spec_of("logistic-regression", **FRAME), people()
    orders = {
        place / name: order_of(place / name, spec, {"d@1": table})
        for name, (spec, table) in asked.items()
    }
    return dict(zip(asked, carry_out_each(orders), strict=True))


def test_the_served_accuracy_is_the_jobs(
    place: Path, products: dict[str, Product | JobError]
) -> None:
    """And every model passes the gate, on data that people know."""
    for name, (_, data, params) in CLASSES.items():
        product = products[name]
        assert isinstance(product, Product), f"{name} on {data}: {product}"
        assert product.metrics["accuracy"] > 0.85, f"{name} on {data}"
        assert product.versions[0].lineage["params"].items() >= params.items()
        check_served(place / name, product, toy(data))
    boosting = products["boosting"]
    assert isinstance(boosting, Product)
    losses = [step["validation_loss"] for step in boosting.details["history"]]
    assert losses[-1] < losses[0], "the curve of boosting"


def test_a_column_that_is_not_there_is_told_with_the_nearest(
    place: Path, products: dict[str, Product | JobError]
) -> None:
    """Before anything is made."""
    refused = products["wrong"]
    assert isinstance(refused, JobError)
    assert refused.code == "invalid_input"
    assert "did you mean 'label'" in refused.message
    assert not (place / "wrong" / "out" / "model").exists()


def check_served(directory: Path, product: Product, table: Table) -> None:
    (made,) = product.versions
    split = Split.model_validate(made.lineage["split"])
    held_out = table.take(split_rows(table, split, made.lineage["target"]).test)
    with served(directory / made.path) as bundle:
        assert bundle.model.signature.max_batch_size, "requests may be joined"
        right = bundle.answers(held_out).labels == texts_of(held_out, "target")
        card = bundle.card
        assert card is not None
        assert right.mean() == made.metrics["accuracy"] == card.metrics["accuracy"]
        check_golden(directory / made.path, bundle)
    assert made.reference is not None
    with np.load(directory / made.reference) as reference:
        assert {name.split(":")[0] for name in reference} == {"in", "out"}
        assert len({len(reference[name]) for name in reference}) == 1
    assert "<html" in (directory / product.files["report.html"]).read_text("utf-8")


def check_golden(directory: Path, bundle: Any) -> None:
    golden = read_golden((directory / "golden.json").read_bytes())
    answers = [one.model_dump(mode="json") for one in bundle.predict(golden.instances)]
    assert 10 < compare_predictions(golden, answers)["rows"] <= 100


def test_least_squares_have_the_error_of_scikit_learn(
    products: dict[str, Product | JobError],
) -> None:
    """And every other recipe of values passes the gate."""
    from sklearn.linear_model import LinearRegression

    for name in VALUES:
        product = products[name]
        assert isinstance(product, Product), f"{name}: {product}"
        assert product.metrics["r2"] > 0.2, name
        cv = product.details["cv"]
        assert cv["mean"]["mse"] == pytest.approx(np.mean([one["mse"] for one in cv["scores"]]))
        assert product.table[0] == {"fold": "mean", **cv["mean"]}
    table = toy("diabetes")
    rows = split_rows(table, Split(), "target")
    matrix = np.stack([table[name] for name in table.names[:-1]], axis=1)
    own = LinearRegression().fit(matrix[rows.train], table["target"][rows.train])
    error = own.predict(matrix[rows.test]) - table["target"][rows.test]
    least = products["linear-regression"]
    assert isinstance(least, Product)
    assert least.metrics["mse"] == pytest.approx(float(np.mean(error**2)), rel=1e-5)


def people(rows: int = 240) -> Table:
    """Numbers, flags and categories with gaps, and a rare class."""
    random = np.random.default_rng(5)
    age = random.normal(40, 12, rows)
    city = random.choice(["Wien", "北京", "Oslo"], rows).astype(object)
    member = (random.random(rows) < 0.5).astype(object)
    rich = (age > 45) & (city != "Oslo") | (member.astype(bool) & (age > 55))
    age[random.random(rows) < 0.1] = np.nan
    city[random.random(rows) < 0.1] = None
    member[random.random(rows) < 0.1] = None
    fields = [
        Field("age", "number"),
        Field("city", "category"),
        Field("member", "boolean"),
        Field("pixels", "array"),
        Field("empty", "number"),
        Field("label", "boolean"),
    ]
    values = {
        "age": age,
        "city": city,
        "member": np.array([None if one is None else bool(one) for one in member], object),
        "pixels": random.integers(0, 255, (rows, 2, 2)).astype(np.uint8),
        "empty": np.full(rows, np.nan),
        "label": rich.astype(bool),
    }
    return Table(fields, values)


def test_a_frame_with_gaps_is_served_as_it_was_learned_and_a_seed_gives_the_same_bits(
    place: Path, products: dict[str, Product | JobError], tmp_path: Path
) -> None:
    """A search over two processes, weights, gaps, categories and arrays at once; and by one."""
    table = people()
    asked = spec_of("logistic-regression", **FRAME, workers=2)
    lines = lines_of(order_of(tmp_path, asked, {"d@1": table}), tmp_path)
    product, again = outcome_of(lines), products["frame"]
    assert isinstance(product, Product), product
    assert isinstance(again, Product), again
    model = tmp_path / product.versions[0].path / "model.onnx"
    same = place / "frame" / again.versions[0].path / "model.onnx"
    assert same.read_bytes() == model.read_bytes()
    told = [line.progress for line in lines if isinstance(line, ProgressLine)]
    folds = [one for one in told if one.phase == "searching" and one.unit == "folds"]
    assert [(one.step, one.total) for one in folds] == [(step, 6) for step in range(1, 7)]
    assert all(one.metrics["f1"] > 0 for one in folds)
    assert not [line for line in lines if isinstance(line, CheckpointLine)]
    assert "column 'empty' is left out: every value is missing" in log_of(tmp_path)
    assert product.details["search"]["best"]["c"] == product.details["params"]["c"]
    assert product.table[0]["c"] == product.details["params"]["c"]
    assert len(product.table) == 3
    records = [
        {"age": 50.0, "city": "Wien", "member": True, "pixels": [[0, 0], [0, 0]]},
        {"age": None, "city": None, "member": None, "pixels": [0, 0, 0, 0], "label": True},
        {"age": 70, "city": "Atlantis", "member": False, "pixels": [[9, 9], [9, 9]]},
    ]
    with served(model.parent) as bundle:
        known, gaps, unseen = bundle.predict(records)
        assert {gaps.label, unseen.label} <= {"true", "false"}
        assert known.label == "true"
        answers = bundle.answers(table)
        assert set(answers.classes) == {"false", "true"}
        assert np.isfinite(in_order(answers, ("false", "true"))).all()
    card = json.loads((model.parent / "model.json").read_text("utf-8"))
    assert [column["name"] for column in card["preprocessing"]["columns"]] == [
        "age", "city", "member", "pixels",
    ]  # fmt: skip


_OURS_AND_THEIRS = """
from pathlib import Path
import numpy as np
from sklearn import calibration, multiclass, neighbors, svm
from aiaas_server.job_process.train_search import Silent
from aiaas_server.jobs.recipes import read_params, recipe
from aiaas_server.jobs.recipes.preprocessing import learn_design
from aiaas_server.jobs.recipes.recipe import Training
from aiaas_server.jobs.table import Field, Table

random = np.random.default_rng(0)
x = random.normal(size=(150, 4))
codes = (x[:, 0] > 0).astype(int) + (x[:, 1] + x[:, 2] > 1)
values = x @ [3.0, 2.0, 0.0, 1.0] * 100
unit = (values - values.mean()) / values.std()
names = ["a", "b", "c", "d"]
table = Table([Field(n, "number") for n in names], {n: x[:, at] for at, n in enumerate(names)})
matrix = learn_design(table).matrix(table)

def ours(name, target, classes, **params):
    found = recipe(name)
    data = Training(table, target.astype(float), classes)
    return found.fit(read_params(found, params), data, Silent(Path())).answer(table)

def check(theirs, found):
    assert np.abs(theirs - found).max() < 1e-6

for kernel in ("rbf", "linear"):
    machine = svm.SVC(kernel=kernel, gamma=0.3)
    one = calibration.CalibratedClassifierCV(machine, ensemble=False, cv=5)
    theirs = multiclass.OneVsRestClassifier(one).fit(matrix, codes).predict_proba(matrix)
    check(theirs, ours("svm-classifier", codes, ("0", "1", "2"), kernel=kernel, gamma=0.3))
    theirs = one.fit(matrix, codes > 0).predict_proba(matrix)
    check(theirs, ours("svm-classifier", codes > 0, ("0", "1"), kernel=kernel, gamma=0.3))
    theirs = svm.SVR(kernel=kernel, gamma=0.3).fit(matrix, unit).predict(matrix)
    found = ours("svm-regressor", values, (), kernel=kernel, gamma=0.3)
    check(theirs, (found - values.mean()) / values.std())
theirs = neighbors.KNeighborsClassifier(5).fit(matrix, codes).predict_proba(matrix)
check(theirs, ours("knn-classifier", codes, ("0", "1", "2")))
"""


def test_graphs_of_our_own_answer_as_scikit_learn_does() -> None:
    """Support vector machines, one against the rest, and nearest neighbours where none are tied."""
    subprocess.run([sys.executable, "-c", _OURS_AND_THEIRS], check=True, timeout=300)
