"""`Mirror`: gives one version copies of the requests that others answer, and compares.

What runs where: the tap, in the middle of somebody's request, draws, keeps the tensors and leaves,
without a lock. Everything else is done by tasks of the event loop, which exist only while there is
something to do. They hand a few requests at a time to the scheduler of the shadow version, at its
lowest priority, so that copies never fill a queue; where the server is busy, or too much waits,
copies are dropped and counted.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple
from zlib import crc32

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.errors import (
    DeadlineExceeded,
    Draining,
    ModelUnavailable,
    QueueFull,
    QueueTimeout,
    ServerError,
)
from aiaas_server.core.events import CALLER, NOBODY, Caller
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.schedule.requests import Outcome, Tap
from aiaas_server.core.signature import total_bytes
from aiaas_server.monitor.comparison import Compared, compare

MOST_WAITING: Final = 64
"""Copies that wait for the shadow, of one model."""
MOST_BYTES: Final = 64 << 20
"""Of them together, inputs and outputs."""
AT_ONCE: Final = 4
"""Copies that the shadow runs at a time."""
PAUSE: Final = 0.002
"""Seconds before each of them, in which callers go first: a quick model runs on the event loop."""
PATIENCE: Final = 60.0
"""Seconds after which a copy that runs is given up."""
_BUSY_BATCHES: Final = 2  # of the answering version, waiting or running: more is a queue
_COMPARED_INLINE: Final = 1 << 16  # bytes; more is compared in a thread
_MIX: Final = 0x9E3779B1  # spreads what crc32 gives for texts that are nearly alike
_ALL: Final = 1 << 32

_CLASSIFIES: Final = frozenset({"digits", "file-type", "keyword-spotting"})
_NO_ROOM = (DeadlineExceeded, Draining, ModelUnavailable, QueueFull, QueueTimeout)

_log = logging.getLogger("aiaas_server")


class Copy(NamedTuple):
    """A request that was answered, to be run again.

    Attributes:
        source: The version that answered.
        infer_ns: How long that one ran.
    """

    source: LoadedModel
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    caller: Caller
    infer_ns: int


_New = tuple[LoadedModel, Mapping[str, Array], Mapping[str, Array], Caller, int]
"""A `Copy` that is not named yet: that would take as long as all the rest of the tap."""


class Finding(NamedTuple):
    """What came of one copy.

    Attributes:
        compared: How alike the answers are; None where the shadow failed.
        seconds: That the answering version ran, and the shadow.
        failure: Why it failed, or "".
    """

    compared: Compared | None
    seconds: tuple[float, float] = (0.0, 0.0)
    failure: str = ""


class Witness(NamedTuple):
    """Who is told; on the event loop, `dropped` also in callers' threads."""

    found: Callable[[Finding], object]
    dropped: Callable[[], object]


