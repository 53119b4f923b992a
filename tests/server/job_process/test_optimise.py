"""Candidates of an optimisation: made by a real process, measured, kept or told why not."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from aiaas_server.job_process.optimising.gate import fastest
from aiaas_server.job_process.optimising.measure import Speed
from aiaas_server.job_process.served import served
from aiaas_server.jobs.orders import Order, Product
from aiaas_server.jobs.table import Field
from aiaas_server.registry.verification.verify import verify
from tests.server.job_process import cards, digits
from tests.server.job_process.at_hand import made, made_here, refused_here

pytestmark = pytest.mark.slow  # what quantises takes seconds to import

ALL = ["int8-dynamic", "int8-static", "fp16", "graph"]


def order(directory: Path, golden: dict[str, Any] | None = None, **spec: Any) -> Order:
    """To optimise the network of digits."""
    directory.mkdir(exist_ok=True)
    return Order(
        job="j",
        spec={"kind": "optimise", "model": "m@3", "dataset": "d@1", "held_out": True, **spec},
        datasets={"d@1": digits.dataset(directory)},
        versions={"m@3": digits.version(directory, **(golden or {}))},
    )


def answers(path: Path) -> np.ndarray[Any, Any]:
    """What a graph answers to all digits."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    found: Any = session.run(None, {"x": digits.rows()[0]})[0]
    return found


def row_of(product: Product, name: str) -> dict[str, Any]:
    """The row of a candidate in the table."""
    return next(row for row in product.table if row["candidate"] == name)


def golden_of_instances() -> dict[str, Any]:
    """What the network answers to 40 rows, to five digits."""
    pixels, _ = digits.rows()
    session = ort.InferenceSession(digits.network(), providers=["CPUExecutionProvider"])
    found: Any = session.run(None, {"x": pixels[:40]})[0]
    told = [
        {"label": str(row.argmax()), "scores": dict(zip(digits.LABELS, row.tolist(), strict=True))}
        for row in found
    ]
    return {"instances": pixels[:40].tolist(), "predictions": told}


@pytest.fixture(scope="module")
def optimised(tmp_path_factory: pytest.TempPathFactory) -> tuple[Product, Path]:
    """All targets, with an alias for the fastest."""
    directory = tmp_path_factory.mktemp("optimised")
    found = order(directory, golden_of_instances(), targets=ALL, promote="production")
    return made(found, directory), directory


def test_every_target_becomes_a_version_within_the_gate(
    optimised: tuple[Product, Path],
) -> None:
    """Measured beside the parent on what was held out; equal to what its own graph answers."""
    product, directory = optimised
    assert [row["candidate"] for row in product.table] == ["m@3", *ALL]
    own = row_of(product, "m@3")
    for row in product.table[1:]:
        assert row["outcome"] == "version", row
        assert row["drop"] == pytest.approx(own["accuracy"] - row["accuracy"])
        assert row["drop"] <= 0.01
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["rows_per_second"] > 0
        assert row["load_ms"] > 0
    assert row_of(product, "int8-dynamic")["size_bytes"] < own["size_bytes"]
    assert len(product.versions) == 4
    truth = digits.rows()[1]
    for one in product.versions:
        right = (answers(directory / one.path / "model.onnx").argmax(axis=1) == truth).mean()
        assert right == pytest.approx(one.metrics["accuracy"], abs=0.03)  # of all rows, not a third


def test_rows_that_mix_are_not_said_to_be_independent(optimised: tuple[Product, Path]) -> None:
    """Its activations are scaled by the largest of a batch, whatever its parent's card says: a
    server that believed the card would answer a row by its neighbours."""
    product, directory = optimised
    for one in product.versions:
        alone = one.lineage["optimisation"] == "int8-dynamic"
        card = json.loads((directory / one.path / "model.json").read_text())
        assert ("batching" in card) != alone
        with served(directory / one.path, threads=1) as model:
            assert bool(model.model.signature.max_batch_size) != alone
    assert "not run together" in row_of(product, "int8-dynamic")["reason"]


