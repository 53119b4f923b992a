"""What `Model` and `AsyncModel` share: state, and generators that yield each call to be sent.

The generators are told each call's value or error, so that what happens when (metadata first, a
second try when the model has changed, JSON when a server cannot read binary tensors) is written
once and does no I/O.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from aiaas_client import _calls as calls
from aiaas_client import _inputs
from aiaas_client._config import ServerFacts
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
    from aiaas_client._bulk import BulkPlan
    from aiaas_client._calls import Call
    from aiaas_client._result import InferResult
    from aiaas_client.protocol.messages import ModelMetadata
    from aiaas_client.protocol.tensors import Array

T = TypeVar("T")
Scalar = str | int | float | bool
Steps = Generator["Call[Any]", Any, T]
Classification = int | Mapping[str, int]

DEFAULT_ROWS = 64  # in a bulk request to a model that does not tell its largest batch
DEFAULT_BYTES = 4 * 2**20  # tensor bytes in a bulk request
KEPT_FAILURES = 1000  # errors that one bulk call keeps; the others are counted
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


class Handle:
    """The thinking of both handles: state, and generators that yield the calls to be sent."""

    def __init__(self, name: str, version: str | int | None, facts: ServerFacts) -> None:
        self.name = name
        self.version = None if version is None else str(version)
        self._facts = facts
        self._signature: Signature | None = None
        self._limits: Limits | None = None

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
        self, inputs: Given, ask: Ask, signature: Signature, *, item: bool, fresh: bool
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
        self, signature: Signature, inputs: Given, ask: Ask, item: bool
    ) -> Steps[InferResult]:
        metadata = signature.metadata
        arrays = yield from self._prepare(metadata, inputs, item)
        result = yield from self._post_steps(arrays, ask, metadata)
        return strip_item(result, metadata) if item else result

    def _prepare(
        self, metadata: ModelMetadata | None, inputs: Given, item: bool
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
        binary = self._facts.reads_binary is not False if ask.binary is None else ask.binary
        try:
            result: InferResult = yield self._call(request, binary)
        except APIStatusError as error:
            undecided = ask.binary is None and self._facts.reads_binary is None
            if not undecided or error.status_code not in _CANNOT_READ_BINARY:
                raise
            if (yield from self._lists_binary()):
                raise
            result = yield self._call(request, False)
            self._facts.reads_binary = False
        else:
            if binary:
                self._facts.reads_binary = True
        return result

    def _post_steps(
        self, arrays: dict[str, Array], ask: Ask, metadata: ModelMetadata | None
    ) -> Steps[InferResult]:
        result = yield from self._send_arrays(arrays, ask, metadata)
        check_answer(result, metadata, ask)
        return result

    def _call(self, request: InferRequest, binary: bool) -> Call[InferResult]:
        if not self._facts.needs_wire:
            return calls.infer_here(self.name, self.version, request)
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
            self._facts.reads_binary = True
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
class Given:
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
        wanted = DATATYPES[spec.datatype].dtype
        if array.dtype != wanted or not _inputs.fits(array.shape, spec.shape):
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


def told_metadata(metadata: ModelMetadata | None, model: str) -> ModelMetadata:
    if metadata is None:
        raise NotSupportedError(f"model {model!r}: this server has no metadata", model=model)
    return metadata


def limits_of_call(timeout: float | None, deadline: float | None) -> dict[str, Any]:
    given = {"timeout": timeout, "deadline": deadline}
    return {name: value for name, value in given.items() if value is not None}
