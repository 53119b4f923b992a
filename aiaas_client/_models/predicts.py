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
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from functools import partial
from typing import TYPE_CHECKING, Any, Generic

from aiaas_client import _payloads as payloads
from aiaas_client._api import predict as calls
from aiaas_client._bulk.plan import DEFAULT_BYTES, BulkOptions, OnError
from aiaas_client._errors import InputError, OptionTypeError
from aiaas_client._models.explains import Explained, Explains, ManyExplained
from aiaas_client._models.frames import frame_payloads, with_predictions
from aiaas_client._models.payload_bulk import MAX_INSTANCES, PayloadBulk
from aiaas_client._send.core import async_drive, drive
from aiaas_client._send.flavours import Document, Items, Many
from aiaas_client._send.raw import WithRawResponse
from aiaas_client._send.sender import AnySender, limited
from aiaas_client._send.work import Local, acarry_out, carry_out

if TYPE_CHECKING:
    from collections.abc import Coroutine  # noqa: F401  # named in the base classes below

    from aiaas_client._api.call import Call
    from aiaas_client._api.explanations import (
        Explanation,  # noqa: F401  # named in the base classes below
    )
    from aiaas_client._bulk.progress import Report
    from aiaas_client._send.sender import AsyncSender, Sender
    from aiaas_client._send.work import Work as WorkSteps


class Predicts(
    Explains[Explained, ManyExplained],
    Generic[AnySender, Items, Many, Document, Explained, ManyExplained],
    ABC,
):
    """What a handle can do with a model whose card names a task."""

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
        sender = limited(self._sender, timeout, deadline)
        return self._carry_out(self._predicted(payload, params), sender)

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

    @property
    def with_raw_response(self) -> WithRawResponse:
        """The same calls, giving the whole answer: status, headers, bytes and `.parse()`."""
        return WithRawResponse(self, self._sender)

    def card(self) -> Document:
        """What the server tells of the model's card: task, licence, metrics, schemas."""
        sender: Any = self._sender
        found: Document = sender.send(calls.card(self.name, self.version))
        return found

    def _takes_files(self) -> Generator[Call[Any], Any, bool]:
        """Whether a text is the path of a file; yields what has to be sent to know."""
        yield from ()
        return False

    def _predicted(self, payload: Any, params: Mapping[str, Any]) -> WorkSteps[Any]:
        files = yield from self._takes_files()
        make = partial(calls.predict_one, self.name, self.version, payload, params, files=files)
        call = (yield Local(make)) if payloads.is_slow(payload, files=files) else make()
        return calls.prediction_of((yield call))

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
        "Sender",
        Iterable[Any],
        Generator[Any, None, None],
        dict[str, Any],
        "Explanation",
        "list[Explanation]",
    ]
):
    """Predictions from threads."""

    _carry_out = staticmethod(carry_out)

    def _predict_many(
        self, items: Any, options: BulkOptions, sender: Sender, params: Mapping[str, Any]
    ) -> Generator[Any, None, None]:
        source = _payloads_of(items)

        def work() -> Generator[Any, None, None]:
            from aiaas_client._bulk.items import length_of
            from aiaas_client._bulk.runners import Work, run_threads

            files = drive(self._takes_files(), sender.send)
            bulk = PayloadBulk(self.name, self.version, files, params)
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
        bulk = PayloadBulk(self.name, self.version, files, params)
        work, answers = bulk.frame_work(rows, options)
        deque(run_threads(work, lambda sent: sender.send(bulk.call(sent))), maxlen=0)
        return with_predictions(frame, answers(), prefix)


class AsyncPredicts(
    Predicts[
        "AsyncSender",
        AsyncIterable[Any] | Iterable[Any],
        AsyncGenerator[Any, None],
        "Coroutine[Any, Any, dict[str, Any]]",
        "Coroutine[Any, Any, Explanation]",
        "Coroutine[Any, Any, list[Explanation]]",
    ]
):
    """Predictions on an event loop."""

    _carry_out = staticmethod(acarry_out)

    def _predict_many(
        self, items: Any, options: BulkOptions, sender: AsyncSender, params: Mapping[str, Any]
    ) -> AsyncGenerator[Any, None]:
        source = aiter(items) if isinstance(items, AsyncIterable) else _payloads_of(items)

        async def work() -> AsyncGenerator[Any, None]:
            from aiaas_client._bulk.items import length_of
            from aiaas_client._bulk.runners import Work, run_tasks

            files = await async_drive(self._takes_files(), sender.send)
            bulk = PayloadBulk(self.name, self.version, files, params)
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
        bulk = PayloadBulk(self.name, self.version, files, params)
        work, answers = bulk.frame_work(rows, options)
        async for _ in run_tasks(work, lambda sent: sender.send(bulk.call(sent))):
            pass
        return with_predictions(frame, answers(), prefix)


def _payloads_of(items: Any) -> Any:
    if not isinstance(items, Iterable):
        raise InputError(f"expected many payloads, got {type(items).__name__}")
    return payloads.payloads_of(items)
