"""Who is served next: of lengths, callers and costs. It runs nothing, and knows no clock.

Steps, which give each answer its next token, take turns with pieces of prompts that are no dearer
than a step. So whoever is being answered waits for two steps at most, however long the prompt is
that joins. A short prompt is one piece, and one of middling length a few: a run costs much before
its first token, and small pieces would hold up the others longer in all.

Callers get slots by the tokens they were served, by their weights, fewest first; one that comes new
begins where the least served one is, and cannot save up. Source: Sheng et al. 2024, *Fairness in
Serving Large Language Models* (virtual token counters).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, Generic, Protocol, TypeVar

from aiaas_server.generate.pace import Pace

MARGIN: Final = 32
"""Tokens that an answer should have room for when it is admitted: else it is preempted at once."""
SHORT: Final = 48
"""Tokens of a prompt that is run as a whole."""
MIDDLING: Final = 3 * SHORT
"""Tokens of a prompt that is run in equal pieces, none of them larger than a short prompt."""
_REMEMBERED: Final = 1024  # callers without work whose counts are kept


class Scheduled(Protocol):
    """What is to be planned.

    Attributes:
        fair_key: Who asks.
        weight: Its part, beside those of the others who ask.
        slot: It is in; -1 while it waits.
    """

    fair_key: str
    weight: float
    slot: int

    @property
    def length(self) -> int:
        """Tokens: prompt, and answer so far."""
        ...

    @property
    def left(self) -> int:
        """Of these, the ones that have not been run; the next token is chosen behind the last."""
        ...


J = TypeVar("J", bound=Scheduled)


@dataclass(frozen=True, slots=True)
class Fill(Generic[J]):
    """Run a piece of one prompt."""

    job: J
    tokens: int


@dataclass(frozen=True, slots=True)
class Step(Generic[J]):
    """Run the last token of each."""

    jobs: Sequence[J]


class Scheduler(Generic[J]):
    """Plans runs for those that have slots, and says who gets the next one.

    Attributes:
        running: Those that have a slot, in the order in which they got it.
    """

    def __init__(self, slots: int, pace: Pace) -> None:
        self.running: list[J] = []
        self._free = list(range(slots))[::-1]
        self._waiting: dict[str, deque[J]] = {}  # no empty ones
        self._served: dict[str, float] = {}
        self._pace = pace
        self._slots = slots
        self._fills = 0  # since the last step
        self._shares: dict[J, int] = {}  # of jobs whose prompts are being run
        self._writing: set[J] = set()  # who were part of a step
        self._full = False  # of memory, until one leaves

    @property
    def waiting(self) -> int:
        """How many have no slot."""
        return sum(map(len, self._waiting.values()))

    def __iter__(self) -> Iterator[J]:
        return chain(self.running, *self._waiting.values())

    def __bool__(self) -> bool:
        return bool(self.running or self._waiting)

    # Who gets a slot

    def join(self, job: J) -> None:
        """Have a job wait, behind its caller's others."""
        self._begin(job.fair_key)
        self._waiting.setdefault(job.fair_key, deque()).append(job)

    def admit(self, room: Callable[[Sequence[int]], bool]) -> J | None:
        """Give one job a slot, where one is free and there is memory; the job, or None.

        Args:
            room: Whether answers of these lengths fit the memory side by side. A job that has
                all of it to itself is admitted in any case.
        """
        if not self._free or not self._waiting:
            return None
        key = min(self._waiting, key=lambda key: self._served[key])
        job = self._waiting[key][0]
        lengths = [one.length + MARGIN for one in (*self.running, job)]
        if self.running and (self._full or not room(lengths)):
            return None
        self._forget_waiting(job)
        job.slot = self._free.pop()
        self.running.append(job)
        return job

    def preempt(self) -> J:
        """Take its slot from the youngest, which is the next one of its caller to get one again.

        Nobody is admitted until another one leaves: there is no more memory before.
        """
        job = self.running[-1]
        self._release(job)
        self._full = True
        self._waiting.setdefault(job.fair_key, deque()).appendleft(job)
        return job

    def leave(self, job: J) -> None:
        """Forget a job that waits or runs; the slot it had is free."""
        if job.slot >= 0:
            self._release(job)
            self._full = False
        else:
            self._forget_waiting(job)

    def served(self, job: J, tokens: int) -> None:
        """Tokens of a job were run."""
        self._served[job.fair_key] += tokens / job.weight

    # What is run

    def plan(self) -> Fill[J] | Step[J] | None:
        """The next run; None where nobody has a slot."""
        ready = [job for job in self.running if job.left == 1]
        filling = [job for job in self.running if job.left > 1]
        short = [job for job in filling if job not in self._shares and job.left <= SHORT]
        if short and self._fills < self._slots and self._writing.isdisjoint(ready):
            return self._fill(self._least_served(short), SHORT)  # who came together begins together
        if filling and not (ready and self._fills):
            return self._fill(
                self._least_served(filling), self._pace.piece(len(ready), len(filling))
            )
        if not ready:
            return None
        self._fills = 0
        self._writing.update(ready)
        return Step(ready)

    def _fill(self, job: J, tokens: int) -> Fill[J]:
        """A piece of so many tokens, or of the job's share if that is more."""
        self._fills += 1
        if job not in self._shares:
            self._shares[job] = _share(job.left)
        return Fill(job, min(job.left, max(tokens, self._shares[job])))

    def _least_served(self, jobs: Sequence[J]) -> J:
        return min(jobs, key=lambda job: self._served[job.fair_key])

    # Bookkeeping

    def _begin(self, key: str) -> None:
        """A caller has work: it is served no less than the one who was served least."""
        active = {job.fair_key for job in self.running} | self._waiting.keys()
        if key in active:
            return
        least = min((self._served[other] for other in active), default=0.0)
        self._served[key] = max(self._served.pop(key, 0.0), least)
        if len(self._served) > _REMEMBERED + len(active):
            for idle in [one for one in self._served if one != key and one not in active]:
                del self._served[idle]

    def _forget_waiting(self, job: J) -> None:
        queue = self._waiting[job.fair_key]
        queue.remove(job)
        if not queue:
            del self._waiting[job.fair_key]

    def _release(self, job: J) -> None:
        self.running.remove(job)
        self._shares.pop(job, None)
        self._writing.discard(job)
        self._free.append(job.slot)
        job.slot = -1


def _share(tokens: int) -> int:
    """Of a prompt that is run in equal pieces; 0 of a longer one."""
    return -(-tokens // -(-tokens // SHORT)) if tokens <= MIDDLING else 0
