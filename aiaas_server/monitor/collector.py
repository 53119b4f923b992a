"""What is picked up beside the answer's path: records of requests, and the tensors of some.

Whoever answers only appends references to bounded rings; a thread of its own counts them later, by
many at a time. What a ring has no room for is dropped and counted, never waited for. Tensors of
callers in this process are copied, since they may write to them; those that came and go by a socket
are nobody else's. Large ones are looked at a few times a second.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Final, Literal, NamedTuple, TypeVar

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.errors import ServerError
from aiaas_server.core.events import NOBODY, Caller, InferenceRecord
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.names import full_name
from aiaas_server.core.schedule.requests import Outcome
from aiaas_server.core.schedule.taps import with_tap
from aiaas_server.core.signature import Signature, total_bytes
from aiaas_server.monitor.features import Layout

MOST_RECORDS: Final = 65_536
MOST_SEEN: Final = 4_096
SMALL_BYTES: Final = 16 * 1024  # with `MOST_SEEN` of them, 64 MiB at the worst
LARGE_BYTES: Final = 64 * 1024 * 1024
LARGE_PAUSE: Final = 0.05  # seconds between two large requests of a version

T = TypeVar("T")

Key = tuple[str, int]  # the server's own name of a model, version


Seen = tuple["VersionTap", Mapping[str, Array], Mapping[str, Array], Caller]
"""An answered request: its version, inputs, outputs, and who asked."""


class Told(NamedTuple):
    """A call with payloads, as it was answered."""

    key: Key
    caller: Caller
    answers: Sequence[object]


class Picked(NamedTuple):
    """What has come since last time.

    Attributes:
        unseen: Requests whose tensors there was no room or time for, by version.
        phases: Times before and after the model, in nanoseconds.
    """

    records: dict[Key, list[InferenceRecord]]
    seen: dict[VersionTap, list[Seen]]
    told: list[Told]
    phases: dict[tuple[Key, Literal["preprocess", "postprocess"]], list[int]]
    unseen: Counter[Key]


class Collector:
    """The rings of one process. An `Observer`."""

    def __init__(self, most_seen: int = MOST_SEEN, most_records: int = MOST_RECORDS) -> None:
        self.most_seen = most_seen
        self._most_records = most_records
        self._records: deque[InferenceRecord] = deque()
        self.seen: deque[Seen] = deque()
        self.told: deque[Told] = deque()
        self.phases: deque[tuple[Key, Literal["preprocess", "postprocess"], int]] = deque()
        self.unseen: deque[Key] = deque(maxlen=most_records)
        self.dropped = 0

    def __call__(self, record: InferenceRecord) -> None:
        """Pick up a record; a copy that a shadow was given is no caller's."""
        if record.caller.shadow:
            return
        records = self._records
        if len(records) < self._most_records:
            records.append(record)
        else:
            self.dropped += 1

    def attach(self, model: LoadedModel) -> None:
        """Look on at a version from now on."""
        tap = VersionTap(self, model)
        model.scheduler.tap = with_tap(model.scheduler.tap, tap)
        model.watch = tap

    def take(self) -> Picked:
        """What has come since last time; for one thread at a time."""
        records: dict[Key, list[InferenceRecord]] = {}
        for record in _emptied(self._records):
            key = full_name(record.owner, record.model), record.version
            records.setdefault(key, []).append(record)
        seen: dict[VersionTap, list[Seen]] = {}
        for one in _emptied(self.seen):
            seen.setdefault(one[0], []).append(one)
        phases: dict[tuple[Key, Literal["preprocess", "postprocess"]], list[int]] = {}
        for key, name, ns in _emptied(self.phases):
            phases.setdefault((key, name), []).append(ns)
        return Picked(records, seen, _emptied(self.told), phases, Counter(_emptied(self.unseen)))


class VersionTap:
    """Looks on at one version: a `Tap` of its tensors, a `Watch` of its payloads.

    Attributes:
        layout: How its tensors are looked at.
    """

    __slots__ = ("_collector", "_large_after", "_may_be_large", "_most", "_seen", "key", "layout")

    def __init__(self, collector: Collector, model: LoadedModel) -> None:
        self._collector = collector
        self._seen, self._most = collector.seen, collector.most_seen
        self._may_be_large = _may_be_large(model.signature)
        self._large_after = 0.0
        self.key: Key = (model.full, model.version)
        self.layout = Layout(model.signature, model.card, model.labels)

    def __call__(self, inputs: Mapping[str, Array], outcome: Outcome, caller: Caller) -> None:
        """Pick up a request; a few hundred nanoseconds of a small one."""
        outputs = outcome.outputs
        seen = self._seen
        if len(seen) >= self._most or (self._may_be_large and not self._may_look(inputs, outputs)):
            self._collector.unseen.append(self.key)
            return
        if caller is NOBODY:  # in process: the arrays are the caller's, who may go on with them
            inputs, outputs = _own(inputs), _own(outputs)
        seen.append((self, inputs, outputs, caller))

    def _may_look(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> bool:
        size = total_bytes(inputs) + total_bytes(outputs)
        if size <= SMALL_BYTES:
            return True
        now = monotonic()
        if size > LARGE_BYTES or now < self._large_after:
            return False
        self._large_after = now + LARGE_PAUSE
        return True

    def phase(self, name: Literal["preprocess", "postprocess"], ns: int) -> None:
        """Pick up how long payloads took before or after the model."""
        phases = self._collector.phases
        if len(phases) < MOST_RECORDS:
            phases.append((self.key, name, ns))

    def answered(self, caller: Caller, answers: Sequence[object]) -> None:
        """Pick up what a call with payloads was answered."""
        told = self._collector.told
        if caller.request_id and len(told) < self._collector.most_seen:
            told.append(Told(self.key, caller, answers))


def _own(arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {name: a.copy() if a.flags.writeable else a for name, a in arrays.items()}


def _may_be_large(signature: Signature) -> bool:
    """Whether a request of a version may take more than is looked at without weighing it."""
    size = 0
    for spec in (*signature.inputs, *signature.outputs):
        dims = spec.shape[1:] if signature.max_batch_size else spec.shape
        if spec.datatype == "BYTES" or any(dim < 0 for dim in dims):
            return True
        size += 8 * math.prod(dims)
    return size * max(signature.max_batch_size, 1) > SMALL_BYTES


def predicted_by(answers: Sequence[object]) -> list[str | float] | None:
    """The label or number of each answer; None where the task answers with neither.

    An item that was refused has an empty label, so that the others keep their places.
    """
    found: list[str | float] = []
    for answer in answers:
        if isinstance(answer, ServerError):
            found.append("")
            continue
        value = getattr(answer, "label", None)
        if value is None:
            value = getattr(answer, "value", None)
        if not isinstance(value, str | int | float):
            return None
        found.append(value)
    return found


def _emptied(ring: deque[T]) -> list[T]:
    """All that is in a ring now; what is appended meanwhile waits for the next time."""
    return [ring.popleft() for _ in range(len(ring))]
