"""The golden set of a candidate: its parent's, as strict as rounding allows.

Fewer bits answer a little differently. Where the parent's tolerance is too narrow for that it is
widened to what was seen; where labels differ, the parent's labels stay what is expected, and the
share of them that the candidate hits is what it must keep. What was changed is told in its lineage.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeGuard

import numpy as np

from aiaas_client.protocol.texts import decode_text
from aiaas_server.core.errors import Rejected, ServerError
from aiaas_server.http.kserve.payloads import payloads_of
from aiaas_server.job_process.optimising.made import NotPossible
from aiaas_server.job_process.served import Served
from aiaas_server.registry.verification.golden import (
    Golden,
    compare_outputs,
    compare_predictions,
    judge,
    judge_tensor,
    main_field,
    read_golden,
)

Array = np.ndarray[Any, Any]
_SLACK: Final = 2.0  # times the largest difference seen: another processor rounds otherwise


class Carried(NamedTuple):
    """A golden set.

    Attributes:
        content: Of its file.
        told: What was changed, for the lineage and the table.
    """

    content: bytes
    told: str


def carry(content: bytes, served: Served) -> Carried:
    """The golden set of a candidate that is served.

    Args:
        content: Of its parent's.
    Raises:
        NotPossible: The candidate does not pass it however it is read.
    """
    golden = read_golden(content)
    try:
        if golden.labels is not None:
            _judged(golden, served)
            return Carried(content, "unchanged")
        changes, told = (
            _of_instances(golden, served) if golden.inputs is None else _of_tensors(golden, served)
        )
    except Rejected as error:
        raise NotPossible(f"it fails the parent's golden set: {error.message}") from None
    if not changes:
        return Carried(content, told)
    document = {**json.loads(decode_text(content)), **changes}
    kept = {key: value for key, value in document.items() if value is not None}
    return Carried(json.dumps(kept, ensure_ascii=False).encode(), told)


def _predictions(golden: Golden, served: Served) -> list[Any]:
    assert served.model.task is not None, "versions that are measured have a task"
    payloads = payloads_of(served.model.task.input, golden.instances or [])
    answers = served.predict(payloads, golden.params)
    for row, answer in enumerate(answers):
        if isinstance(answer, ServerError):
            raise Rejected(f"instance {row}: {answer.message}")
    return [answer.model_dump(mode="json") for answer in answers]


def _outputs(golden: Golden, served: Served, names: Sequence[str]) -> dict[str, Array]:
    inputs = {name: tensor.array(name) for name, tensor in (golden.inputs or {}).items()}
    try:
        return served.infer(inputs, names)
    except ServerError as error:
        raise Rejected(f"its inputs cannot be run: {error.message}") from None


def _judged(golden: Golden, served: Served) -> None:
    if golden.instances is not None:
        judge(golden, [main_field(one, golden.field) for one in _predictions(golden, served)])
        return
    name = golden.output or served.model.signature.output_names[0]
    got = _outputs(golden, served, (name,))
    judge_tensor(golden, name, got[name], served.labels)


def _of_instances(golden: Golden, served: Served) -> tuple[dict[str, Any], str]:
    got = _predictions(golden, served)
    try:
        compare_predictions(golden, got)
        return {}, "unchanged"
    except Rejected:
        pass
    expected = golden.predictions or []
    pairs = list(zip(expected, map(_like, expected, got), strict=True))
    largest = _largest(pairs)
    if largest is not None:
        return _wider(golden, largest)
    labels = [main_field(one) if isinstance(one, dict) else one for one in expected]
    same = sum(main_field(one) == label for one, label in zip(got, labels, strict=True))
    return _by_labels(labels, same, {"predictions": None})


def _like(expected: Any, found: Any) -> Any:
    """The part of a prediction that is held against an expected one."""
    return found if isinstance(expected, dict | list) else main_field(found)


def _of_tensors(golden: Golden, served: Served) -> tuple[dict[str, Any], str]:
    got = _outputs(golden, served, tuple(golden.outputs or ()))
    try:
        compare_outputs(golden, got)
        return {}, "unchanged"
    except Rejected:
        pass
    expected = {name: one.array(name) for name, one in (golden.outputs or {}).items()}
    for name, array in expected.items():
        if got[name].shape != array.shape or got[name].dtype != array.dtype:
            raise Rejected(
                f"output '{name[:64]}': expected {array.dtype} of shape {list(array.shape)}, "
                f"got {got[name].dtype} of shape {list(got[name].shape)}"
            )
    floats = [name for name, array in expected.items() if array.dtype.kind == "f"]
    if all(np.array_equal(expected[name], got[name]) for name in expected if name not in floats):
        pairs = [(expected[name].ravel().tolist(), got[name].ravel().tolist()) for name in floats]
        largest = _largest(pairs)
        if largest is not None:
            return _wider(golden, largest)
    for name in floats:
        if expected[name].ndim == 2 and expected[name].shape[1] > 1:
            labels = expected[name].argmax(axis=1)
            same = int((got[name].argmax(axis=1) == labels).sum())
            return _by_labels(labels.tolist(), same, {"outputs": None, "output": name})
    raise Rejected("its outputs differ in more than rounding")


def _largest(pairs: Sequence[tuple[Any, Any]]) -> float | None:
    """The largest difference of two numbers; None where anything else differs."""
    most = 0.0
    for wanted, found in pairs:
        one = _difference(wanted, found)
        if one is None:
            return None
        most = max(most, one)
    return most


def _difference(wanted: Any, found: Any) -> float | None:
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        if wanted.keys() - found.keys():
            return None
        return _largest([(value, found[key]) for key, value in wanted.items()])
    if isinstance(wanted, list) and isinstance(found, list | tuple):
        return (
            _largest(list(zip(wanted, found, strict=True))) if len(wanted) == len(found) else None
        )
    if _is_number(wanted) and _is_number(found):
        return abs(float(found) - float(wanted))
    return 0.0 if wanted == found else None


def _is_number(value: object) -> TypeGuard[float]:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return math.isfinite(value)


def _wider(golden: Golden, largest: float) -> tuple[dict[str, Any], str]:
    atol = max(golden.atol, float(f"{_SLACK * largest:.2g}"))
    return {"atol": atol}, f"atol {golden.atol:g} became {atol:g}"


def _by_labels(
    labels: Sequence[Any], same: int, changes: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    # One row fewer than here: a tie may fall to the other side on another processor.
    floor = max(same - 1, 0) / len(labels)
    told = f"the parent's labels, of which it hits {same} of {len(labels)}"
    form = {"labels": list(labels), "metric": "accuracy", "floor": floor}
    return {**changes, **form, "rtol": None, "atol": None}, told
