"""Which number of a prediction is explained, by label or index, and what it is."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final

from aiaas_client.protocol.predictions import (
    Classification,
    ImageClassification,
    Prediction,
    Regression,
)
from aiaas_server.core.errors import InvalidInput

EXPLAINABLE: Final = (Classification, ImageClassification, Regression)
_LISTED: Final = 8


def numbers_of(prediction: Prediction) -> dict[str, float]:
    """The scores or values of a prediction, by name; empty of those that have none."""
    if isinstance(prediction, Classification):
        return dict(prediction.scores) or {prediction.label: prediction.score}
    if isinstance(prediction, ImageClassification):
        return {one.label: one.score for one in reversed(prediction.top)}  # of twins the best
    if isinstance(prediction, Regression):
        return dict(prediction.values) or {"value": prediction.value}
    return {}


def chosen(output: str | int | None, names: Sequence[str], default: int) -> int:
    """The index of what is explained.

    Args:
        output: As the caller names it; None is `default`.
    Raises:
        InvalidInput: There is none of that name; names the nearest.
    """
    if output is None:
        return default
    if isinstance(output, str):
        if output in names:
            return names.index(output)
        raise InvalidInput(f"parameters.output: {_unknown(output, names)}")
    if not 0 <= output < len(names):
        raise InvalidInput(f"parameters.output: expected 0 to {len(names) - 1}, got {output}")
    return output


def _unknown(output: str, names: Sequence[str]) -> str:
    near = get_close_matches(output, names, 1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    listed = ", ".join(f"'{name[:64]}'" for name in names[:_LISTED])
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"the model has no output {output[:64]!r}{hint}; it has {listed}{more}"
