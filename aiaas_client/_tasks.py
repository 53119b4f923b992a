"""Predictions: what a person has in, what a person wants out, by any model that has a card.

`Predicts` and `AsyncPredicts` are what every handle can do; `TaskModel` and `AsyncTaskModel` say
the type of the answer where the task is known; `TaskClient` and `AsyncTaskClient` make them. Bulk
work is `_bulk`'s: a payload travels through it as one row of text, its prediction comes back as one
row of objects.
"""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar, overload
from urllib.parse import quote, urlencode

import numpy as np

from aiaas_client import _errors as errors
from aiaas_client import _payloads as payloads
from aiaas_client._calls import Call, Response
from aiaas_client._result import InferResult

if TYPE_CHECKING:
    from aiaas_client._async_client import AsyncClient
    from aiaas_client._bulk import Failures
    from aiaas_client._client import Client
    from aiaas_client._progress import Report
    from aiaas_client.protocol.predictions import (
        Classification,
        Detections,
        Embedding,  # noqa: F401  # named in the base classes below
        FileType,
        GeneratedText,
        ImageClassification,
        OcrText,
        Prediction,
        Ranking,
        Regression,
        Segments,
        Similarity,
        Speech,
        Transcript,
    )
    from aiaas_client.protocol.tensors import Array

P = TypeVar("P", bound="Prediction")
OnError = Literal["raise", "return"]

MAX_INSTANCES = 64  # payloads in one request of a bulk call
MAX_BYTES = 4 * 2**20
ROW = "instance"  # the column under which payloads travel through bulk work
JSON_TYPE = (b"Content-Type", b"application/json")
FILE_TYPE = (b"Content-Type", b"application/octet-stream")
# The status that each code of an entry of `predictions` would have had alone.
ENTRY_STATUS = {
    "invalid_request": 400,
    "output_too_large": 422,
    "inference_failed": 500,
    "not_supported": 501,
}


class HasArray(Protocol):
    """numpy arrays, PIL images and what else describes its memory so."""

    @property
    def __array_interface__(self) -> Any: ...


# One payload, and many of them: a list of numbers is one record.
One = str | bytes | PathLike[str] | Mapping[str, Any] | list[float] | HasArray | tuple["Array", int]
Many = (
    list[str]
    | list[bytes]
    | list[Path]
    | list["PathLike[str]"]
    | list[dict[str, Any]]
    | list[list[float]]
)


def predict_call(
    model: str,
    version: str | int | None,
    instances: Sequence[bytes],
    params: Mapping[str, Any],
) -> Call[InferResult]:
    """`POST /v1/models/{m}[/versions/{v}]:predict`; each instance is JSON text.

    The answer holds, under `prediction`, an array of objects: a prediction or an error each.
    """
    if not model:
        raise errors.InputError("model name: expected a non-empty string, got ''")
    path = f"/v1/models/{quote(model, safe='')}"
    if version is not None:
        path += f"/versions/{quote(str(version), safe='')}"
    chunks: list[bytes | memoryview] = [b'{"instances":[', b",".join(instances), b"]"]
    if params:
        chunks += [b',"parameters":', payloads.encode(dict(params))]
    chunks.append(b"}")
    return Call(
        "POST",
        path + ":predict",
        _ReadPredictions(model, len(instances)),
        headers=(JSON_TYPE,),
        content=chunks,
        content_length=sum(map(len, chunks)),
        model=model,
        version=version,
        optional=True,  # other servers of the protocol have no tasks
    )


def file_call(
    model: str, version: str | int | None, content: bytes, params: Mapping[str, Any]
) -> Call[InferResult]:
    """The same for one file, as the body itself; params travel in the query."""
    call = predict_call(model, version, [b""], {})
    query = f"?{urlencode(params)}" if params else ""
    return replace(
        call,
        path=call.path + query,
        headers=(FILE_TYPE,),
        content=[content],
        content_length=len(content),
    )


def _one_call(
    model: str, version: str | None, payload: Any, params: Mapping[str, Any], *, files: bool
) -> Call[InferResult]:
    if all(isinstance(value, str | int | float) for value in params.values()):
        content = payloads.file_of(payload, files=files)
        if content is not None:
            return file_call(model, version, content, params)
    return predict_call(model, version, [payloads.encode(payload, files=files)], params)


