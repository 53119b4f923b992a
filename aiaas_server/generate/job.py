"""One answer on the writing thread's side: its tokens, how they are chosen, and what they say."""

from __future__ import annotations

import time
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.errors import InferenceFailed, InvalidInput
from aiaas_server.core.generation import Ask, FinishReason, Piece, Told
from aiaas_server.generate.accounts import Course
from aiaas_server.generate.answering import Written
from aiaas_server.generate.logprobs import probabilities, told
from aiaas_server.generate.output import TextOutput
from aiaas_server.generate.sampling import Choice, Chooser
from aiaas_server.generate.speculate import Lookup, Trust
from aiaas_server.generate.vocabulary import Vocabulary

MOST_GUESSES: Final = 8


class Follows(Protocol):
    """What holds an answer to a format, token by token: `constraint.Matcher`."""

    @property
    def is_over(self) -> bool:
        """Whether the answer is complete, and nothing may follow."""
        ...

    @property
    def failure(self) -> InvalidInput | None:
        """Why the answer cannot go on in its format."""
        ...

    def accept(self, token: int) -> bool:
        """The answer goes on with `token`; False where it must not."""
        ...

    def permitted(self, tokens: Sequence[int]) -> int:
        """How many of these may follow one another from here."""
        ...


@dataclass(frozen=True, slots=True)
class Manner:
    """What all answers of a model have in common.

    Attributes:
        width: Of the logits.
        ends: Tokens that end an answer.
    """

    width: int
    context: int
    ends: frozenset[int]
    suppress: Sequence[int]
    suppress_first: Sequence[int]
    vocabulary: Vocabulary | None


class Job:
    """`scheduler.Scheduled`: an answer that waits, or has a slot.

    Attributes:
        loop: Of whoever reads; there `written` and `course.caller` belong.
        written: Where pieces go.
        fair_key, weight: Between whom slots are shared, and its part of them.
        course: How it went, for the accounts.
        timer: Ends it at its deadline.
        matcher: What holds it to a format, or None.
        filled: Tokens that the network has in its slot.
        opened: Whether the network has a slot for it.
        over: Nothing more is written.
        cached: Tokens of the prompt that the cache had.
        probed: Probabilities of `ask.probe`; None until they are known.
        count: Tokens written, the model's own end included.
    """

    def __init__(
        self,
        ask: Ask,
        manner: Manner,
        fair_key: str,
        loop: AbstractEventLoop,
        written: Written,
        course: Course,
        matcher: Follows | None,
    ) -> None:
        """
        Raises:
            InvalidInput: A value of the sampling is out of its range.
        """
        self.ask = ask
        self.fair_key = fair_key
        self.weight = course.caller.identity.weight
        self.loop = loop
        self.written = written
        self.course = course
        self.matcher = matcher
        self.timer: TimerHandle | None = None
        self.slot = -1
        self.filled = 0
        self.opened = False
        self.over = False
        self.cached = 0
        self.count = 0
        self.probed: tuple[float, ...] | None = None if ask.probe else ()
        self.tokens = list(ask.tokens)
        self.chooser = Chooser(
            ask.sampling,
            ask.tokens,
            manner.width,
            suppress=manner.suppress,
            suppress_first=manner.suppress_first,
            logprobs=ask.logprobs,
        )
        room = manner.context - len(ask.tokens)
        self._limit = room if ask.max_tokens is None else min(ask.max_tokens, room)
        self._ends = frozenset[int]() if ask.ignore_end else manner.ends
        self._vocabulary = manner.vocabulary
        self._output: TextOutput | None = None
        if manner.vocabulary is not None:
            self._output = TextOutput(manner.vocabulary, ask.stop)
        self._fresh: list[int] = []
        self._told: list[Told] = []
        self._lookup: Lookup | None = None
        self._trust = Trust()

    @property
    def length(self) -> int:
        """Tokens: prompt, and answer so far."""
        return len(self.tokens)

    @property
    def left(self) -> int:
        """Of these, the ones that have not been run."""
        return len(self.tokens) - self.filled

    @property
    def remembered(self) -> int:
        """Tokens that a later prompt may begin with; what accompanies them is not compared."""
        return 0 if self.ask.constants else self.filled

    def probe(self, logits: Array) -> None:
        """Take the `(V,)` logits behind the prompt's first token."""
        self.probed = probabilities(logits, self.ask.probe)

    def add(self, choice: Choice) -> Piece | None:
        """The answer goes on; gives what a reader may see of it by now.

        Raises:
            InferenceFailed: No token could be chosen.
            InvalidInput: Following the format costs too much.
        """
        if choice.failure is not None:
            raise InferenceFailed(f"no token can be chosen: {choice.failure}")
        token = choice.token
        self._count()
        self.tokens.append(token)
        if self._lookup is not None:
            self._lookup.append(token)
        if token in self._ends:
            return self._finish("stop")
        self._follow(token)
        self.chooser.accept(token)
        self._fresh.append(token)
        if choice.told is not None:
            self._told.append(told(token, choice.told, self._bytes_of))
        text = "" if self._output is None else self._output.push((token,))
        if self._output is not None and self._output.stopped:
            return self._finish("stop", text)
        if self.matcher is not None and self.matcher.is_over:
            return self._finish("stop", text)
        if self.count >= self._limit:
            return self._finish("length", text)
        if text or self._output is None:
            return self._piece(text, None)
        return None

    def guesses(self, cost: Callable[[int], float]) -> list[int]:
        """Tokens that are worth a try, being what the text said before.

        Args:
            cost: Of a run of so many tokens.
        """
        if self._lookup is None:
            self._lookup = Lookup(self.tokens)
        found = self._lookup.propose(min(MOST_GUESSES, self._limit - self.count - 1))
        if self.matcher is not None:
            found = found[: self.matcher.permitted(found)]
        if not found:
            return []
        return found[: self._trust.size(cost, len(found))]

    def guessed(self, guesses: int, right: int) -> None:
        """So many guesses were checked, and so many of them were right."""
        self._trust.record(guesses, right)

    def _follow(self, token: int) -> None:
        matcher = self.matcher
        if matcher is not None and not matcher.accept(token):
            raise matcher.failure or InferenceFailed("the answer left its format")

    def _count(self) -> None:
        now = time.monotonic_ns()
        if not self.count:
            self.course.first_ns = now
        self.course.last_ns = now
        self.count += 1
        self.course.tokens_out = self.count

    def _finish(self, reason: FinishReason, text: str = "") -> Piece:
        self.over = True
        last = "" if self._output is None else self._output.finish()
        return self._piece(text + last, reason)

    def _piece(self, text: str, reason: FinishReason | None) -> Piece:
        piece = Piece(text, tuple(self._fresh), tuple(self._told), reason)
        self._fresh.clear()
        self._told.clear()
        return piece

    def _bytes_of(self, token: int) -> bytes:
        return b"" if self._vocabulary is None else self._vocabulary.bytes_of(token)