class Mirror:
    """Copies a share of the requests of a model to one of its versions, the shadow.

    Args:
        version: The shadow.
        share: Of the requests, 0.0 to 1.0, drawn by request id: the same ones in every process.
        find: Gives the shadow while it serves.
        witness: Is told what came of each copy.
        loop: Where the copies are run.

    Attributes:
        waiting: Copies that wait and their bytes.
        bytes: What they hold together.
    """

    def __init__(
        self,
        name: str,
        version: int,
        share: float,
        find: Callable[[str, int], LoadedModel | None],
        witness: Witness,
        loop: asyncio.AbstractEventLoop,
        *,
        most_waiting: int = MOST_WAITING,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self.name = name
        self.version = version
        self.share = share
        self._find = find
        self._witness = witness
        self._loop = loop
        self._thread = threading.get_ident()
        self._most_waiting = most_waiting
        self._most_bytes = most_bytes
        self._below = round(share * _ALL)
        self._salt = crc32(f"shadow {name}".encode())
        self._due = 0.0  # of requests without an id, so much is owed a copy
        self._new: deque[_New] = deque()  # from any thread
        self.waiting: deque[tuple[Copy, int]] = deque()
        self.bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._called = False
        self._ended = False

    def tap(self, source: LoadedModel) -> Tap:
        """What the version that answers shows its requests to."""

        new, waiting, most, below = self._new, self.waiting, self._most_waiting, self._below

        def take(inputs: Mapping[str, Array], outcome: Outcome, caller: Caller) -> None:
            if below < _ALL and not self._draws(caller.request_id):
                return
            if len(new) + len(waiting) >= most or self.bytes >= self._most_bytes or self._ended:
                self._witness.dropped()
                return
            outputs: Mapping[str, Array] = outcome.outputs
            if caller is NOBODY:  # in process, where the answer is the caller's to write to
                outputs = kept(outputs)
            new.append((source, kept(inputs), outputs, caller, outcome.infer_ns))
            if not self._called:
                self._call()

        return take

    def end(self) -> None:
        """Take no more copies, forget those that wait, and stop those that run."""
        self._ended = True
        self._new.clear()
        self.waiting.clear()
        self.bytes = 0
        for task in list(self._tasks):
            task.cancel()

    # In the middle of a request

    def _draws(self, request_id: str) -> bool:
        if request_id:
            drawn = crc32(request_id.encode(), self._salt) * _MIX & (_ALL - 1)
            return drawn < self._below
        self._due += self.share  # two threads at once may miss one: nobody relies on it
        if self._due < 1.0:
            return False
        self._due -= 1.0
        return True

    def _call(self) -> None:
        """Have the loop look at what is new, once for all that comes until it does."""
        self._called = True
        try:
            if threading.get_ident() == self._thread:
                self._loop.call_soon(self._work)
            else:
                self._loop.call_soon_threadsafe(self._work)
        except RuntimeError:  # the loop is closed: the server is gone
            self._ended = True

    # On the event loop

    def _work(self) -> None:
        self._called = False  # before looking: what comes from now on calls again
        while self._new:
            copy = Copy(*self._new.popleft())
            size = total_bytes(copy.inputs) + total_bytes(copy.outputs)
            if self._ended or self.bytes + size > self._most_bytes:
                self._witness.dropped()
                continue
            self.bytes += size
            self.waiting.append((copy, size))
        for _ in range(min(AT_ONCE - len(self._tasks), len(self.waiting))):
            self._tasks.add(self._loop.create_task(self._run_all()))

    async def _run_all(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "it runs in one"
        try:
            while self.waiting:
                await asyncio.sleep(PAUSE)
                if not self.waiting:
                    break  # another task was quicker
                copy, size = self.waiting.popleft()
                self.bytes -= size
                await self._run(copy, size)
        finally:  # here and not in a callback: what comes from now on starts another
            self._tasks.discard(task)

    async def _run(self, copy: Copy, size: int) -> None:
        shadow = self._find(self.name, self.version)
        if shadow is None or _is_busy(copy.source) or _is_busy(shadow, AT_ONCE):
            self._witness.dropped()
            return
        try:
            outcome = await _answer(shadow, copy)
        except _NO_ROOM:
            self._witness.dropped()
        except ServerError as error:
            self._witness.found(Finding(None, failure=error.message))
        except TimeoutError:
            self._witness.found(Finding(None, failure=f"no answer within {PATIENCE:g} s"))
        except Exception:
            _log.exception("a copy for version %s of model '%s'", self.version, self.name)
            self._witness.found(Finding(None, failure="an error of the server"))
        else:
            seconds = copy.infer_ns / 1e9, outcome.infer_ns / 1e9
            compared = await _compared(copy, outcome.outputs, size)
            self._witness.found(Finding(compared, seconds))


async def _answer(shadow: LoadedModel, copy: Copy) -> Outcome:
    """Run it as nobody's request: no cache, no deadline that others' admission would heed."""
    names = [name for name in copy.outputs if name in shadow.signature.output_names]
    rows = shadow.signature.check(copy.inputs)
    outputs = shadow.signature.select(names)
    batching = shadow.config.dynamic_batching
    lowest = 0 if batching is None else batching.priority_levels
    CALLER.set(Caller(copy.caller.request_id, identity=copy.caller.identity, shadow=True))
    async with asyncio.timeout(PATIENCE):
        return await shadow.scheduler.submit(copy.inputs, outputs, rows, lowest)


async def _compared(copy: Copy, outputs: Mapping[str, Array], size: int) -> Compared:
    scores = scores_of(copy.source)
    if size > _COMPARED_INLINE:
        return await asyncio.to_thread(compare, copy.outputs, outputs, scores)
    return compare(copy.outputs, outputs, scores)


def _is_busy(model: LoadedModel, own: int = 0) -> bool:
    """Whether more waits and runs, beside `own` copies, than is on its way anyhow."""
    batch = max(model.signature.max_batch_size, 1)
    return model.scheduler.pending > _BUSY_BATCHES * batch * model.config.instances + own


def scores_of(model: LoadedModel) -> frozenset[str]:
    """Outputs that hold a score a class, as far as its labels or its task tell."""
    task = "" if model.card is None else model.card.task
    if "classification" in task or task in _CLASSIFIES:
        return frozenset(model.signature.output_names)
    return frozenset(name for name, labels in model.labels.items() if labels)


def kept(tensors: Mapping[str, Array]) -> Mapping[str, Array]:
    """Tensors that stay as they are: copied where somebody may write to them."""
    for array in tensors.values():
        if array.flags.writeable:
            return {name: a.copy() if a.flags.writeable else a for name, a in tensors.items()}
    return tensors
