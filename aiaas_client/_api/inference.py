"""An inference: how it is asked for, how its answer is read, and what the caller gets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from aiaas_client._api.call import BINARY_BODY, JSON_BODY, Call, Response, Timing, model_path
from aiaas_client._errors import ProtocolError
from aiaas_client.protocol import codec
from aiaas_client.protocol.inference import CodecError

if TYPE_CHECKING:
    from aiaas_client.protocol.inference import InferRequest, InferResponse, Scalar
    from aiaas_client.protocol.tensors import Array

SHARED_BYTES = 1 << 20  # answers up to this size may be kept for the sake of one row
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_UNTIMED = Timing()


def infer(
    model: str,
    version: str | int | None,
    request: InferRequest,
    *,
    binary: bool = True,
    trial: bool = False,
) -> Call[InferResult]:
    """`POST /v2/models/{m}/infer`; tensors in binary, or all of it as JSON.

    Args:
        model: The model's name.
        version: Its version; None leaves the choice to the server.
        request: The inference in array form.
        binary: Whether the tensors travel as bytes.
        trial: Nobody knows yet whether the server reads that.

    Raises:
        CodecError: a tensor that the protocol cannot carry.
    """
    encoded = codec.encode_request(request, binary=binary)
    headers: tuple[tuple[bytes, bytes], ...] = (JSON_BODY,)
    if encoded.json_length is not None:
        length = b"%d" % encoded.json_length
        headers = (BINARY_BODY, (b"Inference-Header-Content-Length", length))
    return Call(
        "POST",
        model_path(model, version, "/infer"),
        _ReadInference(model, request),
        headers=headers,
        content=encoded.chunks,
        content_length=sum(map(len, encoded.chunks)),
        infer=request,
        model=model,
        version=version,
        trial=trial,
    )


def infer_here(model: str, version: str | int | None, request: InferRequest) -> Call[InferResult]:
    """As `infer` for a transport that takes `Call.infer`: nothing is encoded."""
    return Call(
        "POST",
        model_path(model, version, "/infer"),
        _ReadInference(model, request),
        infer=request,
        model=model,
        version=version,
    )


@dataclass(frozen=True, slots=True)
class _ReadInference:
    """Reads an inference answer and checks it against what was asked."""

    model: str
    request: InferRequest

    def __call__(self, response: Response) -> InferResult:
        answer = response.local if response.local is not None else self._decode(response)
        self._check(answer)
        return InferResult(
            answer.outputs,
            model_name=answer.model_name or self.model,
            model_version=answer.model_version,
            request_id=answer.id or response.request_id,
            parameters=answer.parameters,
            timing=response.timing,
            attempts=response.attempts,
        )

    def _decode(self, response: Response) -> InferResponse:
        told = response.headers.find(b"inference-header-content-length")
        try:
            length = None if told is None else codec.parse_header_length(told, len(response.body))
            return codec.decode_response(response.body, length)
        except CodecError as error:
            raise ProtocolError(f"model '{self.model}': {error}") from error

    def _check(self, answer: InferResponse) -> None:
        request = self.request
        wanted = {output.name for output in request.outputs}
        if wanted and wanted != answer.outputs.keys():
            got = sorted(answer.outputs)
            raise ProtocolError(
                f"model '{self.model}': expected outputs {sorted(wanted)}, got {got}"
            )
        if request.id and answer.id and answer.id != request.id:
            raise ProtocolError(
                f"model '{self.model}': expected the answer to request '{request.id}', "
                f"got the one to '{answer.id}'"
            )


class _Facts(NamedTuple):
    """What the rows of one answer have in common, kept once for all of them."""

    model_name: str
    model_version: str
    request_id: str
    parameters: Mapping[str, Any]
    timing: Timing
    attempts: int


class InferResult(Mapping[str, "Array"]):
    """The outputs of one call by name, in the order asked for, with `.timing` and the like.

    The arrays are writable and belong to this result alone. Two results are equal only when
    they are the same object: comparing arrays is the caller's business.

    Attributes:
        index: The item's place in the input of `infer_many`; None for a single call.
    """

    __slots__ = ("_facts", "_outputs", "index")

    def __init__(
        self,
        outputs: Mapping[str, Array],
        *,
        model_name: str = "",
        model_version: str = "",
        request_id: str = "",
        parameters: Mapping[str, Scalar] | None = None,
        timing: Timing | None = None,
        attempts: int = 1,
        index: int | None = None,
    ) -> None:
        self._outputs = {name: _writable(array) for name, array in outputs.items()}
        self._facts = _Facts(
            model_name,
            model_version,
            request_id,
            parameters or _NOTHING,
            timing or _UNTIMED,
            attempts,
        )
        self.index = index

    def __getitem__(self, name: str) -> Array:
        try:
            return self._outputs[name]
        except KeyError:
            raise KeyError(f"output {name!r}: the answer has {_names(self._outputs)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._outputs)

    def __len__(self) -> int:
        return len(self._outputs)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return object.__hash__(self)

    @property
    def model_name(self) -> str:
        """The model that answered."""
        return self._facts.model_name

    @property
    def model_version(self) -> str:
        """Its version, "" when the server did not tell."""
        return self._facts.model_version

    @property
    def request_id(self) -> str:
        """The id the call was sent with, "" without one."""
        return self._facts.request_id

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The answer's own parameters, usually empty."""
        return self._facts.parameters

    @property
    def timing(self) -> Timing:
        """Seconds spent, see `Timing`."""
        return self._facts.timing

    @property
    def attempts(self) -> int:
        """Requests it took, 1 when nothing was repeated."""
        return self._facts.attempts

    @property
    def array(self) -> Array:
        """The only output.

        Raises:
            ValueError: the answer holds several outputs, or none.
        """
        if len(self._outputs) != 1:
            raise ValueError(f"expected one output, the answer has {_names(self._outputs)}")
        return next(iter(self._outputs.values()))

    def with_outputs(
        self, outputs: Mapping[str, Array], *, index: int | None = None
    ) -> InferResult:
        """The same call's facts around other arrays, as for one row of a batch."""
        one = InferResult.__new__(InferResult)
        one._outputs = {name: _writable(array) for name, array in outputs.items()}
        one._facts = self._facts
        one.index = self.index if index is None else index
        return one

    def rows(self, outputs: Mapping[str, Array], count: int, first: int) -> Iterator[InferResult]:
        """The same call's facts around each row of `outputs`; bulk calls make millions of these.

        Rows of a small answer are views that nobody else has: what is written into one is seen
        in no other. Rows of a large one are copied, so that a row kept alone keeps only itself.

        Args:
            outputs: Arrays of `count` rows each, which belong to nobody else.
            first: The index of the first row's item.
        """
        shared = sum(array.nbytes for array in outputs.values()) <= SHARED_BYTES
        columns = [_rows_of(_writable(array), shared) for array in outputs.values()]
        new, facts = InferResult.__new__, self._facts  # each step here is paid for every row
        for index, given in enumerate(_named(list(outputs), columns, count), first):
            one = new(InferResult)
            one._outputs = given
            one._facts = facts
            one.index = index
            yield one

    def __repr__(self) -> str:
        outputs = ", ".join(f"{n}: {a.dtype}{list(a.shape)}" for n, a in self._outputs.items())
        version = f" version {self.model_version}" if self.model_version else ""
        took = f"{self.timing.total * 1000:.1f} ms"
        if self.attempts > 1:
            took += f", {self.attempts} attempts"
        return f"<InferResult {self.model_name}{version}: {outputs or 'no outputs'}; {took}>"

    def __reduce__(self) -> tuple[Any, ...]:
        facts = (self.model_name, self.model_version, self.request_id, dict(self.parameters))
        return _rebuild, (self._outputs, *facts, self.timing, self.attempts, self.index)


