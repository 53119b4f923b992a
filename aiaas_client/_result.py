"""What an inference call gives back: named arrays and what is known about the call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from aiaas_client.protocol.tensors import Array

Scalar = str | int | float | bool
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time of one call went, in seconds.

    Attributes:
        total: From the call to the decoded answer, retries and waits between them included.
        server_queue: Waiting in the server's queue; None when the server did not tell.
        server_compute: Running the model; None when the server did not tell.
    """

    total: float = 0.0
    server_queue: float | None = None
    server_compute: float | None = None


_UNTIMED = Timing()


class InferResult(Mapping[str, "Array"]):
    """The outputs of one call by name, in the order asked for, with `.timing` and the like.

    The arrays are writable and belong to this result alone. Two results are equal only when
    they are the same object: comparing arrays is the caller's business.

    Attributes:
        model_name, model_version: What answered; the version is "" when the server did not tell.
        request_id: The id the call was sent with, "" without one.
        parameters: The answer's own parameters, usually empty.
        timing: Seconds spent, see `Timing`.
        attempts: Requests it took, 1 when nothing was repeated.
        index: The item's place in the input of `infer_many`; None for a single call.
    """

    __slots__ = (
        "_outputs",
        "attempts",
        "index",
        "model_name",
        "model_version",
        "parameters",
        "request_id",
        "timing",
    )

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
        self.model_name = model_name
        self.model_version = model_version
        self.request_id = request_id
        self.parameters: Mapping[str, Any] = parameters or _NOTHING
        self.timing = timing or _UNTIMED
        self.attempts = attempts
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
        return InferResult(
            outputs,
            model_name=self.model_name,
            model_version=self.model_version,
            request_id=self.request_id,
            parameters=self.parameters,
            timing=self.timing,
            attempts=self.attempts,
            index=self.index if index is None else index,
        )

    def row(self, outputs: Mapping[str, Array], row: int, index: int) -> InferResult:
        """The same call's facts around one row of `outputs`, copied; bulk calls make millions."""
        one = InferResult.__new__(InferResult)
        one._outputs = {name: array[row, ...].copy() for name, array in outputs.items()}
        one.model_name = self.model_name
        one.model_version = self.model_version
        one.request_id = self.request_id
        one.parameters = self.parameters
        one.timing = self.timing
        one.attempts = self.attempts
        one.index = index
        return one

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


def _names(outputs: Mapping[str, Array]) -> str:
    return ", ".join(repr(name) for name in outputs) or "no outputs"
