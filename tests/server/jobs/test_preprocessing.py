"""What a recipe learns from is what a server makes of the same record by the card."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiaas_server.core.errors import InvalidInput
from aiaas_server.core.signature import Signature, TensorSpec
from aiaas_server.jobs.recipes.preprocessing import INPUT, MOST_CATEGORIES, Design, learn_design
from aiaas_server.jobs.table import Field, Table
from aiaas_server.tasks.tabular import ColumnEncoder, Preprocessing

KINDS = {"n": "number", "i": "integer", "b": "boolean", "c": "category"}
CELLS: dict[str, st.SearchStrategy[Any]] = {
    "n": st.one_of(st.none(), st.floats(-1e6, 1e6), st.sampled_from([16777217.0, 1e-30, -0.0])),
    "i": st.integers(-(2**40), 2**40),
    "b": st.one_of(st.none(), st.booleans()),
    "c": st.one_of(st.none(), st.sampled_from(["red", "绿", "", "(missing)", "3"])),
}
RECORDS = st.lists(st.fixed_dictionaries(CELLS), min_size=1, max_size=12)


def table_of(records: list[dict[str, Any]]) -> Table:
    columns: dict[str, Any] = {}
    for name, kind in KINDS.items():
        cells = [record[name] for record in records]
        if kind == "number":
            columns[name] = np.array([np.nan if one is None else one for one in cells], np.float64)
        elif kind == "integer":
            columns[name] = np.array(cells, np.int64)
        else:
            columns[name] = np.array(cells, object)
    return Table([Field(name, kind) for name, kind in KINDS.items()], columns)  # type: ignore[arg-type]


def encoder_of(design: Design) -> ColumnEncoder:
    card = json.loads(json.dumps(design.card()))
    spec = TensorSpec(INPUT, "FP32", (-1, design.width), symbols=("", ""))
    return ColumnEncoder(Preprocessing.model_validate(card), Signature("m", (spec,), (), 8))


@given(learned=RECORDS, others=RECORDS)
def test_a_server_makes_the_same_numbers_of_a_record(
    learned: list[dict[str, Any]], others: list[dict[str, Any]]
) -> None:
    """Also of records with gaps and values that were not learned, and with columns besides."""
    design = learn_design(table_of(learned))
    encoder = encoder_of(design)
    served = [encoder.row({**record, "target": "x"})[INPUT][0] for record in (*learned, *others)]
    own = design.raw(table_of([*learned, *others]))
    assert np.array_equal(np.stack(served), own, equal_nan=True)


@given(learned=RECORDS, missing=st.sampled_from(["median", "most-frequent", "indicator"]))
def test_what_an_estimator_gets_is_finite(learned: list[dict[str, Any]], missing: Any) -> None:
    design = learn_design(table_of(learned), missing=missing)
    found = design.matrix(table_of(learned))
    assert np.isfinite(found).all()
    assert found.shape == (len(learned), len(design.names()))


def numbers(*values: float) -> Table:
    return Table([Field("x", "number")], {"x": np.array(values)})


def test_gaps_are_filled_as_asked() -> None:
    table = numbers(1.0, 1.0, 2.0, 9.0, np.nan)
    found = {
        missing: learn_design(table, missing=missing, scaled=False).matrix(table)[-1].tolist()  # type: ignore[arg-type]
        for missing in ("median", "most-frequent", "indicator")
    }
    assert found == {"median": [1.5], "most-frequent": [1.0], "indicator": [1.5, 1.0]}


def test_numbers_are_scaled_and_flags_are_not() -> None:
    table = Table(
        [Field("x", "number"), Field("same", "number"), Field("f", "boolean")],
        {"x": np.array([1.0, 3.0]), "same": np.array([7.0, 7.0]), "f": np.array([True, False])},
    )
    assert learn_design(table).matrix(table).tolist() == [[-1.0, 0.0, 1.0], [1.0, 0.0, 0.0]]


def test_large_numbers_keep_their_differences() -> None:
    """Centre and scale are reckoned in float64: a million and one is not a million."""
    table = numbers(1e6, 1e6 + 1, 1e6 + 2)
    found = learn_design(table).matrix(table)[:, 0]
    assert found == pytest.approx([-1.224745, 0.0, 1.224745], abs=1e-5)


def test_an_array_is_taken_whole() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
    table = Table([Field("image", "array")], {"image": pixels})
    design = learn_design(table, scaled=False)
    assert design.names() == [f"image[{at}]" for at in range(4)]
    assert encoder_of(design).row([[0, 1], [2, 3]])[INPUT].tolist() == [[0, 1, 2, 3]]
    assert design.raw(table).tolist() == pixels.reshape(3, 4).tolist()


def test_rare_categories_count_as_unseen() -> None:
    values = [f"v{at}" for at in range(MOST_CATEGORIES + 20)] + ["v7"] * 3
    table = Table([Field("c", "category")], {"c": np.array(values, object)})
    design = learn_design(table)
    assert design.width == MOST_CATEGORIES
    assert design.raw(table).sum(axis=1).tolist().count(0.0) == 20
    assert design.features[0].fill == "v7"


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e39])
def test_what_float32_cannot_hold_is_named(value: float) -> None:
    with pytest.raises(InvalidInput, match="column 'x', row 1: an infinite or far too large"):
        learn_design(numbers(1.0, value))
