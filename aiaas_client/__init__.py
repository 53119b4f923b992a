"""The SDK of AIaaS: call models on a server, or in this process, from Python.

    from aiaas_client import Client

    client = Client("http://127.0.0.1:8000")
    result = client.model("digits").infer(x=array)

`Client` is for threads, `AsyncClient` for asyncio; they have the same names. The public names are
loaded when first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiaas_client._async_client import (
        AsyncClient,
    )
    from aiaas_client._async_model import (
        AsyncModel,
    )
    from aiaas_client._batcher import (
        AsyncBatcher,
        Batcher,
    )
    from aiaas_client._breaker import (
        BreakerPolicy,
    )
    from aiaas_client._calls import (
        Response,
    )
    from aiaas_client._client import (
        Client,
    )
    from aiaas_client._config import (
        Clock,
        Limits,
        Timeouts,
    )
    from aiaas_client._errors import (
        AiaasError,
        APIConnectionError,
        APIStatusError,
        APITimeoutError,
        AuthenticationError,
        BadGatewayError,
        BadRequestError,
        BulkError,
        CircuitOpenError,
        ClientClosedError,
        ConfigurationError,
        ConflictError,
        ControlDisabledError,
        DeadlineExceededError,
        DrainingError,
        DtypeError,
        GatewayTimeoutError,
        HeadersTooLargeError,
        InferenceFailedError,
        InputError,
        InternalServerError,
        LoadFailedError,
        MethodNotAllowedError,
        MissingInputError,
        ModelNotFoundError,
        ModelNotReadyError,
        ModelUnavailableError,
        NotFoundError,
        NotSupportedError,
        OutputTooLargeError,
        PayloadTooLargeError,
        PermissionDeniedError,
        PoolTimeoutError,
        ProtocolError,
        QueueFullError,
        QueueTimeoutError,
        RateLimitError,
        RequestTimeoutError,
        ServerDeadlineError,
        ServiceUnavailableError,
        ShapeError,
        TooManyConnectionsError,
        UnknownInputError,
        UnprocessableError,
        UnsupportedMediaTypeError,
        UriTooLongError,
        VersionNotFoundError,
    )
    from aiaas_client._middleware import (
        AsyncMiddleware,
        Middleware,
    )
    from aiaas_client._model import (
        Model,
    )
    from aiaas_client._resources import (
        AsyncModels,
        Models,
        RawResponse,
    )
    from aiaas_client._result import (
        InferResult,
        Timing,
    )
    from aiaas_client._retry import (
        RetryPolicy,
    )
    from aiaas_client._tasks import (
        AsyncTaskModel,
        AsyncTextEmbeddingModel,
        TaskModel,
        TextEmbeddingModel,
    )
    from aiaas_client._wire import (
        AsyncTransport,
        Transport,
        WireRequest,
    )
    from aiaas_client.protocol.errors import (
        ErrorCode,
    )
    from aiaas_client.protocol.messages import (
        ModelMetadata,
        ModelStatistics,
        RepositoryEntry,
        ServerMetadata,
        TensorMetadata,
    )
    from aiaas_client.protocol.predictions import (
        Box,
        Classification,
        Detections,
        Embedding,
        FileType,
        GeneratedText,
        ImageClassification,
        Label,
        OcrLine,
        OcrText,
        Prediction,
        Ranked,
        Ranking,
        Record,
        Regression,
        Segment,
        Segments,
        Similarity,
        Speech,
        Transcript,
    )

_HOMES = {
    "_async_client": ("AsyncClient",),
    "_async_model": ("AsyncModel",),
    "_batcher": (
        "AsyncBatcher",
        "Batcher",
    ),
    "_breaker": ("BreakerPolicy",),
    "_calls": ("Response",),
    "_client": ("Client",),
    "_config": (
        "Clock",
        "Limits",
        "Timeouts",
    ),
    "_errors": (
        "APIConnectionError",
        "APIStatusError",
        "APITimeoutError",
        "AiaasError",
        "AuthenticationError",
        "BadGatewayError",
        "BadRequestError",
        "BulkError",
        "CircuitOpenError",
        "ClientClosedError",
        "ConfigurationError",
        "ConflictError",
        "ControlDisabledError",
        "DeadlineExceededError",
        "DrainingError",
        "DtypeError",
        "GatewayTimeoutError",
        "HeadersTooLargeError",
        "InferenceFailedError",
        "InputError",
        "InternalServerError",
        "LoadFailedError",
        "MethodNotAllowedError",
        "MissingInputError",
        "ModelNotFoundError",
        "ModelNotReadyError",
        "ModelUnavailableError",
        "NotFoundError",
        "NotSupportedError",
        "OutputTooLargeError",
        "PayloadTooLargeError",
        "PermissionDeniedError",
        "PoolTimeoutError",
        "ProtocolError",
        "QueueFullError",
        "QueueTimeoutError",
        "RateLimitError",
        "RequestTimeoutError",
        "ServerDeadlineError",
        "ServiceUnavailableError",
        "ShapeError",
        "TooManyConnectionsError",
        "UnknownInputError",
        "UnprocessableError",
        "UnsupportedMediaTypeError",
        "UriTooLongError",
        "VersionNotFoundError",
    ),
    "_middleware": (
        "AsyncMiddleware",
        "Middleware",
    ),
    "_model": ("Model",),
    "_resources": (
        "AsyncModels",
        "Models",
        "RawResponse",
    ),
    "_result": (
        "InferResult",
        "Timing",
    ),
    "_retry": ("RetryPolicy",),
    "_tasks": (
        "AsyncTaskModel",
        "AsyncTextEmbeddingModel",
        "TaskModel",
        "TextEmbeddingModel",
    ),
    "_wire": (
        "AsyncTransport",
        "Transport",
        "WireRequest",
    ),
    "protocol.errors": ("ErrorCode",),
    "protocol.messages": (
        "ModelMetadata",
        "ModelStatistics",
        "RepositoryEntry",
        "ServerMetadata",
        "TensorMetadata",
    ),
    "protocol.predictions": (
        "Box",
        "Classification",
        "Detections",
        "Embedding",
        "FileType",
        "GeneratedText",
        "ImageClassification",
        "Label",
        "OcrLine",
        "OcrText",
        "Prediction",
        "Ranked",
        "Ranking",
        "Record",
        "Regression",
        "Segment",
        "Segments",
        "Similarity",
        "Speech",
        "Transcript",
    ),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "APIConnectionError",
    "APIStatusError",
    "APITimeoutError",
    "AiaasError",
    "AsyncBatcher",
    "AsyncClient",
    "AsyncMiddleware",
    "AsyncModel",
    "AsyncModels",
    "AsyncTaskModel",
    "AsyncTextEmbeddingModel",
    "AsyncTransport",
    "AuthenticationError",
    "BadGatewayError",
    "BadRequestError",
    "Batcher",
    "Box",
    "BreakerPolicy",
    "BulkError",
    "CircuitOpenError",
    "Classification",
    "Client",
    "ClientClosedError",
    "Clock",
    "ConfigurationError",
    "ConflictError",
    "ControlDisabledError",
    "DeadlineExceededError",
    "Detections",
    "DrainingError",
    "DtypeError",
    "Embedding",
    "ErrorCode",
    "FileType",
    "GatewayTimeoutError",
    "GeneratedText",
    "HeadersTooLargeError",
    "ImageClassification",
    "InferResult",
    "InferenceFailedError",
    "InputError",
    "InternalServerError",
    "Label",
    "Limits",
    "LoadFailedError",
    "MethodNotAllowedError",
    "Middleware",
    "MissingInputError",
    "Model",
    "ModelMetadata",
    "ModelNotFoundError",
    "ModelNotReadyError",
    "ModelStatistics",
    "ModelUnavailableError",
    "Models",
    "NotFoundError",
    "NotSupportedError",
    "OcrLine",
    "OcrText",
    "OutputTooLargeError",
    "PayloadTooLargeError",
    "PermissionDeniedError",
    "PoolTimeoutError",
    "Prediction",
    "ProtocolError",
    "QueueFullError",
    "QueueTimeoutError",
    "Ranked",
    "Ranking",
    "RateLimitError",
    "RawResponse",
    "Record",
    "Regression",
    "RepositoryEntry",
    "RequestTimeoutError",
    "Response",
    "RetryPolicy",
    "Segment",
    "Segments",
    "ServerDeadlineError",
    "ServerMetadata",
    "ServiceUnavailableError",
    "ShapeError",
    "Similarity",
    "Speech",
    "TaskModel",
    "TensorMetadata",
    "TextEmbeddingModel",
    "Timeouts",
    "Timing",
    "TooManyConnectionsError",
    "Transcript",
    "Transport",
    "UnknownInputError",
    "UnprocessableError",
    "UnsupportedMediaTypeError",
    "UriTooLongError",
    "VersionNotFoundError",
    "WireRequest",
]


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
