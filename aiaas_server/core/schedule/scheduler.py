"""One model version's requests: run at once where nothing is in the way, else by `Dispatcher`.

Everything here happens on the event loop, single-threaded; only `run_now` may be called from
another thread. What is counted of a request that ran at once is counted here; of one that was
accepted into the queue, `pending` tells what becomes of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Mapping, Sequence
from copy import copy
from math import inf
from time import monotonic_ns

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.describe.config import ModelConfig
from aiaas_server.core.errors import DeadlineExceeded, ModelUnavailable, ServerError
from aiaas_server.core.events import Observer
from aiaas_server.core.schedule.accounting import Accounts, Sizes, past_deadline
from aiaas_server.core.schedule.batching import shape_key
from aiaas_server.core.schedule.cost import Costs, Placement
from aiaas_server.core.schedule.dispatch import EXPECTED, SERVED, SHARED, Dispatcher, Terms
from aiaas_server.core.schedule.execution import failure_of
from aiaas_server.core.schedule.requests import Outcome, Request, Tap, Waiter
from aiaas_server.core.session import Session
from aiaas_server.core.signature import Signature, total_bytes
from aiaas_server.core.statistics import Statistics


class Scheduler:
    """Has requests run, alone or in batches, and answers.

    Args:
        session: Called from the loop or from up to `config.instances` threads at once.
        config: Complete; its `dynamic_batching` says whether requests are joined.
        terms: How requests wait and are joined.
        placement: What is known of how quick the model is; decides between loop and thread.
        observers: Called once a request.
        owner: The tenant whose model it is.
    """

    def __init__(
        self,
        name: str,
        version: int,
        session: Session,
        signature: Signature,
        config: ModelConfig,
        statistics: Statistics,
        *,
        terms: Terms | None = None,
        placement: Placement | None = None,
        observers: Sequence[Observer] = (),
        owner: str = "default",
    ) -> None:
        self.name = name
        self.version = version
        self._session = session
        self._statistics = statistics
        self._accounts = Accounts(name, version, statistics, observers, owner)
        self._costs = Costs(placement or Placement())
        self._dispatcher = Dispatcher(
            name,
            session,
            signature,
            config,
            self._accounts,
            self._costs,
            terms or Terms(),
        )
        self._refusal: ServerError | None = None

    async def submit(
        self,
        inputs: Mapping[str, Array],
        outputs: tuple[str, ...],
        rows: int,
        priority: int = 0,
        timeout: float = 0.0,
        deadline: float | None = None,
    ) -> Outcome:
        """Run a checked request of `rows` items, or queue it and wait for its answer.

        Args:
            priority: 1 is the highest; 0 or an unknown level is the default.
            timeout: Seconds it may wait; the queue policy's own limit holds as well.
            deadline: On the loop's clock.
        Raises:
            QueueFull, QueueTimeout, DeadlineExceeded, ModelUnavailable, InvalidInput,
            InferenceFailed.
        """
        outcome = self.run_lone(inputs, outputs, rows, deadline)
        if outcome is not None:
            return outcome
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        request = self.enqueue(future, inputs, outputs, rows, priority, timeout, deadline)
        try:
            return await future
        except asyncio.CancelledError:
            self.abandon(request)
            raise
        finally:
            del request, future  # an error's traceback would keep it, and it the error

    def enqueue(
        self,
        waiter: Waiter,
        inputs: Mapping[str, Array],
        outputs: tuple[str, ...],
        rows: int,
        priority: int = 0,
        timeout: float = 0.0,
        deadline: float | None = None,
    ) -> Request:
        """Queue a checked request; `waiter` will be told its answer.

        Args:
            As `submit`.
        Returns:
            What `abandon` takes. Already told, where it was the last that its batch waited for.
        Raises:
            QueueFull, DeadlineExceeded, ModelUnavailable, InvalidInput: It is not accepted.
        """
        self._dispatcher.turn = SHARED
        if self._refusal is not None:
            raise self._refused(self._refusal)
        return self._dispatcher.admit(waiter, inputs, outputs, rows, priority, timeout, deadline)

    def abandon(self, request: Request) -> None:
        """Nobody waits for `request` any more: it leaves the queue, or its run is stopped."""
        self._dispatcher.pending.abandon(request)

    def refuse_early(self, deadline: float) -> None:
        """Tell before a large body is read that it would come for nothing.

        Args:
            deadline: On the loop's clock.
        Raises:
            QueueFull: All instances are busy, and the queue holds all it may, or what is in it
                will take until the deadline.
        """
        self._dispatcher.refuse_early(deadline)

    @property
    def tap(self) -> Tap | None:
        """Who is shown the tensors of each request that was answered, if anybody is."""
        return self._accounts.tap

    @tap.setter
    def tap(self, tap: Tap | None) -> None:
        self._accounts.tap = tap

    # Without a queue

    def run_lone(
        self,
        inputs: Mapping[str, Array],
        outputs: tuple[str, ...],
        rows: int,
        deadline: float | None,
    ) -> Outcome | None:
        """Run the first request of a turn of the loop here and now: no queue, no future, no batch.

        None when it cannot be, because others come, wait or run, or the model is not known to be
        quick. Raises as `submit`.
        """
        dispatcher = self._dispatcher
        if dispatcher.turn is not EXPECTED:
            return None
        loop = dispatcher.loop
        if loop is None or dispatcher.idle < dispatcher.instances or dispatcher.queue.count:
            return None
        key = shape_key(inputs, dispatcher.varying) if dispatcher.varying else None
        size = total_bytes(inputs)
        left_ns = inf if deadline is None else (deadline - loop.time()) * 1e9
        if self._refusal is not None or left_ns <= 0 or not self._costs.is_inline(key, size):
            return None
        dispatcher.turn = SERVED
        loop.call_soon(self._end_turn)
        return self._run_alone(inputs, outputs, rows, (key, size), left_ns)

    def _end_turn(self) -> None:
        if self._dispatcher.turn is SERVED:
            self._dispatcher.turn = EXPECTED

    def run_now(self, inputs: Mapping[str, Array], outputs: tuple[str, ...], rows: int) -> Outcome:
        """Run a checked request in this thread, alone; see `LoadedModel.infer_now`."""
        if self._refusal is not None:
            raise self._refused(self._refusal)
        return self._run_alone(inputs, outputs, rows)

    def _run_alone(
        self,
        inputs: Mapping[str, Array],
        outputs: tuple[str, ...],
        rows: int,
        shape: tuple[Hashable, int] | None = None,
        limit_ns: float = inf,
    ) -> Outcome:
        """Run a checked request in the thread that calls, count it, and give its outcome.

        Args:
            shape: On the event loop, its key and bytes, for the costs to learn. None in a caller's
                thread: the costs are the loop's, and nobody knows what goes on beside that thread.
            limit_ns: What is left until its deadline.
        Raises:
            DeadlineExceeded: It passed meanwhile.
            ServerError: The run failed.
        """
        began = monotonic_ns()
        try:
            arrays = self._session.run(inputs, outputs)
        except ServerError as error:
            self._failed(error, rows, shape, monotonic_ns() - began)
            raise
        except Exception as error:
            took = monotonic_ns() - began
            raise self._failed(failure_of(error, self.name), rows, shape, took) from error
        took = monotonic_ns() - began
        if shape is not None:
            key, size = shape
            self._costs.measured(key, rows, rows, size, took)
        self._statistics.executed(rows, 0, took, 0)
        if took >= limit_ns:
            raise self._accounts.failed_alone(rows, past_deadline(self.name), took, inputs)
        self._statistics.succeeded(rows, took, 0, 0, took, 0)
        outcome = Outcome(dict(zip(outputs, arrays)), 0, 0, took, 0, rows)  # noqa: B905  # as many
        if self._accounts.observers:
            self._accounts.tell_alone(inputs, outcome)
        if self._accounts.tap is not None:
            self._accounts.show(inputs, outcome)
        return outcome

    def _failed(
        self, error: ServerError, rows: int, shape: tuple[Hashable, int] | None, took_ns: int
    ) -> ServerError:
        """Count a request that failed when it was run alone; gives `error` back, to be raised."""
        if shape is not None:
            self._costs.failed(*shape, took_ns)
        return self._accounts.failed_alone(rows, error, took_ns)

    def count_hit(self, rows: int, sizes: Sizes, total_ns: int, deadline: float | None) -> None:
        """Count a request that needs no run, since its answer is known.

        Raises:
            ModelUnavailable, Draining: No requests are taken any more; then it is refused.
            DeadlineExceeded: Its deadline has passed.
        """
        if self._refusal is not None:
            raise self._refused(self._refusal)
        if deadline is not None and deadline <= asyncio.get_running_loop().time():
            raise self.too_late()
        self._accounts.hit(rows, sizes, total_ns)

    def too_late(self) -> DeadlineExceeded:
        """Count a request whose deadline passed before it was accepted; gives what to raise."""
        error = past_deadline(self.name)
        self._accounts.refused(error)
        return error

    # The end

    @property
    def pending(self) -> int:
        """Requests accepted and not answered, and batches still running for nobody."""
        return len(self._dispatcher.pending)

    def refuse(self, refusal: ServerError | None = None) -> None:
        """Take no new requests from now on.

        Args:
            refusal: What they are told; by default that the version is being unloaded.
        """
        if self._refusal is None:
            self._refusal = refusal or ModelUnavailable(
                f"version {self.version} of model '{self.name}' is not at ready state: unloading",
                retry_after=1.0,
            )

    async def drain(self, refusal: ServerError | None = None) -> None:
        """Refuse new requests; return when all accepted ones are answered and no run goes on."""
        self.refuse(refusal)
        await self._dispatcher.pending.emptied()

    def abort(self, error: ServerError) -> None:
        """Refuse new requests and fail the pending ones with `error`; runs are stopped."""
        self._refusal = error
        pending = self._dispatcher.pending
        for request in pending.unanswered():
            pending.end(request, error)

    async def close(self) -> None:
        """Release threads, timers and the session; after `drain`, or after `abort`."""
        await self.drain()
        self._dispatcher.close()
        self._session.close()

    def _refused(self, refusal: ServerError) -> ServerError:
        """Count a request that comes too late; a copy, since a traceback grows with every raise."""
        return self._accounts.refused(copy(refusal))
