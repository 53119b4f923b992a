"""Handles: one served model, called by name. `Model` for threads, `AsyncModel` for an event loop.

Both are shells around `_Handle`: generators that yield each `Call` to be sent and are told its
value or error, so that what happens when (metadata first, a second try when the model has changed,
JSON when a server cannot read binary tensors) is written once and does no I/O.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, overload

from aiaas_client import _calls as calls
from aiaas_client import _inputs
from aiaas_client._errors import (
    AiaasError,
    APIStatusError,
    InputError,
    MethodNotAllowedError,
    MissingInputError,
    ModelNotFoundError,
    NotFoundError,
    NotSupportedError,
    ProtocolError,
    VersionNotFoundError,
)
from aiaas_client.protocol.codec import CodecError, InferRequest, RequestedOutput
from aiaas_client.protocol.tensors import DATATYPES

if TYPE_CHECKING:
    from aiaas_client._async_client import AsyncClient
    from aiaas_client._batcher import AsyncBatcher, Batcher
    from aiaas_client._bulk import BulkPlan
    from aiaas_client._calls import Call
    from aiaas_client._client import Client
    from aiaas_client._progress import Report
    from aiaas_client._result import InferResult
    from aiaas_client.protocol.messages import ModelMetadata, ModelStatistics
    from aiaas_client.protocol.tensors import Array

T = TypeVar("T")
Scalar = str | int | float | bool
Steps = Generator["Call[Any]", Any, T]
Classification = int | Mapping[str, int]

DEFAULT_ROWS = 64  # in a bulk request to a model that does not tell its largest batch
DEFAULT_BYTES = 4 * 2**20  # tensor bytes in a bulk request
_CANNOT_READ_BINARY = frozenset({400, 406, 411, 415, 422})


@dataclass(frozen=True, slots=True)
class Signature:
    """What is known about a model: its metadata (None: the server has none) and its ETag."""

    metadata: ModelMetadata | None
    etag: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the configuration adds: rows a request may hold (None: not told), optional inputs."""

    max_batch_size: int | None = None
    optional: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Ask:
    """What a call wants besides its inputs."""

    outputs: Sequence[str] = ()
    classification: Classification = 0
    parameters: Mapping[str, Scalar] = field(default_factory=dict)
    request_id: str = ""
    binary: bool | None = None


def make_ask(
    outputs: str | Sequence[str] | None,
    classification: Classification,
    parameters: Mapping[str, Scalar] | None,
    priority: int,
    queue_timeout: float | None,
    request_id: str,
    binary: bool | None,
) -> Ask:
    """Gather a call's options, `priority` and `queue_timeout` in the protocol's own terms."""
    told: dict[str, Scalar] = dict(parameters or {})
    if priority:
        told["priority"] = priority
    if queue_timeout is not None:
        told["timeout"] = round(queue_timeout * 1e6)  # microseconds on the wire
    names = (outputs,) if isinstance(outputs, str) else tuple(outputs or ())
    return Ask(names, classification, told, request_id, binary)


