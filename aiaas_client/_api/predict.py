"""Calls of the task routes: predictions of payloads, and the card of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

import numpy as np

from aiaas_client import _errors as errors
from aiaas_client import _payloads as payloads
from aiaas_client._api.call import BINARY_BODY, JSON_BODY, Call, Response, model_path
from aiaas_client._api.inference import InferResult

_ROOT = "/v1/models"
PREDICTION = "prediction"  # the output under which predictions stand in an `InferResult`
# The status that each code of an entry of `predictions` would have had alone.
_ENTRY_STATUS = {
    "invalid_request": 400,
    "output_too_large": 422,
    "inference_failed": 500,
    "not_supported": 501,
}


def predict(
    model: str,
    version: str | int | None,
    instances: Sequence[bytes],
    params: Mapping[str, Any],
) -> Call[InferResult]:
    """`POST /v1/models/{m}[/versions/{v}]:predict`; each instance is JSON text.

    The answer holds, under `PREDICTION`, an array of objects: a prediction or an error each.
    """
    chunks: list[bytes | memoryview] = [b'{"instances":[', b",".join(instances), b"]"]
    if params:
        chunks += [b',"parameters":', payloads.encode(dict(params))]
    chunks.append(b"}")
    return Call(
        "POST",
        model_path(model, version, ":predict", root=_ROOT),
        _ReadPredictions(model, len(instances)),
        headers=(JSON_BODY,),
        content=chunks,
        content_length=sum(map(len, chunks)),
        model=model,
        version=version,
        optional=True,  # other servers of the protocol have no tasks
    )


def predict_file(
    model: str, version: str | int | None, content: bytes, params: Mapping[str, Any]
) -> Call[InferResult]:
    """The same for one file, as the body itself; params travel in the query."""
    call = predict(model, version, [b""], {})
    query = f"?{urlencode(params)}" if params else ""
    return replace(
        call,
        path=call.path + query,
        headers=(BINARY_BODY,),
        content=[content],
        content_length=len(content),
    )


def predict_one(
    model: str,
    version: str | int | None,
    payload: Any,
    params: Mapping[str, Any],
    *,
    files: bool,
) -> Call[InferResult]:
    """The call for one payload, a large file as it is.

    Args:
        files: A text is the path of a file.
    Raises:
        InputError: The payload cannot be sent, or its file cannot be read.
    """
    try:
        if all(isinstance(value, str | int | float) for value in params.values()):
            content = payloads.file_of(payload, files=files)
            if content is not None:
                return predict_file(model, version, content, params)
        instance = payloads.encode(payload, files=files)
    except OSError as error:
        raise unreadable(model, error) from error
    return predict(model, version, [instance], params)


def unreadable(model: str, error: OSError) -> errors.InputError:
    """The error for a payload whose file cannot be read."""
    is_missing = isinstance(error, FileNotFoundError)
    kind = errors.MissingFileError if is_missing else errors.InputError
    return kind(f"model {model!r}: {error}", model=model)


def card(model: str, version: str | int | None = None) -> Call[dict[str, Any]]:
    """`GET /v1/models/{m}[/versions/{v}]`."""
    path = model_path(model, version, root=_ROOT)
    return Call("GET", path, _read_card, model=model, version=version, optional=True)


def prediction_of(result: InferResult) -> Any:
    """The only prediction of an answer.

    Raises:
        AiaasError: The server answered with an error in its place.
    """
    answer = result[PREDICTION].item()
    if isinstance(answer, errors.AiaasError):
        raise answer
    return answer


def _read_card(response: Response) -> dict[str, Any]:
    from pydantic_core import from_json

    try:
        document = from_json(response.body)
    except ValueError as error:
        raise errors.ProtocolError(f"expected a JSON body: {error}") from error
    if not isinstance(document, dict):
        raise errors.ProtocolError("expected a JSON object")
    return document


@dataclass(frozen=True, slots=True)
class _ReadPredictions:
    """Reads an answer to `count` instances."""

    model: str
    count: int

    def __call__(self, response: Response) -> InferResult:
        entries = self._entries(response)
        task = response.headers.get("x-aiaas-task", "")
        answers = np.empty(self.count, object)
        for index, entry in enumerate(entries):
            answers[index] = self._read(entry, index, task, response)
        return InferResult(
            {PREDICTION: answers},
            model_name=self.model,
            model_version=response.headers.get("x-aiaas-version", ""),
            request_id=response.request_id,
            timing=response.timing,
            attempts=response.attempts,
        )

    def _entries(self, response: Response) -> list[Any]:
        from pydantic_core import from_json

        try:
            entries = from_json(response.body)["predictions"]
        except (ValueError, TypeError, KeyError) as error:
            raise errors.ProtocolError(
                f"model '{self.model}': expected a JSON object with 'predictions': {error}"
            ) from error
        if not isinstance(entries, list) or len(entries) != self.count:
            raise errors.ProtocolError(
                f"model '{self.model}': expected {self.count} predictions for {self.count} sent"
            )
        return entries

    def _read(self, entry: Any, index: int, task: str, response: Response) -> Any:
        if isinstance(entry, dict) and isinstance(entry.get("error"), str) and "code" in entry:
            return self._error(entry["error"], str(entry["code"]), response)
        from aiaas_client.protocol.predictions import read_prediction

        try:
            return read_prediction(task, entry).answering(response.request_id, index)
        except ValueError as error:
            reason = str(error).splitlines()[-1].strip()
            raise errors.ProtocolError(
                f"model '{self.model}': not a prediction of task '{task}': {reason}"
            ) from error

    def _error(self, text: str, code: str, response: Response) -> errors.APIStatusError:
        status = _ENTRY_STATUS.get(code, 400)
        return errors.status_class(status, code)(
            text,
            status_code=status,
            code=code,
            model=self.model,
            request_id=response.request_id,
            attempts=response.attempts,
        )