def card_call(model: str, version: str | int | None = None) -> Call[dict[str, Any]]:
    """`GET /v1/models/{m}[/versions/{v}]`."""
    middle = "" if version is None else f"/versions/{quote(str(version), safe='')}"
    path = f"/v1/models/{quote(model, safe='')}{middle}"
    return Call("GET", path, _read_card, model=model, version=version, optional=True)


def _read_card(response: Response) -> dict[str, Any]:
    from pydantic_core import from_json

    try:
        document = from_json(response.body)
    except ValueError as error:
        raise errors.ProtocolError(f"expected a JSON body: {error}") from error
    if not isinstance(document, dict):
        raise errors.ProtocolError("expected a JSON object")
    return document


@dataclass(frozen=True, slots=True)
class _ReadPredictions:
    model: str
    count: int

    def __call__(self, response: Response) -> InferResult:
        from pydantic_core import from_json

        try:
            document = from_json(response.body)
            entries = document["predictions"]
        except (ValueError, TypeError, KeyError) as error:
            raise errors.ProtocolError(
                f"model '{self.model}': expected a JSON object with 'predictions': {error}"
            ) from error
        if not isinstance(entries, list) or len(entries) != self.count:
            raise errors.ProtocolError(
                f"model '{self.model}': expected {self.count} predictions for {self.count} sent"
            )
        task = response.headers.get("x-aiaas-task", "")
        answers = np.empty(self.count, object)
        for index, entry in enumerate(entries):
            answers[index] = self._read(entry, task, response)
        return InferResult(
            {"prediction": answers},
            model_name=self.model,
            model_version=response.headers.get("x-aiaas-version", ""),
            request_id=response.request_id,
            timing=response.timing,
            attempts=response.attempts,
        )

    def _read(self, entry: Any, task: str, response: Response) -> Any:
        from aiaas_client.protocol.predictions import read_prediction

        if isinstance(entry, dict) and isinstance(entry.get("error"), str) and "code" in entry:
            code = str(entry["code"])
            status = ENTRY_STATUS.get(code, 400)
            return errors.status_class(status, code)(
                entry["error"],
                status_code=status,
                code=code,
                model=self.model,
                request_id=response.request_id,
                attempts=response.attempts,
            )
        try:
            return read_prediction(task, entry)
        except ValueError as error:
            reason = str(error).splitlines()[-1].strip()
            raise errors.ProtocolError(
                f"model '{self.model}': not a prediction of task '{task}': {reason}"
            ) from error


def _first(result: InferResult) -> Any:
    answer = result["prediction"][0]
    if isinstance(answer, errors.AiaasError):
        raise answer
    return answer


def _instance(value: Any, *, files: bool) -> dict[str, Array]:
    row = np.empty(1, object)
    row[0] = payloads.encode(value, files=files)
    return {ROW: row}


@dataclass(frozen=True, slots=True)
class _Bulk:
    """One bulk call: how payloads become rows, and rows a request."""

    model: str
    version: str | None
    files: bool
    params: Mapping[str, Any]

    def core(self, max_rows: int, max_bytes: int, concurrency: int, *, ordered: bool) -> Any:
        """The core of bulk work over payloads."""
        from aiaas_client import _bulk

        _bulk.check(max_rows, max_bytes, concurrency)
        files, model = self.files, self.model

        class Plan(_bulk.BulkPlan):
            def item(self, value: object) -> dict[str, Array]:
                try:
                    return _instance(value, files=files)
                except OSError as error:
                    raise errors.InputError(f"model {model!r}: {error}") from None

        plan = Plan(model, None, frozenset(), True, max_rows, max_bytes)
        return _bulk.BulkCore(plan, concurrency=concurrency, ordered=ordered)

    def call(self, rows: Mapping[str, Array]) -> Call[InferResult]:
        """The request of one chunk."""
        return predict_call(self.model, self.version, rows[ROW].tolist(), self.params)

    def failures(self, *, keep: bool) -> Failures:
        """Failures that know an error among the predictions."""
        from aiaas_client import _bulk

        class Found(_bulk.Failures):
            def filter(
                self, outcome: InferResult | errors.AiaasError
            ) -> InferResult | errors.AiaasError | None:
                if isinstance(outcome, InferResult):
                    answer = outcome["prediction"].item()
                    if isinstance(answer, errors.AiaasError):
                        outcome = _bulk.error_of(outcome.index, answer)
                return super().filter(outcome)

        return Found(self.model, keep=keep)


