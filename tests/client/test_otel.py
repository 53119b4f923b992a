"""The OpenTelemetry middleware, with the real SDK's exporters in memory."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk", reason="needs the OpenTelemetry SDK")

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from aiaas_client import APIConnectionError, BadRequestError
from aiaas_client._api import oip as calls
from aiaas_client._api import writing
from aiaas_client._api.call import Call
from aiaas_client.otel import AsyncOpenTelemetryMiddleware, OpenTelemetryMiddleware
from tests.client.conftest import END


class Telemetry:
    """Providers that keep what they get."""

    def __init__(self) -> None:
        self._spans = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self._reader = InMemoryMetricReader()
        self.meters = MeterProvider([self._reader])

    def middleware(self, kind: str) -> list[Any]:
        make = OpenTelemetryMiddleware if kind.startswith("sync") else AsyncOpenTelemetryMiddleware
        return [make(self.tracers, self.meters)]

    def spans(self) -> Any:
        return self._spans.get_finished_spans()

    def metrics(self) -> dict[str, list[Any]]:
        data: Any = self._reader.get_metrics_data()
        found = data.resource_metrics[0].scope_metrics[0].metrics
        return {metric.name: list(metric.data.data_points) for metric in found}

    def durations(self) -> list[Any]:
        data: Any = self._reader.get_metrics_data()
        (metric,) = data.resource_metrics[0].scope_metrics[0].metrics
        assert (metric.name, metric.unit) == ("http.client.request.duration", "s")
        return list(metric.data.data_points)


@pytest.fixture
def telemetry() -> Any:
    """Fresh providers."""
    one = Telemetry()
    yield one
    one.tracers.shutdown()
    one.meters.shutdown()


def test_each_attempt_is_a_span_that_goes_on_in_the_server(
    kind: str, call_through: Any, wire: Any, steps: Any, fake_clock: Any, telemetry: Any
) -> None:
    server = wire(steps.answer(503, {"error": "busy"}), steps.answer(body={}))
    middleware = telemetry.middleware(kind)
    with call_through(kind, server.url, middleware=middleware, retry=fake_clock.policy()) as caller:
        caller.send(calls.config("m", 2))
    first, second = telemetry.spans()
    assert first.name == second.name == "GET /v2/models/{model}/config"
    assert first.kind is SpanKind.CLIENT
    assert first.status.status_code is StatusCode.ERROR
    assert first.attributes["error.type"] == "503"
    assert second.status.status_code is StatusCode.UNSET
    assert second.attributes["http.response.status_code"] == 200
    assert second.attributes["http.request.resend_count"] == 1
    assert second.attributes["aiaas.model"] == "m"
    assert second.attributes["aiaas.model_version"] == "2"
    assert second.attributes["server.address"] == "127.0.0.1"
    for span, received in zip((first, second), server.received, strict=True):
        trace_id, span_id = received.headers["traceparent"].split("-")[1:3]
        assert int(trace_id, 16) == span.context.trace_id
        assert int(span_id, 16) == span.context.span_id


def test_attempts_belong_to_the_span_around_the_call(
    kind: str, call_through: Any, wire: Any, telemetry: Any
) -> None:
    tracer = telemetry.tracers.get_tracer("test")
    with (
        call_through(kind, wire().url, middleware=telemetry.middleware(kind)) as caller,
        tracer.start_as_current_span("outer") as outer,
    ):
        caller.send(calls.server_metadata())
    inner, _ = telemetry.spans()
    assert inner.name == "GET /v2"
    assert inner.parent.span_id == outer.get_span_context().span_id


def test_durations_are_counted_by_outcome(
    kind: str, call_through: Any, wire: Any, steps: Any, fake_clock: Any, telemetry: Any
) -> None:
    server = wire(steps.answer(503, {"error": "busy"}))
    middleware = telemetry.middleware(kind)
    with call_through(kind, server.url, middleware=middleware, retry=fake_clock.policy()) as caller:
        for _ in range(3):
            caller.send(calls.server_metadata())
    counts = {
        point.attributes["http.response.status_code"]: point.count
        for point in telemetry.durations()
    }
    assert counts == {503: 1, 200: 3}


def test_a_failure_without_an_answer_is_told_by_its_kind(
    kind: str, call_through: Any, dead_url: str, fake_clock: Any, telemetry: Any
) -> None:
    middleware = telemetry.middleware(kind)
    policy = fake_clock.policy(max_retries=0)
    with (
        call_through(kind, dead_url, middleware=middleware, retry=policy) as caller,
        pytest.raises(APIConnectionError),
    ):
        caller.send(calls.server_metadata())
    (span,) = telemetry.spans()
    assert span.attributes["error.type"] == "APIConnectionError"
    assert span.status.status_code is StatusCode.ERROR
    (point,) = telemetry.durations()
    assert point.attributes["error.type"] == "APIConnectionError"


@pytest.mark.parametrize(
    ("path", "model", "name"),
    [
        ("/v2/models/mine/infer", "mine", "POST /v2/models/{model}/infer"),
        ("/v2/models/mine/versions/3/infer", "mine", "POST /v2/models/{model}/infer"),
        ("/v2/models/mine", "mine", "POST /v2/models/{model}"),
        ("/v1/models/mine/versions/3:predict", "mine", "POST /v1/models/{model}/predict"),
        ("/v2/repository/models/mine/load", "mine", "POST /v2/repository/models/{model}/load"),
        ("/v2/repository/index", None, "POST /v2/repository/index"),
        ("/v2/models/mine/infer?x=1", None, "POST"),
    ],
)
def test_no_name_of_a_model_is_in_the_name_of_a_span(
    kind: str,
    call_through: Any,
    wire: Any,
    telemetry: Any,
    path: str,
    model: str | None,
    name: str,
) -> None:
    call: Call[None] = Call("POST", path, lambda response: None, model=model)
    with call_through(kind, wire().url, middleware=telemetry.middleware(kind)) as caller:
        caller.send(call)
    assert [span.name for span in telemetry.spans()] == [name]


def test_a_stream_is_a_span_up_to_its_head(
    kind: str, call_through: Any, wire: Any, steps: Any, telemetry: Any
) -> None:
    server = wire(steps.events('{"y": 1}'))
    with call_through(kind, server.url, middleware=telemetry.middleware(kind)) as caller:
        take, close = caller.stream(calls.generate_stream("m", None, {"x": 1}))
        assert take() == {"y": 1}
        close()
    (span,) = telemetry.spans()
    assert span.name == "POST /v2/models/{model}/generate_stream"
    assert span.attributes["http.response.status_code"] == 200


COMPLETION = {
    "choices": [{"message": {"content": "hi"}, "finish_reason": "length"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
}


def test_what_a_model_writes_has_the_names_of_generative_ai(
    kind: str, call_through: Any, wire: Any, steps: Any, telemetry: Any
) -> None:
    server = wire(steps.answer(body=COMPLETION), steps.answer(400, {"error": "no"}))
    with call_through(kind, server.url, middleware=telemetry.middleware(kind)) as caller:
        caller.send(writing.chat("m", "hello", None, {}))
        with pytest.raises(BadRequestError):
            caller.send(writing.completion("m", "hello", {}))
    chat, text = telemetry.spans()
    assert (chat.name, text.name) == ("chat m", "text_completion m")
    assert chat.attributes["gen_ai.request.model"] == "m"
    assert chat.attributes["gen_ai.usage.input_tokens"] == 3
    assert chat.attributes["gen_ai.usage.output_tokens"] == 1
    assert chat.attributes["gen_ai.response.finish_reasons"] == ("length",)
    assert text.attributes["error.type"] == "400"
    metrics = telemetry.metrics()
    tokens = metrics["gen_ai.client.token.usage"]
    told = {point.attributes["gen_ai.token.type"]: point.sum for point in tokens}
    assert told == {"input": 3, "output": 1}
    operations = [one.attributes for one in metrics["gen_ai.client.operation.duration"]]
    assert [one["gen_ai.operation.name"] for one in operations] == ["chat", "text_completion"]
    assert operations[1]["error.type"] == "400"
    assert "aiaas.model" not in operations[0]


def test_of_a_stream_the_beginning_is_told(
    kind: str, call_through: Any, wire: Any, steps: Any, telemetry: Any
) -> None:
    server = wire(steps.events('{"choices": []}', "[DONE]"))
    with call_through(kind, server.url, middleware=telemetry.middleware(kind)) as caller:
        take, _ = caller.stream(writing.chat_stream("m", "hello", None, {})[0])
        assert take().choices == []
        assert take() is END
    (span,) = telemetry.spans()
    assert span.name == "chat m"
    assert "gen_ai.usage.input_tokens" not in span.attributes
    first = "gen_ai.client.operation.time_to_first_chunk"
    metrics = telemetry.metrics()
    assert set(metrics) == {"http.client.request.duration", first}
    (point,) = metrics[first]
    assert point.count == 1
    assert point.attributes["gen_ai.operation.name"] == "chat"
