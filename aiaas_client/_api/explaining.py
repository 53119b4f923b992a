"""The call of the explain route: payloads and what is asked of them, explanations back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aiaas_client import _errors as errors
from aiaas_client import _payloads as payloads
from aiaas_client._api.call import JSON_BODY, Call, Response, model_path
from aiaas_client._api.predict import unreadable

if TYPE_CHECKING:
    from aiaas_client._api.explanations import Explanation

MOST_INSTANCES: Final = 64


class Asked(NamedTuple):
    """Of one call; as of `explain` of a handle."""

    output: str | int | None = None
    samples: int | None = None
    seed: int = 0
    background: Any = None


def explain(
    model: str, version: str | int | None, payload: Any, asked: Asked, *, files: bool
) -> Call[Any]:
    """`POST /v1/models/{m}[/versions/{v}]:explain`, for one payload or several.

    Args:
        files: A text is the path of a file.
    Raises:
        InputError: Something of it cannot be sent, or they are too many.
    """
    many = payloads.is_many(payload)
    given = list(payloads.payloads_of(payload)) if many else [payload]
    if not 1 <= len(given) <= MOST_INSTANCES:
        wanted = f"expected 1 to {MOST_INSTANCES} payloads to explain, got {len(given)}"
        raise errors.InputError(f"model {model!r}: {wanted}", model=model)
    try:
        instances = [payloads.encode(one, files=files) for one in given]
        parameters = payloads.encode(_parameters(asked))
    except OSError as error:
        raise unreadable(model, error) from error
    content = b"".join(
        (b'{"instances":[', b",".join(instances), b'],"parameters":', parameters, b"}")
    )
    texts = tuple(one if isinstance(one, str) and not files else None for one in given)
    return Call(
        "POST",
        model_path(model, version, ":explain", root="/v1/models"),
        _ReadExplanations(model, texts, many),
        headers=(JSON_BODY,),
        content=[content],
        content_length=len(content),
        model=model,
        version=version,
        optional=True,
    )


def _parameters(asked: Asked) -> dict[str, Any]:
    found = {name: value for name, value in asked._asdict().items() if value is not None}
    background = found.get("background")
    if background is not None:
        found["background"] = list(payloads.payloads_of(background))
    return found


@dataclass(frozen=True, slots=True)
class _ReadExplanations:
    """Reads an answer; `texts` are the payloads that are."""

    model: str
    texts: tuple[str | None, ...]
    many: bool

    def __call__(self, response: Response) -> list[Explanation] | Explanation:
        from pydantic import ValidationError

        from aiaas_client._api.explanations import read_explanations

        try:
            found = read_explanations(bytes(response.body), self.texts)
        except (ValidationError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise errors.ProtocolError(
                f"model '{self.model}': expected {len(self.texts)} explanations: {reason}"
            ) from error
        return found if self.many else found[0]
