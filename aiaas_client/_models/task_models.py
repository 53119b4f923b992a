"""Models of a known task: their answers have a type, and the first call checks the task.

`TaskModel` and `AsyncTaskModel` say the type of the answer; `TaskClient` and `AsyncTaskClient`, the
parts of the clients that predict, make them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

import numpy as np

from aiaas_client import _errors as errors
from aiaas_client._api import inference
from aiaas_client._api import predict as calls
from aiaas_client._bulk.plan import DEFAULT_WAIT
from aiaas_client._models.predicts import AsyncPredicts, ThreadPredicts
from aiaas_client._send.flavours import AnyBatcher, One
from aiaas_client._send.own_names import with_own_names
from aiaas_client.protocol.inference import CodecError, InferRequest, RequestedOutput

if TYPE_CHECKING:
    from collections.abc import Coroutine  # noqa: F401  # named in the base classes below

    from aiaas_client._api.call import Call
    from aiaas_client._api.inference import InferResult
    from aiaas_client._bulk.batcher import AsyncBatcher, Batcher  # noqa: F401  # in bases below
    from aiaas_client._config import ServerFacts
    from aiaas_client._payloads import Payload, Payloads
    from aiaas_client.protocol.predictions import (
        Classification,
        Detections,
        Embedding,  # noqa: F401  # named in the base classes below
        ImageClassification,
        OcrText,
        Prediction,
        Ranking,
        Segments,
        Similarity,
    )
    from aiaas_client.protocol.tensors import Array

P = TypeVar("P", bound="Prediction")

_FILE_KINDS = frozenset({"image", "audio", "bytes"})  # payloads of which a text is the path


class _Typed:
    """What both flavours know of the task that was asked for."""

    name: str
    version: str | None
    _facts: ServerFacts
    _prediction: type[Prediction] | str | None

    def __init__(
        self,
        sender: Any,
        prediction: type[Any] | str | None,
        name: str,
        version: str | int | None = None,
    ) -> None:
        self._sender = sender
        self._facts = sender.facts
        self._prediction = prediction
        self.name = name
        self.version = None if version is None else str(version)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def _takes_files(self) -> Generator[Call[Any], Any, bool]:
        """Compare the card's task with the one asked for, once for each model and client."""
        if self._prediction is None:
            return False
        key = self.name, self.version
        known = self._facts.tasks.get(key)
        if known is None:
            card = yield calls.card(self.name, self.version)
            known = str(card.get("task") or ""), str(card.get("input")) in _FILE_KINDS
        task, takes_files = known
        _check_task(self.name, task, self._prediction)
        self._facts.tasks[key] = known  # never a wrong one: the model may yet be replaced
        return takes_files


def _check_task(model: str, task: str, asked: type[Prediction] | str) -> None:
    from aiaas_client.protocol.predictions import PREDICTIONS, Record

    if isinstance(asked, str):
        wanted, is_right = f"task {asked!r}", task == asked
    else:
        gives = PREDICTIONS.get(task, (Record,)) if task else ()
        wanted, is_right = f"a model that gives {asked.__name__}", asked in gives
    if is_right or task == "pipeline":  # what a pipeline gives is known with its first answer
        return
    has = f"task {task!r}" if task else "no task"
    raise errors.InputError(f"model {model!r}: expected {wanted}, got {has}", model=model)


def _checked_type(prediction: type[P]) -> type[P]:
    from aiaas_client.protocol.predictions import PREDICTIONS, Record

    known = {kind.__name__: kind for kinds in PREDICTIONS.values() for kind in kinds}
    if prediction is not Record and prediction not in known.values():
        listed = ", ".join(known)
        raise errors.OptionTypeError(f"prediction: expected one of {listed}, got {prediction!r}")
    return prediction


@with_own_names
class TaskModel(_Typed, ThreadPredicts, Generic[P]):
    """A model of a known task: its answers are of type `P`.

    The first call compares the task with that of the model's card; where they differ it raises
    `InputError`. A text given to a task of pictures, sound or files is the path of one.
    """

    if TYPE_CHECKING:

        @overload
        def predict(self, payload: Payloads, /, **params: Any) -> list[P]: ...
        @overload
        def predict(self, payload: Payload, /, **params: Any) -> P: ...
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


