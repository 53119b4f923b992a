"""Log-probabilities of tokens as OpenAI's clients read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson

from aiaas_server.core.generation import Chance, Told

_LEAST: Final = -9999.0  # JSON has no infinity; OpenAI tells this of what never comes


def chances(told: Sequence[Told]) -> list[orjson.Fragment]:
    """Log-probabilities of tokens, and of the likeliest ones at their places.

    They are written as they come: those of a long answer, all at its end, would hold up the others.
    """
    return [
        orjson.Fragment(
            orjson.dumps(
                {
                    **_chance(one.chosen),
                    "top_logprobs": [_chance(chance) for chance in one.likeliest],
                }
            )
        )
        for one in told
    ]


def _chance(chance: Chance) -> dict[str, Any]:
    return {
        "token": text_of(chance),
        "logprob": logprob_of(chance),
        "bytes": list(chance.text),
    }


def text_of(chance: Chance) -> str:
    """A token as text, as far as its bytes are one."""
    return chance.text.decode("utf-8", "replace")


def logprob_of(chance: Chance) -> float:
    """Its log-probability, as JSON has it."""
    return max(chance.logprob, _LEAST)
