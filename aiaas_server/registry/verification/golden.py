"""The golden set of a bundle: what a version must answer before it is kept. All pure.

`golden.json` has one of four forms:

    {"inputs": {name: tensor}, "outputs": {name: tensor}, "rtol": 1e-3, "atol": 1e-5}
    {"inputs": {name: tensor}, "labels": [...], "output": name, "metric": "accuracy", "floor": 0.9}
    {"instances": [...], "predictions": [...], "rtol": 1e-3, "atol": 1e-5}
    {"instances": [...], "labels": [...], "field": "label", "metric": "accuracy", "floor": 0.9}

A tensor is `{"datatype", "shape", "data" | "raw"}`, `raw` its bytes in base64. The metric
`mean_absolute_error` has a `ceiling` instead of a floor. Instances are what the task of the card
takes, as in `POST /v1/models/m:predict`.
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from aiaas_client.protocol.jsontensor import tensor_from_json
from aiaas_client.protocol.management import GOLDEN_FILE
from aiaas_client.protocol.tensors import (
    Array,
    TensorError,
    check_shape,
    datatype_of,
    tensor_from_bytes,
)
from aiaas_client.protocol.texts import decode_text
from aiaas_server.core.errors import Rejected

MAX_BYTES: Final = 64 << 20
_Tolerance = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
Metric = Literal["accuracy", "mean_absolute_error"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class GoldenTensor(_Part):
    """One tensor of a golden set."""

    datatype: str
    shape: list[int]
    data: JsonValue = None
    raw: str | None = None

    def array(self, name: str) -> Array:
        """The tensor.

        Raises:
            Rejected: Its values do not fit its datatype and shape.
        """
        try:
            shape = check_shape(self.shape)
            if (self.raw is None) == (self.data is None):
                raise TensorError("expected one of data and raw")
            if self.raw is None:
                return tensor_from_json(self.data, self.datatype, shape)
            content = binascii.a2b_base64(self.raw, strict_mode=True)
            return tensor_from_bytes(content, 0, len(content), self.datatype, shape)
        except binascii.Error:
            raise refused(f"tensor '{name[:64]}': raw is not base64") from None
        except TensorError as error:
            raise refused(f"tensor '{name[:64]}': {error}") from None


class Golden(_Part):
    """What `golden.json` says.

    Attributes:
        rtol, atol: A number may differ from the expected one by `atol + rtol * |expected|`.
        output: Which output the metric reads; the only one where it is left out.
        field: Which field of a prediction the metric reads; `label` or `value` by itself.
        params: Of the predictions, as a caller sets them.
    """

    inputs: dict[str, GoldenTensor] | None = None
    instances: Annotated[list[JsonValue], Field(min_length=1)] | None = None
    outputs: dict[str, GoldenTensor] | None = None
    predictions: list[JsonValue] | None = None
    labels: list[str | int | float] | None = None
    rtol: _Tolerance = 1e-3
    atol: _Tolerance = 1e-5
    output: str | None = None
    field: str | None = None
    metric: Metric | None = None
    floor: _Finite | None = None
    ceiling: _Finite | None = None
    params: dict[str, JsonValue] = {}

    @model_validator(mode="after")
    def _is_one_form(self) -> Self:
        if (self.inputs is None) == (self.instances is None):
            raise ValueError("expected one of inputs and instances")
        expected = "outputs" if self.inputs is not None else "predictions"
        other = "predictions" if self.inputs is not None else "outputs"
        if getattr(self, other) is not None:
            raise ValueError(f"expected {expected} or labels, got {other}")
        if (getattr(self, expected) is None) == (self.labels is None):
            raise ValueError(f"expected one of {expected} and labels")
        if getattr(self, expected) is not None and not getattr(self, expected):
            raise ValueError(f"{expected}: expected at least one")
        self._check_metric()
        return self

    def _check_metric(self) -> None:
        if (self.metric is None) != (self.labels is None):
            raise ValueError("labels and metric: expected both or neither")
        bounds = {"accuracy": ("floor", "ceiling"), "mean_absolute_error": ("ceiling", "floor")}
        if self.metric is None:
            if self.floor is not None or self.ceiling is not None:
                raise ValueError("floor and ceiling are bounds of a metric; there is none")
            return
        needed, wrong = bounds[self.metric]
        if getattr(self, needed) is None or getattr(self, wrong) is not None:
            raise ValueError(f"metric {self.metric}: expected a {needed}, and no {wrong}")
        if not self.labels:
            raise ValueError("labels: expected at least one")


def refused(reason: str) -> Rejected:
    """The refusal of a golden set, or by it."""
    return Rejected(f"{GOLDEN_FILE}: {reason}")


def read_golden(content: bytes) -> Golden:
    """The golden set from the bytes of `golden.json`.

    Raises:
        Rejected: Not JSON, an unknown key, or a value of the wrong kind; names what is wrong.
    """
    if len(content) > MAX_BYTES:
        raise refused(f"expected at most {MAX_BYTES} bytes, got {len(content)}")
    try:
        return Golden.model_validate_json(decode_text(content))
    except UnicodeDecodeError:
        raise refused("it is not UTF-8 text") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"][:6])[:128]
        text = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            known = Golden if len(first["loc"]) == 1 else GoldenTensor
            text = f"unknown key; known: {', '.join(known.model_fields)}"
        elif first["type"] == "model_type" and len(first["loc"]) == 2:
            text = 'expected a tensor, {"datatype": "FP32", "shape": [1, 2], "data": [0, 1]}'
        raise refused(f"{place}: {text}" if place else text) from None


def compare_outputs(golden: Golden, got: Mapping[str, Array]) -> dict[str, Any]:
    """Hold the outputs against those that are expected.

    Returns:
        For the report: rows, and the largest difference of a number.
    Raises:
        Rejected: One differs by more than it may; names output, row, and by how much.
    """
    largest, rows = 0.0, 0
    for name, tensor in (golden.outputs or {}).items():
        expected = tensor.array(name)
        found = got[name]
        if datatype_of(found) != tensor.datatype:
            raise refused(
                f"output '{name[:64]}': expected datatype {tensor.datatype}, "
                f"got {datatype_of(found)}"
            )
        if found.shape != expected.shape:
            raise refused(
                f"output '{name[:64]}': expected shape {list(expected.shape)}, "
                f"got {list(found.shape)}"
            )
        largest = max(largest, _compare(f"output '{name[:64]}'", expected, found, golden))
        rows = max(rows, expected.shape[0] if expected.ndim else 1)
    return {"rows": rows, "largest_difference": largest}


def _compare(what: str, expected: Array, found: Array, golden: Golden) -> float:
    """The largest difference of two tensors of one shape and datatype."""
    if expected.dtype.kind not in "iuf":
        wrong = np.asarray(expected != found)
        _refuse_first(what, wrong, expected, found, "")
        return 0.0
    wanted, given = expected.astype(np.float64), found.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        differences = np.abs(given - wanted)
        allowed = golden.atol + golden.rtol * np.abs(wanted)
        same = (given == wanted) | (np.isnan(given) & np.isnan(wanted))
        wrong = ~same & ~(np.isfinite(wanted) & (differences <= allowed))
    differences = np.where(same, 0.0, differences)
    _refuse_first(what, wrong, expected, found, _largest(differences, golden))
    return float(differences.max(initial=0.0))


def _largest(differences: Array, golden: Golden) -> str:
    known = differences[np.isfinite(differences)]
    most = float(known.max(initial=0.0))
    return (
        f"; the largest difference is {most:.6g}, allowed are {golden.atol:g} + {golden.rtol:g} "
        "of the expected value"
    )


def _refuse_first(what: str, wrong: Array, expected: Array, found: Array, more: str) -> None:
    if not wrong.any():
        return
    place = tuple(int(axis[0]) for axis in np.nonzero(wrong)) if wrong.ndim else ()
    row = f"row {place[0]}, " if place else ""
    inside = f"element {list(place[1:])}: " if len(place) > 1 else ""
    raise refused(
        f"{what}: {row}{inside}expected {_shown(expected[place])}, got {_shown(found[place])}; "
        f"{int(wrong.sum())} of {wrong.size} values differ{more}"
    )


def _shown(value: Any) -> str:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, float | np.floating):
        return f"{float(value):.6g}"
    return repr(value.item() if isinstance(value, np.generic) else value)[:64]


def judge_tensor(golden: Golden, name: str, got: Array, names: Sequence[str]) -> dict[str, Any]:
    """The metric over one output: labels or values of rows, or scores `(rows, classes)`.

    Args:
        names: The card's labels, for scores whose labels are texts.
    Raises:
        Rejected: It is on the wrong side of its bound, or the output cannot be read so.
    """
    labels = golden.labels or []
    flat = got.reshape(got.shape[0], -1) if got.ndim else got.reshape(1, 1)
    if len(flat) != len(labels):
        raise refused(
            f"expected {len(flat)} labels, as output '{name[:64]}' has rows, got {len(labels)}"
        )
    if flat.shape[1] == 1:
        return judge(golden, [_plain(value) for value in flat[:, 0].tolist()])
    if golden.metric != "accuracy" or got.dtype.kind not in "iuf":
        raise refused(
            f"metric {golden.metric}: expected one value a row, output '{name[:64]}' has "
            f"{flat.shape[1]}"
        )
    best = flat.argmax(axis=1).tolist()
    if any(isinstance(label, str) for label in labels):
        if flat.shape[1] != len(names):
            raise refused(
                f"labels that are texts: expected a card with {flat.shape[1]} labels, "
                f"got {len(names)}"
            )
        return judge(golden, [names[index] for index in best])
    return judge(golden, best)


def judge(golden: Golden, answers: Sequence[Any]) -> dict[str, Any]:
    """The metric over answers, one a label.

    Raises:
        Rejected: It is on the wrong side of its bound.
    """
    labels = golden.labels or []
    if len(answers) != len(labels):
        raise refused(f"expected {len(answers)} labels, got {len(labels)}")
    if golden.metric == "accuracy":
        value = sum(map(_same, answers, labels)) / len(labels)
        bound, kept = golden.floor or 0.0, value >= (golden.floor or 0.0)
        side = "at least"
    else:
        value = _mean_absolute_error(answers, labels)
        bound, kept = golden.ceiling or 0.0, value <= (golden.ceiling or 0.0)
        side = "at most"
    if not kept:
        raise refused(
            f"{golden.metric} over {len(labels)} rows: expected {side} {bound:g}, got {value:.6g}"
        )
    return {"rows": len(labels), "metric": golden.metric, "value": value, "bound": bound}


def _mean_absolute_error(answers: Sequence[Any], labels: Sequence[Any]) -> float:
    try:
        pairs = [(float(a), float(b)) for a, b in zip(answers, labels, strict=True)]
    except (TypeError, ValueError):
        raise refused("metric mean_absolute_error: expected numbers, got something else") from None
    return sum(abs(a - b) for a, b in pairs) / len(pairs)


def _same(answer: Any, label: Any) -> bool:
    if isinstance(answer, str) != isinstance(label, str):
        return str(answer) == str(label)
    return bool(answer == label)


def _plain(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def compare_predictions(golden: Golden, got: Sequence[Any]) -> dict[str, Any]:
    """Hold predictions, as their JSON, against those that are expected.

    An expected object may name only some of the fields; one that is a bare value is held against
    the prediction's `label`, `value` or `text`.

    Raises:
        Rejected: One differs; names row and field.
    """
    expected = golden.predictions or []
    if len(expected) != len(got):
        raise refused(
            f"expected {len(got)} predictions, as there are instances, got {len(expected)}"
        )
    largest = 0.0
    for row, (wanted, found) in enumerate(zip(expected, got, strict=True)):
        if not isinstance(wanted, dict | list) and isinstance(found, dict):
            found = main_field(found)
        largest = max(largest, _difference(f"row {row}", wanted, found, golden))
    return {"rows": len(got), "largest_difference": largest}


def main_field(prediction: Mapping[str, Any], name: str | None = None) -> Any:
    """The field of a prediction that a metric reads; raises `Rejected` where it has none."""
    names = ("label", "value", "text") if name is None else (name,)
    for candidate in names:
        if candidate in prediction:
            return prediction[candidate]
    raise refused(
        f"expected predictions with a field {' or '.join(names)}, got {', '.join(prediction)[:128]}"
    )


def _difference(place: str, wanted: Any, found: Any, golden: Golden) -> float:
    if isinstance(wanted, dict) and isinstance(found, dict):
        if missing := wanted.keys() - found.keys():
            raise refused(f"{place}: the prediction has no field '{min(missing)[:64]}'")
        return max(
            (
                _difference(f"{place}.{key}", value, found[key], golden)
                for key, value in wanted.items()
            ),
            default=0.0,
        )
    if isinstance(wanted, list) and isinstance(found, list | tuple) and len(wanted) == len(found):
        return max(
            (
                _difference(f"{place}.{at}", *pair, golden)
                for at, pair in enumerate(zip(wanted, found, strict=True))
            ),
            default=0.0,
        )
    if _is_number(wanted) and _is_number(found):
        difference = abs(float(found) - float(wanted))
        if wanted == found or difference <= golden.atol + golden.rtol * abs(float(wanted)):
            return difference
    elif wanted == found:
        return 0.0
    raise refused(f"{place[:128]}: expected {_shown(wanted)}, got {_shown(found)}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
