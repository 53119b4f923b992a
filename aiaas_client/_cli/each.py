"""One payload after another, and what becomes of those that cannot be predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from aiaas_client._cli.records import Given
from aiaas_client._cli.server import UseError
from aiaas_client._cli.session import FAILED, ended, exit_code_of, tell
from aiaas_client._errors import (
    AiaasError,
    BadRequestError,
    InferenceFailedError,
    InputError,
    LoadFailedError,
    ModelNotReadyError,
    PayloadTooLargeError,
    UnprocessableError,
)
from aiaas_client._models.model import Model
from aiaas_client.protocol.predictions import Prediction

_OF_PAYLOAD = (
    UseError,
    InputError,
    BadRequestError,
    PayloadTooLargeError,
    UnprocessableError,
    InferenceFailedError,
)
_OF_MODEL = (LoadFailedError, ModelNotReadyError)


class OnError(StrEnum):
    """What a payload that cannot be predicted does to the others."""

    STOP = "stop"
    SKIP = "skip"


class Skipped(NamedTuple):
    """Stands in the place of a prediction that there is none of."""

    error: str

    def model_dump(self, *, mode: str) -> dict[str, Any]:
        """As a prediction."""
        return self._asdict()


def predict_each(
    handle: Model, given: Sequence[Given], params: Mapping[str, Any], on_error: OnError
) -> list[Prediction | Skipped]:
    """Predict all of `given`; of several the message of a failure says which one it was.

    Args:
        on_error: Only what is wrong with a payload is skipped, not with the model or the server.
    Raises:
        Exit: One failed among several, and the command ends.
        UseError, AiaasError: The only one failed.
    """
    found: list[Prediction | Skipped] = []
    for one in given:
        try:
            found.append(_predict(handle, one.payload, params))
        except (UseError, AiaasError) as error:
            text = f"{one.place}: {error}" if one.place else str(error)
            if on_error is OnError.STOP or not _is_of_payload(error):
                if not one.place:
                    raise
                raise ended(text, exit_code_of(error)) from None
            tell(f"skipped: {text}")
            found.append(Skipped(text))
    return found


def tell_skipped(found: Sequence[Prediction | Skipped]) -> None:
    """Count those that were skipped.

    Raises:
        Exit: All were.
    """
    skipped = sum(isinstance(one, Skipped) for one in found)
    text = f"{skipped} of {len(found)} skipped"
    if skipped and skipped == len(found):
        raise ended(text, FAILED)
    if skipped:
        tell(text)


def _predict(handle: Model, payload: Any, params: Mapping[str, Any]) -> Any:
    if isinstance(payload, UseError):
        raise payload
    return handle.predict(payload, **params)


def _is_of_payload(error: Exception) -> bool:
    return isinstance(error, _OF_PAYLOAD) and not isinstance(error, _OF_MODEL)
