"""What bulk work has to know before its first item: the model's limits and the caller's wishes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from aiaas_client._api.inference import InferResult
from aiaas_client._errors import AiaasError, InputError, OptionTypeError

if TYPE_CHECKING:
    from aiaas_client._bulk.progress import Report
    from aiaas_client.protocol.messages import ModelMetadata
    from aiaas_client.protocol.tensors import Array

Tensors = dict[str, "Array"]
Outcome = InferResult | AiaasError
OnError = Literal["raise", "return"]

DEFAULT_BYTES = 4 * 2**20  # tensor bytes in a request
DEFAULT_WAIT = 0.002  # seconds that a call waits in a batcher for others
KEPT_FAILURES = 1000  # errors that one bulk call keeps; the others are counted
_ON_ERROR = ("raise", "return")


class Conversion(Protocol):
    """Makes tensors of what a caller hands in."""

    def item(self, value: object) -> Tensors:
        """One item without batch dimension as a batch of one row.

        Raises:
            InputError: it does not fit the model.
        """
        ...

    def block(self, value: object) -> Tensors:
        """A block of rows with its batch dimension.

        Raises:
            InputError: it does not fit the model.
        """
        ...

    def named(self, value: object) -> object:
        """A frame or an array as columns by input name; anything else as it is.

        Raises:
            InputError: it cannot be named.
        """
        ...


@dataclass(frozen=True, slots=True)
class BulkPlan:
    """What is known about the model.

    Attributes:
        model: Its name, for messages.
        conversion: Makes tensors of the items.
        batched: Requests carry a batch dimension; otherwise each holds one item as it is.
        max_rows, max_bytes: Largest request.
        metadata: The signature the plan was made by, to check answers with; None without one.
    """

    model: str
    conversion: Conversion
    batched: bool
    max_rows: int
    max_bytes: int
    metadata: ModelMetadata | None = None

    def block(self, value: object) -> tuple[Tensors, int]:
        """A block of rows, and how many there are.

        Raises:
            InputError: it does not fit the model, or its inputs disagree about the rows.
        """
        inputs = self.conversion.block(value)
        rows = {array.shape[0] if array.ndim else None for array in inputs.values()}
        if len(rows) != 1 or None in rows:
            shapes = ", ".join(f"{name!r} {array.shape}" for name, array in inputs.items())
            text = f"model {self.model!r}: expected as many rows in every input, got {shapes}"
            raise InputError(text, model=self.model)
        return inputs, next(row for row in rows if row is not None)


@dataclass(frozen=True, slots=True)
class BulkOptions:
    """What the caller of bulk work asks for, checked.

    Attributes:
        max_rows, max_bytes: Largest request; None leaves the rows to the model.
        concurrency: Requests in flight at once.
        ordered: Hand out in the order of the input; otherwise as answers come.
        rows: Items are blocks of rows and keep their batch dimension.
        on_error: Failures are raised at the end, or returned in their place.
        kept_failures: Errors that the `BulkError` at the end holds.
        progress: True shows a bar on a terminal; a callable gets `(done, total or None)`.
    Raises:
        InputError, OptionTypeError: no work can be done so; the option is named.
    """

    max_rows: int | None = None
    max_bytes: int = DEFAULT_BYTES
    concurrency: int = 8
    ordered: bool = True
    rows: bool = False
    on_error: OnError = "raise"
    kept_failures: int = KEPT_FAILURES
    progress: bool | Report = False

    def __post_init__(self) -> None:
        if self.max_rows is not None:
            at_least("max_rows", self.max_rows, 1)
        at_least("max_bytes", self.max_bytes, 1)
        at_least("concurrency", self.concurrency, 1)
        at_least("kept_failures", self.kept_failures, 0)
        if self.on_error not in _ON_ERROR:
            known = " or ".join(map(repr, _ON_ERROR))
            raise InputError(f"on_error: expected {known}, got {self.on_error!r}")
        progress: object = self.progress
        if not isinstance(progress, bool) and not callable(progress):
            raise OptionTypeError(f"progress: expected a bool or a callable, got {progress!r}")


def at_least(name: str, value: Any, least: int) -> None:
    """Refuse an option that is no whole number, or too small.

    Raises:
        OptionTypeError, InputError: naming the option, what was expected and what came.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise OptionTypeError(f"{name}: expected a whole number, got {value!r}")
    if value.__index__() < least:
        raise InputError(f"{name}: expected at least {least}, got {value}")
