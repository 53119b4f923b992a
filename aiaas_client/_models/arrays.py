"""Very many rows to one result: `infer_array`, and what it knows before it sends anything."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from aiaas_client._bulk.plan import DEFAULT_BYTES, BulkOptions, BulkPlan
from aiaas_client._errors import DeadlineExceededError
from aiaas_client._models.bulk import InfersMany
from aiaas_client._models.infers import InferOptions, infer_options
from aiaas_client._models.inputs import check_shapes
from aiaas_client._send.flavours import AnyBatcher, Items, Many, One
from aiaas_client._send.options import positive
from aiaas_client._send.sender import AnySender, limited

if TYPE_CHECKING:
    from aiaas_client._api.inference import InferResult
    from aiaas_client._bulk.progress import Report
    from aiaas_client._bulk.runners import Work
    from aiaas_client.protocol.inference import Scalar
    from aiaas_client.protocol.tensors import Array

Mixed = TypeVar("Mixed")  # a generator of results and errors

ARRAY_CONCURRENCY = 4  # requests in flight


class InfersArray(InfersMany[One, Items, Many, Mixed, AnyBatcher]):
    """Inference with tensors, of one batch, of many items, or of more rows than fit a request."""

    def infer_array(
        self,
        inputs: object = None,
        /,
        *,
        out: Mapping[str, Array] | Array | None = None,
        outputs: str | Sequence[str] | None = None,
        parameters: Mapping[str, Scalar] | None = None,
        binary: bool | None = None,
        max_rows: int | None = None,
        max_bytes: int = DEFAULT_BYTES,
        concurrency: int = ARRAY_CONCURRENCY,
        progress: bool | Report = False,
        timeout: float | None = None,
        deadline: float | None = None,
        **arrays: object,
    ) -> One:
        """Run the model on any number of rows; one result, its outputs stacked in their order.

        Rows go out in as many requests as they need, several at a time, and each answer is written
        to its place as it comes. Memory beyond the outputs is that of `concurrency + 1` requests.
        A model without a batch dimension, or one that promises no batching (`max_batch_size` 0),
        gets one row a request.

        Args:
            inputs: Arrays by input name, the array of a model's only input, or a data frame; memory
                maps are read as they are sent. Or an iterable of blocks of such rows (on an event
                loop an asynchronous one as well), whose number need not be known.
            out: Arrays to write into by output name, or the one of the only output: memory maps and
                views too. They have a row for each row given; for an iterable of blocks they may
                have more, and the result holds the rows written.
            outputs, parameters, binary: As for `infer`.
            max_rows: Rows in a request; the model's `max_batch_size` by default, 64 where the
                server does not tell, 1 where the model promises no batching.
            max_bytes: Tensor bytes in a request; a larger row travels alone.
            concurrency: Requests in flight at once.
            progress: True shows a bar on a terminal; a callable gets `(rows done, total or None)`.
            timeout: Seconds for each phase of a request, instead of the client's.
            deadline: Seconds for the whole call; by default the client's, for each request.
            arrays: Inputs by name.
        Returns:
            Its `attempts` and the server's times are sums; `request_id` is empty.
        Raises:
            InputError: inputs or `out` do not fit the model; nothing was sent.
            BlockError: rows `.start` to `.stop` failed after the usual retries; no more is sent.
            DeadlineExceededError, AuthenticationError, PermissionDeniedError, NotFoundError: as
                they are.
        """
        bulk = BulkOptions(max_rows, max_bytes, concurrency, progress=progress)
        call = ArrayCall(
            inputs if inputs is not None else arrays,
            arrays if inputs is not None else {},
            out,
            bulk,
            infer_options(outputs, 0, parameters, binary=binary),
            timeout,
            None if deadline is None else monotonic() + positive("deadline", deadline),
        )
        return self._run_array(call)

    @abstractmethod
    def _run_array(self, call: ArrayCall) -> One:
        """Carry the call out, in threads or in tasks."""


@dataclass(frozen=True, slots=True)
class ArrayCall:
    """What one call of `infer_array` was given.

    Attributes:
        value: The rows, or blocks of rows.
        more: Inputs given by name beside them.
        out: Where outputs go.
        until: `monotonic()` at which the call must have ended.
    """

    value: object
    more: Mapping[str, object]
    out: object
    bulk: BulkOptions
    options: InferOptions
    timeout: float | None
    until: float | None

    def limited(self, sender: AnySender) -> AnySender:
        """The sender, within what is left of the time.

        Raises:
            DeadlineExceededError: nothing is.
        """
        if self.until is None:
            return limited(sender, self.timeout, None)
        left = self.until - monotonic()
        if left <= 0:
            raise DeadlineExceededError("the deadline passed", phase="deadline")
        return limited(sender, self.timeout, left)

    def work(self, plan: BulkPlan) -> tuple[Work, Callable[[], InferResult]]:
        """What is to be done, checked as far as it can be, and what gives the result in the end.

        Raises:
            InputError: the rows or `out` do not fit the model.
        """
        from aiaas_client._bulk.blocks import rows_of
        from aiaas_client._bulk.columns import rows_or_blocks
        from aiaas_client._bulk.runners import Work
        from aiaas_client._bulk.stack import Stack

        given, total = rows_or_blocks(self.value, self.more, plan), None
        if isinstance(given, Mapping):
            if plan.batched:
                check_shapes(plan.metadata, given, model=plan.model)
            total, given = rows_of(given, plan.model), iter([given])
        stack = Stack(plan, total, self.out, self.options.outputs)
        work, core = Work.of_rows(plan, self.bulk, given, total, stack)
        return work, lambda: core.facts.result(stack.arrays(core.rows))