def test_lineage_names_the_parent_and_what_it_learned_from(
    optimised: tuple[Product, Path],
) -> None:
    """So that a candidate is evaluated on the same held-out rows; its card has no old metrics."""
    product, directory = optimised
    for one in product.versions:
        assert one.lineage["parent"] == "m@3"
        assert one.lineage["dataset"] == "d@1"
        assert one.lineage["split"] == digits.SPLIT
        assert one.lineage["libraries"]["onnxruntime"] == ort.__version__
        card = json.loads((directory / one.path / "model.json").read_text())
        assert card["metrics"]["accuracy"] == one.metrics["accuracy"] != 0.5
        assert card["preprocessing"] == digits.CARD["preprocessing"]
    assert [one.lineage["optimisation"] for one in product.versions] == ALL
    static = product.versions[1].lineage
    assert static["calibration"] == {"dataset": "d@1", "rows": 500}


def test_the_candidates_are_verified_as_any_upload_is(optimised: tuple[Product, Path]) -> None:
    """Graph, card and golden set: whose tolerance was widened no further than it says."""
    product, directory = optimised
    for one in (product.versions[0], product.versions[3]):
        found = asyncio.run(verify(directory / one.path, timeout=60, memory_bytes=2 << 30))
        assert found.report.golden["rows"] == 40
        golden = json.loads((directory / one.path / "golden.json").read_text())
        if one.lineage["golden"] == "unchanged":
            assert "atol" not in golden
        else:
            assert "labels" in golden or 0 < golden["atol"] < 0.2


def test_the_profile_of_its_traffic_is_made_of_its_own_answers(
    optimised: tuple[Product, Path],
) -> None:
    """But of one whose rows are not independent: dynamic ranges are of a whole batch.

    Scores add up to 1 whatever the bits of the weights.
    """
    product, directory = optimised
    assert product.versions[0].reference is None
    assert "not run together" in row_of(product, "int8-dynamic")["reason"]
    for one in product.versions[1:]:
        assert one.reference is not None
        reference = np.load(directory / one.reference)
        assert reference["in:x"].shape == (500, 64)
        wanted = reference["out:probabilities"]
        assert np.allclose(wanted.sum(axis=1), 1.0, atol=2e-3)


def test_only_the_fastest_within_the_gate_gets_the_alias(optimised: tuple[Product, Path]) -> None:
    """And none that is slower than the parent."""
    product, _ = optimised
    named = [one.lineage["optimisation"] for one in product.versions if one.alias]
    assert named == ([product.details["promoted"]] if product.details["promoted"] else [])
    assert product.details["promoted"] == product.details["fastest"]
    own = row_of(product, "m@3")
    for name in named:
        assert row_of(product, name)["p50_ms"] < own["p50_ms"]


def speed(p50: float, rows: float) -> Speed:
    """Of a version."""
    return Speed(load_ms=1.0, p50_ms=p50, p99_ms=2 * p50, rows_per_second=rows, batch=32)


@pytest.mark.parametrize(
    ("within", "wanted"),
    [
        ({"a": speed(0.5, 2e4), "b": speed(0.4, 2e4)}, "b"),
        ({"a": speed(0.5, 2e4), "b": speed(0.4, 9e3)}, "a"),
        ({"a": speed(0.99, 2e4)}, None),
        ({"a": speed(2.0, 2e4)}, None),
        ({}, None),
    ],
    ids=["sooner", "not under load", "noise", "slower", "none"],
)
def test_what_is_promoted_is_never_slower(within: dict[str, Speed], wanted: str | None) -> None:
    """Neither a row alone nor many."""
    assert fastest(speed(1.0, 1e4), within) == wanted


