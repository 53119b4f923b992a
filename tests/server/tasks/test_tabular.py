"""Records in: scikit-learn exports give scikit-learn's own answers, and bad records are told."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from aiaas_client.protocol.predictions import Classification, Regression
from aiaas_server.core.errors import InvalidInput, LoadFailed

pytest.importorskip("skl2onnx", reason="scikit-learn and skl2onnx are not installed")

from onnx import helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC

from tests.graphs import model as built
from tests.graphs import value as described

IRIS = load_iris()
COLUMNS = [{"name": name} for name in IRIS.feature_names]
CARD = {
    "task": "tabular-classification",
    "labels": [str(name) for name in IRIS.target_names],
    "preprocessing": {"columns": COLUMNS},
    "postprocessing": {"output": "probabilities"},
}
CLASSIFIERS = {
    "logistic": make_pipeline(StandardScaler(), LogisticRegression()),
    "svm": SVC(kernel="linear"),
    "forest": RandomForestClassifier(20, random_state=0),
}


def export(model: Any, inputs: Any) -> bytes:
    options = {id(model): {"zipmap": False}} if hasattr(model, "classes_") else None
    made = to_onnx(model, initial_types=inputs, options=options, target_opset=17)
    return made.SerializeToString()


def four_floats(model: Any) -> bytes:
    return export(model, [("x", FloatTensorType([None, 4]))])


@pytest.fixture(scope="module")
def logistic() -> bytes:
    return four_floats(LogisticRegression(max_iter=500).fit(IRIS.data, IRIS.target))


# skl2onnx 1.20 still reads what scikit-learn 1.9 calls deprecated.
@pytest.mark.filterwarnings("ignore:Attribute `prob:FutureWarning")
@pytest.mark.parametrize("name", list(CLASSIFIERS))
def test_exports_answer_as_scikit_learn_does(open_version: Any, name: str) -> None:
    model = CLASSIFIERS[name].fit(IRIS.data, IRIS.target)
    post = {"output": "probabilities"}
    if name == "svm":
        post |= {"label_output": "label", "activation": "softmax"}
    opened = open_version(four_floats(model), {**CARD, "postprocessing": post})
    rows = IRIS.data[::7]
    found = [opened.predict(row.tolist()).label for row in rows]
    assert found == [IRIS.target_names[i] for i in model.predict(rows.astype(np.float32))]


def test_probabilities_are_scikit_learns(open_version: Any, logistic: bytes) -> None:
    model = LogisticRegression(max_iter=500).fit(IRIS.data, IRIS.target)
    found = open_version(logistic, CARD).predict(IRIS.data[100].tolist())
    assert isinstance(found, Classification)
    expected = dict(zip(CARD["labels"], model.predict_proba(IRIS.data[100:101])[0], strict=True))
    assert found.scores == pytest.approx(expected, abs=1e-5)


def test_columns_come_by_name_in_any_order(open_version: Any, logistic: bytes) -> None:
    opened = open_version(logistic, CARD)
    row = IRIS.data[60].tolist()
    record = dict(zip(IRIS.feature_names, row, strict=True))
    backwards = dict(reversed(record.items()))
    assert opened.predict(backwards) == opened.predict(row) == opened.predict(record)


def by_default(card: dict[str, Any]) -> dict[str, Any]:
    return {**card, "postprocessing": {}}


def test_the_output_of_a_zipmap_is_found_by_what_it_is(open_version: Any) -> None:
    model = LogisticRegression(max_iter=500).fit(IRIS.data, IRIS.target)
    made = to_onnx(model, initial_types=[("x", FloatTensorType([None, 4]))], target_opset=17)
    assert [value.name for value in made.graph.output] == ["output_label", "output_probability"]
    found = open_version(made.SerializeToString(), by_default(CARD)).predict(
        IRIS.data[100].tolist()
    )
    expected = dict(zip(CARD["labels"], model.predict_proba(IRIS.data[100:101])[0], strict=True))
    assert found.scores == pytest.approx(expected, abs=1e-5)


def test_the_usual_output_needs_no_name(open_version: Any, logistic: bytes) -> None:
    row = IRIS.data[60].tolist()
    expected = open_version(logistic, CARD).predict(row)
    assert open_version(logistic, by_default(CARD)).predict(row) == expected


def test_where_no_output_or_several_can_hold_the_scores_the_card_must_name_it(
    open_version: Any, onnx_models: Any
) -> None:
    card = by_default(CARD)
    with pytest.raises(LoadFailed, match=r"'output' must name .*; there are 'y' INT64 \[-1, 4\]$"):
        open_version(onnx_models.identity("INT64", ["batch", 4]), card)
    nodes = [helper.make_node("Identity", ["x"], [name]) for name in ("y", "z")]
    outputs = [described(name, ["batch", 4]) for name in ("y", "z")]
    two = built(nodes, [described("x", ["batch", 4])], outputs)
    with pytest.raises(LoadFailed, match="'output' must name"):
        open_version(two, card)


GOOD = dict(zip(IRIS.feature_names, [5.1, 3.5, 1.4, 0.2], strict=True))
FIRST = IRIS.feature_names[0]


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        pytest.param(
            {k: v for k, v in GOOD.items() if k != FIRST},
            f"missing columns '{FIRST}'",
            id="missing",
        ),
        pytest.param({**GOOD, "colour": 1}, "unknown columns 'colour'", id="extra"),
        pytest.param({**GOOD, FIRST: math.nan}, f"column '{FIRST}': got NaN", id="NaN"),
        pytest.param({**GOOD, FIRST: None}, f"column '{FIRST}': got None", id="None"),
        pytest.param({**GOOD, FIRST: math.inf}, "got an infinite", id="infinite"),
        pytest.param({**GOOD, FIRST: 10**400}, "far too large", id="huge integer"),
        pytest.param({**GOOD, FIRST: 1e300}, "too large for FP32", id="too large for float32"),
        pytest.param({**GOOD, FIRST: "5.1"}, "got a text '5.1'; a number", id="number as text"),
        pytest.param({**GOOD, FIRST: True}, "got a boolean; a number", id="boolean"),
        pytest.param([1.0, 2.0, 3.0], "got 3 values; 4 are accepted", id="short row"),
        pytest.param("5.1,3.5", "got a text; a record with the columns", id="text"),
        pytest.param(None, "got null; a record", id="null"),
    ],
)
def test_bad_records_are_told_with_what_is_accepted(
    open_version: Any, logistic: bytes, payload: Any, told: str
) -> None:
    with pytest.raises(InvalidInput) as raised:
        open_version(logistic, CARD).predict(payload)
    assert told in raised.value.message


def with_columns(**first: Any) -> dict[str, Any]:
    return {**CARD, "preprocessing": {"columns": [{**COLUMNS[0], **first}, *COLUMNS[1:]]}}


def test_a_missing_value_is_filled_where_the_card_says_so(
    open_version: Any, logistic: bytes
) -> None:
    opened = open_version(logistic, with_columns(missing="fill", fill=5.1))
    assert opened.predict({**GOOD, FIRST: None}) == opened.predict(GOOD)


def test_a_missing_value_is_nan_where_the_card_says_so(open_version: Any, logistic: bytes) -> None:
    opened = open_version(logistic, with_columns(missing="nan"))
    prepared = opened.task.preprocess({**GOOD, FIRST: None}, opened.task.params())
    assert np.isnan(prepared.tensors["x"][0, 0])


def test_extra_columns_are_ignored_where_the_card_says_so(
    open_version: Any, logistic: bytes
) -> None:
    card = {**CARD, "preprocessing": {"columns": COLUMNS, "extra": "ignore"}}
    opened = open_version(logistic, card)
    assert opened.predict({**GOOD, "colour": "red"}) == opened.predict(GOOD)


AGES = [[20.0], [30.0], [40.0], [50.0], [60.0], [70.0]]
CITIES = [["Rome"], ["Oslo"], ["Rome"], ["Oslo"], ["Rome"], ["Oslo"]]


def frame_export() -> bytes:
    """A pipeline over a frame: `age` float and `city` text, each an input of its own."""
    columns = ColumnTransformer(
        [("n", StandardScaler(), [0]), ("c", OneHotEncoder(handle_unknown="ignore"), [1])]
    )
    table = np.array([[a[0], c[0]] for a, c in zip(AGES, CITIES, strict=True)], object)
    model = make_pipeline(columns, LogisticRegression()).fit(table, [0, 1, 0, 1, 0, 1])
    inputs = [("age", FloatTensorType([None, 1])), ("city", StringTensorType([None, 1]))]
    return export(model, inputs)


def frame_card(unseen: str) -> dict[str, Any]:
    city = {
        "name": "city",
        "kind": "category",
        "encode": "none",
        "categories": ["Oslo", "Rome"],
        "unseen": unseen,
    }
    return {
        "task": "tabular-classification",
        "labels": ["south", "north"],
        "preprocessing": {"columns": [{"name": "age"}, city]},
    }


def test_pipelines_over_frames_take_texts(open_version: Any) -> None:
    opened = open_version(frame_export(), frame_card("refuse"))
    assert opened.predict({"city": "Oslo", "age": 33}).label == "north"
    assert opened.predict({"city": "Rome", "age": 33}).label == "south"


def test_an_unseen_category_is_refused_or_ignored_as_the_card_says(open_version: Any) -> None:
    record = {"city": "Paris", "age": 33}
    with pytest.raises(InvalidInput) as raised:
        open_version(frame_export(), frame_card("refuse")).predict(record)
    assert "column 'city': 'Paris' is not among the known values 'Oslo', 'Rome'" in str(
        raised.value
    )
    assert open_version(frame_export(), frame_card("ignore")).predict(record).label


@pytest.mark.parametrize(
    ("encode", "rows"),
    [
        pytest.param("ordinal", {"b": [1.0], "z": [-1.0]}, id="ordinal"),
        pytest.param("one-hot", {"b": [0.0, 1.0], "z": [0.0, 0.0]}, id="one-hot"),
    ],
)
def test_categories_become_numbers(
    open_version: Any, onnx_models: Any, encode: str, rows: dict[str, list[float]]
) -> None:
    column = {
        "name": "c",
        "kind": "category",
        "categories": ["a", "b"],
        "encode": encode,
        "unseen": "ignore",
    }
    model = onnx_models.identity("FP32", ["batch", len(rows["b"])])
    card = {"task": "tabular-regression", "preprocessing": {"columns": [column]}}
    opened = open_version(model, card)
    for value, row in rows.items():
        tensors = opened.task.preprocess({"c": value}, opened.task.params()).tensors
        assert tensors["x"].tolist() == [row]


ARRAY = [{"name": "image", "kind": "array", "shape": [2, 3]}]


def test_an_array_comes_nested_or_flat_by_name_or_alone(
    open_version: Any, onnx_models: Any
) -> None:
    model = onnx_models.identity("FP32", ["batch", 6])
    nested, flat = [[1, 2.5, 3], [4, 5, 6]], [1, 2.5, 3, 4, 5, 6]
    for payload in ({"image": nested}, {"image": flat}, [nested], [flat], flat, nested):
        assert preprocessed(open_version, model, ARRAY, payload) == [flat], payload
    beside = [*ARRAY, {"name": "age"}]
    model = onnx_models.identity("FP32", ["batch", 7])
    assert preprocessed(open_version, model, beside, [nested, 30]) == [[*flat, 30]]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (
            [[1, 2], [3, 4], [5, 6]],
            r"column 'image': got shape \[3, 2\]; numbers of shape \[2, 3\]",
        ),
        ([[1, 2, 3], [4, 5]], "column 'image': the rows differ in length"),
        ([1, 2, 3, 4, 5, "6"], "column 'image': got values that are none"),
        ([1, 2, 3, 4, 5, math.nan], "column 'image': got NaN or an infinite number"),
        ([True] * 6, "column 'image': got values that are none"),
        ("pixels", "column 'image': got a text"),
        (None, "column 'image': got None; a value is needed"),
    ],
)
def test_an_array_that_does_not_fit_is_told(
    open_version: Any, onnx_models: Any, value: Any, told: str
) -> None:
    model = onnx_models.identity("FP32", ["batch", 6])
    with pytest.raises(InvalidInput, match=told):
        preprocessed(open_version, model, ARRAY, {"image": value})


def test_regression_answers_as_scikit_learn_does(open_version: Any) -> None:
    model = LinearRegression().fit(IRIS.data[:, :3], IRIS.data[:, 3])
    exported = export(model, [("x", FloatTensorType([None, 3]))])
    card = {"task": "tabular-regression", "preprocessing": {"columns": COLUMNS[:3]}}
    found = open_version(exported, card).predict(IRIS.data[7, :3].tolist())
    assert isinstance(found, Regression)
    assert found.value == pytest.approx(model.predict(IRIS.data[7:8, :3])[0], abs=1e-5)


def test_several_values_have_their_names(open_version: Any, onnx_models: Any) -> None:
    card = {
        "task": "tabular-regression",
        "preprocessing": {"columns": [{"name": "a"}, {"name": "b"}]},
        "postprocessing": {"names": ["low", "high"]},
    }
    found = open_version(onnx_models.identity("FP32", ["batch", 2]), card).predict([1, 2])
    assert found.values == {"low": 1.0, "high": 2.0}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        pytest.param(
            {"labels": ["a", "b"]}, "the card names 2, output 'probabilities' has 3", id="labels"
        ),
        pytest.param(
            {"preprocessing": {"columns": COLUMNS[:3]}},
            "the columns make up 3 values, input 'x' takes 4",
            id="columns",
        ),
        pytest.param(
            {"preprocessing": {"columns": [COLUMNS[0]] * 4}}, "comes twice", id="column twice"
        ),
        pytest.param(
            {"preprocessing": {"columns": [{"name": "t", "kind": "text"}, *COLUMNS[1:]]}},
            "column 't' does not fit input 'x' of datatype FP32",
            id="text column",
        ),
        pytest.param(
            {"preprocessing": {"columns": [{**COLUMNS[0], "input": "y"}, *COLUMNS[1:]]}},
            "feeds no input of the model, which takes 'x'",
            id="input",
        ),
        pytest.param({"preprocessing": {}}, "preprocessing: 'columns' is missing", id="none"),
        pytest.param(
            {"preprocessing": {"columns": [{"name": "a", "missing": "fill"}]}},
            "'fill' is not given",
            id="fill",
        ),
    ],
)
def test_a_card_that_does_not_fit_is_refused_at_load(
    open_version: Any, logistic: bytes, changed: dict[str, Any], told: str
) -> None:
    with pytest.raises(LoadFailed) as raised:
        open_version(logistic, {**CARD, **changed})
    assert told in raised.value.message


def preprocessed(open_version: Any, model: bytes, columns: list[Any], record: Any) -> Any:
    card = {"task": "tabular-regression", "preprocessing": {"columns": columns}}
    opened = open_version(model, card)
    return opened.task.preprocess(record, opened.task.params()).tensors["x"].tolist()


@pytest.mark.parametrize(
    ("datatype", "value", "seen"),
    [
        pytest.param("INT64", 40, 40, id="an integer"),
        pytest.param("INT64", 40.0, 40, id="a whole number with a point"),
        pytest.param("INT64", 2**60 + 1, 2**60 + 1, id="beyond what a float holds"),
        pytest.param("INT64", -0.0, 0, id="minus zero"),
        pytest.param("UINT64", 2**64 - 59, 2**64 - 59, id="unsigned"),
        pytest.param("BOOL", 1, True, id="1 is true"),
        pytest.param("BOOL", 0.0, False, id="0.0 is false"),
        pytest.param("FP32", 0.5, 0.5, id="a fraction"),
        pytest.param("FP16", 0.5, 0.5, id="a fraction of 16 bits"),
    ],
)
def test_a_number_reaches_the_model_as_it_is(
    open_version: Any, onnx_models: Any, datatype: str, value: Any, seen: Any
) -> None:
    model = onnx_models.identity(datatype, ["batch", 2])
    columns = [{"name": "a"}, {"name": "b"}]
    given = {"a": value, "b": 0.5 if datatype.startswith("FP") else 1}
    assert preprocessed(open_version, model, columns, given)[0][0] == seen


@pytest.mark.parametrize(
    ("datatype", "value", "told"),
    [
        pytest.param("INT64", 40.6, "column 'a': got 40.6; a whole number", id="a fraction"),
        pytest.param("INT32", -0.5, "column 'a': got -0.5; a whole number", id="towards zero"),
        pytest.param("BOOL", 2.5, "column 'a': got 2.5; 0 or 1", id="no boolean"),
        pytest.param("BOOL", 2, "column 'a': got 2; 0 or 1", id="an integer as boolean"),
        pytest.param("BOOL", -1, "column 'a': got -1; 0 or 1", id="negative as boolean"),
        pytest.param("INT64", None, "column 'a': a value is missing", id="missing in integers"),
        pytest.param("BOOL", math.nan, "column 'a': a value is missing", id="missing in booleans"),
        pytest.param("UINT8", 256, "a value does not fit UINT8", id="too large"),
        pytest.param("UINT8", -1, "a value does not fit UINT8", id="negative"),
        pytest.param("INT64", 1e300, "a value does not fit INT64", id="far too large"),
        pytest.param("FP16", 1e5, "a value is too large for FP16", id="16 bits"),
    ],
)
def test_a_number_that_would_become_another_is_refused(
    open_version: Any, onnx_models: Any, datatype: str, value: Any, told: str
) -> None:
    model = onnx_models.identity(datatype, ["batch", 2])
    columns = [{"name": "a", "missing": "nan"}, {"name": "b"}]
    with pytest.raises(InvalidInput) as raised:
        preprocessed(open_version, model, columns, {"a": value, "b": 1})
    assert told in raised.value.message


def test_texts_reach_the_model_as_they_are_or_are_refused(
    open_version: Any, onnx_models: Any
) -> None:
    model = onnx_models.identity("BYTES", ["batch", 1])
    columns = [{"name": "a", "kind": "text"}]
    for text in ("", "a\0b", "\u00fc", "007"):
        assert preprocessed(open_version, model, columns, {"a": text}) == [[text.encode()]]
    with pytest.raises(InvalidInput, match="column 'a': the text holds half of a character"):
        preprocessed(open_version, model, columns, {"a": "\ud800"})


def test_the_columns_are_told_to_who_holds_them_as_text(
    open_version: Any, onnx_models: Any
) -> None:
    columns = [{"name": "a"}, {"name": "b", "kind": "category", "categories": ["01", "1"]}]
    card = {"task": "tabular-regression", "preprocessing": {"columns": columns}}
    opened = open_version(onnx_models.identity("FP32", ["batch", 2]), card)
    expected = [{"name": "a", "kind": "number"}, {"name": "b", "kind": "category"}]
    assert list(opened.task.columns) == expected