class _Handle:
    """The thinking of both handles: state, and generators that yield the calls to be sent."""

    def __init__(self, name: str, version: str | int | None) -> None:
        self.name = name
        self.version = None if version is None else str(version)
        self._signature: Signature | None = None
        self._limits: Limits | None = None
        self._reads_binary: bool | None = None  # None until a first answer has told

    def __repr__(self) -> str:
        version = "" if self.version is None else f", version={self.version!r}"
        return f"{type(self).__name__}({self.name!r}{version})"

    def _fetch_signature(self) -> Steps[Signature]:
        """Ask for the metadata, cheaply when it has not changed since."""
        known = self._signature
        etag = known.etag if known is not None else ""
        try:
            fresh = yield calls.metadata(self.name, self.version, etag)
        except (ModelNotFoundError, VersionNotFoundError):
            self._signature = None
            raise
        except (NotFoundError, MethodNotAllowedError, NotSupportedError):
            found = Signature(None)
        else:
            told = fresh.metadata
            same = known is not None and told in (None, known.metadata)
            found = known if known is not None and same else Signature(told, fresh.etag)
        if found is not known:
            self._signature, self._limits = found, None
        return found

    def _fetch_limits(self) -> Steps[Limits]:
        if self._limits is None:
            try:
                self._limits = _read_limits((yield calls.config(self.name, self.version)))
            except (NotFoundError, NotSupportedError, MethodNotAllowedError):
                self._limits = Limits()
        return self._limits

    def _infer(
        self, inputs: _Given, ask: Ask, signature: Signature, *, item: bool, fresh: bool
    ) -> Steps[InferResult]:
        """One inference; a second try with fresh metadata when the first was refused.

        `fresh` says that `signature` was fetched for this very call.
        """
        try:
            return (yield from self._attempt(signature, inputs, ask, item))
        except (InputError, APIStatusError, ProtocolError) as error:
            if fresh or not _may_be_stale(error):
                raise
            newer = yield from self._refreshed(error)
            if newer is signature:
                raise
        return (yield from self._attempt(newer, inputs, ask, item))

    def _refreshed(self, refused: AiaasError) -> Steps[Signature]:
        try:
            return (yield from self._fetch_signature())
        except AiaasError:
            raise refused from None

    def _attempt(
        self, signature: Signature, inputs: _Given, ask: Ask, item: bool
    ) -> Steps[InferResult]:
        metadata = signature.metadata
        arrays = yield from self._prepare(metadata, inputs, item)
        result = yield from self._post_steps(arrays, ask, metadata)
        return strip_item(result, metadata) if item else result

    def _prepare(
        self, metadata: ModelMetadata | None, inputs: _Given, item: bool
    ) -> Steps[dict[str, Array]]:
        named = inputs.named(metadata, self.name)
        optional = self._limits.optional if self._limits is not None else frozenset[str]()
        try:
            return _inputs.prepare(metadata, named, model=self.name, optional=optional, item=item)
        except MissingInputError:  # metadata does not tell which inputs are optional
            limits = yield from self._fetch_limits()
            if limits.optional == optional:
                raise
        return _inputs.prepare(
            metadata, named, model=self.name, optional=limits.optional, item=item
        )

    def _send_arrays(
        self, arrays: dict[str, Array], ask: Ask, metadata: ModelMetadata | None
    ) -> Steps[InferResult]:
        """Send prepared arrays, in JSON where a server has shown that it reads nothing else."""
        request = InferRequest(
            arrays,
            _requested(ask, metadata, self.name),
            id=ask.request_id,
            parameters=dict(ask.parameters),
        )
        binary = self._reads_binary is not False if ask.binary is None else ask.binary
        try:
            result: InferResult = yield self._call(request, binary)
        except APIStatusError as error:
            undecided = ask.binary is None and self._reads_binary is None
            if not undecided or error.status_code not in _CANNOT_READ_BINARY:
                raise
            if (yield from self._lists_binary()):
                raise
            result = yield self._call(request, False)
            self._reads_binary = False
        else:
            if binary:
                self._reads_binary = True
        return result

    def _post_steps(
        self, arrays: dict[str, Array], ask: Ask, metadata: ModelMetadata | None
    ) -> Steps[InferResult]:
        result = yield from self._send_arrays(arrays, ask, metadata)
        check_answer(result, metadata, ask)
        return result

    def _call(self, request: InferRequest, binary: bool) -> Call[InferResult]:
        try:
            return calls.infer(self.name, self.version, request, binary=binary)
        except CodecError as error:
            raise InputError(f"model {self.name!r}: {error}", model=self.name) from error

    def _lists_binary(self) -> Steps[bool]:
        """Whether the server says that it has the binary extension; it is believed."""
        try:
            listed: bool = (yield calls.server_metadata()).has("binary_tensor_data")
        except AiaasError:
            return False
        if listed:
            self._reads_binary = True
        return listed

    def _plan(self, max_rows: int | None, max_bytes: int, rows: bool) -> Steps[BulkPlan]:
        """What bulk work has to know before its first item."""
        from aiaas_client._bulk import BulkPlan

        signature = self._signature or (yield from self._fetch_signature())
        metadata = signature.metadata
        limits = yield from self._fetch_limits()
        batched = rows or _inputs.takes_batches(metadata)
        most = _most_rows(limits.max_batch_size, max_rows) if batched else 1
        return BulkPlan(self.name, metadata, limits.optional, batched, most, max_bytes)


