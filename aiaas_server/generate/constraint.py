"""What an answer must be, kept to by masks of the tokens that may come next.

llguidance does not raise: whatever goes wrong leaves a matcher in a state of error, whose mask
permits the model's end alone. Unseen, that would be an empty answer. So a grammar counts as
compiled when its first mask is there, and `Matcher.failure` is to be looked at behind each mask
and each token.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from aiaas_server.core.errors import InvalidInput
from aiaas_server.core.generation import Format
from aiaas_server.generate.formats import grammar_of

# What the library says before it says what is wrong with a schema.
_WRAPPED = re.compile(r'^(at \d+\(\d+\): )?failed to (compile JSON schema|parse "%json"): ')

Bits = npt.NDArray[np.int32]

_KEPT = 32  # grammars; those who ask for a format mostly ask again for the same

# With the library's own limits a hostile expression takes 1.3 s for one mask; with these 0.07 s.
_LIMITS = LLParserLimits(
    initial_lexer_fuel=200_000,
    step_lexer_fuel=50_000,
    step_max_items=20_000,
    max_lexer_states=20_000,
    max_grammar_size=100_000,
    verbose_errors=False,
)


def words(vocabulary: int) -> int:
    """Width of a row of masks: 32 tokens a word, the lowest bit first."""
    return -(-vocabulary // 32)


class Matcher:
    """How far one answer has come in its format; used by one thread at a time."""

    def __init__(self, matcher: LLMatcher, kind: str) -> None:
        self._matcher = matcher
        self._kind = kind
        self._stuck = False

    def fill(self, masks: Bits, row: int) -> bool:
        """Write which tokens may come next, and let go of the GIL meanwhile.

        Args:
            masks: `(rows, words(vocabulary))`, int32, contiguous; a set bit permits its token.
        Returns:
            Whether there are any; if not, see `failure`. Behind the last token (`is_over`) only
            the model's own end is permitted.
        """
        mask = masks[row]
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        self._stuck = not mask.any()
        return self.failure is None

    def accept(self, token: int) -> bool:
        """Go on behind a token; False where it was not permitted, or costs too much to follow."""
        return self._matcher.consume_token(token)

    @property
    def is_over(self) -> bool:
        """Whether the answer is complete, and nothing may follow.

        True with the last token of its content: the model's own end need not be drawn.
        """
        return self._matcher.is_stopped() and not self._matcher.is_error()

    @property
    def may_end(self) -> bool:
        """Whether what is there so far is a whole answer."""
        return not self._matcher.is_error() and self._matcher.is_accepting()

    @property
    def failure(self) -> InvalidInput | None:
        """Why the answer cannot go on in its format; None where it can."""
        if self._matcher.is_error():
            return InvalidInput(f"{self._kind}: {reason(self._matcher.get_error())}")
        if self._stuck:
            return InvalidInput(f"{self._kind}: no token of the model can go on from here")
        return None

    def permitted(self, tokens: Sequence[int]) -> int:
        """How many of these tokens, guesses for instance, may follow one another from here."""
        return 0 if self._matcher.is_error() else self._matcher.validate_tokens(list(tokens))

    def rollback(self, tokens: int) -> bool:
        """Take back the last tokens; False where that is not possible any more."""
        return self._matcher.rollback(tokens)

    def clone(self) -> Matcher:
        """Another one at the same place."""
        return Matcher(self._matcher.deep_copy(), self._kind)


class Constraint:
    """A format that was compiled; may serve many answers, and be shared by threads."""

    def __init__(self, start: LLMatcher, kind: str) -> None:
        self._start = start
        self._kind = kind
        self._lock = Lock()

    def matcher(self) -> Matcher:
        """What one answer needs, at its beginning; takes microseconds."""
        with self._lock:
            return Matcher(self._start.deep_copy(), self._kind)


class Grammars:
    """Compiles formats for the tokens of one model; may be shared by threads."""

    def __init__(self, tokenizer_json: str, vocabulary: int, end: int | Sequence[int]) -> None:
        """Nothing is read before the first format comes.

        Args:
            tokenizer_json: The text of `tokenizer.json`.
            vocabulary: Width of the logits.
            end: Tokens that end an answer.
        """
        self.vocabulary = vocabulary
        self._text = tokenizer_json
        self._end = [end] if isinstance(end, int) else list(end)
        self._tokenizer: LLTokenizer | None = None
        self._kept: OrderedDict[str, Constraint] = OrderedDict()
        self._lock = Lock()  # also so that one compilation at a time takes memory

    def compile(self, format: Format) -> Constraint:
        """What holds an answer to a format; blocking, 1 ms to half a second.

        Raises:
            InvalidInput: It is not valid, not supported, cannot be met, or costs too much.
        """
        grammar = grammar_of(format)
        key = f"{format.kind} {grammar}"
        with self._lock:
            found = self._kept.get(key) or self._compiled(grammar, format.kind)
            self._kept[key] = found
            self._kept.move_to_end(key)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return found

    def _compiled(self, grammar: str, kind: str) -> Constraint:
        start = LLMatcher(self._opened(), grammar, log_level=0, limits=_LIMITS)
        # A schema that refers to nothing but itself is found out by its first mask alone.
        trial = Matcher(start.deep_copy(), kind)
        if not start.is_error():
            trial.fill(np.zeros((1, words(self.vocabulary)), np.int32), 0)
        if (failure := trial.failure) is not None:
            raise failure
        return Constraint(start, kind)

    def _opened(self) -> LLTokenizer:
        if self._tokenizer is None:
            if not self._end:
                raise InvalidInput("formats need a model that has a token for the end")
            if not self._text.lstrip().startswith("{"):  # the library would take it for a path
                raise InvalidInput("formats need a model with a tokenizer.json")
            try:
                self._tokenizer = LLTokenizer(
                    self._text.lstrip(), n_vocab=self.vocabulary, eos_token=self._end
                )
            except ValueError as error:
                raise InvalidInput(f"formats cannot be kept to by this model: {error}") from None
        return self._tokenizer


class Masks:
    """The masks of a step, filled by a thread of their own while the step runs."""

    def __init__(self, vocabulary: int) -> None:
        self._bits = np.full((1, words(vocabulary)), -1, np.int32)
        self._rows = 0
        self._thread: ThreadPoolExecutor | None = None
        self._filling: Future[None] | None = None

    def fill_later(self, matchers: Sequence[Matcher | None]) -> None:
        """Begin to fill one row for each; None is a row without a format, which permits all.

        Until `wait` has returned, nobody else may use these matchers.
        """
        self.wait()
        self._rows = len(matchers)
        if len(self._bits) < self._rows:
            self._bits = np.full((self._rows, self._bits.shape[1]), -1, np.int32)
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="aiaas-masks")
        self._filling = self._thread.submit(_fill, self._bits, tuple(matchers))

    def wait(self) -> Bits:
        """The masks, `(rows, words(vocabulary))` int32, until `fill_later` is called again.

        A row whose matcher has a `failure` by now is not to be used.
        """
        if self._filling is not None:
            filling, self._filling = self._filling, None
            filling.result()
        return self._bits[: self._rows]

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None


def _fill(masks: Bits, matchers: Sequence[Matcher | None]) -> None:
    for row, matcher in enumerate(matchers):
        if matcher is None:
            masks[row] = -1
        else:
            matcher.fill(masks, row)


def reason(error: str) -> str:
    """The one line of llguidance's errors that tells a caller what is wrong."""
    lines = [line.strip() for line in error.replace("<non-verbose/>", "").splitlines()]
    inner = next((line for line in lines if line.startswith("error: ")), "")
    told = inner.removeprefix("error: ") or next(filter(None, lines), "it cannot be read")
    told = _WRAPPED.sub("", told)
    if told.startswith("NoExtension"):
        return "nothing can satisfy it"
    return told if len(told) <= 300 else told[:300] + "..."
