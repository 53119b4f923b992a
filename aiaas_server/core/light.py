"""Predictions of a few small payloads by plain calls: no task of the loop, nothing awaited.

The same as `Predictor.predict` where the event loop does all of the work but the runs. Payloads of
one shape are one request in the model's queue; when the last of them is answered, the call is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from contextvars import copy_context
from typing import Any, Protocol, cast

from aiaas_server.core.errors import DeadlineExceeded, QueueFull, ServerError, bare
from aiaas_server.core.events import CALLER, NOBODY
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.payloads import (
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
from aiaas_server.core.runs import PAUSE
from aiaas_server.core.schedule.batching import concat
from aiaas_server.core.schedule.requests import Outcome, Request
from aiaas_server.core.task import Params, Prepared, Task, is_looping


class AnswersWaiter(Protocol):
    """Who waits for predictions; told once, on the event loop, by one of the two setters."""

    def done(self) -> bool:
        """Whether nobody waits any more."""
        ...

    def set_result(self, result: list[Answer], /) -> object:
        """Take one answer a payload, in order."""
        ...

    def set_exception(self, exception: Exception, /) -> object:
        """Take what concerns the whole call."""
        ...


def may_be_light(model: LoadedModel) -> bool:
    """Whether `start_light` may be for a model: small payloads of it are prepared on the loop."""
    task = model.task
    if task is None or is_looping(task) or not model.starts:
        return False
    return not cast("Task", task).costs


def start_light(
    waiter: AnswersWaiter,
    model: LoadedModel,
    payloads: Sequence[Any],
    params: Mapping[str, Any],
    deadline: float,
) -> LonePrediction | LightPredictions | None:
    """Begin to predict; `waiter` is told the answers, before this returns or later.

    Returns:
        What is under way; None, and nothing was done, where it is work for `Predictor.predict`:
        tasks of several runs, payloads that would hold the event loop, answers that are cached.

    Raises:
        InvalidInput: The model has no task, or a param is unknown or unusable.
    """
    found = task_of(model)
    if is_looping(found) or not model.starts:
        return None
    task = cast("Task", found)
    read = read_params(task, params)
    if not are_light(task, payloads):
        return None
    made = prepared(task, payloads, read, model.watch)
    most = max(model.signature.max_batch_size, 1)
    for item in made:
        if isinstance(item, Prepared) and item.rows > most:
            return None  # it is cut into several runs
    if len(made) == 1:
        (only,) = made
        lone = LonePrediction(waiter, model, task, read)
        lone.start(only, deadline)
        return lone
    light = LightPredictions(waiter, model, task, read, deadline)
    light.start(made)
    return light


class LonePrediction:
    """One payload on its way through a model, which is in use until it is told or abandoned.

    It waits for the model's outcome itself: a `core.schedule.requests.Waiter`.
    """

    __slots__ = ("_caller", "_item", "_model", "_params", "_request", "_task", "_waiter", "_watch")

    def __init__(
        self, waiter: AnswersWaiter, model: LoadedModel, task: Task, params: Params
    ) -> None:
        self._waiter: AnswersWaiter | None = waiter  # None from the end on
        self._model = model
        self._task = task
        self._params = params
        self._watch = model.watch
        self._caller = NOBODY if self._watch is None else CALLER.get()
        self._item: Prepared | None = None
        self._request: Request | None = None
        model.in_use += 1

    def start(self, item: Prepared | ServerError, deadline: float) -> None:
        """Run what is prepared; called once."""
        if not isinstance(item, Prepared):
            self.set_exception(item)
            return
        self._item = item
        try:
            begun = self._model.start(self, item.tensors, item.outputs, deadline=deadline)
        except Exception as error:
            self.set_exception(error)
            return
        if isinstance(begun, Outcome):
            self.set_result(begun)
        elif not begun.settled:
            self._request = begun

    def done(self) -> bool:
        """Whether nobody waits any more."""
        return self._waiter is None or self._waiter.done()

    def set_result(self, result: Outcome) -> None:
        """The model has run."""
        item = self._item
        waiter = self._end()
        if waiter is None or item is None:
            return
        try:
            outputs = (result.outputs,)
            answers = finished(self._task, (item,), outputs, self._params, self._watch)
            if self._watch is not None:
                self._watch.answered(self._caller, answers)
        except Exception as error:
            waiter.set_exception(error)
        else:
            waiter.set_result(answers)

    def set_exception(self, exception: Exception) -> None:
        """The model has not."""
        waiter = self._end()
        if waiter is None:
            return
        if isinstance(exception, ITS_OWN):
            waiter.set_result([bare(exception)])
        else:
            waiter.set_exception(_of_the_call(self._model, exception))

    def abandon(self) -> None:
        """Nobody waits any more: its request leaves the queue."""
        request = self._request
        if self._end() is not None and request is not None:
            self._model.scheduler.abandon(request)

    def _end(self) -> AnswersWaiter | None:
        """Let go of all; gives who waits, if it had not ended before."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            self._item = self._request = None
            self._model.in_use -= 1
        return waiter