def _handed(outcome: InferResult | errors.AiaasError) -> Any:
    return outcome["prediction"].item() if isinstance(outcome, InferResult) else outcome


def _with_predictions(frame: Any, found: Sequence[Any], prefix: str) -> Any:
    """The frame with a column for each simple field of the predictions, and one of errors."""
    rows = [
        {"error": str(answer)}
        if isinstance(answer, errors.AiaasError)
        else payloads.scalar_fields(answer)
        for answer in found
    ]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {prefix + name: [row.get(name) for row in rows] for name in names}
    return payloads.append_columns(frame, columns)


def _frame_payloads(frame: Any, column: str | None) -> list[Any]:
    if not payloads.is_frame(frame):
        raise errors.InputError(f"expected a pandas or polars frame, got {type(frame).__name__}")
    if column is None:
        return payloads.records_of(frame)
    if column not in list(frame.columns):
        listed = ", ".join(map(str, frame.columns))
        raise errors.InputError(f"the frame has no column '{column}'; it has {listed}")
    return list(frame[column].to_list())


class Predicts:
    """What a handle can do with a model whose card names a task; calls from threads."""

    name: str
    version: str | None
    _client: Client
    _files = False  # whether a text is the path of a file

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
            return list(many)
        call = _one_call(self.name, self.version, payload, params, files=self._files)
        return _first(_limited(self._client, timeout, deadline)._send(call))

    def predict_many(
        self,
        items: Iterable[Any],
        /,
        *,
        max_rows: int = MAX_INSTANCES,
        max_bytes: int = MAX_BYTES,
        concurrency: int = 8,
        ordered: bool = True,
        on_error: OnError = "raise",
        progress: bool | Report = False,
        timeout: float | None = None,
        deadline: float | None = None,
        **params: Any,
    ) -> Generator[Any, None, None]:
        """Predictions of many payloads, a few requests for all of them.

        The input is read lazily: never further ahead of what was handed out than
        `concurrency + 1` full requests. A frame gives its rows.

        Args:
            items: Any iterable of payloads.
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
        from aiaas_client import _bulk
        from aiaas_client._progress import open_progress

        bulk = _Bulk(self.name, self.version, self._files, params)
        core = bulk.core(max_rows, max_bytes, concurrency, ordered=ordered)
        source = payloads.payloads_of(items)
        client = _limited(self._client, timeout, deadline)

        def send(rows: dict[str, Array]) -> InferResult:
            return client._send(bulk.call(rows))

        def work() -> Generator[Any, None, None]:
            shown = open_progress(progress, _bulk.length_of(items), self.name)
            failures = bulk.failures(keep=on_error == "raise")
            for outcome in _bulk.run_threads(core, source, send, failures, shown, concurrency):
                yield _handed(outcome)

        return work()

    def predict_frame(
        self,
        frame: Any,
        /,
        *,
        column: str | None = None,
        prefix: str = "predicted_",
        on_error: OnError = "raise",
        progress: bool | Report = False,
        **params: Any,
    ) -> Any:
        """A copy of a pandas or polars frame with the predictions in columns of their own.

        Args:
            frame: Its rows are the records.
            column: Only this column is the payload, as for texts.
            prefix: Of the new columns: `predicted_label`, `predicted_score`, `predicted_value`.
            on_error: "return" leaves failed rows empty, with a column of errors.
            progress, params: As for `predict_many`.
        """
        rows = _frame_payloads(frame, column)
        found = list(self.predict_many(rows, on_error=on_error, progress=progress, **params))
        return _with_predictions(frame, found, prefix)

    def card(self) -> dict[str, Any]:
        """What the server tells of the model's card: task, licence, metrics, schemas."""
        return self._client._send(card_call(self.name, self.version))