@with_own_names
class AsyncTaskModel(_Typed, AsyncPredicts, Generic[P]):
    """A model of a known task, on an event loop; otherwise as `TaskModel`."""

    if TYPE_CHECKING:

        @overload
        async def predict(self, payload: Payloads, /, **params: Any) -> list[P]: ...
        @overload
        async def predict(self, payload: Payload, /, **params: Any) -> P: ...
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


@with_own_names
class TextEmbeddingModel(TaskModel["Embedding"]):
    """Vectors of texts (`predict`), and what follows from them."""

    def similarity(self, texts: Sequence[str], /) -> Similarity:
        """How alike each text is to each other: a matrix of cosines, `(texts, texts)`, -1 to 1."""
        found: Similarity = ThreadPredicts.predict(self, {"texts": _texts("texts", texts)})
        return found

    def rank(self, query: str, documents: Sequence[str], /, *, top_k: int | None = None) -> Ranking:
        """The documents (at most `top_k`), the most like the query first."""
        payload = {"query": query, "documents": _texts("documents", documents)}
        found: Ranking = ThreadPredicts.predict(self, payload, **_given(top_k=top_k))
        return found


@with_own_names
class AsyncTextEmbeddingModel(AsyncTaskModel["Embedding"]):
    """Vectors of texts, and what follows from them, on an event loop."""

    async def similarity(self, texts: Sequence[str], /) -> Similarity:
        """How alike each text is to each other: a matrix of cosines, `(texts, texts)`, -1 to 1."""
        found: Similarity = await AsyncPredicts.predict(self, {"texts": _texts("texts", texts)})
        return found

    async def rank(
        self, query: str, documents: Sequence[str], /, *, top_k: int | None = None
    ) -> Ranking:
        """The documents (at most `top_k`), the most like the query first."""
        payload = {"query": query, "documents": _texts("documents", documents)}
        found: Ranking = await AsyncPredicts.predict(self, payload, **_given(top_k=top_k))
        return found


def _texts(name: str, values: Sequence[str]) -> list[str]:
    if isinstance(values, str | bytes):  # whose parts are letters, not texts
        raise errors.InputError(
            f"{name}: expected a list of texts, got one {type(values).__name__}"
        )
    return list(values)


def _given(**params: Any) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}


def _raw_inference(
    model: str,
    version: str | int | None,
    inputs: Mapping[str, Array],
    outputs: Sequence[str],
    *,
    binary: bool,
) -> Call[InferResult]:
    for name, value in inputs.items():
        if not isinstance(value, np.ndarray):
            raise errors.InputError(
                f"input {name!r}: expected a numpy array, got {type(value).__name__}; "
                "a model's own infer takes lists as well",
                model=model,
            )
    request = InferRequest(dict(inputs), [RequestedOutput(name) for name in outputs])
    try:
        return inference.infer(model, version, request, binary=binary)
    except CodecError as error:
        raise errors.InputError(f"model {model!r}: {error}", model=model) from error


class ModelCalls(Generic[One, AnyBatcher]):
    """Calls of a model by its name, for threads and tasks alike; the part of a client."""

    _sender: Any
    model: Any

    def predict(
        self, model: str, payload: Any, /, *, version: str | int | None = None, **options: Any
    ) -> Any:
        """`client.model(model, version).predict(payload, ...)` in one call.

        Raises:
            AiaasError: as `predict` of a handle does.
        """
        return self.model(model, version).predict(payload, **options)

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        version: str | int | None = None,
        outputs: Sequence[str] = (),
        binary: bool = True,
    ) -> One:
        """One inference with arrays as they are, unchecked by the model's metadata.

        Args:
            model, version: The model; by default the newest version that is ready.
            inputs: Arrays by input name, of the model's own datatypes and shapes.
            outputs: Names of the outputs wanted; all by default.
            binary: Send tensors as bytes, not as JSON.
        Returns:
            An `InferResult`: arrays by output name.
        Raises:
            InputError: an array that the protocol cannot carry.
            APIStatusError: the server refused it, or failed.
            AiaasError: anything else.
        """
        call = _raw_inference(model, version, inputs, outputs, binary=binary)
        result: One = self._sender.send(call)
        return result

    def batcher(
        self,
        model: str,
        version: str | int | None = None,
        *,
        max_wait: float = DEFAULT_WAIT,
        max_rows: int | None = None,
        concurrency: int = 4,
    ) -> AnyBatcher:
        """Join single calls into few requests.

        Args:
            model: The model's name.
            version: Its version; by default the newest that is ready.
            max_wait: Seconds a call waits for others to join it.
            max_rows: Items in a request; the model's own limit by default.
            concurrency: Requests in flight at once.
        Raises:
            InputError: an option below what it can be.
        """
        shared: AnyBatcher = self.model(model, version).batcher(
            max_wait=max_wait, max_rows=max_rows, concurrency=concurrency
        )
        return shared


