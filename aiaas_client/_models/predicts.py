"""Predictions of payloads: what a person has in, what a person wants out, by models with a card.

`Predicts` is the surface of every handle; `ThreadPredicts` and `AsyncPredicts` send. Bulk work is
`_bulk`'s: a payload travels through it as one row of text, its prediction comes back as one row of
objects.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, overload

import numpy as np

from aiaas_client import _payloads as payloads
from aiaas_client._api import explaining
from aiaas_client._api import predict as calls
from aiaas_client._bulk.plan import DEFAULT_BYTES, BulkOptions, BulkPlan, OnError
from aiaas_client._errors import AiaasError, InputError, OptionTypeError
from aiaas_client._models.frames import ROW, Predictions, frame_payloads, with_predictions
from aiaas_client._send.core import async_drive, drive
from aiaas_client._send.flavours import Items, Many
from aiaas_client._send.raw import WithRawResponse
from aiaas_client._send.sender import AnySender, limited

if TYPE_CHECKING:
    from collections.abc import Coroutine  # noqa: F401  # named in the base classes below

    from aiaas_client._api.call import Call
    from aiaas_client._api.explanations import (
        Explanation,  # noqa: F401  # named in the base classes below
    )
    from aiaas_client._api.inference import InferResult
    from aiaas_client._bulk.plan import Tensors
    from aiaas_client._bulk.progress import Report
    from aiaas_client._bulk.runners import Work
    from aiaas_client._send.sender import AsyncSender, Sender
    from aiaas_client.protocol.tensors import Array  # named in `Payload`

Explained = TypeVar("Explained")  # one explanation, or what is awaited for it
ManyExplained = TypeVar("ManyExplained")

MAX_INSTANCES = 64  # payloads in one request of a bulk call


class HasArray(Protocol):
    """numpy arrays, PIL images and what else describes its memory so."""

    @property
    def __array_interface__(self) -> Any: ...


# One payload, and many of them: a list of numbers is one record.
Payload = (
    str | bytes | PathLike[str] | Mapping[str, Any] | list[float] | HasArray | tuple["Array", int]
)
Payloads = (
    list[str]
    | list[bytes]
    | list[Path]
    | list["PathLike[str]"]
    | list[dict[str, Any]]
    | list[list[float]]
)


class Predicts(Generic[AnySender, Items, Many, Explained, ManyExplained], ABC):
    """What a handle can do with a model whose card names a task."""

    name: str
    version: str | None
    _sender: AnySender

    def predict(
        self,
        payload: Any,
        /,
        *,
        timeout: float | None = None,
        deadline: float | None = None,
        **params: Any,
    ) -> Any:
        """The prediction of one payload, or a list of them for a list, a frame or rows of an array.

        Args:
            payload: Text; a file as `Path`, bytes, PIL image or array; `(samples, rate)`; a
                record as a mapping or a list of values.
            timeout: Seconds for each phase of a request, instead of the client's.
            deadline: Seconds for the whole call with its retries, instead of the client's.
            params: The task's own, such as `top_k`.
        Raises:
            BadRequestError: The server says what is wrong with the payload.
            InputError: It cannot be sent at all.
            BulkError: Of a list, some payloads failed.
        """
        if payloads.is_many(payload):
            many = self.predict_many(payload, timeout=timeout, deadline=deadline, **params)
            return self._listed(many)
        return self._predict(payload, limited(self._sender, timeout, deadline), params)

    def predict_many(
        self,
        items: Items,
        /,
        *,
        max_rows: int = MAX_INSTANCES,
        max_bytes: int = DEFAULT_BYTES,
        concurrency: int = 8,
        ordered: bool = True,
        on_error: OnError = "raise",
        progress: bool | Report = False,
        timeout: float | None = None,
        deadline: float | None = None,
        **params: Any,
    ) -> Many:
        """Predictions of many payloads, a few requests for all of them.

        The input is read lazily: never further ahead of what was handed out than
        `concurrency + 1` full requests. A frame gives its rows.

        Args:
            items: Any iterable of payloads, on an event loop an asynchronous one as well.
            max_rows, max_bytes: Largest request; a larger payload travels alone.
            concurrency: Requests in flight at once.
            ordered: In the order of the items; False hands them out as they come.
            on_error: "raise" leaves failed payloads out and raises at the end; "return" puts the
                error in its place, with its `index`.
            progress: True shows a bar on a terminal; a callable gets `(done, total or None)`.
            timeout, deadline, params: As for `predict`.
        Raises:
            BulkError: at the end, some failed: `.failures` has the error of each by index.
        """
        options = BulkOptions(
            max_rows, max_bytes, concurrency, ordered, on_error=on_error, progress=progress
        )
        return self._predict_many(items, options, limited(self._sender, timeout, deadline), params)

    def predict_frame(
        self,
        frame: Any,
        /,
        *,
        column: str | None = None,
        prefix: str = "predicted_",
        max_rows: int = MAX_INSTANCES,
        max_bytes: int = DEFAULT_BYTES,
        concurrency: int = 8,
        on_error: OnError = "raise",
        progress: bool | Report = False,
        timeout: float | None = None,
        deadline: float | None = None,
        **params: Any,
    ) -> Any:
        """A copy of a pandas or polars frame with the predictions in columns of their own.

        Args:
            frame: Its rows are the records.
            column: Only this column is the payload, as for texts.
            prefix: Of the new columns: `predicted_label`, `predicted_score`, `predicted_value`.
            on_error: "return" leaves failed rows empty, with a column of errors.
            max_rows, max_bytes, concurrency, progress, timeout, deadline, params: As for
                `predict_many`.
        """
        if not params.pop("ordered", True):
            raise InputError("ordered: predictions of a frame keep the order of its rows")
        if not isinstance(prefix, str):
            raise OptionTypeError(f"prefix: expected text, got {prefix!r}")
        options = BulkOptions(
            max_rows, max_bytes, concurrency, on_error=on_error, progress=progress
        )
        rows = frame_payloads(frame, column)
        sender = limited(self._sender, timeout, deadline)
        return self._predict_frame(frame, rows, options, sender, params, prefix)

    @overload
    def explain(
        self,
        payload: Payloads,
        /,
        *,
        output: str | int | None = ...,
        samples: int | None = ...,
        seed: int = ...,
        background: Any = ...,
        timeout: float | None = ...,
        deadline: float | None = ...,
    ) -> ManyExplained: ...
    @overload
    def explain(
        self,
        payload: Payload,
        /,
        *,
        output: str | int | None = ...,
        samples: int | None = ...,
        seed: int = ...,
        background: Any = ...,
        timeout: float | None = ...,
        deadline: float | None = ...,
    ) -> Explained: ...
    @overload
    def explain(
        self,
        payload: Any,
        /,
        *,
        output: str | int | None = ...,
        samples: int | None = ...,
        seed: int = ...,
        background: Any = ...,
        timeout: float | None = ...,
        deadline: float | None = ...,
    ) -> Any: ...
    def explain(
        self,
        payload: Any,
        /,
        *,
        output: str | int | None = None,
        samples: int | None = None,
        seed: int = 0,
        background: Any = None,
        timeout: float | None = None,
        deadline: float | None = None,
    ) -> Any:
        """What a prediction stands on: an `Explanation`, or a list of them for a list or a frame.

        The server works it out behind all other requests, and tells what it has when the deadline
        comes: see `complete`, and the `error` of each contribution.

        Args:
            payload: As for `predict`; of a model without a card a row of numbers.
            output: The label, or the index, that is explained; by default what is predicted.
            samples: Most rows that the model is asked for each payload.
            seed: Of what is drawn; equal seeds and samples give equal explanations.
            background: Records to compare with; by default those that the version brings along.
            timeout: Seconds for each phase of a request, instead of the client's.
            deadline: Seconds for the whole call with its retries, instead of the client's.
        Raises:
            BadRequestError: The server says what is wrong, or what it needs besides.
            NotSupportedError: The server has no explanations.
        """
        sender = limited(self._sender, timeout, deadline)
        asked = explaining.Asked(output, samples, seed, background)
        return self._explain(payload, sender, asked)

    @property
    def with_raw_response(self) -> WithRawResponse:
        """The same calls, giving the whole answer: status, headers, bytes and `.parse()`."""
        return WithRawResponse(self, self._sender)

    def _takes_files(self) -> Generator[Call[Any], Any, bool]:
        """Whether a text is the path of a file; yields what has to be sent to know."""
        yield from ()
        return False

    @abstractmethod
    def _predict(self, payload: Any, sender: AnySender, params: Mapping[str, Any]) -> Any:
        """Predict one payload."""

    @abstractmethod
    def _explain(self, payload: Any, sender: AnySender, asked: explaining.Asked) -> Any:
        """Explain one payload, or several."""

    @abstractmethod
    def _predict_many(
        self, items: Items, options: BulkOptions, sender: AnySender, params: Mapping[str, Any]
    ) -> Many:
        """Predict all items, in threads or in tasks."""

    @abstractmethod
    def _listed(self, many: Many) -> Any:
        """All of `many` as a list."""

    @abstractmethod
    def _predict_frame(
        self,
        frame: Any,
        rows: Sequence[Any],
        options: BulkOptions,
        sender: AnySender,
        params: Mapping[str, Any],
        prefix: str,
    ) -> Any:
        """`frame` with the predictions of its `rows` in columns of their own."""


class ThreadPredicts(
    Predicts[
        "Sender", Iterable[Any], Generator[Any, None, None], "Explanation", "list[Explanation]"
    ]
):
    """Predictions from threads."""

    def card(self) -> dict[str, Any]:
        """What the server tells of the model's card: task, licence, metrics, schemas."""
        return self._sender.send(calls.card(self.name, self.version))

    def _predict(self, payload: Any, sender: Sender, params: Mapping[str, Any]) -> Any:
        files = drive(self._takes_files(), sender.send)
        call = calls.predict_one(self.name, self.version, payload, params, files=files)
        return calls.prediction_of(sender.send(call))

    def _explain(self, payload: Any, sender: Sender, asked: explaining.Asked) -> Any:
        takes_files = drive(self._takes_files(), sender.send)
        make = partial(explaining.explain, files=takes_files)
        return sender.send(make(self.name, self.version, payload, asked))

    def _predict_many(
        self, items: Any, options: BulkOptions, sender: Sender, params: Mapping[str, Any]
    ) -> Generator[Any, None, None]:
        source = _payloads_of(items)

        def work() -> Generator[Any, None, None]:
            from aiaas_client._bulk.items import length_of
            from aiaas_client._bulk.runners import Work, run_threads

            files = drive(self._takes_files(), sender.send)
            bulk = _Payloads(self.name, self.version, files, params)
            one = Work.of_items(bulk.plan(options), options, source, length_of(items), bulk.read)
            yield from run_threads(one, lambda rows: sender.send(bulk.call(rows)))

        return work()

    def _listed(self, many: Iterable[Any]) -> list[Any]:
        return list(many)

    def _predict_frame(
        self,
        frame: Any,
        rows: Sequence[Any],
        options: BulkOptions,
        sender: Sender,
        params: Mapping[str, Any],
        prefix: str,
    ) -> Any:
        from aiaas_client._bulk.runners import run_threads

        files = drive(self._takes_files(), sender.send)
        bulk = _Payloads(self.name, self.version, files, params)
        work, answers = bulk.frame_work(rows, options)
        deque(run_threads(work, lambda sent: sender.send(bulk.call(sent))), maxlen=0)
        return with_predictions(frame, answers(), prefix)