class AsyncPredicts:
    """What a handle can do with a model whose card names a task; on an event loop."""

    name: str
    version: str | None
    _client: AsyncClient
    _files = False  # whether a text is the path of a file

    async def predict(
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
            return [answer async for answer in many]
        make = partial(_one_call, self.name, self.version, payload, params, files=self._files)
        if payloads.is_slow(payload, files=self._files):
            import asyncio  # loaded by whoever has a loop, and not for a `Client`

            call = await asyncio.to_thread(make)
        else:
            call = make()
        return _first(await _limited(self._client, timeout, deadline)._send(call))

    def predict_many(
        self,
        items: AsyncIterable[Any] | Iterable[Any],
        /,
        *,
        max_rows: int = MAX_INSTANCES,
        max_bytes: int = MAX_BYTES,
        concurrency: int = 8,
        ordered: bool = True,
        on_error: OnError = "raise",
        progress: bool | Report = False,
        timeout: float | None = None,
        deadline: float | None = None,
        **params: Any,
    ) -> AsyncGenerator[Any, None]:
        """Predictions of many payloads, a few requests for all of them.

        The input is read lazily: never further ahead of what was handed out than
        `concurrency + 1` full requests. A frame gives its rows.

        Args:
            items: Any iterable or asynchronous iterable of payloads.
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
        from aiaas_client import _bulk
        from aiaas_client._progress import open_progress

        bulk = _Bulk(self.name, self.version, self._files, params)
        core = bulk.core(max_rows, max_bytes, concurrency, ordered=ordered)
        source: Any
        if isinstance(items, AsyncIterable):
            source = aiter(items)
        else:
            source = payloads.payloads_of(items)
        client = _limited(self._client, timeout, deadline)

        async def send(rows: dict[str, Array]) -> InferResult:
            return await client._send(bulk.call(rows))

        async def work() -> AsyncGenerator[Any, None]:
            shown = open_progress(progress, _bulk.length_of(items), self.name)
            failures = bulk.failures(keep=on_error == "raise")
            running = _bulk.run_tasks(core, source, send, failures, shown)
            try:
                async for outcome in running:
                    yield _handed(outcome)
            finally:
                await running.aclose()

        return work()

    async def predict_frame(
        self,
        frame: Any,
        /,
        *,
        column: str | None = None,
        prefix: str = "predicted_",
        on_error: OnError = "raise",
        progress: bool | Report = False,
        **params: Any,
    ) -> Any:
        """A copy of a pandas or polars frame with the predictions in columns of their own.

        Args:
            frame: Its rows are the records.
            column: Only this column is the payload, as for texts.
            prefix: Of the new columns: `predicted_label`, `predicted_score`, `predicted_value`.
            on_error: "return" leaves failed rows empty, with a column of errors.
            progress, params: As for `predict_many`.
        """
        rows = _frame_payloads(frame, column)
        many = self.predict_many(rows, on_error=on_error, progress=progress, **params)
        return _with_predictions(frame, [answer async for answer in many], prefix)

    async def card(self) -> dict[str, Any]:
        """What the server tells of the model's card: task, licence, metrics, schemas."""
        return await self._client._send(card_call(self.name, self.version))


AnyClient = TypeVar("AnyClient", "Client", "AsyncClient")


def _limited(client: AnyClient, timeout: float | None, deadline: float | None) -> AnyClient:
    if timeout is None and deadline is None:
        return client
    return client.with_options(timeout=timeout, deadline=deadline)


class TaskModel(Predicts, Generic[P]):
    """A model of a known task: its answers are of type `P`."""

    def __init__(
        self, client: Client, name: str, version: str | int | None = None, *, files: bool = False
    ) -> None:
        self._client = client
        self.name = name
        self.version = None if version is None else str(version)
        self._files = files

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    if TYPE_CHECKING:

        @overload
        def predict(self, payload: Many, /, **params: Any) -> list[P]: ...
        @overload
        def predict(self, payload: One, /, **params: Any) -> P: ...
        def predict(self, payload: Any, /, **params: Any) -> Any: ...

        @overload  # type: ignore[override]  # the same options, gathered
        def predict_many(
            self, items: Iterable[Any], /, *, on_error: Literal["raise"] = "raise", **options: Any
        ) -> Generator[P, None, None]: ...
        @overload
        def predict_many(
            self, items: Iterable[Any], /, *, on_error: Literal["return"], **options: Any
        ) -> Generator[P | errors.AiaasError, None, None]: ...
        def predict_many(self, items: Any, /, **options: Any) -> Any: ...


class AsyncTaskModel(AsyncPredicts, Generic[P]):
    """A model of a known task, on an event loop: its answers are of type `P`."""

    def __init__(
        self,
        client: AsyncClient,
        name: str,
        version: str | int | None = None,
        *,
        files: bool = False,
    ) -> None:
        self._client = client
        self.name = name
        self.version = None if version is None else str(version)
        self._files = files

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    if TYPE_CHECKING:

        @overload
        async def predict(self, payload: Many, /, **params: Any) -> list[P]: ...
        @overload
        async def predict(self, payload: One, /, **params: Any) -> P: ...
        async def predict(self, payload: Any, /, **params: Any) -> Any: ...

        @overload  # type: ignore[override]  # the same options, gathered
        def predict_many(
            self,
            items: AsyncIterable[Any] | Iterable[Any],
            /,
            *,
            on_error: Literal["raise"] = "raise",
            **options: Any,
        ) -> AsyncGenerator[P, None]: ...
        @overload
        def predict_many(
            self,
            items: AsyncIterable[Any] | Iterable[Any],
            /,
            *,
            on_error: Literal["return"],
            **options: Any,
        ) -> AsyncGenerator[P | errors.AiaasError, None]: ...
        def predict_many(self, items: Any, /, **options: Any) -> Any: ...


class TextEmbeddingModel(TaskModel["Embedding"]):
    """Vectors of texts, and what follows from them."""

    def similarity(self, texts: Sequence[str], /) -> Similarity:
        """How alike each text is to each other: a matrix of cosines."""
        found: Similarity = Predicts.predict(self, {"texts": list(texts)})
        return found

    def rank(self, query: str, documents: Sequence[str], /, *, top_k: int | None = None) -> Ranking:
        """The documents, the most like the query first."""
        payload = {"query": query, "documents": list(documents)}
        found: Ranking = Predicts.predict(self, payload, **_given(top_k=top_k))
        return found


class AsyncTextEmbeddingModel(AsyncTaskModel["Embedding"]):
    """Vectors of texts, and what follows from them, on an event loop."""

    async def similarity(self, texts: Sequence[str], /) -> Similarity:
        """How alike each text is to each other: a matrix of cosines."""
        found: Similarity = await AsyncPredicts.predict(self, {"texts": list(texts)})
        return found

    async def rank(
        self, query: str, documents: Sequence[str], /, *, top_k: int | None = None
    ) -> Ranking:
        """The documents, the most like the query first."""
        payload = {"query": query, "documents": list(documents)}
        found: Ranking = await AsyncPredicts.predict(self, payload, **_given(top_k=top_k))
        return found


def _given(**params: Any) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}


