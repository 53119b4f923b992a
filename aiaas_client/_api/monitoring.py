"""Calls of monitoring: how models do, whether their world has changed, what would be right."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from aiaas_client import _errors as errors
from aiaas_client._api.call import JSON_BODY, Call, Response, model_path, version_text
from aiaas_client._api.management import NO_CONTENT, ROOT, nothing, registry_call, validated

if TYPE_CHECKING:
    from aiaas_client._api.plots import Monitoring
    from aiaas_client.protocol.monitoring import DriftDocument, FeedbackResult, Profile

MODELS = f"{ROOT}/models"


def monitoring(
    model: str, version: str | int | None = None, window: str = "1h"
) -> Call[Monitoring]:
    """`GET /api/v1/models/{m}/monitoring`."""
    return _get(model, "/monitoring", version, window, _read_monitoring)


def drift(model: str, version: str | int | None = None, window: str = "1h") -> Call[DriftDocument]:
    """`GET /api/v1/models/{m}/drift`."""
    return _get(model, "/drift", version, window, _read_drift)


def profile(model: str, version: str | int) -> Call[Profile]:
    """`GET /api/v1/models/{m}/versions/{v}/profile`."""
    path = model_path(model, version, "/profile", root=MODELS)
    return registry_call("GET", path, _read_profile, model, version=version)


def set_profile(
    model: str,
    version: str | int,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any] | None,
) -> Call[Profile]:
    """`PUT /api/v1/models/{m}/versions/{v}/profile`.

    Raises:
        InputError: the data are nothing that JSON can carry.
    """
    document = {"inputs": _listed(model, inputs), "outputs": _listed(model, outputs or {})}
    content = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    return registry_call(
        "PUT",
        model_path(model, version, "/profile", root=MODELS),
        _read_profile,
        model,
        headers=(JSON_BODY,),
        content=[content],
        content_length=len(content),
        version=version,
    )


def remove_profile(model: str, version: str | int) -> Call[None]:
    """`DELETE /api/v1/models/{m}/versions/{v}/profile`."""
    path = model_path(model, version, "/profile", root=MODELS)
    return registry_call("DELETE", path, nothing, model, accept=NO_CONTENT, version=version)


def feedback(items: Sequence[Mapping[str, Any]]) -> Call[list[FeedbackResult]]:
    """`POST /api/v1/feedback`; safe to repeat: the same label twice counts once.

    Args:
        items: `{"request_id", "label", "row"}`, at most 5,000.
    Raises:
        InputError: one of them cannot be sent.
    """
    content = _checked(items)
    return registry_call(
        "POST",
        f"{ROOT}/feedback",
        partial(_read_results, len(items)),
        headers=(JSON_BODY,),
        content=[content],
        content_length=len(content),
    )


def feedback_item(about: Any, label: Any, row: int | None) -> dict[str, Any]:
    """One label.

    Args:
        about: The id of a request, or a result or prediction that carries one.
        row: Which item of the request; by default that of the prediction, or the first.
    Raises:
        InputError: there is no id in it.
    """
    request_id = about if isinstance(about, str) else getattr(about, "request_id", "")
    if not isinstance(request_id, str) or not request_id:
        raise errors.InputError(
            "feedback: expected a request id, or a result or prediction that carries one, "
            f"got {type(about).__name__}"
        )
    if row is None:
        own = getattr(about, "request_row", 0)
        row = own if isinstance(own, int) else 0
    plain = label.item() if hasattr(label, "item") else label
    return {"request_id": request_id, "label": plain, "row": row}


def feedback_items(pairs: Iterable[Sequence[Any]]) -> list[dict[str, Any]]:
    """Many labels: `(about, label)` or `(about, label, row)` each.

    Raises:
        InputError: one of them is no such thing.
    """
    items = []
    pair: Any
    for index, pair in enumerate(pairs):
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) not in (2, 3):
            raise errors.InputError(
                f"feedback, item {index}: expected (request id, label) or "
                f"(request id, label, row), got {str(pair)[:64]!r}"
            )
        items.append(feedback_item(pair[0], pair[1], pair[2] if len(pair) == 3 else None))
    return items


def feedback_on(about: Any, label: Any, row: int | None) -> Call[FeedbackResult]:
    """`POST /api/v1/feedback` of one label; see `feedback_item`."""
    call = feedback([feedback_item(about, label, row)])
    return replace(call, parse=_read_result)  # type: ignore[arg-type,return-value]  # the type changes


def _read_result(response: Response) -> FeedbackResult:
    (result,) = _read_results(1, response)
    if result.code != 404:
        return result
    raise errors.NotFoundError(
        f"feedback: {result.message}",
        status_code=404,
        code="not_found",
        request_id=response.request_id,
    )


def _get(model: str, suffix: str, version: str | int | None, window: str, read: Any) -> Call[Any]:
    query = {"window": window}
    text = version_text(version)
    if text is not None:
        query["version"] = text
    path = f"{model_path(model, None, suffix, root=MODELS)}?{urlencode(query)}"
    return registry_call("GET", path, read, model, version=version)


def _listed(model: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays as nested lists; what is not a number becomes null."""
    import numpy as np

    found = {}
    for name, value in arrays.items():
        array = np.asarray(value)
        if array.dtype.kind == "f":
            missing = ~np.isfinite(array)
            array = array.astype(object)
            array[missing] = None
        elif array.dtype.kind not in "OUSbiu":
            raise errors.InputError(
                f"'{name}': expected numbers or texts, got {array.dtype}", model=model
            )
        found[name] = array.tolist()
    return found


def _checked(items: Sequence[Mapping[str, Any]]) -> bytes:
    from pydantic import ValidationError

    from aiaas_client.protocol.monitoring import FeedbackRequest

    try:
        asked = FeedbackRequest.model_validate({"items": list(items)})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"][:3])
        raise errors.InputError(f"feedback, {where}: {first['msg']}") from None
    return asked.model_dump_json().encode()


def _read_monitoring(response: Response) -> Monitoring:
    from aiaas_client._api.plots import Monitoring

    return validated(Monitoring, response.json())


def _read_drift(response: Response) -> DriftDocument:
    from aiaas_client.protocol.monitoring import DriftDocument

    return validated(DriftDocument, response.json())


def _read_profile(response: Response) -> Profile:
    from aiaas_client.protocol.monitoring import Profile

    return validated(Profile, response.json())


def _read_results(count: int, response: Response) -> list[FeedbackResult]:
    from aiaas_client.protocol.monitoring import FeedbackAnswer

    results = validated(FeedbackAnswer, response.json()).results
    if len(results) != count:
        raise errors.ProtocolError(f"feedback: expected {count} results, got {len(results)}")
    return results