class AsyncPredicts(
    Predicts[
        "AsyncSender",
        AsyncIterable[Any] | Iterable[Any],
        AsyncGenerator[Any, None],
        "Coroutine[Any, Any, Explanation]",
        "Coroutine[Any, Any, list[Explanation]]",
    ]
):
    """Predictions on an event loop."""

    async def card(self) -> dict[str, Any]:
        """What the server tells of the model's card: task, licence, metrics, schemas."""
        return await self._sender.send(calls.card(self.name, self.version))

    async def _predict(self, payload: Any, sender: AsyncSender, params: Mapping[str, Any]) -> Any:
        files = await async_drive(self._takes_files(), sender.send)
        make = partial(calls.predict_one, self.name, self.version, payload, params, files=files)
        if payloads.is_slow(payload, files=files):
            import asyncio  # loaded by whoever has a loop, and not for a `Client`

            call = await asyncio.to_thread(make)
        else:
            call = make()
        return calls.prediction_of(await sender.send(call))

    async def _explain(self, payload: Any, sender: AsyncSender, asked: explaining.Asked) -> Any:
        import asyncio

        files = await async_drive(self._takes_files(), sender.send)
        make = partial(explaining.explain, self.name, self.version, payload, asked, files=files)
        return await sender.send(await asyncio.to_thread(make))

    def _predict_many(
        self, items: Any, options: BulkOptions, sender: AsyncSender, params: Mapping[str, Any]
    ) -> AsyncGenerator[Any, None]:
        source = aiter(items) if isinstance(items, AsyncIterable) else _payloads_of(items)

        async def work() -> AsyncGenerator[Any, None]:
            from aiaas_client._bulk.items import length_of
            from aiaas_client._bulk.runners import Work, run_tasks

            files = await async_drive(self._takes_files(), sender.send)
            bulk = _Payloads(self.name, self.version, files, params)
            one = Work.of_items(bulk.plan(options), options, source, length_of(items), bulk.read)
            running = run_tasks(one, lambda rows: sender.send(bulk.call(rows)))
            try:
                async for outcome in running:
                    yield outcome
            finally:
                await running.aclose()

        return work()

    async def _listed(self, many: AsyncIterable[Any]) -> list[Any]:
        return [answer async for answer in many]

    async def _predict_frame(
        self,
        frame: Any,
        rows: Sequence[Any],
        options: BulkOptions,
        sender: AsyncSender,
        params: Mapping[str, Any],
        prefix: str,
    ) -> Any:
        from aiaas_client._bulk.runners import run_tasks

        files = await async_drive(self._takes_files(), sender.send)
        bulk = _Payloads(self.name, self.version, files, params)
        work, answers = bulk.frame_work(rows, options)
        async for _ in run_tasks(work, lambda sent: sender.send(bulk.call(sent))):
            pass
        return with_predictions(frame, answers(), prefix)


