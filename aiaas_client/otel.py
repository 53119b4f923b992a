"""OpenTelemetry for the SDK: a span and a duration for every attempt; needs the extra `otel`.

    from aiaas_client.otel import OpenTelemetryMiddleware

    client = Client("http://127.0.0.1:8000", middleware=[OpenTelemetryMiddleware()])

The trace goes on in the server: its context travels in `traceparent`. Names follow the semantic
conventions for HTTP clients; the model called is `aiaas.model`. Chats and completions have the
names for generative AI besides: `gen_ai.operation.name`, `gen_ai.request.model`, and of an answer
that comes as a whole its tokens and its duration. Of a stream the time to its first chunk is told,
with which its head comes; what it takes altogether is known to its reader alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from aiaas_client._errors import ConfigurationError

try:
    from opentelemetry import metrics, propagate, trace
except ModuleNotFoundError as missing:
    raise ConfigurationError(
        'tracing needs the extra otel: pip install "aiaas-client[otel]"'
    ) from missing

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

    from aiaas_client._api.call import Response
    from aiaas_client._send.middleware import AsyncSend, Send
    from aiaas_client._transport.wire import WireRequest

__all__ = ["AsyncOpenTelemetryMiddleware", "OpenTelemetryMiddleware"]

Attributes = dict[str, str | int]
Value = str | int | list[str]
_SCOPE = "aiaas_client"
_WITHOUT_MODEL = frozenset(
    {
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/repository/index",
        "/v2/models/stats",
        "/v1/audio/transcriptions",  # which name the model in the body
    }
)
_GENERATIONS = {"/v1/chat/completions": "chat", "/v1/completions": "text_completion"}
_VERBS = frozenset(
    {
        "infer",
        "predict",
        "generate",
        "generate_stream",
        "ready",
        "config",
        "stats",
        "load",
        "unload",
    }
)
_TOKEN_BUCKETS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576)
_GENERATION_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48,
                       40.96, 81.92)  # fmt: skip
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class _Attempt:
    """One span, and what to say at its end."""

    def __init__(self, span: Span, attributes: Attributes) -> None:
        self._span = span
        self._attributes = attributes
        self.body = bytearray()

    def answered(self, response: Response) -> None:
        self.body = response.body
        self.tell("http.response.status_code", response.status)
        if response.status >= 400:
            self.failed(str(response.status))

    def failed(self, kind: str) -> None:
        self.tell("error.type", kind)
        self._span.set_status(trace.StatusCode.ERROR)

    def tell(self, key: str, value: str | int) -> None:
        self._attributes[key] = value
        self.describe(key, value)

    def describe(self, key: str, value: Value) -> None:
        """Say something that only the span has: its values are many."""
        self._span.set_attribute(key, value)


class _Instruments:
    """The tracer and the histogram, and the frame that both flavours put around an attempt."""

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self._tracer = trace.get_tracer(_SCOPE, tracer_provider=tracer_provider)
        meter = metrics.get_meter(_SCOPE, meter_provider=meter_provider)
        self._duration = meter.create_histogram(
            "http.client.request.duration",
            unit="s",
            description="Duration of one attempt of a call.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self._operation = meter.create_histogram(
            "gen_ai.client.operation.duration",
            unit="s",
            description="Duration of one attempt to have a model write.",
            explicit_bucket_boundaries_advisory=_GENERATION_BUCKETS,
        )
        self._first_chunk = meter.create_histogram(
            "gen_ai.client.operation.time_to_first_chunk",
            unit="s",
            description="Time to the beginning of a stream.",
            explicit_bucket_boundaries_advisory=_GENERATION_BUCKETS,
        )
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            unit="{token}",
            description="Tokens of the prompt and of the answer.",
            explicit_bucket_boundaries_advisory=_TOKEN_BUCKETS,
        )

    @contextmanager
    def _around(self, request: WireRequest) -> Iterator[_Attempt]:
        measured, generating = _measured(request), _generating(request)
        name = f"{request.method} {_route(request)}".rstrip()
        if generating:
            name = f"{generating['gen_ai.operation.name']} {request.call.model}"
        attributes = {**measured, **_detail(request), **generating}
        with self._tracer.start_as_current_span(
            name, kind=trace.SpanKind.CLIENT, attributes=attributes
        ) as span:
            _propagate(request)
            attempt = _Attempt(span, measured)
            began = time.perf_counter()
            try:
                yield attempt
            except BaseException as error:
                attempt.failed(type(error).__qualname__)
                raise
            finally:
                took = time.perf_counter() - began
                self._duration.record(took, measured)
                if generating:
                    self._generated(attempt, {**measured, **generating}, took)

    def _generated(self, attempt: _Attempt, measured: Attributes, took: float) -> None:
        """Record what a model wrote, or when a stream of it began."""
        common = {name: value for name, value in measured.items() if name not in _HTTP_ONLY}
        if "error.type" not in measured and not attempt.body:
            self._first_chunk.record(took, common)
            return
        self._operation.record(took, common)
        if "error.type" in measured:
            return
        told = _document(attempt.body)
        choices, usage = told.get("choices"), told.get("usage")
        if isinstance(choices, list):
            reasons = [str(one.get("finish_reason")) for one in choices if isinstance(one, dict)]
            attempt.describe("gen_ai.response.finish_reasons", reasons)
        if not isinstance(usage, dict):
            return
        for kind, member in (("input", "prompt_tokens"), ("output", "completion_tokens")):
            count = usage.get(member)
            if isinstance(count, int):
                attempt.describe(f"gen_ai.usage.{kind}_tokens", count)
                self._tokens.record(count, {**common, "gen_ai.token.type": kind})


def _measured(request: WireRequest) -> Attributes:
    """Attributes of few values: those of the histogram too."""
    parts = urlsplit(request.base_url)
    attributes: Attributes = {
        "http.request.method": request.method,
        "server.address": parts.hostname or request.base_url,
    }
    if parts.port is not None:
        attributes["server.port"] = parts.port
    if request.call.model is not None:
        attributes["aiaas.model"] = request.call.model
    return attributes


_HTTP_ONLY = frozenset({"http.request.method", "http.response.status_code", "aiaas.model"})


def _generating(request: WireRequest) -> Attributes:
    """The names for generative AI, of a call that has a model write; else none."""
    operation = _GENERATIONS.get(request.path)
    if operation is None or request.call.model is None:
        return {}
    return {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "aiaas",
        "gen_ai.request.model": request.call.model,
    }


def _document(body: bytearray) -> Mapping[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:  # whoever reads the answer says so
        return {}
    return found if isinstance(found, dict) else {}


def _detail(request: WireRequest) -> Attributes:
    attributes: Attributes = {
        "url.full": request.base_url + request.path,
        "http.request.body.size": request.content_length,
        "aiaas.request_id": request.request_id,
    }
    if request.attempt > 1:
        attributes["http.request.resend_count"] = request.attempt - 1
    if request.call.version is not None:
        attributes["aiaas.model_version"] = str(request.call.version)
    return attributes


def _route(request: WireRequest) -> str:
    """The path without what varies, so that spans of one kind share a name."""
    path = request.path.partition("?")[0]
    steps = path.split("/")
    if request.call.model is None or "models" not in steps:
        return path if path in _WITHOUT_MODEL else ""
    # "/v2/models/m/infer", "/v1/models/m:predict", "/v2/repository/models/m/load"
    steps[steps.index("models") + 1 :] = ["{model}", *_verb(steps[-1])]
    return "/".join(steps)


def _verb(last: str) -> list[str]:
    """The last step of a path, if it says what is done and names nothing."""
    _, _, verb = last.rpartition(":")
    return [verb] if verb in _VERBS else []


def _propagate(request: WireRequest) -> None:
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    request.headers.extend((key.encode(), value.encode()) for key, value in carrier.items())


class OpenTelemetryMiddleware(_Instruments):
    """Middleware for `Client`.

    Args:
        tracer_provider: By default the global one.
        meter_provider: By default the global one.
    """

    def __call__(self, request: WireRequest, send: Send) -> Response:
        with self._around(request) as attempt:
            response = send(request)
            attempt.answered(response)
            return response


class AsyncOpenTelemetryMiddleware(_Instruments):
    """Middleware for `AsyncClient`.

    Args:
        tracer_provider: By default the global one.
        meter_provider: By default the global one.
    """

    async def __call__(self, request: WireRequest, send: AsyncSend) -> Response:
        with self._around(request) as attempt:
            response = await send(request)
            attempt.answered(response)
            return response
