"""The whole route table of real server processes, under every mode they can be started in.

What `test_route_table.py` asks of the application in process is asked here over the sockets that a
client would use: of one process or several, over TCP, TLS or a Unix socket, with a key, with a
memory budget, mounted in another application.
"""

from __future__ import annotations

import json
import signal
import ssl
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing import shared_memory
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import trustme

from tests.ports import free_port
from tests.server.http.test_route_table import (
    KEY,
    OF_MODEL,
    OF_VERSION,
    OPEN,
    TABLE,
    UNKNOWN,
    code_of,
)
from tests.server.process.asking import Asker, Place, count_errors
from tests.task_bundles import write_repository
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

MOUNTED = """
import socket, sys
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount
from aiaas_server.app import create_app
from aiaas_server.http.edge.connection import make_protocol
from aiaas_server.http.edge.limits import EdgeLimits
from aiaas_server.settings import Settings

app = create_app(Settings(models=sys.argv[sys.argv.index("--models") + 1]))
outer = Starlette(routes=[Mount("/ai", app=app)])

async def whole(scope, receive, send):  # a mounted application is sent no lifespan
    await (app if scope["type"] == "lifespan" else outer)(scope, receive, send)

listener = socket.create_server(("127.0.0.1", 0))
print(f"serving on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
http = make_protocol(EdgeLimits()) if EDGE else "auto"
config = uvicorn.Config(whole, http=http, ws="none", log_level="error", access_log=False)
uvicorn.Server(config).run([listener])
"""

# With the SDK alone: what would send the spans away is another package.
TRACED = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
import aiaas_server.serve
from aiaas_server.__main__ import main

trace.set_tracer_provider(TracerProvider())
aiaas_server.serve.missing_package = lambda: ""
main()
"""

# No setting says so: every request goes through the application.
WITHOUT_LANE = """
import aiaas_server.process
from aiaas_server.__main__ import main