def _most_rows(max_batch_size: int | None, asked: int | None) -> int:
    if max_batch_size is None:
        return asked or DEFAULT_ROWS
    if max_batch_size == 0:  # the model promises nothing about a batch: only the caller can
        return asked or 1
    return min(asked or max_batch_size, max_batch_size)


@dataclass(frozen=True, slots=True)
class _Given:
    """Inputs as the caller gave them: a mapping or a lone value, and keywords."""

    value: object
    keywords: Mapping[str, object]

    def named(self, metadata: ModelMetadata | None, model: str) -> Mapping[str, object]:
        if self.value is None:
            return self.keywords
        named = _inputs.bind(metadata, self.value, model=model)
        if not self.keywords:
            return named
        twice = sorted(named.keys() & self.keywords.keys())
        if twice:
            text = f"model {model!r}: input {twice[0]!r} was given twice"
            raise InputError(text, tensor=twice[0], model=model)
        return {**named, **self.keywords}


def _may_be_stale(error: AiaasError) -> bool:
    """Whether the error could come from metadata that was true when it was fetched."""
    if isinstance(error, APIStatusError):
        return error.status_code in (400, 404)
    return isinstance(error, InputError | ProtocolError)


def _read_limits(config: Mapping[str, Any]) -> Limits:
    told = config.get("max_batch_size", 0)
    largest = int(told) if isinstance(told, int | str) and str(told).isdecimal() else 0
    inputs = config.get("input")
    entries = [entry for entry in inputs if isinstance(entry, Mapping)] if inputs else []
    optional = frozenset(str(entry.get("name")) for entry in entries if entry.get("optional"))
    return Limits(largest, optional)


def _requested(ask: Ask, metadata: ModelMetadata | None, model: str) -> list[RequestedOutput]:
    top = ask.classification
    if not top:
        return [RequestedOutput(name) for name in ask.outputs]
    names = list(ask.outputs) or [spec.name for spec in (metadata.outputs if metadata else ())]
    if isinstance(top, Mapping):
        names += [name for name in top if name not in names]
        return [RequestedOutput(name, classification=top.get(name, 0)) for name in names]
    if not names:
        text = f"model {model!r}: classification needs `outputs`, no metadata names them"
        raise InputError(text, model=model)
    return [RequestedOutput(name, classification=top) for name in names]


def check_answer(result: InferResult, metadata: ModelMetadata | None, ask: Ask) -> None:
    """Compare the answer's dtypes and shapes with the model's metadata.

    Raises:
        ProtocolError: an output is not what the model declares.
    """
    for spec in metadata.outputs if metadata is not None else ():
        array = result.get(spec.name)
        if array is None or ask.classification or spec.datatype not in DATATYPES:
            continue
        pairs = zip(spec.shape, array.shape, strict=False)
        wrong = array.ndim != len(spec.shape) or any(want not in (-1, got) for want, got in pairs)
        if wrong or array.dtype != DATATYPES[spec.datatype].dtype:
            text = (
                f"output {spec.name!r}: expected {spec.datatype} {spec.shape}, "
                f"got {array.dtype} {array.shape}"
            )
            raise ProtocolError(
                text,
                model=result.model_name,
                request_id=result.request_id,
                attempts=result.attempts,
            )


def strip_item(result: InferResult, metadata: ModelMetadata | None) -> InferResult:
    """Take the batch dimension off the answer to one item, where the model has one."""
    if not _inputs.takes_batches(metadata):
        return result
    fixed = {
        spec.name
        for spec in (metadata.outputs if metadata else ())
        if spec.shape and spec.shape[0] not in (-1, 1)
    }
    return result.with_outputs(
        {
            name: array.reshape(array.shape[1:])
            if name not in fixed and array.ndim and array.shape[0] == 1
            else array
            for name, array in result.items()
        }
    )


def _told(metadata: ModelMetadata | None, model: str) -> ModelMetadata:
    if metadata is None:
        raise NotSupportedError(f"model {model!r}: this server has no metadata", model=model)
    return metadata


