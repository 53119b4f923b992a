"""Guesses at the next tokens, from what prompt and answer have already said.

Texts repeat themselves: names, code, quotations of the prompt. What followed the last few tokens
when they stood there before is guessed to follow again; the model checks several guesses in one
run. Source: Saxena 2023, *Prompt Lookup Decoding*.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

_LENGTHS = (4, 3, 2)  # of what is looked up, the longest first


class Lookup:
    """The tokens of one answer, prompt included, and where each run of a few stood last."""

    def __init__(self, tokens: Sequence[int] = ()) -> None:
        self._tokens: list[int] = []
        # Run of tokens -> where it was followed by another token.
        self._behind: dict[tuple[int, ...], int] = {}
        for token in tokens:
            self.append(token)

    def __len__(self) -> int:
        return len(self._tokens)

    def append(self, token: int) -> None:
        """`token` follows."""
        end = len(self._tokens)
        for length in _LENGTHS:
            if length <= end:
                self._behind[tuple(self._tokens[end - length :])] = end
        self._tokens.append(token)

    def propose(self, most: int) -> list[int]:
        """At most `most` tokens that may follow; none where the end stands nowhere else."""
        if most <= 0:
            return []
        for length in _LENGTHS:
            begin = self._behind.get(tuple(self._tokens[-length:]))
            if begin is not None:
                # What reaches the end goes round: a text in a loop stays in it.
                period = len(self._tokens) - begin
                return [self._tokens[begin + place % period] for place in range(most)]
        return []


class Trust:
    """How often guesses came true lately, and so how many are worth their cost."""

    def __init__(self, rate: float = 0.5, *, memory: float = 0.85, retry: int = 32) -> None:
        """
        Args:
            rate: What is believed at first, of [0, 1].
            memory: Weight of what is believed against one new guess.
            retry: Steps without guesses after which one is tried again.
        """
        self.rate = rate
        self._memory = memory
        self._retry = retry
        self._idle = 0

    def record(self, guessed: int, right: int) -> None:
        """The first `right` of `guessed` were what the model chose."""
        for place in range(min(right + 1, guessed)):  # those behind a wrong one tell nothing
            came = 1.0 if place < right else 0.0
            self.rate = self._memory * self.rate + (1 - self._memory) * came

    def size(self, cost: Callable[[int], float], most: int) -> int:
        """How many guesses are worth it; call it once a step.

        Args:
            cost: Of a run of so many tokens, in any unit, 1 being no guess.
            most: Never more.
        """
        best = worth(self.rate, cost, most)
        self._idle = 0 if best else self._idle + 1
        if most > 0 and self._idle >= self._retry:
            self._idle = 0
            return 1
        return best


def worth(rate: float, cost: Callable[[int], float], most: int) -> int:
    """The number of guesses at which most tokens come for the cost; 0 where none pays.

    Args:
        rate: How likely a guess is right, if those before it were.
        cost: Of a run of so many tokens.
    """
    best, speed = 0, 1 / cost(1)
    expected, all_right = 1.0, 1.0
    for guesses in range(1, most + 1):
        all_right *= rate
        expected += all_right
        if expected / cost(guesses + 1) > speed:
            best, speed = guesses, expected / cost(guesses + 1)
    return best