make = aiaas_server.process.make_protocol
aiaas_server.process.make_protocol = lambda *given, hot, **named: make(*given, **named)
main()
"""


@dataclass(frozen=True)
class Mode:
    """How a server is started.

    Attributes:
        options: Of the command line; `{folder}` is a folder of the test's own.
        settings: As environment variables.
        code: Python that serves instead of the command.
        slow: Whether it takes long, or is much like another.
    """

    options: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    code: str = ""
    key: bool = False
    uds: bool = False
    tls: bool = False
    certified: bool = False
    cached: bool = False
    shared: bool = False
    workers: int = 1
    slow: bool = True

    @property
    def mounted(self) -> bool:
        return MOUNTED in self.code


BUDGET = ("--memory-budget", "500MiB")
MODES = {
    "key, json logs, metrics port": Mode(
        ("--json-logs", "--access-log", "--metrics-port", "{port}"), key=True, slow=False
    ),
    "workers 2, watch": Mode(("--workers", "2", "--watch"), workers=2, slow=False),
    "workers 3, key, budget": Mode(("--workers", "3", *BUDGET), key=True, workers=3),
    "watch": Mode(("--watch",), {"watch_interval": "0.05"}),
    "unix socket, budget": Mode(BUDGET, uds=True, slow=False),
    "unix socket, workers 2, key": Mode(("--workers", "2"), uds=True, key=True, workers=2),
    "mutual tls, key": Mode(tls=True, certified=True, key=True),
    "tls, workers 2": Mode(("--workers", "2"), tls=True, workers=2),
    "shared memory, workers 2": Mode(("--shared-memory", "--workers", "2"), shared=True, workers=2),
    "response cache, budget, watch": Mode((*BUDGET, "--watch"), cached=True),
    "some models": Mode(
        tuple(
            part
            for name in ("table", "moods", "vectors", "best", "each", "digits")
            for part in ("--load-model", name)
        )
    ),
    "pinned in a budget": Mode((*BUDGET, "--load-model", "table")),
    "tracing": Mode(settings={"otel": "true"}, code=TRACED),
    "without the lane, key": Mode(code=WITHOUT_LANE, key=True),
    "without the lane, unix socket": Mode(code=WITHOUT_LANE, uds=True),
    "mounted, uvicorn as it comes": Mode(code="EDGE = False\n" + MOUNTED),
    "mounted, behind the edge": Mode(code="EDGE = True\n" + MOUNTED),
}


@dataclass(frozen=True)
class Started:
    """A running server, and how to reach it."""

    mode: Mode
    server: Any
    place: Place


@pytest.fixture(
    params=[
        pytest.param(mode, marks=[pytest.mark.slow] if mode.slow else [], id=name)
        for name, mode in MODES.items()
    ]
)
def started(
    request: pytest.FixtureRequest,
    start_aiaas: Any,
    tmp_path: Path,
    onnx_models: SimpleNamespace,
) -> Started:
    """A server in one of the modes, its models there."""
    return start_in(request.param, start_aiaas, tmp_path, onnx_models)


def start_in(mode: Mode, start_aiaas: Any, folder: Path, onnx_models: SimpleNamespace) -> Started:
    """Start a server in `mode` with a model of every kind."""
    root = write_repository(folder / "models", onnx_models)
    if mode.cached:
        (root / "table" / "config.pbtxt").write_text("response_cache { enable: true }")
    options: list[Any] = ["--models", root]
    options += [option.replace("{port}", str(free_port())) for option in mode.options]
    settings = dict(mode.settings)
    if mode.key:
        settings["api_key"] = KEY
    uds = folder / "s"
    if mode.uds:
        options += ["--uds", uds]
    context = None
    if mode.tls:
        context, more = secured(folder, certified=mode.certified)
        options += more
    until = "" if mode.mounted or "--json-logs" in mode.options else "  stop"
    server = start_aiaas(*options, until=until, code=mode.code, **settings)
    place = Place(
        server.port,
        uds=str(uds) if mode.uds else "",
        tls=context,
        prefix="/ai" if mode.mounted else "",
        headers={"authorization": f"Bearer {KEY}"} if mode.key else {},
    )
    with place.asking() as asker:
        wait_until(lambda: asker.call(("GET", "/v2/health/ready")).status == 200)
    return Started(mode, server, place)


def secured(folder: Path, *, certified: bool) -> tuple[ssl.SSLContext, list[Any]]:
    """A context for clients, and the options of the server that fit it."""
    authority, pair, clients = trustme.CA(), folder / "pair.pem", folder / "clients.pem"
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(pair)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    options: list[Any] = ["--certfile", pair, "--keyfile", pair]
    if certified:
        authority.cert_pem.write_to_path(clients)
        authority.issue_cert("client@example.org").configure_cert(context)
        options += ["--client-ca", clients]
    return context, options


def walk(asker: Asker) -> None:
    """Every operation for what is there."""
    for key, (_, _, status) in TABLE.items():
        if key[1].endswith("/register"):
            continue  # it differs with shared memory
        answer = asker.call(key)
        assert answer.status == status, (key, answer.body)
        assert answer.headers["x-request-id"]
        if key[1].endswith("/unload"):
            back = asker.call(("POST", "/v2/repository/models/{model}/load"))
            assert back.status == 200, back.body


def walk_astray(asker: Asker) -> None:
    """Every operation for what is not there; each refusal is counted once."""
    before = count_errors(asker)
    wrong = 0
    for key in OF_MODEL:
        answer = asker.call(key, model="nobody")
        assert answer.status == UNKNOWN.get(key, 404), (key, answer.body)
        wrong += answer.status >= 400
        assert answer.status < 400 or code_of(answer) == "model_not_found", key
    for key in OF_VERSION:
        answer = asker.call(key, version="77")
        assert (answer.status, code_of(answer)) == (404, "version_not_found"), (key, answer.body)
        wrong += 1
    for key in TABLE:
        answer = asker.call(key, method="DELETE")
        assert (answer.status, code_of(answer)) == (405, "method_not_allowed"), key
        wrong += 1
    for path in ("/nothing", "/v2/models", "/v2/models/table/versions/1/x", "/v1/embedding"):
        answer = asker.send("POST", path)
        assert (answer.status, code_of(answer)) == (404, "not_found"), path
        wrong += 1
    assert count_errors(asker) - before == wrong


def test_every_route_of_a_real_server(started: Started) -> None:
    mode, place = started.mode, started.place
    with ExitStack() as opened:
        # Several, as whichever worker has the connection answers.
        askers = [opened.enter_context(place.asking()) for _ in range(2 * mode.workers)]
        for asker in askers:
            walk(asker)
        walk_astray(askers[0])
        registers(askers[-1], works=mode.shared)
        if mode.key:
            walk_without_key(askers[0])
    stops_in_order(started)


def walk_without_key(asker: Asker) -> None:
    """Only health is told to those without the key."""
    for key, (_, _, status) in TABLE.items():
        answer = asker.call(key, with_key=False)
        expected = {status} if key[1] in OPEN else {401, 429}  # 429: it was tried too often
        assert answer.status in expected, (key, answer.body)


def registers(asker: Asker, *, works: bool) -> None:
    """A region of shared memory is registered and read, or refused by a server without it."""
    memory = shared_memory.SharedMemory(create=True, size=8)
    try:
        assert memory.buf is not None
        memory.buf[:8] = np.array([3, 4], np.float32).tobytes()
        region = "/v2/systemsharedmemory/region/given"
        body = json.dumps({"key": memory.name, "byte_size": 8}).encode()
        assert asker.send("POST", f"{region}/register", body).status == (200 if works else 501)
        held = {"shared_memory_region": "given", "shared_memory_byte_size": 8}
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": held}
        body = json.dumps({"inputs": [tensor]}).encode()
        answer = asker.send("POST", "/v2/models/table/infer", body)
        assert answer.status == (200 if works else 501), answer.body
        if works:
            assert answer.json()["outputs"][0]["data"] == [3, 4]
        assert asker.send("POST", f"{region}/unregister").status == 200
    finally:
        memory.close()
        memory.unlink()


def stops_in_order(started: Started) -> None:
    """SIGTERM ends it with code 0 and nothing in the log that would frighten anybody."""
    server, mode = started.server, started.mode
    server.signal()
    # uvicorn by itself raises the signal again when all is done
    assert server.exit_code() == (-signal.SIGTERM if mode.mounted else 0)
    server.to_the_end()
    text = "\n".join(server.lines)
    assert "Traceback" not in text, text
    assert KEY not in text
    if "--json-logs" in mode.options:
        records = [json.loads(line) for line in server.lines]
        assert {record.get("level", "info") for record in records} <= {"info", "INFO"}


@pytest.mark.slow
def test_other_peoples_clients_of_several_workers_with_a_budget_and_a_key(
    start_aiaas: Any, tmp_path: Path, onnx_models: SimpleNamespace
) -> None:
    triton = pytest.importorskip("tritonclient.http")
    openai = pytest.importorskip("openai")
    mode = Mode(("--workers", "2", *BUDGET), key=True, workers=2)
    started = start_in(mode, start_aiaas, tmp_path, onnx_models)
    place = started.place
    for _ in range(4):  # connections come to either worker
        client = triton.InferenceServerClient(f"{place.host}:{place.port}")
        tensor = triton.InferInput("x", [1, 2], "FP32")
        tensor.set_data_from_numpy(np.array([[3, 4]], np.float32))
        answer = client.infer("table", [tensor], headers=place.headers)
        assert answer.as_numpy("y").tolist() == [[3, 4]]
        assert client.is_model_ready("moods", headers=place.headers)
        client.unload_model("table", headers=place.headers)
        assert not client.is_model_ready("table", headers=place.headers)
        client.load_model("table", headers=place.headers)
        client.close()
        with openai.OpenAI(base_url=f"{place.url}/v1", api_key=KEY, max_retries=0) as client:
            vectors = client.embeddings.create(model="vectors", input=["good tea", "bad"])
            assert [one.index for one in vectors.data] == [0, 1]
            assert "vectors" in {one.id for one in client.models.list().data}
    stops_in_order(started)