class LightPredictions:
    """Payloads on their way through a model, which is in use until they are told or abandoned."""

    __slots__ = (
        "_answers",
        "_context",
        "_deadline",
        "_going",
        "_has_run",
        "_model",
        "_params",
        "_pause",
        "_starting",
        "_task",
        "_waiter",
        "_waiting",
    )

    def __init__(
        self,
        waiter: AnswersWaiter,
        model: LoadedModel,
        task: Task,
        params: Params,
        deadline: float,
    ) -> None:
        self._waiter: AnswersWaiter | None = waiter  # None from the end on
        self._model = model
        self._task = task
        self._params = params
        self._deadline = deadline
        self._context = copy_context()  # who asks, for runs that begin later
        self._answers: list[Answer | None] = []
        self._waiting: deque[_Run] = deque()
        self._going: set[_Run] = set()
        self._has_run = False
        self._starting = False
        self._pause: asyncio.TimerHandle | None = None
        model.in_use += 1

    def start(self, made: Sequence[Prepared | ServerError]) -> None:
        """Run what is prepared; called once."""
        try:
            self._answers = [None if isinstance(item, Prepared) else item for item in made]
            ready = {i: item for i, item in enumerate(made) if isinstance(item, Prepared)}
            for members in groups(ready, self._model.signature.max_batch_size):
                self._waiting.append(_Run(self, members, [ready[index] for index in members]))
        except Exception:
            self._end()
            raise
        self._start_waiting()

    def done(self) -> bool:
        """Whether nobody waits for its runs any more."""
        return self._waiter is None or self._waiter.done()

    def abandon(self) -> None:
        """Nobody waits any more: its requests leave the queue."""
        self._end()

    def _start_waiting(self) -> None:
        """Start the runs that have not begun, as far as there is room; ends the call after all."""
        self._pause = None
        self._starting = True
        while self._waiting:
            run = self._waiting.popleft()
            try:
                self._start(run)
            except QueueFull as error:
                if self._wait_for_room(run):
                    break
                self._fail(error)
            except Exception as error:
                self._failed(run, error)
        self._starting = False
        if not self._going and not self._waiting:
            self._tell()

    def _wait_for_room(self, run: _Run) -> bool:
        """As `Runs`: a call that has begun waits for room; False of one that has not."""
        if self._going:  # one of which will make room when it ends
            self._waiting.appendleft(run)
        elif self._has_run:
            self._waiting.appendleft(run)
            loop = asyncio.get_running_loop()
            self._pause = loop.call_later(PAUSE, self._start_waiting, context=self._context)
        else:
            return False
        return True

    def _start(self, run: _Run) -> None:
        model = self._model
        while model.successor is not None:  # reloaded since the call began
            model = model.successor
        items = run.items
        inputs = items[0].tensors if len(items) == 1 else concat([item.tensors for item in items])
        begun = model.start(run, inputs, items[0].outputs, deadline=self._deadline)
        if isinstance(begun, Outcome):
            self._ran(run, begun)
        elif not begun.settled:
            run.model, run.request = model, begun
            if self._waiter is None:  # another run has ended the call meanwhile
                run.abandon()
            else:
                self._going.add(run)

    def told(self, run: _Run, outcome: Outcome | ServerError) -> None:
        """Take what became of a run in the queue."""
        self._going.discard(run)
        run.request = None
        if self._waiter is None:
            return
        if isinstance(outcome, Outcome):
            self._ran(run, outcome)
        else:
            self._failed(run, outcome)
        if not self._starting:
            if self._waiting:
                self._context.run(self._start_waiting)
            elif not self._going:
                self._tell()

    def _ran(self, run: _Run, outcome: Outcome) -> None:
        self._has_run = True
        items = run.items
        try:
            outputs = shares(items, outcome.outputs)
            answers = finished(self._task, items, outputs, self._params, self._model.watch)
        except Exception as error:
            self._fail(error)
            return
        for index, answer in zip(run.members, answers, strict=True):
            self._answers[index] = answer

    def _failed(self, run: _Run, error: Exception) -> None:
        """Of several payloads each is run by itself."""
        if not isinstance(error, ITS_OWN):
            self._fail(error)
        elif len(run.members) == 1:
            self._answers[run.members[0]] = bare(error)
        else:
            pairs = zip(run.members, run.items, strict=True)
            self._waiting.extend([_Run(self, [index], [item]) for index, item in pairs])

    def _tell(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            answers = [answer for answer in self._answers if answer is not None]
            if self._model.watch is not None:
                self._model.watch.answered(self._context.get(CALLER, NOBODY), answers)
            self._end()
            waiter.set_result(answers)

    def _fail(self, error: Exception) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._end()
            waiter.set_exception(_of_the_call(self._model, error))

    def _end(self) -> None:
        if self._waiter is None:
            return
        self._waiter = None
        self._model.in_use -= 1
        self._waiting.clear()
        self._answers = []
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        going, self._going = self._going, set()
        for run in going:
            run.abandon()


class _Run:
    """Payloads that run together, and the waiter for their outcome."""

    __slots__ = ("_light", "items", "members", "model", "request")

    def __init__(
        self, light: LightPredictions, members: Sequence[int], items: Sequence[Prepared]
    ) -> None:
        self._light = light
        self.members = members
        self.items = items
        self.model: LoadedModel | None = None
        self.request: Request | None = None

    def done(self) -> bool:
        return self._light.done()

    def set_result(self, result: Outcome) -> None:
        self._light.told(self, result)

    def set_exception(self, exception: ServerError) -> None:
        self._light.told(self, exception)

    def abandon(self) -> None:
        request, self.request = self.request, None
        if request is not None and self.model is not None:
            self.model.scheduler.abandon(request)


def _of_the_call(model: LoadedModel, error: Exception) -> Exception:
    """What a whole call is told of an error of its run."""
    return too_late(model) if isinstance(error, DeadlineExceeded) else error