def _limits_of_call(timeout: float | None, deadline: float | None) -> dict[str, Any]:
    given = {"timeout": timeout, "deadline": deadline}
    return {name: value for name, value in given.items() if value is not None}


class Model(_Handle):
    """One served model, for threads; get it with `client.model(name, version)`.

    The metadata is fetched with the first call that needs it and kept; it is fetched again when a
    call looks wrong by it, so that a model updated on the server keeps working here.
    """

    def __init__(self, client: Client, name: str, version: str | int | None = None) -> None:
        super().__init__(name, version)
        self._client = client
        self._lock = threading.Lock()

    def infer(
        self,
        inputs: object = None,
        /,
        *,
        outputs: str | Sequence[str] | None = None,
        classification: Classification = 0,
        parameters: Mapping[str, Scalar] | None = None,
        priority: int = 0,
        queue_timeout: float | None = None,
        request_id: str = "",
        binary: bool | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
        **arrays: object,
    ) -> InferResult:
        """Run the model once, on a whole batch where it takes batches.

        Args:
            inputs: A mapping of input name to value (needed for inputs named like an option
                below), the value of a model's only input, or a data frame with a column for
                each input.
            outputs: Names of the outputs wanted; all by default.
            classification: Ask for the best k classes as `value:index[:label]` texts instead of
                the tensor: k for all wanted outputs, or k by output name.
            parameters: Request parameters for the model.
            priority: 1 is the highest; 0 leaves it to the model.
            queue_timeout: Longest wait in the server's queue, seconds.
            request_id: An id to send along and to check in the answer.
            binary: Send tensors as bytes (True) or JSON (False); by default bytes where the
                server reads them.
            timeout: Seconds for each phase of a request, instead of the client's.
            deadline: Seconds for the whole call with its retries, instead of the client's.
            arrays: Inputs by name: arrays, numbers, lists, text, anything with `__array__`.
        Raises:
            InputError: the inputs do not fit the model; nothing was sent.
            AiaasError: anything else; `aiaas_client._errors` draws the whole tree.
        """
        ask = make_ask(
            outputs, classification, parameters, priority, queue_timeout, request_id, binary
        )
        limits = _limits_of_call(timeout, deadline)
        return self._run(_Given(inputs, arrays), ask, limits, item=False)

    def infer_one(
        self,
        inputs: object = None,
        /,
        *,
        outputs: str | Sequence[str] | None = None,
        classification: Classification = 0,
        parameters: Mapping[str, Scalar] | None = None,
        priority: int = 0,
        queue_timeout: float | None = None,
        request_id: str = "",
        binary: bool | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
        **arrays: object,
    ) -> InferResult:
        """As `infer` for a single item: the batch dimension is added, and taken off the answer.

        A model whose inputs have no batch dimension gets the values as they are.
        """
        ask = make_ask(
            outputs, classification, parameters, priority, queue_timeout, request_id, binary
        )
        limits = _limits_of_call(timeout, deadline)
        return self._run(_Given(inputs, arrays), ask, limits, item=True)

    @overload
    def infer_many(
        self,
        items: Iterable[object] | Mapping[str, object],
        /,
        *,
        rows: bool = False,
        outputs: str | Sequence[str] | None = None,
        parameters: Mapping[str, Scalar] | None = None,
        binary: bool | None = None,
        max_rows: int | None = None,
        max_bytes: int = DEFAULT_BYTES,
        concurrency: int = 8,
        ordered: bool = True,
        on_error: Literal["raise"] = "raise",
        progress: bool | Report = False,
    ) -> Generator[InferResult, None, None]: ...

    @overload
    def infer_many(
        self,
        items: Iterable[object] | Mapping[str, object],
        /,
        *,
        rows: bool = False,
        outputs: str | Sequence[str] | None = None,
        parameters: Mapping[str, Scalar] | None = None,
        binary: bool | None = None,
        max_rows: int | None = None,
        max_bytes: int = DEFAULT_BYTES,
        concurrency: int = 8,
        ordered: bool = True,
        on_error: Literal["return"],
        progress: bool | Report = False,
    ) -> Generator[InferResult | AiaasError, None, None]: ...

    def infer_many(
        self,
        items: Iterable[object] | Mapping[str, object],
        /,
        *,
        rows: bool = False,
        outputs: str | Sequence[str] | None = None,
        parameters: Mapping[str, Scalar] | None = None,
        binary: bool | None = None,
        max_rows: int | None = None,
        max_bytes: int = DEFAULT_BYTES,
        concurrency: int = 8,
        ordered: bool = True,
        on_error: Literal["raise", "return"] = "raise",
        progress: bool | Report = False,
    ) -> Generator[InferResult | AiaasError, None, None]:
        """Run the model on each of many items, a few requests for all of them.

        Items of equal shapes share requests. The input is read lazily: never further ahead of
        what was handed out than `concurrency + 1` full requests. Closing the generator early ends
        the work; requests already on the wire are waited for.

        Args:
            items: Any iterable: each item a mapping of input name to value without the batch
                dimension, or the value of the model's only input. Or a mapping of input name to
                arrays of equal length, or a data frame, whose rows are the items.
            rows: Each item is a block of rows with its batch dimension; its result has as many.
            outputs, parameters, binary: As for `infer`.
            max_rows: Rows in a request; the model's `max_batch_size` by default, 64 where the
                server does not tell, 1 where the model promises no batching.
            max_bytes: Tensor bytes in a request; a larger item travels alone.
            concurrency: Requests in flight at once.
            ordered: Results in the order of the items; False hands them out as they come. Either
                way `result.index` (and `error.index`) tells the item.
            on_error: "raise" leaves failed items out and raises at the end; "return" puts the
                item's error in its place.
            progress: True shows a bar on a terminal; a callable gets `(done, total or None)`.
        Raises:
            BulkError: at the end, some items failed: `.failures` has the error of each by index.
            AuthenticationError, PermissionDeniedError, NotFoundError: at once.
        """
        from aiaas_client import _bulk
        from aiaas_client._progress import open_progress

        ask = make_ask(outputs, 0, parameters, 0, None, "", binary)
        _bulk.check(max_rows, max_bytes, concurrency)

        def work() -> Generator[InferResult | AiaasError, None, None]:
            plan = self._bulk_plan(max_rows, max_bytes, rows=rows)
            core = _bulk.BulkCore(plan, concurrency=concurrency, ordered=ordered, rows=rows)
            failures = _bulk.Failures(self.name, keep=on_error == "raise")
            shown = open_progress(progress, _bulk.length_of(items), self.name)

            def send(arrays: dict[str, Array]) -> InferResult:
                return self._post(arrays, ask, plan.metadata)

            source = _bulk.items_of(items, plan, rows=rows)
            yield from _bulk.run_threads(core, source, send, failures, shown, concurrency)

        return work()

    def batcher(
        self,
        *,
        max_wait: float = 0.002,
        max_rows: int | None = None,
        concurrency: int = 4,
        outputs: str | Sequence[str] | None = None,
        parameters: Mapping[str, Scalar] | None = None,
        binary: bool | None = None,
    ) -> Batcher:
        """Let many single calls from threads share requests; close it when done, or use `with`.

        Args:
            max_wait: Seconds a call waits for others to join it.
            max_rows: Items in a request; the model's `max_batch_size` by default.
            concurrency: Requests in flight at once; while all are, waiting calls gather.
            outputs, parameters, binary: As for `infer`, for every call.
        """
        from aiaas_client._batcher import Batcher

        return Batcher(
            self,
            max_wait=max_wait,
            max_rows=max_rows,
            concurrency=concurrency,
            outputs=outputs,
            parameters=parameters,
            binary=binary,
        )

    def metadata(self) -> ModelMetadata:
        """The model's inputs and outputs, from the cache if they were fetched before.

        Raises:
            NotSupportedError: this server has no model metadata.
        """
        return _told((self._known(self._client)).metadata, self.name)

    def refresh(self) -> ModelMetadata:
        """Fetch the metadata again, cheaply when the server says that it is unchanged."""
        self._limits = None
        signature = self._drive(self._fetch_signature(), self._client)
        return _told(signature.metadata, self.name)

    def config(self) -> dict[str, Any]:
        """The model's configuration as the server tells it, fetched each time."""
        return self._client._send(calls.config(self.name, self.version))

    def statistics(self) -> list[ModelStatistics]:
        """Counts and times of each of its versions, or of the one this handle names."""
        return self._client._send(calls.statistics(self.name, self.version))

    def ready(self) -> bool:
        """Whether it takes inference now."""
        return self._client._send(calls.ready(self.name, self.version))

    def _known(self, client: Client) -> Signature:
        if self._signature is not None:
            return self._signature
        with self._lock:  # so that many threads ask once
            signature: Signature | None = self._signature  # another one may have been first
            if signature is None:
                signature = self._drive(self._fetch_signature(), client)
            return signature

    def _run(
        self, inputs: _Given, ask: Ask, limits: Mapping[str, Any], *, item: bool
    ) -> InferResult:
        client = self._client.with_options(**limits) if limits else self._client
        fresh = self._signature is None
        signature = self._known(client)
        steps = self._infer(inputs, ask, signature, item=item, fresh=fresh)
        return self._drive(steps, client)

    def _post(
        self, arrays: dict[str, Array], ask: Ask, metadata: ModelMetadata | None
    ) -> InferResult:
        """Send prepared arrays, as bulk work and batchers do."""
        return self._drive(self._post_steps(arrays, ask, metadata), self._client)

    def _bulk_plan(self, max_rows: int | None, max_bytes: int, *, rows: bool = False) -> BulkPlan:
        self._known(self._client)
        with self._lock:  # the configuration, too, is asked for once
            return self._drive(self._plan(max_rows, max_bytes, rows), self._client)

    def _drive(self, steps: Steps[T], client: Client) -> T:
        """Send what `steps` ask for, one after another, until they are done."""
        try:
            call = next(steps)
            while True:
                try:
                    value = client._send(call)
                except AiaasError as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(value)
        except StopIteration as stop:
            value = stop.value
        finally:
            steps.close()
        return cast("T", value)


