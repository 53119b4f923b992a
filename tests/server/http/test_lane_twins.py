"""The lane and the application, asked the same over one kind of connection, answer the same."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aiaas_server.app import create_app
from aiaas_server.http.edge.connection import make_protocol
from aiaas_server.observe.logging import AccessRecord
from aiaas_server.process import edge_limits
from aiaas_server.settings import Settings
from tests.server.http.edge_caller import EdgeCaller, Pipe, whole_answer
from tests.server.http.serving import Answer
from tests.task_bundles import write_repository
from tests.waiting import until

KEY = "k" * 32
INFER = "/v2/models/scale/infer"
ROW = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}
JSON_BODY = json.dumps({"inputs": [ROW]}).encode()
TENSOR = {"name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}}
TEXT = json.dumps({"inputs": [TENSOR], "parameters": {"binary_data_output": True}}).encode()
BINARY_BODY = TEXT + np.arange(4, dtype="<f4").tobytes()
BINARY = f"inference-header-content-length: {len(TEXT)}"
AUTHORIZED = f"authorization: Bearer {KEY}"

_DIFFERS = re.compile(rb'"request_id":"[^"]*"')
_IDS = ("x-request-id", "date", "server-timing", "retry-after", "content-length")


def told(answer: Answer) -> Any:
    """What of an answer must be the same: all but ids, times, and what depends on their length."""
    headers = {name: value for name, value in answer.headers.items() if name not in _IDS}
    body = answer.body
    if answer.headers.get("content-type") == "application/json":
        body = _DIFFERS.sub(b"", body)
    named = sorted(name for name in answer.headers if name in _IDS)
    return answer.status, headers, named, body


class Twins:
    """Two servers of the same models: one with the lane, one without."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callers: list[EdgeCaller]) -> None:
        self.loop = loop
        self.callers = callers

    def ask(self, sent: bytes, *, times: int = 2, client: str = "127.0.0.1") -> list[Any]:
        """Send it to each, `times` on one connection; what each told, the lane's first."""
        return [self.loop.run_until_complete(self._ask(c, sent, times, client))
                for c in self.callers]  # fmt: skip

    async def _ask(self, caller: EdgeCaller, sent: bytes, times: int, client: str) -> Any:
        _, pipe = caller.connect(client)
        answers = []
        try:
            async with asyncio.timeout(120):
                for _ in range(times):
                    pipe.send(sent)
                    answers.append(told(await whole_answer(pipe)))
                    if pipe.is_closing() or answers[-1][1].get("connection") == "close":
                        break
        finally:
            pipe.close()
            await asyncio.sleep(0)
        return answers

    def page(self) -> list[Counter[str]]:
        """What each counts: the samples of the metrics page that no clock is in."""
        return [self.loop.run_until_complete(_counts(caller)) for caller in self.callers]


async def _counts(caller: EdgeCaller) -> Counter[str]:
    page = (await caller("GET", "/metrics", b"", {"x-api-key": KEY})).body.decode()
    wanted = ("nv_inference_request_success", "nv_inference_request_failure", "nv_inference_count",
              "nv_inference_exec_count", "nv_inference_pending", "aiaas_errors_total")  # fmt: skip
    lines = [line.split() for line in page.splitlines() if line.startswith(wanted)]
    return Counter({name: int(value) for name, value in lines})


@pytest.fixture(scope="module")
def twins(
    tmp_path_factory: pytest.TempPathFactory, onnx_models: SimpleNamespace
) -> Iterator[Twins]:
    root = write_repository(tmp_path_factory.mktemp("twins") / "models", onnx_models)
    (root / "scale.onnx").write_bytes(onnx_models.scale())
    (root / "text.onnx").write_bytes(onnx_models.identity("BYTES"))
    (root / "lookup.onnx").write_bytes(onnx_models.lookup())
    with asyncio.Runner() as runner:
        apps = [create_app(Settings(models=root, api_key=KEY)) for _ in range(2)]
        for app in apps:
            runner.run(app.start())
        callers = [EdgeCaller(app, lane=lane) for app, lane in zip(apps, (True, False))]  # noqa: B905
        yield Twins(runner.get_loop(), callers)
        for app in apps:
            runner.run(app.close())


