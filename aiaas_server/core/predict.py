"""From payloads to predictions: the task's two halves around the model's own queue.

Payloads of one call that make tensors of one shape run together, and with those of everybody else
who calls the model at that moment. What is wrong with one payload is told for that payload alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
from pydantic import ValidationError

from aiaas_client.protocol.predictions import Prediction
from aiaas_client.protocol.tensors import Array

from .card import explain
from .errors import (
    DeadlineExceeded,
    InferenceFailed,
    InvalidInput,
    NotSupported,
    OutputTooLarge,
    ServerError,
)
from .model import LoadedModel
from .task import AnyTask, LoopingTask, Params, Prepared, Task, is_looping

T = TypeVar("T")

# What is one payload's own fault; every other error is the whole call's.
ITS_OWN = (InvalidInput, InferenceFailed, OutputTooLarge, NotSupported)
RUNS_AT_ONCE = 8  # of one call, so that it leaves room in the queue
LOOPS_AT_ONCE = 16
THREAD_ITEMS = 16  # payloads prepared by one hop to a thread
INLINE_ITEMS = 4
INLINE_CHARACTERS = 2_000
INLINE_BYTES = 64 << 10
MAX_DEPTH = 8

Resolve = Callable[[str, int | None], LoadedModel]
Answer = Prediction | ServerError


class Predictor:
    """Answers payloads with the models that `resolve` finds."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve

    async def predict(
        self,
        model: LoadedModel,
        payloads: Sequence[Any],
        params: Mapping[str, Any],
        deadline: float,
    ) -> list[Answer]:
        """One answer a payload, in order: a prediction, or what was wrong with that payload.

        Args:
            params: What the caller may set; the same for all.
            deadline: On the loop's clock.
        Raises:
            InvalidInput: The model has no task, or a param is unknown or unusable.
            ServerError: Whatever concerns the whole call: no room, no time, no model.
        """
        task = task_of(model)
        read = read_params(task, params)
        try:
            async with asyncio.timeout_at(deadline):
                if is_looping(task):
                    return await self._loop(model, task, payloads, read, deadline)
                return await self._batch(model, cast("Task", task), payloads, read, deadline)
        except TimeoutError:
            raise DeadlineExceeded(
                f"model '{model.name}': the deadline passed before the prediction was ready"
            ) from None

    async def predict_one(
        self, model: LoadedModel, payload: Any, params: Mapping[str, Any], call: Call
    ) -> Prediction:
        """One payload inside another call, such as a pipeline's.

        Raises:
            ServerError: Also what is wrong with the payload itself.
        """
        task = task_of(model)
        read = read_params(task, params)
        if is_looping(task):
            return await task.predict(payload, read, ModelRun(self, model, call))
        plain = cast("Task", task)
        (answer,) = await self._batch(model, plain, [payload], read, call.deadline)
        if isinstance(answer, ServerError):
            raise answer
        return answer

    def resolve(self, name: str, version: int) -> LoadedModel:
        """The model to call; version 0 is the latest."""
        return self._resolve(name, version or None)

    async def _loop(
        self,
        model: LoadedModel,
        task: LoopingTask,
        payloads: Sequence[Any],
        params: Params,
        deadline: float,
    ) -> list[Answer]:
        room = asyncio.Semaphore(LOOPS_AT_ONCE)

        async def one(payload: Any) -> Answer:
            async with room:
                try:
                    run = ModelRun(self, model, Call(deadline))
                    return await task.predict(payload, params, run)
                except ITS_OWN as error:
                    return error

        return await _all(one(payload) for payload in payloads)

    async def _batch(
        self,
        model: LoadedModel,
        task: Task,
        payloads: Sequence[Any],
        params: Params,
        deadline: float,
    ) -> list[Answer]:
        prepared = await _prepare(task, payloads, params)
        if len(prepared) == 1:  # the common call: nothing to group
            (only,) = prepared
            if isinstance(only, ServerError):
                return [only]
            return await _finish(task, [only], await _run_group(model, [only], deadline), params)
        ready = {i: p for i, p in enumerate(prepared) if isinstance(p, Prepared)}
        room = asyncio.Semaphore(RUNS_AT_ONCE)
        answers: list[Answer | None] = [p if isinstance(p, ServerError) else None for p in prepared]

        async def group(members: Sequence[int]) -> None:
            items = [ready[index] for index in members]
            async with room:
                outputs = await _run_group(model, items, deadline)
            answered = await _finish(task, items, outputs, params)
            for index, answer in zip(members, answered, strict=True):
                answers[index] = answer

        await _all(group(members) for members in _groups(ready, model.signature.max_batch_size))
        return [answer for answer in answers if answer is not None]


@dataclass(frozen=True, slots=True)
class Call:
    """The outer call that a run is part of; `depth` counts tasks inside tasks."""

    deadline: float
    depth: int = 0


