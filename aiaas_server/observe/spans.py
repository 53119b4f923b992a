"""OpenTelemetry spans of requests: an observer, switched on by `otel`; needs the extra `tracing`.

A span covers a request from its acceptance to its answer and goes on with the caller's trace.
OpenTelemetry is imported here and nowhere else, when the observer is made.
"""

from __future__ import annotations

import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from aiaas_server.core.events import InferenceRecord

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.trace import TracerProvider

_SCOPE = "aiaas_server"
_NEEDED = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")


def missing_package() -> str:
    """The first package that `SpanObserver` needs and cannot find; "" when all are there."""
    for name in _NEEDED:
        try:
            found = find_spec(name)
        except ModuleNotFoundError:  # a package above it
            found = None
        if found is None:
            return name
    return ""


class SpanObserver:
    """Makes one span of every record.

    Args:
        provider: Where spans go. By default the global one; where that has not been set, one that
            exports by OTLP to where the `OTEL_EXPORTER_OTLP_*` variables say.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = trace.get_tracer(_SCOPE, tracer_provider=provider or _exporting())
        self._extract = TraceContextTextMapPropagator().extract
        self._kind = trace.SpanKind.SERVER
        self._failed = trace.Status(trace.StatusCode.ERROR)

    def __call__(self, record: InferenceRecord) -> None:
        """Start and end the request's span at the times it had."""
        ended = time.time_ns()
        caller = record.caller
        context = None
        if caller.traceparent:
            carrier = {"traceparent": caller.traceparent, "tracestate": caller.tracestate}
            context = self._extract(carrier)
        span = self._tracer.start_span(
            "infer",  # a name that holds a model would be one of any number
            context=context,
            kind=self._kind,
            attributes=_attributes(record),
            start_time=ended - round(record.total_seconds * 1e9),
        )
        if record.failure is not None:
            span.set_attribute("error.type", record.failure)
            span.set_status(self._failed)
        span.end(ended)


def _attributes(record: InferenceRecord) -> dict[str, Any]:
    found = {
        "aiaas.model": record.model,
        "aiaas.model_version": str(record.version),
        "aiaas.request_id": record.caller.request_id,
        "aiaas.rows": record.units.rows,
        "aiaas.batch_rows": record.batch_rows,
        "aiaas.queue_seconds": record.queue_seconds,
        "aiaas.compute_seconds": record.compute_seconds,
    }
    if (
        record.units.tokens_in or record.units.tokens_out
    ):  # of OpenTelemetry's conventions for models that generate
        found |= {
            "gen_ai.operation.name": "generate_content",
            "gen_ai.provider.name": "aiaas",
            "gen_ai.request.model": record.model,
            "gen_ai.response.model": record.model,
            "gen_ai.usage.input_tokens": record.units.tokens_in,
            "gen_ai.usage.output_tokens": record.units.tokens_out,
        }
    return found


def described(found: Resource) -> Resource:
    """What the environment says of this process, called `aiaas` where it gives no name."""
    if not str(found.attributes.get("service.name", "unknown_service")).startswith("unknown_"):
        return found
    return found.merge(type(found)({"service.name": "aiaas"}))


def _exporting() -> TracerProvider:
    """The global provider, set to export by OTLP if nobody has set it."""
    from opentelemetry import trace

    found = trace.get_tracer_provider()
    if not isinstance(found, trace.ProxyTracerProvider):
        return found
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider as SdkProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = SdkProvider(resource=described(Resource.create()))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider
