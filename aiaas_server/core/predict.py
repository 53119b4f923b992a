"""From payloads to predictions: the task's two halves around the model's own queue.

Payloads of one call that make tensors of one shape run together, and with those of everybody else
who calls the model at that moment. What is wrong with one payload is told for that payload alone.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from aiaas_client.protocol.predictions import Prediction
from aiaas_client.protocol.tensors import Array
from aiaas_server.core.concurrency import work_through
from aiaas_server.core.errors import InvalidInput, ServerError, bare
from aiaas_server.core.events import CALLER, NOBODY, Caller, Watch
from aiaas_server.core.generation import Answering, Ask, Generator, generator_of
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.payloads import (
    INLINE_ITEMS,
    ITS_OWN,
    Answer,
    are_light,
    finished,
    groups,
    prepared,
    read_params,
    shares,
    task_of,
    too_late,
)
from aiaas_server.core.runs import Runs
from aiaas_server.core.schedule.batching import concat
from aiaas_server.core.task import LoopingTask, Params, Prepared, Task, is_looping

T = TypeVar("T")

SLICE = 512  # payloads of one call that are tensors at a time
SLICES_AT_ONCE = 2  # one is prepared while the other runs
GROUPS_AT_ONCE = 8
LOOPS_AT_ONCE = 16
THREAD_ITEMS = 16  # payloads prepared by one hop to a thread
HOPS_AT_ONCE = min(os.cpu_count() or 1, 8)  # more would only fight for the interpreter
MAX_DEPTH = 8

# Finds a model by name, version (None is the one chosen for the caller), caller and deadline.
Obtain = Callable[[str, int | None, Caller, float | None], Awaitable[LoadedModel]]


class Predictor:
    """Answers payloads with the models that `obtain` finds."""

    def __init__(self, obtain: Obtain) -> None:
        self._obtain = obtain

    async def predict(
        self,
        model: LoadedModel,
        payloads: Sequence[Any],
        params: Mapping[str, Any],
        deadline: float,
        caller: Caller = NOBODY,
    ) -> list[Answer]:
        """One answer a payload, in order: a prediction, or what was wrong with that payload.

        Args:
            params: What the caller may set; the same for all.
            deadline: On the loop's clock.
            caller: Who asks.
        Raises:
            InvalidInput: The model has no task, or a param is unknown or unusable.
            ServerError: Whatever concerns the whole call: no room, no time, no model.
        """
        task = task_of(model)
        read = read_params(task, params)
        call = CallContext(deadline, caller)
        call.hold(model)
        try:
            async with asyncio.timeout_at(deadline):
                if is_looping(task):
                    answers = await self._loop(model, task, payloads, read, call)
                else:
                    answers = await _batch(model, cast("Task", task), payloads, read, call)
        except TimeoutError:
            raise too_late(model) from None
        finally:
            call.release()
        if model.watch is not None:
            model.watch.answered(CALLER.get() if caller is NOBODY else caller, answers)
        return answers

    async def predict_one(
        self, model: LoadedModel, payload: Any, params: Mapping[str, Any], call: CallContext
    ) -> Prediction:
        """One payload inside another call, such as a pipeline's.

        Raises:
            ServerError: Also what is wrong with the payload itself.
        """
        task = task_of(model)
        read = read_params(task, params)
        call.hold(model)
        try:
            if is_looping(task):
                return await task.predict(payload, read, ModelRun(self, call, model))
            (answer,) = await _slice(model, cast("Task", task), [payload], read, call)
        finally:
            call.release()
        if isinstance(answer, ServerError):
            raise answer
        return answer

    async def obtain(
        self, name: str, version: int, call: CallContext, owner: str = ""
    ) -> LoadedModel:
        """The model that a task names, loaded if need be; version 0 is the one chosen.

        Args:
            owner: Who calls it that; "" is who asks.
        """
        caller = on_behalf(call.caller, owner)
        return await self._obtain(name, version or None, caller, call.deadline)

    async def _loop(
        self,
        model: LoadedModel,
        task: LoopingTask,
        payloads: Sequence[Any],
        params: Params,
        call: CallContext,
    ) -> list[Answer]:
        async def one(payload: Any) -> Answer:
            own = call.inside(0)
            try:
                return await task.predict(payload, params, ModelRun(self, own, model))
            except ITS_OWN as error:
                return bare(error)
            finally:
                own.release()

        return await work_through(payloads, one, LOOPS_AT_ONCE)


class CallContext:
    """The call that a run is part of.

    Attributes:
        deadline: On the loop's clock.
        depth: How many tasks it is inside of.
        runs: What all of it runs.
    """

    __slots__ = ("_held", "caller", "deadline", "depth", "runs")

    def __init__(
        self, deadline: float, caller: Caller, depth: int = 0, runs: Runs | None = None
    ) -> None:
        self.deadline = deadline
        self.caller = caller
        self.depth = depth
        self.runs = runs or Runs()
        self._held: list[LoadedModel] = []

    def inside(self, deeper: int = 1) -> CallContext:
        """A part of this call, which holds models of its own."""
        return CallContext(self.deadline, self.caller, self.depth + deeper, self.runs)

    def hold(self, model: LoadedModel) -> None:
        """Keep `model` from making room for another between two runs, until `release`."""
        model.in_use += 1
        self._held.append(model)

    def release(self) -> None:
        """The call is over: it runs nothing any more."""
        for model in self._held:
            model.in_use -= 1
        self._held.clear()


class ModelRun:
    """`core.task.Run` of one model: one that is loaded, or that is found by name when it runs."""

    def __init__(
        self,
        predictor: Predictor,
        call: CallContext,
        model: LoadedModel | None = None,
        name: str = "",
        version: int = 0,
        owner: str = "",
    ) -> None:
        self._owner = owner if model is None else model.owner
        self._predictor = predictor
        self._call = call
        self._model = model
        self._name = name
        self._version = version

    async def __call__(
        self, tensors: Mapping[str, Array], outputs: Sequence[str] = ()
    ) -> Mapping[str, Array]:
        """Run the model; more rows than its `max_batch_size` are run in several batches."""
        model = await self._kept()
        rows = next(iter(tensors.values())).shape[0] if model.signature.max_batch_size else 1
        return await run_rows(model, tensors, rows, outputs, self._call)

    def model(self, name: str, version: int = 0) -> ModelRun:
        """The same for another model of the server, which is looked for when it runs."""
        return ModelRun(self._predictor, self._call, None, name, version, self._owner)

    async def predict(self, payload: Any, params: Mapping[str, Any] | None = None) -> Prediction:
        """The prediction of this run's model's own task."""
        if self._call.depth >= MAX_DEPTH:
            raise InvalidInput(f"pipelines inside pipelines: more than {MAX_DEPTH} deep")
        model = self._model or await self._found()
        inner = self._call.inside()
        return await self._predictor.predict_one(model, payload, params or {}, inner)

    async def generator(self) -> Generator:
        """What writes with the model."""
        return generator_of(await self._kept())

    async def generate(self, ask: Ask) -> Answering:
        """Begin an answer, within the call's deadline."""
        return await (await self.generator()).start(ask, self._call.deadline, self._call.caller)

    async def thread(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function away from the event loop."""
        return await asyncio.to_thread(function, *args)

    async def _kept(self) -> LoadedModel:
        """The model; from now on the same version, whatever is loaded meanwhile."""
        if self._model is None:
            self._model = await self._found()
            self._call.hold(self._model)
        return self._model

    async def _found(self) -> LoadedModel:
        return await self._predictor.obtain(self._name, self._version, self._call, self._owner)


def on_behalf(caller: Caller, owner: str) -> Caller:
    """Who asks for a step of a model: names in a card are those that its owner gave."""
    if not owner or caller.identity.tenant == owner:
        return caller
    return caller._replace(identity=caller.identity._replace(tenant=owner))


async def run_rows(
    model: LoadedModel,
    tensors: Mapping[str, Array],
    rows: int,
    outputs: Sequence[str],
    call: CallContext,
) -> dict[str, Array]:
    """Run any number of rows: at most `max_batch_size` at a time, one by one without batching."""
    most = max(model.signature.max_batch_size, 1)
    if rows <= most:
        return await call.runs.infer(model, tensors, outputs, call.deadline)

    async def part(start: int) -> dict[str, Array]:
        piece = {name: array[start : start + most] for name, array in tensors.items()}
        return await call.runs.infer(model, piece, outputs, call.deadline)

    return concat(await work_through(range(0, rows, most), part, GROUPS_AT_ONCE))


async def _batch(
    model: LoadedModel, task: Task, payloads: Sequence[Any], params: Params, call: CallContext
) -> list[Answer]:
    """Payloads of a task with one run each: a slice after the other, however many there are."""
    if len(payloads) <= SLICE:
        return await _slice(model, task, payloads, params, call)

    async def part(start: int) -> list[Answer]:
        return await _slice(model, task, payloads[start : start + SLICE], params, call)

    parts = await work_through(range(0, len(payloads), SLICE), part, SLICES_AT_ONCE)
    return [answer for part in parts for answer in part]


async def _slice(
    model: LoadedModel, task: Task, payloads: Sequence[Any], params: Params, call: CallContext
) -> list[Answer]:
    made = await _prepare(task, payloads, params, model.watch)
    if len(made) == 1:  # the common call: nothing to group
        (only,) = made
        if isinstance(only, ServerError):
            return [only]
        ran = await _run_group(model, [only], call)
        return await _finish(task, [only], ran, params, model.watch)
    ready = {i: p for i, p in enumerate(made) if isinstance(p, Prepared)}
    answers: list[Answer | None] = [p if isinstance(p, ServerError) else None for p in made]

    async def group(members: Sequence[int]) -> None:
        items = [ready[index] for index in members]
        ran = await _run_group(model, items, call)
        answered = await _finish(task, items, ran, params, model.watch)
        for index, answer in zip(members, answered, strict=True):
            answers[index] = answer

    await work_through(groups(ready, model.signature.max_batch_size), group, GROUPS_AT_ONCE)
    return [answer for answer in answers if answer is not None]


async def _run_group(
    model: LoadedModel, items: Sequence[Prepared], call: CallContext
) -> list[dict[str, Array] | ServerError]:
    """Run payloads of one shape together; when that fails, each by itself."""
    joined = concat([item.tensors for item in items])
    rows = sum([item.rows for item in items])
    try:
        outputs = await run_rows(model, joined, rows, items[0].outputs, call)
    except ITS_OWN as error:
        if len(items) == 1:
            return [error]
        alone = [await _run_group(model, [item], call) for item in items]
        return [answer for (answer,) in alone]
    return [*shares(items, outputs)]


async def _prepare(
    task: Task, payloads: Sequence[Any], params: Params, watch: Watch | None
) -> list[Prepared | ServerError]:
    if are_light(task, payloads):
        return prepared(task, payloads, params, watch)
    size = 1 if task.costs else THREAD_ITEMS

    async def hop(start: int) -> list[Prepared | ServerError]:
        some = payloads[start : start + size]
        return await asyncio.to_thread(prepared, task, some, params, watch)

    parts = await work_through(range(0, len(payloads), size), hop, HOPS_AT_ONCE)
    return [item for part in parts for item in part]


async def _finish(
    task: Task,
    items: Sequence[Prepared],
    outputs: Sequence[dict[str, Array] | ServerError],
    params: Params,
    watch: Watch | None,
) -> list[Answer]:
    if task.costs or len(items) > INLINE_ITEMS:
        return await asyncio.to_thread(finished, task, items, outputs, params, watch)
    return finished(task, items, outputs, params, watch)
