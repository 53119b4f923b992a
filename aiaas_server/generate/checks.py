"""Whether an answer that is asked for can be written: everything that is known beforehand."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from aiaas_server.core.errors import InvalidInput
from aiaas_server.core.generation import Ask
from aiaas_server.generate.sampling import check
from aiaas_server.generate.vocabulary import check_text

MOST_STOPS: Final = 64
MOST_LOGPROBS: Final = 20


def check_ask(
    ask: Ask, context: int, vocabulary: int, constants: Collection[str], *, reads_text: bool
) -> None:
    """Refuse what cannot be written.

    Args:
        context: Most tokens, prompt and answer together.
        vocabulary: Tokens that there are.
        constants: Names of the tensors that every request brings.
        reads_text: Whether there is a tokenizer.
    Raises:
        InvalidInput: Names what is wrong, what was expected, and what came.
    """
    if not ask.tokens:
        raise InvalidInput("the prompt is empty: expected at least one token")
    if len(ask.tokens) >= context:
        raise InvalidInput(
            f"the prompt has {len(ask.tokens)} tokens; the model's context holds {context}, "
            "and one of them at least is the answer's"
        )
    _check_tokens(ask.tokens, vocabulary, "the prompt")
    _check_tokens(ask.probe, vocabulary, "'probe'")
    if ask.max_tokens is not None and ask.max_tokens < 1:
        raise InvalidInput(f"'max_tokens': expected at least 1, got {ask.max_tokens}")
    if ask.logprobs is not None and not 0 <= ask.logprobs <= MOST_LOGPROBS:
        raise InvalidInput(f"'logprobs': expected 0 to {MOST_LOGPROBS}, got {ask.logprobs}")
    check(ask.sampling, vocabulary)
    _check_stops(ask, reads_text)
    if ask.format is not None and not reads_text:
        raise InvalidInput("this model has no tokenizer: its answers cannot be held to a format")
    if ask.constants.keys() != set(constants):
        expected = ", ".join(sorted(constants)) or "none"
        got = ", ".join(sorted(ask.constants)) or "none"
        raise InvalidInput(f"tensors that accompany the answer: expected {expected}, got {got}")


def _check_tokens(tokens: Sequence[int], vocabulary: int, what: str) -> None:
    if tokens and not 0 <= min(tokens) <= max(tokens) < vocabulary:
        wrong = next(token for token in tokens if not 0 <= token < vocabulary)
        raise InvalidInput(f"{what}: expected tokens below {vocabulary}, got {wrong}")


def _check_stops(ask: Ask, reads_text: bool) -> None:
    if not ask.stop:
        return
    if not reads_text:
        raise InvalidInput("this model has no tokenizer: no text can end its answers")
    if len(ask.stop) > MOST_STOPS:
        raise InvalidInput(f"'stop': expected at most {MOST_STOPS} texts, got {len(ask.stop)}")
    for text in ask.stop:
        if not text:
            raise InvalidInput("'stop': expected texts, got an empty one")
        check_text(text, "'stop'")
