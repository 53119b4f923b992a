"""Explanations of fake models: exact Shapley values of their own functions, where those are small.

What a real server samples is not imitated: with more than `MOST` words or columns, or for anything
but texts, records and rows of numbers, the answer is a 501 that says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from math import factorial
from typing import Any, Final

import numpy as np
from pydantic import BaseModel

from aiaas_client.protocol.tensors import dtype_of
from aiaas_client.testing.fake_model import FakeError, FakeModel
from aiaas_client.testing.state import FakeTask

MOST: Final = 8
Scores = dict[str, float]


def explained_task(
    name: str, served: FakeTask, document: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Explain instances of a task: texts by their words, records by their columns."""
    params = document.get("parameters") or {}
    found = []
    for instance in document["instances"]:
        if isinstance(instance, str):
            spans = [match.span() for match in re.finditer(r"\w+", instance)]
            parts = [{"feature": instance[a:b], "start": a, "end": b} for a, b in spans]
            value = _of_text(served, instance, spans)
        else:
            parts = [{"feature": key, "value": item} for key, item in _items(instance)]
            value = _of_rows(
                _background(params), instance, lambda row: _scores(served.function(row))
            )
        found.append(_explained(name, parts, value, params))
    return found


def explained_model(model: FakeModel, document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Explain rows of numbers of a model with one input."""
    if len(model.inputs) != 1:
        raise FakeError(501, f"model {model.name!r}: a fake of one declared input can be explained")
    spec, params = model.inputs[0], document.get("parameters") or {}

    def scores(row: Sequence[float]) -> Scores:
        given = np.array([row], dtype_of(spec.datatype))
        answer = model.function(**{spec.name: given})
        first = next(iter(answer.values())) if isinstance(answer, Mapping) else answer
        return {str(at): float(one) for at, one in enumerate(np.ravel(np.asarray(first)))}

    found = []
    for instance in document["instances"]:
        parts = [{"feature": f"{spec.name}[{at}]", "value": one} for at, one in enumerate(instance)]
        value = _of_rows(_background(params), list(instance), scores)
        found.append(_explained(model.name, parts, value, params))
    return found


def _explained(
    name: str,
    parts: Sequence[dict[str, Any]],
    value: Callable[[frozenset[int]], Scores],
    params: Mapping[str, Any],
) -> dict[str, Any]:
    count = len(parts)
    if count > MOST:
        raise FakeError(501, f"model {name!r}: a fake explains up to {MOST} features, got {count}")
    everyone = frozenset(range(count))
    whole = value(everyone)
    output = params.get("output")
    if isinstance(output, int):
        output = list(whole)[output] if output < len(whole) else str(output)
    output = output or max(whole, key=whole.__getitem__)
    if output not in whole:
        raise FakeError(400, f"the model has no output {output!r}; it has {', '.join(whole)}")
    known: dict[frozenset[int], float] = {everyone: whole[output]}

    def of(members: frozenset[int]) -> float:
        if members not in known:
            known[members] = value(members).get(output, 0.0)
        return known[members]

    added = [_shapley(at, count, of) for at in range(count)]
    return {
        "method": "exact",
        "output": output,
        "prediction": whole[output],
        "base": of(frozenset()),
        "contributions": [
            {**part, "contribution": one} for part, one in zip(parts, added, strict=True)
        ],
        "samples": len(known),
        "seed": params.get("seed", 0),
        "background": "of the fake",
    }


def _shapley(feature: int, count: int, of: Callable[[frozenset[int]], float]) -> float:
    others = [at for at in range(count) if at != feature]
    total = 0.0
    for size in range(count):
        weight = factorial(size) * factorial(count - size - 1) / factorial(count)
        for chosen in combinations(others, size):
            members = frozenset(chosen)
            total += weight * (of(members | {feature}) - of(members))
    return total


def _of_text(
    served: FakeTask, text: str, spans: Sequence[tuple[int, int]]
) -> Callable[[frozenset[int]], Scores]:
    def value(members: frozenset[int]) -> Scores:
        words = [text[a:b] for at, (a, b) in enumerate(spans) if at in members]
        return _scores(served.function(" ".join(words)))

    return value


def _of_rows(
    background: Sequence[Any], instance: Any, scores: Callable[[Any], Scores]
) -> Callable[[frozenset[int]], Scores]:
    keys = [key for key, _ in _items(instance)]

    def value(members: frozenset[int]) -> Scores:
        rows = []
        for other in background:
            row = other.copy()
            for at in members:
                row[keys[at]] = instance[keys[at]]
            rows.append(scores(row))
        return {name: sum(one.get(name, 0.0) for one in rows) / len(rows) for name in rows[0]}

    return value


def _items(instance: Any) -> list[tuple[Any, Any]]:
    if isinstance(instance, dict):
        return list(instance.items())
    if isinstance(instance, list):
        return list(enumerate(instance))
    raise FakeError(501, "a fake explains texts, records and rows of numbers")


def _background(params: Mapping[str, Any]) -> list[Any]:
    background: list[Any] = params.get("background") or []
    if not background:
        raise FakeError(400, "give instances to compare with as 'parameters.background'")
    return background


def _scores(answer: Any) -> Scores:
    fields: dict[str, Any] = answer.model_dump() if isinstance(answer, BaseModel) else dict(answer)
    for name in ("scores", "values"):
        if fields.get(name):
            return {str(key): float(one) for key, one in fields[name].items()}
    if "value" in fields:
        return {"value": float(fields["value"])}
    if "label" in fields:
        return {str(fields["label"]): float(fields.get("score", 1.0))}
    raise FakeError(501, "a fake explains answers with scores or a value")
