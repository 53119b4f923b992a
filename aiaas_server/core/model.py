"""One loaded model version, what it is and how to run it; and those that serve now, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.cache import ResponseCache
from aiaas_server.core.cached import CachedAnswers
from aiaas_server.core.describe.card import Card
from aiaas_server.core.describe.config import ModelConfig
from aiaas_server.core.errors import ModelUnavailable
from aiaas_server.core.events import NOBODY, OPERATOR, Caller, Watch
from aiaas_server.core.generation import Generator
from aiaas_server.core.names import Names, full_name
from aiaas_server.core.schedule.requests import Outcome, Request, Waiter
from aiaas_server.core.schedule.scheduler import Scheduler
from aiaas_server.core.session import Isolation, Session, isolation_of
from aiaas_server.core.signature import Signature
from aiaas_server.core.statistics import Statistics
from aiaas_server.core.task import AnyTask

Choose = Callable[[str, Caller], int | None]
"""Gives the version that a call which names none gets; None is the newest that is ready."""
Aliases = Callable[[str, str], int | None]
"""Gives the version that another name than a number means; None where it means none."""


class LoadedModel:
    """A version that serves.

    Attributes:
        name: As callers call it; `full` is the server's own name of it, and `owner` whose it is.
        config: Complete: every input and output with its dims, `max_batch_size` a number.
        signature: Its shapes are the metadata's (with the batch dimension of a batching model).
        labels: By output name, the lines of its `label_filename`.
        providers: Execution providers in use.
        metadata: What the model file says about itself.
        card: What it is for; None where it serves tensors only.
        task: Payloads in, predictions out; None without a card.
        generator: Writes token by token, where it is a model that does.
        successor: What took its place in a reload: a request that comes late is handed on.
        in_use: Calls that will run it again, such as a prediction of several runs.
        watch: Who looks on at calls with payloads, if anybody does.
        beside: Sessions of further graphs that its generator runs.
    """

    def __init__(
        self,
        name: str,
        version: int,
        config: ModelConfig,
        signature: Signature,
        statistics: Statistics,
        labels: Mapping[str, Sequence[str]],
        session: Session,
        scheduler: Scheduler,
        *,
        card: Card | None = None,
        task: AnyTask | None = None,
        cache: ResponseCache | None = None,
        owner: str = OPERATOR.tenant,
    ) -> None:
        self.name, self.full, self.owner = name, full_name(owner, name), owner
        self.version = version
        self.config = config
        self.signature = signature
        self.statistics = statistics
        self.labels = labels
        self.session = session
        self.scheduler = scheduler
        self.providers = session.providers
        self.metadata = session.metadata
        self.card = card
        self.task = task
        self.successor: LoadedModel | None = None
        self.in_use = 0
        self._cached = None if cache is None else CachedAnswers(cache, scheduler, statistics)
        self.watch: Watch | None = None
        self.generator: Generator | None = None
        self.beside: Sequence[Session] = ()

    @property
    def isolations(self) -> list[Isolation]:
        """What is known of each process of its own that it runs in."""
        found = map(isolation_of, (self.session, *self.beside))
        return [isolation for isolation in found if isolation is not None]

    async def infer(
        self,
        inputs: Mapping[str, Array],
        outputs: Sequence[str] = (),
        *,
        priority: int = 0,
        timeout: float = 0.0,
        deadline: float | None = None,
    ) -> Outcome:
        """Check, queue, run in a batch, and give this request's part of it.

        Args:
            inputs: By name; rows first where the model batches.
            outputs: Names in the order wanted; empty is all.
            priority: 1 is the highest; 0, or above the model's levels, is its default level.
            timeout: Seconds it may queue; 0 is no limit of its own.
            deadline: On the loop's clock; afterwards nobody waits for the answer.
        Raises:
            InvalidInput: The request does not fit the model.
            QueueFull, QueueTimeout, DeadlineExceeded, ModelUnavailable, InferenceFailed.
        Cancelling the awaiting task abandons the work: it leaves the queue, and a run that only
        it waits for is stopped.
        """
        if self.successor is not None:
            return await self.successor.infer(
                inputs, outputs, priority=priority, timeout=timeout, deadline=deadline
            )
        signature = self.signature
        rows = signature.check(inputs)
        names = signature.select(outputs) if outputs else signature.output_names
        if self._cached is not None:
            cached = self._cached
            return await cached.answer(self, inputs, names, rows, priority, timeout, deadline)
        return await self.scheduler.submit(inputs, names, rows, priority, timeout, deadline)

    def start(
        self,
        waiter: Waiter,
        inputs: Mapping[str, Array],
        outputs: Sequence[str] = (),
        *,
        priority: int = 0,
        timeout: float = 0.0,
        deadline: float | None = None,
    ) -> Outcome | Request:
        """As `infer`, without a task: what cannot be answered at once `waiter` will be told.

        Only while `starts`.

        Returns:
            The outcome, or the request in the queue, which `scheduler.abandon` takes.
        Raises:
            ServerError: As `infer`.
        """
        signature = self.signature
        rows = signature.check(inputs)
        names = signature.select(outputs) if outputs else signature.output_names
        scheduler = self.scheduler
        return scheduler.run_lone(inputs, names, rows, deadline) or scheduler.enqueue(
            waiter, inputs, names, rows, priority, timeout, deadline
        )

    @property
    def starts(self) -> bool:
        """Whether `start` does all that `infer` does: no cached answers, no successor."""
        return self._cached is None and self.successor is None

    def forget_answers(self) -> None:
        """Drop what the response cache holds of this version, which is no longer called."""
        if self._cached is not None:
            self._cached.forget()
            self._cached = None

    def infer_now(self, inputs: Mapping[str, Array], outputs: Sequence[str] = ()) -> Outcome:
        """Check and run in the caller's thread: no event loop, no queue, no batching.

        Raises:
            InvalidInput: The request does not fit the model.
            ModelUnavailable: The version was unloaded.
            InferenceFailed: The runtime failed.
        """
        successor = self.successor
        if successor is not None:
            return successor.infer_now(inputs, outputs)
        rows = self.signature.check(inputs)
        names = self.signature.select(outputs)
        try:
            return self.scheduler.run_now(inputs, names, rows)
        except ModelUnavailable:
            if self.successor is None:
                raise
            return self.successor.infer_now(inputs, outputs)  # reloaded meanwhile


class Serving:
    """The versions that serve now, among which a call finds the one to run.

    Args:
        choose: Decides the version of calls that name none; must be quick.
        used: Told the name of what was found, where somebody keeps account of that.
        aliases: Knows the names of versions; without it they have none but their numbers.
        names: Says what a caller means by a name; without it all mean the same.

    Attributes:
        newest: The greatest version that serves, by the server's own name of the model.
        ready: Every version that serves.
    """

    __slots__ = ("_used", "aliases", "choose", "names", "newest", "ready")

    def __init__(
        self,
        choose: Choose | None = None,
        used: Callable[[str], object] | None = None,
        aliases: Aliases | None = None,
        names: Names | None = None,
    ) -> None:
        self.choose = choose
        self.aliases = aliases
        self.names = names
        self._used = used
        self.newest: dict[str, LoadedModel] = {}
        self.ready: dict[tuple[str, int], LoadedModel] = {}

    def find(
        self, name: str, version: int | str | None = None, caller: Caller = NOBODY
    ) -> LoadedModel | None:
        """The version to call, if it is loaded: the one named, or the one chosen for the caller."""
        if self.names is not None:
            name = self.names.resolve(name, caller)
        if version is None:
            if self.choose is not None:
                version = self.choose(name, caller)
        elif isinstance(version, str):
            version = -1 if self.aliases is None else self.aliases(name, version) or -1
        if version is None:
            found = self.newest.get(name)
        else:
            found = self.ready.get((name, version))
        if found is not None and self._used is not None:
            self._used(name)
        return found