class TaskClient:
    """The part of `Client` that predicts.

    A text given to a task of pictures, sound or files is the path of one.
    """

    def predict(
        self, model: str, payload: Any, /, *, version: str | int | None = None, **options: Any
    ) -> Any:
        """`client.model(model, version).predict(payload, ...)` in one call."""
        handle: TaskModel[Any] = TaskModel(self._own(), model, version)
        return Predicts.predict(handle, payload, **options)

    def text_embedding(self, model: str, version: str | int | None = None) -> TextEmbeddingModel:
        """Texts to vectors, similarities and rankings."""
        return TextEmbeddingModel(self._own(), model, version)

    def text_classification(
        self, model: str, version: str | int | None = None
    ) -> TaskModel[Classification]:
        """Texts to labels."""
        return TaskModel(self._own(), model, version)

    def image_classification(
        self, model: str, version: str | int | None = None
    ) -> TaskModel[ImageClassification]:
        """Pictures to labels."""
        return TaskModel(self._own(), model, version, files=True)

    def object_detection(
        self, model: str, version: str | int | None = None
    ) -> TaskModel[Detections]:
        """Pictures to boxes."""
        return TaskModel(self._own(), model, version, files=True)

    def ocr(self, model: str, version: str | int | None = None) -> TaskModel[OcrText]:
        """Pictures to text."""
        return TaskModel(self._own(), model, version, files=True)

    def voice_activity(self, model: str, version: str | int | None = None) -> TaskModel[Segments]:
        """Recordings to the stretches with speech."""
        return TaskModel(self._own(), model, version, files=True)

    def keyword_spotting(self, model: str, version: str | int | None = None) -> TaskModel[Segments]:
        """Recordings to the moments of a keyword."""
        return TaskModel(self._own(), model, version, files=True)

    def text_to_speech(self, model: str, version: str | int | None = None) -> TaskModel[Speech]:
        """Texts to recordings."""
        return TaskModel(self._own(), model, version)

    def file_type(self, model: str, version: str | int | None = None) -> TaskModel[FileType]:
        """Files to their kind."""
        return TaskModel(self._own(), model, version, files=True)

    def tabular_classification(
        self, model: str, version: str | int | None = None
    ) -> TaskModel[Classification]:
        """Records to labels."""
        return TaskModel(self._own(), model, version)

    def tabular_regression(
        self, model: str, version: str | int | None = None
    ) -> TaskModel[Regression]:
        """Records to numbers."""
        return TaskModel(self._own(), model, version)

    def digits(self, model: str, version: str | int | None = None) -> TaskModel[Classification]:
        """Pictures of one digit to the digit."""
        return TaskModel(self._own(), model, version, files=True)

    def speech_recognition(
        self, model: str, version: str | int | None = None
    ) -> TaskModel[Transcript]:
        """Recordings to text."""
        return TaskModel(self._own(), model, version, files=True)

    def text_to_text(
        self, model: str, version: str | int | None = None
    ) -> TaskModel[GeneratedText]:
        """Texts to texts: translations, summaries."""
        return TaskModel(self._own(), model, version)

    def _own(self) -> Client:
        return self  # type: ignore[return-value]  # only Client derives from this