class ModelRun:
    """`core.task.Run` of one model."""

    def __init__(self, predictor: Predictor, model: LoadedModel, call: Call) -> None:
        self._predictor = predictor
        self._model = model
        self._call = call

    async def __call__(
        self, tensors: Mapping[str, Array], outputs: Sequence[str] = ()
    ) -> Mapping[str, Array]:
        """Run the model; more rows than its `max_batch_size` are run in several batches."""
        rows = next(iter(tensors.values())).shape[0] if self._model.signature.max_batch_size else 1
        return await run_rows(self._model, tensors, rows, outputs, self._call.deadline)

    def model(self, name: str, version: int = 0) -> ModelRun:
        """The same for another model of the server."""
        return ModelRun(self._predictor, self._predictor.resolve(name, version), self._call)

    async def predict(self, payload: Any, params: Mapping[str, Any] | None = None) -> Prediction:
        """The prediction of this run's model's own task."""
        if self._call.depth >= MAX_DEPTH:
            raise InvalidInput(f"pipelines inside pipelines: more than {MAX_DEPTH} deep")
        inner = Call(self._call.deadline, self._call.depth + 1)
        return await self._predictor.predict_one(self._model, payload, params or {}, inner)

    async def thread(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function away from the event loop."""
        return await asyncio.to_thread(function, *args)


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
        return task.params.model_validate(dict(params))
    except ValidationError as error:
        raise InvalidInput(f"params: {explain(error, task.params)}") from None


async def run_rows(
    model: LoadedModel,
    tensors: Mapping[str, Array],
    rows: int,
    outputs: Sequence[str],
    deadline: float,
) -> dict[str, Array]:
    """Run any number of rows: at most `max_batch_size` at a time, one by one without batching."""
    most = max(model.signature.max_batch_size, 1)
    if rows <= most:
        return (await model.infer(tensors, outputs, deadline=deadline)).outputs
    room = asyncio.Semaphore(RUNS_AT_ONCE)

    async def part(start: int) -> dict[str, Array]:
        piece = {name: array[start : start + most] for name, array in tensors.items()}
        async with room:
            return (await model.infer(piece, outputs, deadline=deadline)).outputs

    parts = await _all(part(start) for start in range(0, rows, most))
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


async def _run_group(
    model: LoadedModel, items: Sequence[Prepared], deadline: float
) -> list[dict[str, Array] | ServerError]:
    """Run payloads of one shape together; when that fails, each by itself."""
    joined = _joined([item.tensors for item in items])
    rows = sum(item.rows for item in items)
    try:
        outputs = await run_rows(model, joined, rows, items[0].outputs, deadline)
    except ITS_OWN as error:
        if len(items) == 1:
            return [error]
        alone = [await _run_group(model, [item], deadline) for item in items]
        return [answer for (answer,) in alone]
    return [dict(part) for part in _split(outputs, [item.rows for item in items])]


def _joined(tensors: Sequence[Mapping[str, Array]]) -> Mapping[str, Array]:
    if len(tensors) == 1:
        return tensors[0]
    return {name: np.concatenate([t[name] for t in tensors]) for name in tensors[0]}


def _split(outputs: Mapping[str, Array], rows: Sequence[int]) -> Iterator[Mapping[str, Array]]:
    if len(rows) == 1:
        yield outputs
        return
    start = 0
    for count in rows:
        yield {name: array[start : start + count] for name, array in outputs.items()}
        start += count


def _groups(ready: Mapping[int, Prepared], max_batch_size: int) -> Iterator[list[int]]:
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


async def _prepare(
    task: Task, payloads: Sequence[Any], params: Params
) -> list[Prepared | ServerError]:
    def some(part: Sequence[Any]) -> list[Prepared | ServerError]:
        return [_guarded(task.preprocess, payload, params) for payload in part]

    heavy = task.costs or len(payloads) > INLINE_ITEMS or any(map(_is_heavy, payloads))
    if not heavy:
        return some(payloads)
    size = 1 if task.costs else THREAD_ITEMS
    room = asyncio.Semaphore(RUNS_AT_ONCE)

    async def hop(start: int) -> list[Prepared | ServerError]:
        async with room:
            return await asyncio.to_thread(some, payloads[start : start + size])

    parts = await _all(hop(start) for start in range(0, len(payloads), size))
    return [item for part in parts for item in part]


async def _finish(
    task: Task,
    items: Sequence[Prepared],
    outputs: Sequence[dict[str, Array] | ServerError],
    params: Params,
) -> list[Answer]:
    def all_of_them() -> list[Answer]:
        return [
            found
            if isinstance(found, ServerError)
            else _guarded(task.postprocess, found, item, params)
            for item, found in zip(items, outputs, strict=True)
        ]

    if task.costs or len(items) > INLINE_ITEMS:
        return await asyncio.to_thread(all_of_them)
    return all_of_them()


def _guarded(function: Callable[..., T], *args: Any) -> T | ServerError:
    try:
        return function(*args)
    except ITS_OWN as error:
        return error


def _is_heavy(payload: Any) -> bool:
    if isinstance(payload, str):
        return len(payload) > INLINE_CHARACTERS
    if isinstance(payload, bytes | bytearray | memoryview):
        return len(payload) > INLINE_BYTES
    if isinstance(payload, dict):
        return any(map(_is_heavy, payload.values()))
    return isinstance(payload, list) and len(payload) > INLINE_ITEMS


async def _all(work: Iterable[Any]) -> list[Any]:
    """Await all; the first error cancels the rest."""
    waiting = list(work)
    if len(waiting) == 1:
        return [await waiting[0]]
    tasks: list[asyncio.Task[Any]] = []
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(item) for item in waiting]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]