def _rebuild(
    outputs: Mapping[str, Array],
    model_name: str,
    model_version: str,
    request_id: str,
    parameters: Mapping[str, Scalar],
    timing: Timing,
    attempts: int,
    index: int | None,
) -> InferResult:
    return InferResult(
        outputs,
        model_name=model_name,
        model_version=model_version,
        request_id=request_id,
        parameters=parameters,
        timing=timing,
        attempts=attempts,
        index=index,
    )


def _writable(array: Array) -> Array:
    return array if array.flags.writeable else np.array(array)


def _rows_of(array: Array, shared: bool) -> Iterator[Array]:
    if array.ndim == 1:  # iterating would give scalars, not arrays without dimensions
        rows: Iterator[Array] = (array[row, ...] for row in range(len(array)))
    else:
        rows = iter(array)
    return rows if shared else (row.copy() for row in rows)


def _named(
    names: Sequence[str], columns: Sequence[Iterator[Array]], count: int
) -> Iterator[dict[str, Array]]:
    """The columns' rows by name."""
    if len(names) == 1:
        (name,) = names
        return ({name: array} for array in columns[0])
    rows = zip(*columns, strict=True) if columns else repeat((), count)
    return (dict(zip(names, arrays)) for arrays in rows)  # noqa: B905  # `strict` costs a third


def _names(outputs: Mapping[str, Array]) -> str:
    return ", ".join(repr(name) for name in outputs) or "no outputs"
