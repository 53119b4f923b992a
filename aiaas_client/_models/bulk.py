"""Many inferences in few requests: `infer_many` and `batcher`, and what they know beforehand."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar, overload

from aiaas_client._bulk.plan import (
    DEFAULT_BYTES,
    DEFAULT_WAIT,
    KEPT_FAILURES,
    BulkOptions,
    BulkPlan,
    OnError,
)
from aiaas_client._models.handle import Steps
from aiaas_client._models.infers import InferOptions, Infers, infer_options
from aiaas_client._models.inputs import bind, prepare, takes_batches
from aiaas_client._send.flavours import AnyBatcher, Items, Many, One

if TYPE_CHECKING:
    from aiaas_client._bulk.progress import Report
    from aiaas_client.protocol.inference import Scalar
    from aiaas_client.protocol.messages import ModelMetadata

Mixed = TypeVar("Mixed")  # a generator of results and errors

DEFAULT_ROWS = 64  # in a bulk request to a model that does not tell its largest batch


class InfersMany(Infers[One], Generic[One, Items, Many, Mixed, AnyBatcher]):
    """Inference with tensors, of one batch or of many items."""

    _batcher: ClassVar[str]  # the class in `_bulk.batcher`, loaded with the first one

    @overload
    def infer_many(
        self,
        items: Items,
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
        kept_failures: int = KEPT_FAILURES,
        progress: bool | Report = False,
    ) -> Many: ...

    @overload
    def infer_many(
        self,
        items: Items,
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
        kept_failures: int = KEPT_FAILURES,
        progress: bool | Report = False,
    ) -> Mixed: ...

    def infer_many(
        self,
        items: Items,
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
        on_error: OnError = "raise",
        kept_failures: int = KEPT_FAILURES,
        progress: bool | Report = False,
    ) -> Any:
        """Run the model on each of many items, a few requests for all of them.

        Items of equal shapes share requests. The input is read lazily: never further ahead of
        what was handed out than `concurrency + 1` full requests. Closing the generator early ends
        the work: threads wait for the requests already on the wire, tasks cancel them.

        Args:
            items: Any iterable (on an event loop asynchronous ones as well): each item a mapping
                of input name to value without the batch dimension, or the value of the model's
                only input. Or a mapping of input name to arrays of equal length, or a data frame,
                whose rows are the items.
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
            kept_failures: Errors that the `BulkError` at the end holds; the others are counted.
            progress: True shows a bar on a terminal; a callable gets `(done, total or None)`.
        Raises:
            BulkError: at the end, some items failed: `.failures` has their errors by index.
            AuthenticationError, PermissionDeniedError, NotFoundError: at once.
        """
        bulk = BulkOptions(
            max_rows, max_bytes, concurrency, ordered, rows, on_error, kept_failures, progress
        )
        return self._run_many(items, bulk, infer_options(outputs, 0, parameters, binary=binary))

    def batcher(
        self,
        *,
        max_wait: float = DEFAULT_WAIT,
        max_rows: int | None = None,
        concurrency: int = 4,
        outputs: str | Sequence[str] | None = None,
        parameters: Mapping[str, Scalar] | None = None,
        binary: bool | None = None,
    ) -> AnyBatcher:
        """Let many single calls share requests; close it when done, or use `with`.

        Args:
            max_wait: Seconds a call waits for others to join it.
            max_rows: Items in a request; the model's `max_batch_size` by default.
            concurrency: Requests in flight at once; while all are, waiting calls gather.
            outputs, parameters, binary: As for `infer`, for every call.
        """
        bulk = BulkOptions(max_rows, concurrency=concurrency)
        options = infer_options(outputs, 0, parameters, binary=binary)
        from aiaas_client._bulk import batcher as home

        make: Any = getattr(home, self._batcher)
        plan, post = partial(self._bulk_plan, bulk), partial(self._post, options)
        made: AnyBatcher = make(self.name, plan, post, max_wait=max_wait, concurrency=concurrency)
        return made

    @abstractmethod
    def _run_many(self, items: Items, bulk: BulkOptions, options: InferOptions) -> Any:
        """Run all items, in threads or in tasks."""

    @abstractmethod
    def _bulk_plan(self, bulk: BulkOptions) -> Any:
        """Give the plan, whose questions are asked once for all who wait for it."""

    def _post(
        self,
        options: InferOptions,
        metadata: ModelMetadata | None,
        arrays: dict[str, Any],
        sender: Any = None,
    ) -> One:
        """Send prepared arrays, as bulk work and batchers do."""
        steps = self._post_steps(arrays, options, metadata)
        found: One = self._drive(steps, (sender or self._sender).send)
        return found

    def _plan(self, options: BulkOptions, *, fresh: bool = False) -> Steps[BulkPlan]:
        """What bulk work has to know before its first item.

        Args:
            fresh: Ask whether the metadata has changed.
        """
        known = None if fresh else self._known_metadata
        known = known or (yield from self._fetch_metadata())
        metadata = known.metadata
        limits = yield from self._fetch_limits()
        batched = options.rows or takes_batches(metadata)
        most = _most_rows(limits.max_batch_size, options.max_rows) if batched else 1
        tensorizer = Tensorizer(self.name, metadata, limits.optional)
        return BulkPlan(self.name, tensorizer, batched, most, options.max_bytes, metadata)


def _most_rows(max_batch_size: int | None, asked: int | None) -> int:
    if max_batch_size is None:
        return asked or DEFAULT_ROWS
    if max_batch_size == 0:  # the model promises nothing about a batch: only the caller can
        return asked or 1
    return min(asked or max_batch_size, max_batch_size)


@dataclass(frozen=True, slots=True)
class Tensorizer:
    """Makes tensors of the items of bulk work and batchers, by the model's signature."""

    model: str
    metadata: ModelMetadata | None
    optional: frozenset[str]

    def item(self, value: object) -> dict[str, Any]:
        """One item without batch dimension as a batch of one row."""
        return self._prepared(value, item=True)

    def block(self, value: object) -> dict[str, Any]:
        """A block of rows with its batch dimension."""
        return self._prepared(value, item=False)

    def named(self, value: object) -> Mapping[str, object]:
        """A frame or an array as columns by input name."""
        return bind(self.metadata, value, model=self.model)

    def _prepared(self, value: object, *, item: bool) -> dict[str, Any]:
        return prepare(
            self.metadata,
            self.named(value),
            model=self.model,
            optional=self.optional,
            item=item,
        )