class AsyncModel(_Handle):
    """One served model, on an event loop; get it with `client.model(name, version)`.

    The metadata is fetched with the first call that needs it and kept; it is fetched again when a
    call looks wrong by it, so that a model updated on the server keeps working here.
    """

    def __init__(self, client: AsyncClient, name: str, version: str | int | None = None) -> None:
        super().__init__(name, version)
        self._client = client
        self._lock = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def infer(
        self,
        inputs: object = None,
        /,
        *,
        outputs: str | Sequence[str] | None = None,
        classification: Classification = 0,
        parameters: Mapping[str, Scalar] | None = None,
        priority: int = 0,
        queue_timeout: float | None = None,
        request_id: str = "",
        binary: bool | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
        **arrays: object,
    ) -> InferResult:
        """Run the model once, on a whole batch where it takes batches.

        Args:
            inputs: A mapping of input name to value (needed for inputs named like an option
                below), the value of a model's only input, or a data frame with a column for
                each input.
            outputs: Names of the outputs wanted; all by default.
            classification: Ask for the best k classes as `value:index[:label]` texts instead of
                the tensor: k for all wanted outputs, or k by output name.
            parameters: Request parameters for the model.
            priority: 1 is the highest; 0 leaves it to the model.
            queue_timeout: Longest wait in the server's queue, seconds.
            request_id: An id to send along and to check in the answer.
            binary: Send tensors as bytes (True) or JSON (False); by default bytes where the
                server reads them.
            timeout: Seconds for each phase of a request, instead of the client's.
            deadline: Seconds for the whole call with its retries, instead of the client's.
            arrays: Inputs by name: arrays, numbers, lists, text, anything with `__array__`.
        Raises:
            InputError: the inputs do not fit the model; nothing was sent.
            AiaasError: anything else; `aiaas_client._errors` draws the whole tree.
        """
        ask = make_ask(
            outputs, classification, parameters, priority, queue_timeout, request_id, binary
        )
        limits = _limits_of_call(timeout, deadline)
        return await self._run(_Given(inputs, arrays), ask, limits, item=False)

    async def infer_one(
        self,
        inputs: object = None,
        /,
        *,
        outputs: str | Sequence[str] | None = None,
        classification: Classification = 0,
        parameters: Mapping[str, Scalar] | None = None,
        priority: int = 0,
        queue_timeout: float | None = None,
        request_id: str = "",
        binary: bool | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
        **arrays: object,
    ) -> InferResult:
        """As `infer` for a single item: the batch dimension is added, and taken off the answer.

        A model whose inputs have no batch dimension gets the values as they are.
        """
        ask = make_ask(
            outputs, classification, parameters, priority, queue_timeout, request_id, binary
        )
        limits = _limits_of_call(timeout, deadline)
        return await self._run(_Given(inputs, arrays), ask, limits, item=True)

    @overload
    def infer_many(
        self,
        items: AsyncIterable[object] | Iterable[object] | Mapping[str, object],
        /,
        *,
        rows: bool = False,
        outputs: str | Sequence[str] | None = None,
        parameters: Mapping[str, Scalar] | None = None,
        binary: bool | None = None,
        max_rows: int | None = None,
        max_bytes: int = DEFAULT_BYTES,
        concurrency: int = 8,
        ordered: bool = True,
        on_error: Literal["raise"] = "raise",
        progress: bool | Report = False,
    ) -> AsyncGenerator[InferResult, None]: ...

    @overload
    def infer_many(
        self,
        items: AsyncIterable[object] | Iterable[object] | Mapping[str, object],
        /,
        *,
        rows: bool = False,
        outputs: str | Sequence[str] | None = None,
        parameters: Mapping[str, Scalar] | None = None,
        binary: bool | None = None,
        max_rows: int | None = None,
        max_bytes: int = DEFAULT_BYTES,
        concurrency: int = 8,
        ordered: bool = True,
        on_error: Literal["return"],
        progress: bool | Report = False,
    ) -> AsyncGenerator[InferResult | AiaasError, None]: ...

    def infer_many(
        self,
        items: AsyncIterable[object] | Iterable[object] | Mapping[str, object],
        /,
        *,
        rows: bool = False,
        outputs: str | Sequence[str] | None = None,
        parameters: Mapping[str, Scalar] | None = None,
        binary: bool | None = None,
        max_rows: int | None = None,
        max_bytes: int = DEFAULT_BYTES,
        concurrency: int = 8,
        ordered: bool = True,
        on_error: Literal["raise", "return"] = "raise",
        progress: bool | Report = False,
    ) -> AsyncGenerator[InferResult | AiaasError, None]:
        """Run the model on each of many items, a few requests for all of them.

        Items of equal shapes share requests. The input is read lazily: never further ahead of
        what was handed out than `concurrency + 1` full requests. Closing the generator early ends
        the work and cancels what is in flight.

        Args:
            items: Any iterable or asynchronous iterable: each item a mapping of input name to
                value without the batch dimension, or the value of the model's only input. Or a
                mapping of input name to arrays of equal length, or a data frame, whose rows are
                the items.
            rows: Each item is a block of rows with its batch dimension; its result has as many.
            outputs, parameters, binary: As for `infer`.
            max_rows: Rows in a request; the model's `max_batch_size` by default, 64 where the
                server does not tell, 1 where the model promises no batching.
            max_bytes: Tensor bytes in a request; a larger item travels alone.
            concurrency: Requests in flight at once.
            ordered: Results in the order of the items; False hands them out as they come. Either
                way `result.index` (and `error.index`) tells the item.
            on_error: "raise" leaves failed items out and raises at the end; "return" puts the
                item's error in its place.
            progress: True shows a bar on a terminal; a callable gets `(done, total or None)`.
        Raises:
            BulkError: at the end, some items failed: `.failures` has the error of each by index.
            AuthenticationError, PermissionDeniedError, NotFoundError: at once.
        """
        from aiaas_client import _bulk
        from aiaas_client._progress import open_progress

        ask = make_ask(outputs, 0, parameters, 0, None, "", binary)
        _bulk.check(max_rows, max_bytes, concurrency)

        async def work() -> AsyncGenerator[InferResult | AiaasError, None]:
            plan = await self._bulk_plan(max_rows, max_bytes, rows=rows)
            core = _bulk.BulkCore(plan, concurrency=concurrency, ordered=ordered, rows=rows)
            failures = _bulk.Failures(self.name, keep=on_error == "raise")
            shown = open_progress(progress, _bulk.length_of(items), self.name)
            source = _bulk.async_items_of(items, plan, rows=rows)

            async def send(arrays: dict[str, Array]) -> InferResult:
                return await self._post(arrays, ask, plan.metadata)

            running = _bulk.run_tasks(core, source, send, failures, shown)
            try:
                async for outcome in running:
                    yield outcome
            finally:
                await running.aclose()

        return work()

    def batcher(
        self,
        *,
        max_wait: float = 0.002,
        max_rows: int | None = None,
        concurrency: int = 4,
        outputs: str | Sequence[str] | None = None,
        parameters: Mapping[str, Scalar] | None = None,
        binary: bool | None = None,
    ) -> AsyncBatcher:
        """Let many single calls from tasks share requests; close it when done, or use `with`.

        Args:
            max_wait: Seconds a call waits for others to join it.
            max_rows: Items in a request; the model's `max_batch_size` by default.
            concurrency: Requests in flight at once; while all are, waiting calls gather.
            outputs, parameters, binary: As for `infer`, for every call.
        """
        from aiaas_client._batcher import AsyncBatcher

        return AsyncBatcher(
            self,
            max_wait=max_wait,
            max_rows=max_rows,
            concurrency=concurrency,
            outputs=outputs,
            parameters=parameters,
            binary=binary,
        )

    async def metadata(self) -> ModelMetadata:
        """The model's inputs and outputs, from the cache if they were fetched before.

        Raises:
            NotSupportedError: this server has no model metadata.
        """
        return _told((await self._known(self._client)).metadata, self.name)

    async def refresh(self) -> ModelMetadata:
        """Fetch the metadata again, cheaply when the server says that it is unchanged."""
        self._limits = None
        signature = await self._drive(self._fetch_signature(), self._client)
        return _told(signature.metadata, self.name)

    async def config(self) -> dict[str, Any]:
        """The model's configuration as the server tells it, fetched each time."""
        return await self._client._send(calls.config(self.name, self.version))

    async def statistics(self) -> list[ModelStatistics]:
        """Counts and times of each of its versions, or of the one this handle names."""
        return await self._client._send(calls.statistics(self.name, self.version))

    async def ready(self) -> bool:
        """Whether it takes inference now."""
        return await self._client._send(calls.ready(self.name, self.version))

    async def _known(self, client: AsyncClient) -> Signature:
        if self._signature is not None:
            return self._signature
        async with self._own_lock():  # so that many tasks ask once
            signature: Signature | None = self._signature  # another one may have been first
            if signature is None:
                signature = await self._drive(self._fetch_signature(), client)
            return signature

    def _own_lock(self) -> asyncio.Lock:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:  # a lock belongs to the loop it was first waited for on
            self._loop, self._lock = loop, asyncio.Lock()
        return self._lock

    async def _run(
        self, inputs: _Given, ask: Ask, limits: Mapping[str, Any], *, item: bool
    ) -> InferResult:
        client = self._client.with_options(**limits) if limits else self._client
        fresh = self._signature is None
        signature = await self._known(client)
        steps = self._infer(inputs, ask, signature, item=item, fresh=fresh)
        return await self._drive(steps, client)

    async def _post(
        self, arrays: dict[str, Array], ask: Ask, metadata: ModelMetadata | None
    ) -> InferResult:
        """Send prepared arrays, as bulk work and batchers do."""
        return await self._drive(self._post_steps(arrays, ask, metadata), self._client)

    async def _bulk_plan(
        self, max_rows: int | None, max_bytes: int, *, rows: bool = False
    ) -> BulkPlan:
        await self._known(self._client)
        async with self._own_lock():  # the configuration, too, is asked for once
            return await self._drive(self._plan(max_rows, max_bytes, rows), self._client)

    async def _drive(self, steps: Steps[T], client: AsyncClient) -> T:
        """Send what `steps` ask for, one after another, until they are done."""
        try:
            call = next(steps)
            while True:
                try:
                    value = await client._send(call)
                except AiaasError as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(value)
        except StopIteration as stop:
            value = stop.value
        finally:
            steps.close()
        return cast("T", value)