@dataclass(frozen=True, slots=True)
class _Payloads:
    """One bulk call: how payloads become rows, rows a request, and answers predictions."""

    model: str
    version: str | None
    files: bool
    params: Mapping[str, Any]

    def plan(self, options: BulkOptions) -> BulkPlan:
        """Any payload shares a request with any other."""
        most = options.max_rows or MAX_INSTANCES
        return BulkPlan(self.model, self, True, most, options.max_bytes)

    def frame_work(
        self, rows: Sequence[Any], options: BulkOptions
    ) -> tuple[Work, Callable[[], list[Any]]]:
        """What is to be done for the rows of a frame, and what gives the answers in the end."""
        from aiaas_client._bulk.runners import Work

        plan = self.plan(options)
        predictions = Predictions(plan, rows)
        work, _ = Work.of_rows(plan, options, predictions.blocks(), len(rows), predictions)
        keep = options.on_error == "return"
        return work, lambda: predictions.result(keep_errors=keep)

    def item(self, value: object) -> Tensors:
        """One payload as a row of text."""
        row = np.empty(1, object)
        try:
            row[0] = payloads.encode(value, files=self.files)
        except OSError as error:
            raise calls.unreadable(self.model, error) from None
        return {ROW: row}

    def block(self, value: Any) -> Tensors:
        """Rows of text, made one by one before."""
        return dict(value)

    def named(self, value: object) -> object:
        """Payloads have no names."""
        return value

    def call(self, rows: Mapping[str, Any]) -> Call[InferResult]:
        """The request of one batch."""
        return calls.predict(self.model, self.version, rows[ROW].tolist(), self.params)

    def read(self, result: InferResult) -> Any:
        """The prediction, or the error that stands in its place."""
        answer = result[calls.PREDICTION].item()
        if isinstance(answer, AiaasError):
            answer.index = result.index
        return answer


def _payloads_of(items: Any) -> Any:
    if not isinstance(items, Iterable):
        raise InputError(f"expected many payloads, got {type(items).__name__}")
    return payloads.payloads_of(items)