def test_the_graph_holds_nothing_of_this_machine(optimised: tuple[Product, Path]) -> None:
    """Simplified, but not laid out for the processor at hand."""
    product, directory = optimised
    model = onnx.load(directory / product.versions[3].path / "model.onnx")
    assert {node.domain for node in model.graph.node} <= {"", "com.microsoft"}
    assert {one.domain for one in model.opset_import} <= {"", "com.microsoft"}


def test_the_report_and_the_plot_are_there(optimised: tuple[Product, Path]) -> None:
    """Under the names by which a caller asks for them."""
    product, directory = optimised
    assert set(product.files) == {"report.html", "accuracy_latency.svg"}
    report = (directory / product.files["report.html"]).read_text()
    assert all(name in report for name in ALL)
    assert "<svg" in (directory / product.files["accuracy_latency.svg"]).read_text()


def test_equal_orders_make_equal_bytes(optimised: tuple[Product, Path], tmp_path: Path) -> None:
    """Of each graph, whichever process makes it."""
    product, directory = optimised
    again = made_here(order(tmp_path, targets=ALL), tmp_path)
    for one, two in zip(product.versions, again.versions, strict=True):
        first, second = (
            (root / v.path / "model.onnx").read_bytes()
            for root, v in ((directory, one), (tmp_path, two))
        )
        assert first == second, one.lineage["optimisation"]


def test_what_loses_too_much_makes_no_version(tmp_path: Path) -> None:
    """It is measured, stands in the table with its reason, and gets no alias."""
    found = Order(
        job="j",
        spec={
            "kind": "optimise",
            "model": "m@1",
            "dataset": "d@1",
            "target": "side",
            "targets": ["int8-static", "fp16"],
            "max_drop": 0.0,
            "promote": "production",
        },
        datasets={"d@1": _points_at_the_line(tmp_path)},
        versions={"m@1": cards.version(tmp_path / "m", "m@1")},
    )
    cards.bundle(tmp_path / "m", cards.sides(0.25), cards.SIDES)
    product = made_here(found, tmp_path)
    row = row_of(product, "int8-static")
    assert row["outcome"] == "refused"
    assert row["drop"] > 0
    assert "0 may be lost" in row["reason"]
    assert row["p50_ms"] > 0
    kept = [one.lineage["optimisation"] for one in product.versions]
    assert "int8-static" not in kept
    assert all(
        one.lineage["optimisation"] != "int8-static" for one in product.versions if one.alias
    )


def _points_at_the_line(directory: Path) -> Any:
    """Rows close to 0.25, beside few far ones that widen every range."""
    draw = np.random.default_rng(1)
    near = 0.25 + draw.normal(size=(400, 2)) / 200
    points = np.concatenate([near, [[50.0, 50.0], [-50.0, -50.0]]])
    side = np.where(points[:, 0] > 0.25, "right", "left").astype(object)
    fields = [Field("a", "number"), Field("b", "number"), Field("side", "category")]
    return cards.dataset(
        directory / "d.parquet", "d@1", fields, a=points[:, 0], b=points[:, 1], side=side
    )


def test_trees_are_told_and_make_no_version(tmp_path: Path) -> None:
    """What has no weights to make smaller is no failure of the job."""
    from skl2onnx import to_onnx
    from sklearn.ensemble import RandomForestClassifier

    pixels, truth = digits.rows()
    forest = RandomForestClassifier(5, random_state=0).fit(pixels, truth)
    graph: Any = to_onnx(forest, pixels[:1], options={id(forest): {"zipmap": False}})
    found = order(tmp_path, targets=ALL)
    (tmp_path / "m" / "model.onnx").write_bytes(graph.SerializeToString())
    product = made_here(found, tmp_path)
    for name in ("int8-dynamic", "int8-static", "fp16"):
        row = row_of(product, name)
        assert row["outcome"] == "none", row
        assert "TreeEnsembleClassifier" in row["reason"]
        assert "p50_ms" not in row
    kept = {one.lineage["optimisation"] for one in product.versions}
    assert kept <= {"graph"}


