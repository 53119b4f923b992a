"""What the scheduler passes around: a request, the batch it runs in, and the outcome it gets."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from math import inf
from typing import NamedTuple, Protocol

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.errors import ServerError
from aiaas_server.core.events import NOBODY, Caller
from aiaas_server.core.schedule.padding import Padding
from aiaas_server.core.session import StopToken


class Outcome(NamedTuple):
    """The answer to one request.

    Attributes:
        outputs: By name in the order asked for; arrays of its own.
        queue_ns: From acceptance to the start of its batch.
        input_ns: Its batch's time to join the inputs.
        infer_ns: Its batch's time in the runtime.
        output_ns: Its batch's time to split the outputs.
        batch_rows: Items in the batch it was part of; 0 where nothing was run.
    """

    outputs: dict[str, Array]
    queue_ns: int
    input_ns: int
    infer_ns: int
    output_ns: int
    batch_rows: int

    @property
    def compute_ns(self) -> int:
        """Its batch's whole time: input, run and output."""
        return self.input_ns + self.infer_ns + self.output_ns


class Waiter(Protocol):
    """Who waits for the answer of a request: an `asyncio.Future`, or whoever calls back instead.

    It is told once, on the event loop, by one of the two setters; never when it is `done`.
    """

    def done(self) -> bool:
        """Whether nobody waits any more."""
        ...

    def set_result(self, result: Outcome, /) -> object:
        """Take the answer."""
        ...

    def set_exception(self, exception: ServerError, /) -> object:
        """Take the reason why there is none."""
        ...


class Tap(Protocol):
    """Is shown what goes into a version and what comes out, of each request that was answered.

    That is on the event loop, or in the caller's thread where a model is run in it, before the
    answer leaves: it must be quick. Arrays that can be written to are the caller's own; whoever
    wants to keep those copies them.
    """

    def __call__(self, inputs: Mapping[str, Array], outcome: Outcome, caller: Caller) -> None:
        """Look at one request and its answer."""
        ...


class Request:
    """One accepted request.

    Attributes:
        waiter: Is told the answer.
        size: Input bytes.
        length: Along the padded axes; 0 where nothing is padded.
        accepted_ns: On the monotonic clock.
        deadline: On the loop's clock; answered with an error then, wherever it is.
        expires: On the loop's clock; answered or delayed then if it still waits.
        lane: Index of the lane it waits in, -1 when it does not wait.
        batch: The batch it runs in.
        answer: What it will be told, from when that is known; see `ordering`.
        settled: Counted, and answered unless the caller had gone.
        caller: Who asked, where somebody looks on.
    """

    __slots__ = (
        "accepted_ns",
        "answer",
        "batch",
        "caller",
        "deadline",
        "expires",
        "inputs",
        "key",
        "lane",
        "length",
        "outputs",
        "rows",
        "settled",
        "size",
        "waiter",
    )

    def __init__(
        self,
        inputs: Mapping[str, Array],
        outputs: tuple[str, ...],
        rows: int,
        size: int,
        key: Hashable,
        waiter: Waiter,
        accepted_ns: int,
        length: int = 0,
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.rows = rows
        self.size = size
        self.key = key
        self.waiter = waiter
        self.accepted_ns = accepted_ns
        self.deadline = inf
        self.expires = inf
        self.lane = -1
        self.length = length
        self.batch: Batch | None = None
        self.answer: Outcome | ServerError | None = None
        self.settled = False
        self.caller = NOBODY

    @property
    def elements(self) -> int:
        """What its time grows with: items, times their length where that is padded."""
        return self.rows * (self.length or 1)


class Batch:
    """Requests that run together, and what came of it.

    Attributes:
        names: Outputs to compute: what any member asks for, in the model's order.
        padding: How members of different lengths are joined; None where all are alike.
        size: Input bytes, those of the padding included.
        work_ns: What the thread spent on it, by the clock of its `Sizing`; 0 on the event loop.
        spare: Rows run with them whose outputs nobody gets; see `rounding`.
        live: Members somebody still waits for; the run is stopped when it falls to 0.
        parts: Per member its arrays in the order of `names`; empty when the run failed.
        error: Why the run failed.
        not_batched: The run failed because an output lacks the batch dimension.
        singles: After a failure, the members run again one by one.
    """

    __slots__ = (
        "error",
        "infer_ns",
        "input_ns",
        "live",
        "members",
        "names",
        "not_batched",
        "output_ns",
        "padding",
        "parts",
        "rows",
        "singles",
        "size",
        "spare",
        "started_ns",
        "stop",
        "work_ns",
    )

    def __init__(
        self, members: list[Request], names: tuple[str, ...], padding: Padding | None = None
    ) -> None:
        self.members = members
        self.names = names
        self.padding = padding
        self.spare = self.work_ns = 0
        self.rows = members[0].rows
        self.size = members[0].size
        for member in members[1:]:
            self.rows += member.rows
            self.size += member.size
        if padding is not None:
            self.size = self.size * self.elements // (sum([m.elements for m in members]) or 1)
        self.live = len(members)
        self.stop: StopToken | None = None
        self.started_ns = 0
        self.input_ns = self.infer_ns = self.output_ns = 0
        self.parts: list[list[Array]] = []
        self.error: ServerError | None = None
        self.not_batched = False
        self.singles: list[Batch] = []

    @property
    def length(self) -> int:
        """The longest member's, to which the others are padded; 0 where nothing is."""
        return max([member.length for member in self.members])

    @property
    def elements(self) -> int:
        """What its time grows with: items, times the length they are padded to."""
        return self.rows * (self.length or 1)

    @property
    def compute_ns(self) -> int:
        """Input, run and output together."""
        return self.input_ns + self.infer_ns + self.output_ns

    def outcome_of(self, index: int) -> Outcome:
        """What member `index` asked for, in its order."""
        member = self.members[index]
        part = self.parts[index]
        wanted = member.outputs
        if wanted == self.names:
            outputs = dict(zip(wanted, part))  # noqa: B905  # as many as were asked for
        else:
            outputs = {name: part[self.names.index(name)] for name in wanted}
        queue_ns = self.started_ns - member.accepted_ns
        return Outcome(outputs, queue_ns, self.input_ns, self.infer_ns, self.output_ns, self.rows)
