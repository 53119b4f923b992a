"""One inference with tensors: its options, and the steps that it takes.

Threads and tasks differ in what a call gives (`One`: a result, or an awaitable of it) and in where
they wait. The steps are a generator that yields each call to be sent and is told its value or its
error, so that what happens when (a second try when the model has changed, JSON when a server cannot
read binary tensors) is written once and does no I/O.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic

from aiaas_client._api import inference
from aiaas_client._api.oip import server_metadata
from aiaas_client._errors import (
    AiaasError,
    APIStatusError,
    InputError,
    MissingInputError,
    OptionTypeError,
    ProtocolError,
)
from aiaas_client._models.checks import batch_problem, check_outputs
from aiaas_client._models.handle import (
    NOTHING_KNOWN,
    BatchLimits,
    Handle,
    KnownMetadata,
    Steps,
    told_metadata,
)
from aiaas_client._models.inputs import bind_all, fits, prepare, takes_batches
from aiaas_client._models.request_id import checked_request_id
from aiaas_client._send.flavours import One
from aiaas_client.protocol.inference import CodecError, InferRequest, RequestedOutput
from aiaas_client.protocol.tensors import DATATYPES

if TYPE_CHECKING:
    from aiaas_client._api.call import Call
    from aiaas_client._api.inference import InferResult
    from aiaas_client.protocol.inference import Scalar
    from aiaas_client.protocol.messages import ModelMetadata
    from aiaas_client.protocol.tensors import Array

TopK = int | Mapping[str, int]

_CANNOT_READ_BINARY = frozenset({400, 406, 411, 415, 422, 500})


@dataclass(frozen=True, slots=True)
class InferOptions:
    """What an inference wants besides its inputs, in the protocol's own terms.

    Attributes:
        outputs: Names of the outputs wanted; all by default.
        classification: The best k classes instead of the tensors, for all outputs or by name.
        parameters: Of the request, `priority` and `timeout` (microseconds) among them.
        binary: Tensors as bytes or as JSON; None leaves it to what the server reads.
    """

    outputs: Sequence[str] = ()
    classification: TopK = 0
    parameters: Mapping[str, Scalar] = field(default_factory=dict)
    request_id: str = ""
    binary: bool | None = None

    def names(self) -> Sequence[str]:
        """Of all outputs that are named anywhere."""
        if isinstance(self.classification, Mapping):
            return [*self.outputs, *self.classification]
        return self.outputs


_PLAIN = InferOptions()


def infer_options(
    outputs: str | Iterable[str] | None = None,
    classification: TopK = 0,
    parameters: Mapping[str, Scalar] | None = None,
    priority: int = 0,
    queue_timeout: float | None = None,
    request_id: str = "",
    binary: bool | None = None,
) -> InferOptions:
    """Gather a call's options.

    Raises:
        OptionTypeError: one of them is of a wrong type; it is named.
        ConfigurationError: the id is not plain.
    """
    is_plain = outputs is None and parameters is None and queue_timeout is None and binary is None
    if is_plain and not (classification or priority or request_id):
        return _PLAIN  # as a rule
    told: dict[str, Scalar] = dict(_checked("parameters", parameters or {}, Mapping, "a mapping"))
    if _checked("priority", priority, int, "a whole number"):
        told["priority"] = priority
    if queue_timeout is not None:
        seconds = _checked("queue_timeout", queue_timeout, int | float, "seconds")
        told["timeout"] = round(seconds * 1e6)  # microseconds on the wire
    names = _checked("outputs", outputs or (), Iterable, "names of outputs")
    return InferOptions(
        (names,) if isinstance(names, str) else tuple(names),
        _checked("classification", classification, int | Mapping, "a number, or one by output"),
        told,
        checked_request_id(request_id),
        _checked("binary", binary, bool | None, "True, False or None"),
    )


def _checked(name: str, value: Any, kind: Any, expected: str) -> Any:
    if not isinstance(value, kind):
        raise OptionTypeError(f"{name}: expected {expected}, got {value!r}")
    return value


class Infers(Handle, Generic[One], ABC):
    """Inference with tensors."""

    _sender: Any
    _drive: Any  # sends what the steps ask for: `drive`, or `async_drive`

    def infer(
        self,
        inputs: object = None,
        /,
        *,
        outputs: str | Sequence[str] | None = None,
        classification: TopK = 0,
        parameters: Mapping[str, Scalar] | None = None,
        priority: int = 0,
        queue_timeout: float | None = None,
        request_id: str = "",
        binary: bool | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
        **arrays: object,
    ) -> One:
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
        options = infer_options(
            outputs, classification, parameters, priority, queue_timeout, request_id, binary
        )
        return self._run(inputs, arrays, options, timeout, deadline, item=False)

    def infer_one(
        self,
        inputs: object = None,
        /,
        *,
        outputs: str | Sequence[str] | None = None,
        classification: TopK = 0,
        parameters: Mapping[str, Scalar] | None = None,
        priority: int = 0,
        queue_timeout: float | None = None,
        request_id: str = "",
        binary: bool | None = None,
        timeout: float | None = None,
        deadline: float | None = None,
        **arrays: object,
    ) -> One:
        """As `infer` for a single item: the batch dimension is added, and taken off the answer.

        A model whose inputs have no batch dimension gets the values as they are.
        """
        options = infer_options(
            outputs, classification, parameters, priority, queue_timeout, request_id, binary
        )
        return self._run(inputs, arrays, options, timeout, deadline, item=True)

    def _run(
        self,
        inputs: object,
        arrays: Mapping[str, object],
        options: InferOptions,
        timeout: float | None,
        deadline: float | None,
        *,
        item: bool,
    ) -> One:
        sender = self._sender
        if timeout is not None or deadline is not None:
            sender = sender.with_options(timeout=timeout, deadline=deadline)
        known = self._known_metadata
        if known is None:
            return self._run_first(inputs, arrays, options, sender, item=item)
        steps = self._infer(inputs, arrays, options, known, item=item, fresh=False)
        result: One = self._drive(steps, sender.send)
        return result

    @abstractmethod
    def _run_first(
        self,
        inputs: object,
        arrays: Mapping[str, object],
        options: InferOptions,
        sender: Any,
        *,
        item: bool,
    ) -> One:
        """Fetch the metadata, once for all who wait for it, and run."""

    def _infer(
        self,
        inputs: object,
        arrays: Mapping[str, object],
        options: InferOptions,
        known: KnownMetadata,
        *,
        item: bool,
        fresh: bool,
    ) -> Steps[InferResult]:
        """One inference; a second try with fresh metadata when the first was refused.

        `fresh` says that `known` was fetched for this very call.
        """
        try:
            return (yield from self._attempt(known, inputs, arrays, options, item))
        except (InputError, APIStatusError, ProtocolError) as error:
            if fresh or not _may_be_stale(error):
                raise
            newer = yield from self._refreshed(error)
            if newer is known:
                raise
        return (yield from self._attempt(newer, inputs, arrays, options, item))

    def _refreshed(self, refused: AiaasError) -> Steps[KnownMetadata]:
        try:
            return (yield from self._fetch_metadata())
        except AiaasError:
            raise refused from None

    def _attempt(
        self,
        known: KnownMetadata,
        inputs: object,
        arrays: Mapping[str, object],
        options: InferOptions,
        item: bool,
    ) -> Steps[InferResult]:
        metadata = known.metadata
        named = bind_all(metadata, inputs, arrays, model=self.name)
        if names := options.names():
            check_outputs(metadata, names, self.name)
        limits = self._limits or NOTHING_KNOWN
        try:
            tensors = prepare(metadata, named, model=self.name, optional=limits.optional, item=item)
        except MissingInputError:  # metadata does not tell which inputs are optional
            fetched = yield from self._fetch_limits()
            if fetched.optional == limits.optional:
                raise
            tensors = prepare(
                metadata, named, model=self.name, optional=fetched.optional, item=item
            )
        if self._limits is not None:
            yield from self._check_batch(tensors, self._limits)
        result = yield from self._post_steps(tensors, options, metadata)
        return strip_item(result, metadata) if item else result

    def _refresh(self) -> Steps[ModelMetadata]:
        """What `refresh` does, in threads or in tasks."""
        self._limits = None
        known = yield from self._fetch_metadata()
        return told_metadata(known.metadata, self.name)

    def _check_batch(self, tensors: Mapping[str, Array], limits: BatchLimits) -> Steps[None]:
        """Refuse what is no batch by `limits`, and still none by those that hold now.

        Raises:
            ShapeError: the inputs hold different numbers of rows, or too many.
        """
        refused = batch_problem(tensors, limits, self.name)
        if refused is None:
            return
        self._limits = None
        try:
            limits = yield from self._fetch_limits()
        except AiaasError:
            raise refused from None
        if (refused := batch_problem(tensors, limits, self.name)) is not None:
            raise refused

    def _post_steps(
        self, arrays: dict[str, Array], options: InferOptions, metadata: ModelMetadata | None
    ) -> Steps[InferResult]:
        """Send prepared arrays, in JSON where a server has shown that it reads nothing else.

        Raises:
            ProtocolError: the answer is not what the model declares.
        """
        request = InferRequest(
            arrays,
            _requested(options, metadata, self.name),
            id=options.request_id,
            parameters=dict(options.parameters),
        )
        binary = self._facts.reads_binary is not False if options.binary is None else options.binary
        undecided = options.binary is None and self._facts.reads_binary is None
        try:
            result: InferResult = yield self._call(request, binary, trial=undecided)
        except APIStatusError as error:
            if not undecided or error.status_code not in _CANNOT_READ_BINARY:
                raise
            if (yield from self._lists_binary()):
                raise
            result = yield self._call(request, False)
            self._facts.reads_binary = False
        else:
            if binary:
                self._facts.reads_binary = True
        check_answer(result, metadata, options)
        return result

    def _call(
        self, request: InferRequest, binary: bool, *, trial: bool = False
    ) -> Call[InferResult]:
        if not self._facts.needs_wire:
            return inference.infer_here(self.name, self.version, request)
        try:
            return inference.infer(self.name, self.version, request, binary=binary, trial=trial)
        except CodecError as error:
            raise InputError(f"model {self.name!r}: {error}", model=self.name) from error

    def _lists_binary(self) -> Steps[bool]:
        """Whether the server says that it has the binary extension; it is believed."""
        try:
            listed: bool = (yield server_metadata()).has("binary_tensor_data")
        except AiaasError:
            return False
        if listed:
            self._facts.reads_binary = True
        return listed


def _may_be_stale(error: AiaasError) -> bool:
    """Whether the error could come from metadata that was true when it was fetched."""
    if isinstance(error, APIStatusError):
        return error.status_code in (400, 404)
    return isinstance(error, InputError | ProtocolError)


def _requested(
    options: InferOptions, metadata: ModelMetadata | None, model: str
) -> list[RequestedOutput]:
    top = options.classification
    if not top:
        return [RequestedOutput(name) for name in options.outputs]
    names = list(options.outputs) or [spec.name for spec in (metadata.outputs if metadata else ())]
    if isinstance(top, Mapping):
        names += [name for name in top if name not in names]
        return [RequestedOutput(name, classification=top.get(name, 0)) for name in names]
    if not names:
        text = f"model {model!r}: classification needs `outputs`, no metadata names them"
        raise InputError(text, model=model)
    return [RequestedOutput(name, classification=top) for name in names]


def check_answer(
    result: InferResult, metadata: ModelMetadata | None, options: InferOptions
) -> None:
    """Compare the answer's names, dtypes and shapes with the model's metadata.

    Raises:
        ProtocolError: an output is not what the model declares.
    """
    for spec in metadata.outputs if metadata is not None else ():
        array = result.get(spec.name)
        if array is None and not options.outputs:
            text = (
                f"model {result.model_name!r}: expected output {spec.name!r}, got {sorted(result)}"
            )
            raise _untrue(text, result)
        if array is None or options.classification or spec.datatype not in DATATYPES:
            continue
        wanted = DATATYPES[spec.datatype].dtype
        if array.dtype != wanted or not fits(array.shape, spec.shape):
            text = (
                f"output {spec.name!r}: expected {spec.datatype} {spec.shape}, "
                f"got {array.dtype} {array.shape}"
            )
            raise _untrue(text, result)


def _untrue(text: str, result: InferResult) -> ProtocolError:
    return ProtocolError(
        text, model=result.model_name, request_id=result.request_id, attempts=result.attempts
    )


def strip_item(result: InferResult, metadata: ModelMetadata | None) -> InferResult:
    """Take the batch dimension off the answer to one item, where the model has one."""
    if not takes_batches(metadata):
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