def test_a_version_that_tells_numbers_is_held_to_r2(tmp_path: Path) -> None:
    """And its calibration is of rows that were not held out."""
    numbers = np.linspace(-1, 1, 60)
    fields = [Field("a", "number"), Field("y", "number")]
    split = {"test": 0.5, "by": "random", "seed": 1}
    cards.bundle(tmp_path / "m", cards.line(2.0, 0.1), cards.LINE)
    lineage = {"dataset": "d@1", "target": "y", "split": split}
    found = Order(
        job="j",
        spec={
            "kind": "optimise",
            "model": "m@1",
            "dataset": "d@1",
            "held_out": True,
            "targets": ["fp16", "int8-dynamic"],
        },
        datasets={
            "d@1": cards.dataset(
                tmp_path / "d.parquet", "d@1", fields, a=numbers, y=2 * numbers + 0.1
            )
        },
        versions={"m@1": cards.version(tmp_path / "m", "m@1", **lineage)},
    )
    product = made_here(found, tmp_path)
    assert product.details["metric"] == "r2"
    assert product.details["calibration_rows"] == 30
    assert product.metrics["r2"] == pytest.approx(1.0)
    row = row_of(product, "fp16")
    assert row["outcome"] == "version"
    assert 0 <= row["drop"] < 1e-5
    assert "only Add, Mul" in row_of(product, "int8-dynamic")["reason"]
    assert product.versions[0].lineage["measured"]["metric"] == "r2"


def test_what_is_optimised_already_is_told(tmp_path: Path) -> None:
    """Int8 of int8, fp16 of fp16: nothing is left to do, and the same bytes are no new version."""
    first = made_here(order(tmp_path / "one", targets=["int8-static"]), tmp_path / "one")
    found = order(tmp_path / "two", targets=["int8-dynamic", "int8-static", "int8-static"])
    graph = (tmp_path / "one" / first.versions[0].path / "model.onnx").read_bytes()
    (tmp_path / "two" / "m" / "model.onnx").write_bytes(graph)
    again = made_here(found, tmp_path / "two")
    assert not again.versions
    assert [row["candidate"] for row in again.table] == ["m@3", "int8-dynamic", "int8-static"]
    assert all("quantised already" in row["reason"] for row in again.table[1:])


def test_weights_in_another_file_are_taken_in(tmp_path: Path) -> None:
    """The candidate is one file, and its card names no file that it has not."""
    found = order(tmp_path, targets=["fp16"])
    directory = tmp_path / "m"
    model = onnx.load(directory / "model.onnx")
    onnx.save_model(
        model, directory / "model.onnx", save_as_external_data=True, location="weights.bin",
        size_threshold=0,
    )  # fmt: skip
    card = json.loads((directory / "model.json").read_text())
    (directory / "notes.txt").write_text("kept")
    card["assets"] = {"weights.bin": "", "notes.txt": ""}
    (directory / "model.json").write_text(json.dumps(card))
    (version,) = made_here(found, tmp_path).versions
    kept = tmp_path / version.path
    names = {path.name for path in kept.iterdir()}
    assert names == {"model.onnx", "model.json", "notes.txt"}
    assert json.loads((kept / "model.json").read_text())["assets"] == {"notes.txt": ""}
    before = ort.InferenceSession(digits.network(), providers=["CPUExecutionProvider"])
    wanted: Any = before.run(None, {"x": digits.rows()[0]})[0]
    assert np.abs(answers(kept / "model.onnx") - wanted).max() < 0.02


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ({"metric": "r2"}, "metric: expected one of accuracy"),
        ({"target": "nose"}, "no column 'nose'"),
    ],
    ids=["metric", "target"],
)
def test_what_cannot_be_measured_is_refused(
    tmp_path: Path, spec: dict[str, Any], wanted: str
) -> None:
    """Before anything is made."""
    error = refused_here(order(tmp_path, **spec), tmp_path)
    assert error.code == "invalid_input"
    assert wanted in error.message
    assert not (tmp_path / "out").exists()