def request(
    *lines: str, method: str = "POST", path: str = INFER, body: bytes = JSON_BODY, host: str = "a"
) -> bytes:
    """A whole request with the key."""
    length = [f"content-length: {len(body)}"] if method == "POST" else []
    head = "\r\n".join([f"{method} {path} HTTP/1.1", f"host: {host}", *length, *lines, "\r\n"])
    return head.encode("latin-1") + (body if method == "POST" else b"")


def test_the_lane_is_taken_by_the_one_and_not_by_the_other(twins: Twins) -> None:
    twins.ask(request(AUTHORIZED))
    lane, other = (caller.protocol.edge.heads._whole for caller in twins.callers)
    assert lane
    assert not other


CASES: dict[str, bytes] = {
    "json": request(AUTHORIZED),
    "binary": request(AUTHORIZED, BINARY, body=BINARY_BODY),
    "raw": request(AUTHORIZED, "inference-header-content-length: 0", body=BINARY_BODY[-16:]),
    "version": request(AUTHORIZED, path="/v2/models/scale/versions/1/infer"),
    "escaped path": request(AUTHORIZED, path="/v2/models/sc%61le/infer"),
    "empty query": request(AUTHORIZED, path=INFER + "?"),
    "query": request(AUTHORIZED, path=INFER + "?a=b"),
    "key in the query": request(AUTHORIZED, path=INFER + "?api_key=x"),
    "own id": request(AUTHORIZED, "x-request-id: mine"),
    "id that is none": request(AUTHORIZED, "x-request-id: a b"),
    "id in the body": request(AUTHORIZED, body=JSON_BODY[:-1] + b', "id": "7"}'),
    "trace": request(
        AUTHORIZED, "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    ),
    "no key": request(),
    "wrong key": request(f"authorization: Bearer {KEY[:-1]}x"),
    "key of another scheme": request(f"authorization: Basic {KEY}"),
    "both keys": request(AUTHORIZED, f"x-api-key: {KEY}"),
    "other header for the key": request(f"x-api-key: {KEY}"),
    "two keys": request(AUTHORIZED, AUTHORIZED),
    "unknown model": request(AUTHORIZED, path="/v2/models/nobody/infer"),
    "unknown version": request(AUTHORIZED, path="/v2/models/scale/versions/9/infer"),
    "long version": request(AUTHORIZED, path=f"/v2/models/scale/versions/{'9' * 30}/infer"),
    "bad json": request(AUTHORIZED, body=b"{"),
    "no body": request(AUTHORIZED, body=b""),
    "wrong shape": request(AUTHORIZED, body=JSON_BODY.replace(b"[1, 4]", b"[2, 4]")),
    "wrong input": request(AUTHORIZED, body=JSON_BODY.replace(b'"x"', b'"z"')),
    "long name": request(AUTHORIZED, body=JSON_BODY.replace(b'"x"', b'"%b"' % (b"z" * 9000))),
    "wrong header length": request(
        AUTHORIZED, "inference-header-content-length: 9999", body=BINARY_BODY
    ),
    "header length that is none": request(AUTHORIZED, "inference-header-content-length: x"),
    "too few bytes": request(AUTHORIZED, BINARY, body=BINARY_BODY[:-1]),
    "deadline": request(AUTHORIZED, "x-request-timeout-ms: 20000"),
    "deadline that is none": request(AUTHORIZED, "x-request-timeout-ms: soon"),
    "deadline too long": request(AUTHORIZED, "x-request-timeout-ms: 999999999"),
    "gzip wanted": request(AUTHORIZED, "accept-encoding: gzip"),
    "no identity wanted": request(AUTHORIZED, "accept-encoding: identity;q=0"),
    "coding": request(AUTHORIZED, "content-encoding: identity"),
    "unknown coding": request(AUTHORIZED, "content-encoding: br"),
    "another content type": request(AUTHORIZED, "content-type: text/plain"),
    "expectation": request(AUTHORIZED, "expect: something"),
    "close": request(AUTHORIZED, "connection: close"),
    "upgrade": request(AUTHORIZED, "connection: upgrade", "upgrade: h2c"),
    "get of infer": request(AUTHORIZED, method="GET"),
    "put of infer": request(AUTHORIZED, method="PUT"),
    "live": request(method="GET", path="/v2/health/live"),
    "live with a wrong key": request("x-api-key: x", method="GET", path="/v2/health/live"),
    "live with a wrong deadline": request(
        "x-request-timeout-ms: x", method="GET", path="/v2/health/live"
    ),
    "ready": request(method="GET", path="/v2/health/ready"),
    "ready with a query": request(method="GET", path="/v2/health/ready?a"),
    "ready by post": request(AUTHORIZED, path="/v2/health/ready"),
    "a run that fails": request(
        AUTHORIZED,
        path="/v2/models/lookup/infer",
        body=b'{"inputs": [{"name": "index", "datatype": "INT64", "shape": [1, 1], "data": [99]}]}',
    ),
    "shared memory": request(
        AUTHORIZED,
        body=b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": '
        b'{"shared_memory_region": "r", "shared_memory_byte_size": 16}}]}',
    ),
    "shared memory of an output": request(
        AUTHORIZED,
        body=JSON_BODY[:-1] + b', "outputs": [{"name": "y", "parameters": '
        b'{"shared_memory_region": "r", "shared_memory_byte_size": 16}}]}',
    ),
    "prediction": request(
        AUTHORIZED, path="/predict", body=b'{"model": "moods", "text": "good film"}'
    ),
    "prediction that escapes": request(
        AUTHORIZED, path="/predict", body=b'{"model": "moods", "text": "\\ud800"}'
    ),
    "prediction of nobody": request(
        AUTHORIZED, path="/predict", body=b'{"model": "nobody", "text": "good film"}'
    ),
    "prediction of nothing": request(AUTHORIZED, path="/predict", body=b'{"model": "moods"}'),
    "prediction without a key": request(path="/predict", body=b'{"model": "moods", "text": "a"}'),
    "instances": request(
        AUTHORIZED, path="/v1/models/moods:predict", body=b'{"instances": ["good film", "bad"]}'
    ),
    "no instances": request(
        AUTHORIZED, path="/v1/models/moods:predict", body=b'{"instances": []}'
    ),
    "instances of another kind": request(
        AUTHORIZED, path="/v1/models/moods/versions/1:predict", body=b'{"instances": [1]}'
    ),
    "instances that are none": request(
        AUTHORIZED, path="/v1/models/moods/versions/7:predict", body=b'{"instances": ["a"]}'
    ),
    "large json": request(
        AUTHORIZED,
        body=json.dumps(
            {"inputs": [ROW | {"shape": [4000, 4], "data": [0.5] * 16000}]}
        ).encode(),
    ),
    "body past the parser": request(
        AUTHORIZED,
        body=json.dumps(
            {"inputs": [ROW | {"shape": [16000, 4], "data": [0.5] * 64000}]}
        ).encode(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("sent", CASES.values(), ids=CASES.keys())
def test_both_tell_and_count_the_same(twins: Twins, sent: bytes) -> None:
    before = twins.page()
    lane, other = twins.ask(sent, times=3)
    assert lane == other
    assert all(answer == lane[0] for answer in lane)
    counted = [now - then for now, then in zip(twins.page(), before, strict=True)]
    assert counted[0] == counted[1]


PATHS = st.sampled_from(
    [INFER, "/v2/models/nobody/infer", "/v2/models/scale/versions/1/infer", "/v2/health/live",
     "/v2/health/ready", "/v2/models/sc%61le/infer", INFER + "?", INFER + "?x=1", INFER + "/"]
)  # fmt: skip
VALUES = st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=20)
TOLD = ["close", "gzip", "identity", "chunked", "0", "5", KEY, "Bearer", "20000", "a", ""]
LINES = st.sampled_from(
    ["accept-encoding", "authorization", "connection", "content-encoding", "content-length",
     "content-type", "cookie", "expect", "host", "inference-header-content-length", "te",
     "traceparent", "tracestate", "transfer-encoding", "upgrade", "x-api-key", "x-request-id",
     "x-request-timeout-ms", "x y", "", "X-Request-Id", "X-Request-Timeout-Ms"]
).flatmap(
    lambda name: (
        VALUES | st.sampled_from(TOLD)
    ).map(lambda value: f"{name}: {value}")
)  # fmt: skip


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(
    method=st.sampled_from(["POST", "POST", "POST", "GET", "PUT"]),
    path=PATHS,
    lines=st.lists(LINES, max_size=4),
    with_key=st.booleans(),
    body=st.sampled_from([JSON_BODY, BINARY_BODY, b"", b"{"]),
    number=st.integers(0, 2**24 - 1),
)
def test_whatever_the_head_both_tell_the_same(
    twins: Twins, method: str, path: str, lines: list[str], with_key: bool, body: bytes, number: int
) -> None:
    lines = [AUTHORIZED, *lines] if with_key else lines
    sent = request(*lines, method=method, path=path, body=body)
    # Of an address of its own: who fails too often is told something else.
    client = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
    if any(_waits(line) for line in lines):
        return
    lane, other = twins.ask(sent, client=client)
    assert lane == other


def _waits(line: str) -> bool:
    """Whether a line announces what does not come, or leaves it to chance what is told."""
    name, _, value = line.partition(": ")
    late = name.lower() == "x-request-timeout-ms" and value.isdigit() and int(value) < 20_000
    return late or (name in {"content-length", "transfer-encoding"} and value != "")


# The log


async def test_the_access_log_of_both_is_the_same(
    make_repository: Any, onnx_models: SimpleNamespace
) -> None:
    root = make_repository({"scale": onnx_models.scale()})
    logs: list[list[AccessRecord]] = []
    for lane in (True, False):
        async with create_app(Settings(models=root, api_key=KEY)) as app:
            caller = EdgeCaller(app, lane=lane)
            records: list[AccessRecord] = []
            caller.protocol = make_protocol(
                edge_limits(app.settings), on_access=records.append, hot=app.hot if lane else None
            )
            for name in ("json", "binary", "own id", "escaped path", "no key", "bad json", "live",
                         "unknown model", "query", "gzip wanted", "get of infer"):  # fmt: skip
                _, pipe = caller.connect()
                for _ in range(2):
                    pipe.send(CASES[name])
                    answer = await whole_answer(pipe)
                    assert records[-1].request_id == answer.headers["x-request-id"]
                pipe.close()
            logs.append(records)
    assert len(logs[0]) == 22
    for one, other in zip(*logs, strict=True):
        assert one.duration > 0
        assert _lasting(one) == _lasting(other)


def _lasting(record: AccessRecord) -> AccessRecord:
    sent = 0 if record.status >= 400 else record.sent  # an error has an id in it
    return record._replace(duration=0, request_id="", sent=sent)


async def test_statistics_of_both_are_the_same(
    make_repository: Any, onnx_models: SimpleNamespace
) -> None:
    root = make_repository({"scale": onnx_models.scale()})
    told_by = []
    for lane in (True, False):
        async with create_app(Settings(models=root)) as app:
            caller = EdgeCaller(app, lane=lane)
            pipes: list[Pipe] = [caller.connect()[1] for _ in range(4)]
            for pipe in pipes:
                for _ in range(3):
                    pipe.send(CASES["binary"])
                    assert (await whole_answer(pipe)).status == 200
                pipe.send(CASES["wrong shape"])
                assert (await whole_answer(pipe)).status == 400
                pipe.close()
            await until(lambda app=app: app.pool.resolve("scale").statistics.pending == 0)
            statistics = app.pool.resolve("scale").statistics
            told_by.append(
                (statistics.success_count, statistics.inference_count, dict(statistics.failures))
            )
    assert told_by[0] == told_by[1]
    assert told_by[0][0] == 12


@pytest.mark.parametrize("name", ["X-Request-Id", "X-Request-Timeout-Ms", "traceparent"])
def test_an_empty_value_is_not_taken_for_none(twins: Twins, name: str) -> None:
    """The head is a known one but for the value, and another header has a value of its own."""
    good = {"X-Request-Id": "a", "X-Request-Timeout-Ms": "1000", "traceparent": "00-a-b-01"}
    for values in (good, good, {**good, name: ""}):
        own = [f"{key}: {value}" for key, value in values.items()]
        lane, other = twins.ask(request(AUTHORIZED, *own))
        assert lane == other
