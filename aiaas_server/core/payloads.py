"""Payloads of one call, before and after their run: read, weighed, grouped, worded. All pure.

What is wrong with one payload is told for that payload alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from time import monotonic_ns
from typing import Any, TypeVar

from pydantic import ValidationError

from aiaas_client.protocol.predictions import Prediction
from aiaas_client.protocol.tensors import Array
from aiaas_server.core.describe.card import explain
from aiaas_server.core.errors import (
    DeadlineExceeded,
    InferenceFailed,
    InvalidInput,
    NotSupported,
    OutputTooLarge,
    ServerError,
    bare,
)
from aiaas_server.core.events import Watch
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.schedule.batching import split
from aiaas_server.core.task import AnyTask, Params, Prepared, Task

T = TypeVar("T")

Answer = Prediction | ServerError
# What is one payload's own fault; every other error is the whole call's.
ITS_OWN = (InvalidInput, InferenceFailed, OutputTooLarge, NotSupported)
INLINE_ITEMS = 4
INLINE_CHARACTERS = 2_000
INLINE_BYTES = 64 << 10


def task_of(model: LoadedModel) -> AnyTask:
    """The model's task.

    Raises:
        InvalidInput: It has none.
    """
    if model.task is None:
        raise InvalidInput(
            f"model '{model.name}' has no task, since no card (model.json) lies beside it; "
            f"call it with tensors: POST /v2/models/{model.name}/infer"
        )
    return model.task


def read_params(task: AnyTask, params: Mapping[str, Any]) -> Params:
    """The caller's params, checked.

    Raises:
        InvalidInput: An unknown one, named beside those known, or an unusable value.
    """
    try:
        return task.params.model_validate(dict(params)) if params else _defaults(task.params)
    except ValidationError as error:
        raise InvalidInput(f"params: {explain(error, task.params)}") from None


@lru_cache(64)
def _defaults(kind: type[Params]) -> Params:
    """The params of a caller who sets none; they are frozen, so that all may share them."""
    return kind.model_validate({})


def too_late(model: LoadedModel) -> DeadlineExceeded:
    """What a call is told whose deadline passes while it is answered."""
    return DeadlineExceeded(
        f"model '{model.name}': the deadline passed before the prediction was ready"
    )


def are_light(task: Task, payloads: Sequence[Any]) -> bool:
    """Whether the event loop itself may prepare payloads."""
    return not task.costs and len(payloads) <= INLINE_ITEMS and not any(map(_is_heavy, payloads))


def prepared(
    task: Task, payloads: Sequence[Any], params: Params, watch: Watch | None = None
) -> list[Prepared | ServerError]:
    """Payloads as tensors, or what is wrong with them; `watch` is told how long it took."""
    if watch is None:
        return [_guarded(task.preprocess, payload, params) for payload in payloads]
    began = monotonic_ns()
    made = [_guarded(task.preprocess, payload, params) for payload in payloads]
    watch.phase("preprocess", monotonic_ns() - began)
    return made


def finished(
    task: Task,
    items: Sequence[Prepared],
    outputs: Sequence[Mapping[str, Array] | ServerError],
    params: Params,
    watch: Watch | None = None,
) -> list[Answer]:
    """The outputs of each item as its prediction; `watch` is told how long it took."""
    began = 0 if watch is None else monotonic_ns()
    answers: list[Answer] = [
        found if isinstance(found, ServerError) else _guarded(task.postprocess, found, item, params)
        for item, found in zip(items, outputs, strict=True)
    ]
    if watch is not None:
        watch.phase("postprocess", monotonic_ns() - began)
    return answers


def groups(ready: Mapping[int, Prepared], max_batch_size: int) -> Iterator[list[int]]:
    """Indices of payloads that run together: one shape, at most a batch of rows."""
    if max_batch_size < 2:
        yield from ([index] for index in ready)
        return
    by_shape: dict[Any, list[tuple[int, int]]] = {}
    for index, item in ready.items():
        key = (item.outputs, *((n, a.dtype.str, a.shape[1:]) for n, a in item.tensors.items()))
        by_shape.setdefault(key, []).append((index, item.rows))
    for members in by_shape.values():
        group: list[int] = []
        total = 0
        for index, rows in members:
            if group and total + rows > max_batch_size:
                yield group
                group, total = [], 0
            group.append(index)
            total += rows
        yield group


def shares(items: Sequence[Prepared], outputs: dict[str, Array]) -> list[dict[str, Array]]:
    """What each item gets of the outputs of their common run."""
    if len(items) == 1:
        return [outputs]
    parts = split(list(outputs.values()), [item.rows for item in items])
    return [dict(zip(outputs, part, strict=True)) for part in parts]


def _guarded(function: Callable[..., T], *args: Any) -> T | ServerError:
    try:
        return function(*args)
    except ITS_OWN as error:
        return bare(error)


def _is_heavy(payload: Any) -> bool:
    if isinstance(payload, str):
        return len(payload) > INLINE_CHARACTERS
    if isinstance(payload, bytes | bytearray | memoryview):
        return len(payload) > INLINE_BYTES
    if isinstance(payload, dict):
        return any(map(_is_heavy, payload.values()))
    return isinstance(payload, list) and len(payload) > INLINE_ITEMS
