"""Every request becomes a span that goes on with the caller's trace."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from aiaas_server.app import create_app
from aiaas_server.core.events import InferenceRecord, Units
from aiaas_server.observe.spans import SpanObserver, described
from aiaas_server.settings import Settings
from tests.server.http.serving import AsgiCaller

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 4], "data": [1.0] * 8}]}
PATH = "/v2/models/scale/infer"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def observer(exporter: InMemorySpanExporter) -> SpanObserver:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return SpanObserver(provider)


async def test_a_span_has_the_callers_trace_and_what_was_measured(
    make_repository: Any,
    onnx_models: SimpleNamespace,
    exporter: InMemorySpanExporter,
    observer: SpanObserver,
) -> None:
    settings = Settings(models=make_repository({"scale": onnx_models.scale()}))
    headers = {
        "traceparent": f"00-{TRACE}-{PARENT}-01",
        "tracestate": "vendor=1",
        "x-request-id": "mine",
    }
    async with create_app(settings, observers=[observer]) as app:
        call = AsgiCaller(app)
        assert (await call("POST", PATH, BODY, headers)).status == 200
        generate = "/v2/models/scale/generate"
        assert (await call("POST", generate, {"x": [1, 2, 3, 4]}, headers)).status == 200
    for span in exporter.get_finished_spans():
        assert (span.name, span.kind) == ("infer", SpanKind.SERVER)
        assert f"{span.context.trace_id:032x}" == TRACE
        assert f"{span.parent.span_id:016x}" == PARENT
        assert span.context.trace_state["vendor"] == "1"
        told = span.attributes or {}
        assert (told["aiaas.model"], told["aiaas.model_version"]) == ("scale", "1")
        assert told["aiaas.request_id"] == "mine"
        assert told["aiaas.batch_rows"] == told["aiaas.rows"]
        spent = (span.end_time or 0) - (span.start_time or 0)
        inside = told["aiaas.queue_seconds"] + told["aiaas.compute_seconds"]
        assert 0 < inside * 1e9 <= spent + 1000  # starts are rounded to nanoseconds
    assert len(exporter.get_finished_spans()) == 2


async def test_a_request_without_a_trace_starts_one_and_has_its_own_id(
    make_repository: Any,
    onnx_models: SimpleNamespace,
    exporter: InMemorySpanExporter,
    observer: SpanObserver,
) -> None:
    settings = Settings(models=make_repository({"scale": onnx_models.scale()}))
    async with create_app(settings, observers=[observer]) as app:
        answer = await AsgiCaller(app)("POST", PATH, BODY, {"traceparent": "00-zz-1-01"})
    (span,) = exporter.get_finished_spans()
    assert span.parent is None
    assert (span.attributes or {})["aiaas.request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("given", "name"),
    [("unknown_service:python", "aiaas"), ("mine", "mine")],
    ids=["no name", "a name of the environment's"],
)
def test_the_service_has_a_name(given: str, name: str) -> None:
    found = Resource({"service.name": given, "host.name": "here"})
    assert described(found).attributes == {"service.name": name, "host.name": "here"}


def test_a_failure_is_an_error(exporter: InMemorySpanExporter, observer: SpanObserver) -> None:
    observer(InferenceRecord("m", 1, Units(1), 0, 0.5, 0.0, 0.5, "REJECTED"))
    (span,) = exporter.get_finished_spans()
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "REJECTED"
    assert (span.end_time or 0) - (span.start_time or 0) == 500_000_000


def test_an_answer_of_a_language_model_has_its_tokens(
    exporter: InMemorySpanExporter, observer: SpanObserver
) -> None:
    observer(InferenceRecord("m", 1, Units(1, 12, 34), 8, 0.0, 0.5, 0.5, None))
    observer(InferenceRecord("plain", 1, Units(1), 8, 0.0, 0.5, 0.5, None))
    spoken, plain = exporter.get_finished_spans()
    told = {key: value for key, value in (spoken.attributes or {}).items() if "gen_ai" in key}
    assert told["gen_ai.request.model"] == "m"
    assert (told["gen_ai.usage.input_tokens"], told["gen_ai.usage.output_tokens"]) == (12, 34)
    assert not any(key.startswith("gen_ai") for key in plain.attributes or {})