class AsyncTaskClient:
    """The part of `AsyncClient` that predicts.

    A text given to a task of pictures, sound or files is the path of one.
    """

    async def predict(
        self, model: str, payload: Any, /, *, version: str | int | None = None, **options: Any
    ) -> Any:
        """`client.model(model, version).predict(payload, ...)` in one call."""
        handle: AsyncTaskModel[Any] = AsyncTaskModel(self._own(), model, version)
        return await AsyncPredicts.predict(handle, payload, **options)

    def text_embedding(
        self, model: str, version: str | int | None = None
    ) -> AsyncTextEmbeddingModel:
        """Texts to vectors, similarities and rankings."""
        return AsyncTextEmbeddingModel(self._own(), model, version)

    def text_classification(
        self, model: str, version: str | int | None = None
    ) -> AsyncTaskModel[Classification]:
        """Texts to labels."""
        return AsyncTaskModel(self._own(), model, version)

    def image_classification(
        self, model: str, version: str | int | None = None
    ) -> AsyncTaskModel[ImageClassification]:
        """Pictures to labels."""
        return AsyncTaskModel(self._own(), model, version, files=True)

    def object_detection(
        self, model: str, version: str | int | None = None
    ) -> AsyncTaskModel[Detections]:
        """Pictures to boxes."""
        return AsyncTaskModel(self._own(), model, version, files=True)

    def ocr(self, model: str, version: str | int | None = None) -> AsyncTaskModel[OcrText]:
        """Pictures to text."""
        return AsyncTaskModel(self._own(), model, version, files=True)

    def voice_activity(
        self, model: str, version: str | int | None = None
    ) -> AsyncTaskModel[Segments]:
        """Recordings to the stretches with speech."""
        return AsyncTaskModel(self._own(), model, version, files=True)

    def keyword_spotting(
        self, model: str, version: str | int | None = None
    ) -> AsyncTaskModel[Segments]:
        """Recordings to the moments of a keyword."""
        return AsyncTaskModel(self._own(), model, version, files=True)

    def text_to_speech(
        self, model: str, version: str | int | None = None
    ) -> AsyncTaskModel[Speech]:
        """Texts to recordings."""
        return AsyncTaskModel(self._own(), model, version)

    def file_type(self, model: str, version: str | int | None = None) -> AsyncTaskModel[FileType]:
        """Files to their kind."""
        return AsyncTaskModel(self._own(), model, version, files=True)

    def tabular_classification(
        self, model: str, version: str | int | None = None
    ) -> AsyncTaskModel[Classification]:
        """Records to labels."""
        return AsyncTaskModel(self._own(), model, version)

    def tabular_regression(
        self, model: str, version: str | int | None = None
    ) -> AsyncTaskModel[Regression]:
        """Records to numbers."""
        return AsyncTaskModel(self._own(), model, version)

    def digits(
        self, model: str, version: str | int | None = None
    ) -> AsyncTaskModel[Classification]:
        """Pictures of one digit to the digit."""
        return AsyncTaskModel(self._own(), model, version, files=True)

    def speech_recognition(
        self, model: str, version: str | int | None = None
    ) -> AsyncTaskModel[Transcript]:
        """Recordings to text."""
        return AsyncTaskModel(self._own(), model, version, files=True)

    def text_to_text(
        self, model: str, version: str | int | None = None
    ) -> AsyncTaskModel[GeneratedText]:
        """Texts to texts: translations, summaries."""
        return AsyncTaskModel(self._own(), model, version)

    def _own(self) -> AsyncClient:
        return self  # type: ignore[return-value]  # only AsyncClient derives from this