class TaskClient(ModelCalls["InferResult", "Batcher"]):
    """The part of `Client` that predicts."""

    def task(
        self, prediction: type[P], model: str, version: str | int | None = None
    ) -> TaskModel[P]:
        """Give a handle on a model whose predictions are of a known type.

        Args:
            prediction: `Regression`, `Speech` or any other type of prediction.
            model: The model's name.
            version: Its version; by default the newest that is ready.
        Raises:
            OptionTypeError: `prediction` is no type of predictions.
        """
        return TaskModel(self._sender, _checked_type(prediction), model, version)

    def text_classification(
        self, model: str, version: str | int | None = None
    ) -> TaskModel[Classification]:
        """Texts to labels."""
        return TaskModel(self._sender, "text-classification", model, version)

    def text_embedding(self, model: str, version: str | int | None = None) -> TextEmbeddingModel:
        """Texts to vectors, similarities and rankings."""
        return TextEmbeddingModel(self._sender, "text-embedding", model, version)

    def image_classification(
        self, model: str, version: str | int | None = None
    ) -> TaskModel[ImageClassification]:
        """Pictures to labels."""
        return TaskModel(self._sender, "image-classification", model, version)

    def object_detection(
        self, model: str, version: str | int | None = None
    ) -> TaskModel[Detections]:
        """Pictures to boxes."""
        return TaskModel(self._sender, "object-detection", model, version)

    def ocr(self, model: str, version: str | int | None = None) -> TaskModel[OcrText]:
        """Pictures to text."""
        return TaskModel(self._sender, "ocr", model, version)

    def voice_activity(self, model: str, version: str | int | None = None) -> TaskModel[Segments]:
        """Recordings to stretches of speech."""
        return TaskModel(self._sender, "voice-activity", model, version)


class AsyncTaskClient(ModelCalls["Coroutine[Any, Any, InferResult]", "AsyncBatcher"]):
    """The part of `AsyncClient` that predicts."""

    def task(
        self, prediction: type[P], model: str, version: str | int | None = None
    ) -> AsyncTaskModel[P]:
        """Give a handle on a model whose predictions are of a known type.

        Args:
            prediction: `Regression`, `Speech` or any other type of prediction.
            model: The model's name.
            version: Its version; by default the newest that is ready.
        Raises:
            OptionTypeError: `prediction` is no type of predictions.
        """
        return AsyncTaskModel(self._sender, _checked_type(prediction), model, version)

    def text_classification(
        self, model: str, version: str | int | None = None
    ) -> AsyncTaskModel[Classification]:
        """Texts to labels."""
        return AsyncTaskModel(self._sender, "text-classification", model, version)

    def text_embedding(
        self, model: str, version: str | int | None = None
    ) -> AsyncTextEmbeddingModel:
        """Texts to vectors, similarities and rankings."""
        return AsyncTextEmbeddingModel(self._sender, "text-embedding", model, version)

    def image_classification(
        self, model: str, version: str | int | None = None
    ) -> AsyncTaskModel[ImageClassification]:
        """Pictures to labels."""
        return AsyncTaskModel(self._sender, "image-classification", model, version)

    def object_detection(
        self, model: str, version: str | int | None = None
    ) -> AsyncTaskModel[Detections]:
        """Pictures to boxes."""
        return AsyncTaskModel(self._sender, "object-detection", model, version)

    def ocr(self, model: str, version: str | int | None = None) -> AsyncTaskModel[OcrText]:
        """Pictures to text."""
        return AsyncTaskModel(self._sender, "ocr", model, version)

    def voice_activity(
        self, model: str, version: str | int | None = None
    ) -> AsyncTaskModel[Segments]:
        """Recordings to stretches of speech."""
        return AsyncTaskModel(self._sender, "voice-activity", model, version)
