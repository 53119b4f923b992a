"""The picture of who may import whom, read from the source and held as an assertion.

    5  __main__ cli serve workers process started embedded app platform         wires everything
       listen verifier sandbox workshop job_process
    4  http                                                                     bytes in, bytes out
    3  runtimes repository tasks observe zoo registry monitor                   leaves
       datasets jobs explain generate tenancy
    2  state                                                                    one database
    1  core settings
    0  aiaas_client.protocol                                                    no I/O, no framework

Arrows point down only; the packages of layer 3 do not know one another. Inside the client:

    _exports                       the public names
    _cli testing otel              leaves beside the clients
    _client _async_client
    _resources _models
    _bundles
    _bulk
    _send
    _transport
    _api
    _config _payloads
    _errors
    protocol                       the wire, shared with the server

An import counts wherever it stands: in a function and under `TYPE_CHECKING` as well.
"""

from __future__ import annotations

import ast
import sys
from collections import deque
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple

import pytest

from docs import rooms

PACKAGES = rooms.PACKAGES

LAYERS = {
    "aiaas_client.protocol": 0,
    "aiaas_server": 0,  # the package itself: its version
    "aiaas_server.core": 1,
    "aiaas_server.settings": 1,
    "aiaas_server.state": 2,
    "aiaas_server.runtimes": 3,
    "aiaas_server.repository": 3,
    "aiaas_server.tasks": 3,
    "aiaas_server.observe": 3,
    "aiaas_server.zoo": 3,
    "aiaas_server.registry": 3,
    "aiaas_server.monitor": 3,
    "aiaas_server.datasets": 3,
    "aiaas_server.jobs": 3,
    "aiaas_server.explain": 3,
    "aiaas_server.generate": 3,
    "aiaas_server.tenancy": 3,
    "aiaas_server.http": 4,
    "aiaas_server.app": 5,
    "aiaas_server.platform": 5,
    "aiaas_server.platform_routes": 5,
    "aiaas_server.verifier": 5,
    "aiaas_server.sandbox": 5,
    "aiaas_server.workshop": 5,
    "aiaas_server.job_process": 5,
    "aiaas_server.garbage": 5,
    "aiaas_server.listen": 5,
    "aiaas_server.started": 5,
    "aiaas_server.interrupts": 0,
    "aiaas_server.process": 5,
    "aiaas_server.workers": 5,
    "aiaas_server.embedded": 5,
    "aiaas_server.serve": 5,
    "aiaas_server.vault_commands": 5,
    "aiaas_server.cli": 5,
    "aiaas_server.__main__": 5,
}

# Rooms of the client, from the bottom; those of one row do not know one another.
CLIENT_ROWS = (
    ("protocol",),
    ("_errors",),
    ("_config", "_payloads"),
    ("_api",),
    ("_transport",),
    ("_send",),
    ("_bulk",),
    ("_bundles",),
    ("_resources", "_models"),
    ("_client", "_async_client"),
    ("_cli", "testing", "otel"),
    ("_exports",),
)
CLIENT_LAYERS = {
    f"aiaas_client.{room}": row for row, rooms in enumerate(CLIENT_ROWS) for room in rooms
}

# Third-party module -> the only places that may import it.
HOMES = {
    "onnxruntime": ("aiaas_server.runtimes", "aiaas_server.job_process.optimising"),
    "starlette": (
        "aiaas_server.http",
        "aiaas_server.app",
        "aiaas_server.platform",
        "aiaas_server.platform_routes",
    ),
    "uvicorn": ("aiaas_server.http.edge", "aiaas_server.process"),
    "httptools": tuple(f"aiaas_server.http.edge.{n}" for n in ("connection", "lifetime", "intake")),
    "uvloop": ("aiaas_server.process",),
    "orjson": ("aiaas_server.http",),
    "google": (
        "aiaas_server.repository",
        "aiaas_server.runtimes",
        "aiaas_server.registry.verification",
    ),
    "httpx2": ("aiaas_client._transport", "aiaas_client._cli.server"),
    "httpx": ("aiaas_client._transport",),
    "httpcore2": ("aiaas_client._transport",),
    "httpcore": ("aiaas_client._transport",),
    "aiohttp": ("aiaas_client._transport.aiohttp",),
    "yarl": ("aiaas_client._transport.aiohttp",),
    "urllib3": ("aiaas_client._transport.urllib3",),
    "tenacity": ("aiaas_client._send.retry",),
    "opentelemetry": ("aiaas_client.otel", "aiaas_server.observe.spans"),
    "sqlalchemy": (
        "aiaas_server.state",
        "aiaas_server.registry",
        "aiaas_server.monitor",
        "aiaas_server.datasets",
        "aiaas_server.jobs",
        "aiaas_server.tenancy",
    ),
    "cryptography": (
        "aiaas_server.state",
        "aiaas_server.tenancy.certificates",
        "aiaas_client._cli.erase",
    ),
    "alembic": ("aiaas_server.state",),
    "psycopg": ("aiaas_server.state",),
    "obstore": ("aiaas_server.state",),
    "gguf": ("aiaas_server.zoo",),
    "llguidance": ("aiaas_server.generate",),
    "jinja2": ("aiaas_server.generate",),
    "pynvml": ("aiaas_server.observe.machine",),
    "typer": (
        "aiaas_client._cli",
        "aiaas_server.cli",
        "aiaas_server.vault_commands",
        "aiaas_server.zoo.commands",
    ),
    "rich": (
        "aiaas_client._cli",
        "aiaas_client._bulk.progress",
        "aiaas_client._bulk.live",
        "aiaas_server.zoo.commands",
    ),
    "tqdm": ("aiaas_client._bulk.progress",),
    "matplotlib": ("aiaas_client._api.plots", "aiaas_server.job_process"),
    # Heavy, and therefore only in the process of a job.
    "pyarrow": ("aiaas_server.job_process",),
    "pandas": (
        "aiaas_server.job_process",
        "aiaas_client._api.usage",
        "aiaas_client._resources.frames",
        "aiaas_client.testing.tables",
    ),
    "polars": ("aiaas_client._resources.frames",),
    "sklearn": ("aiaas_server.job_process", "aiaas_server.jobs.recipes"),
    "skl2onnx": ("aiaas_server.job_process", "aiaas_server.jobs.recipes"),
    "scipy": ("aiaas_server.job_process", "aiaas_server.jobs.recipes"),
    "joblib": ("aiaas_server.job_process", "aiaas_server.jobs.recipes"),
    "torch": ("aiaas_server.job_process", "aiaas_server.jobs.recipes"),
    "ray": ("aiaas_server.job_process", "aiaas_server.jobs.recipes"),
    "onnxconverter_common": ("aiaas_server.job_process",),
    "soxr": ("aiaas_server.tasks.audio",),
    "hibari": ("aiaas_server.tasks.text_to_speech",),
    "onnx": (
        "aiaas_server.zoo",
        "aiaas_server.registry.verification",
        "aiaas_server.verifier",
        "aiaas_server.jobs.recipes",
        "aiaas_server.job_process",
    ),
    "ml_dtypes": ("aiaas_client.protocol",),
    "PIL": (
        "aiaas_server.tasks",
        "aiaas_server.verifier.made_up",
        "aiaas_client.protocol.pictures",
        "aiaas_client.protocol.predictions",
        "aiaas_client._api.explanations",
    ),
    "tokenizers": ("aiaas_server.tasks", "aiaas_server.generate.vocabulary"),
    "soundfile": ("aiaas_server.tasks",),
    "pydantic": PACKAGES,
    "pydantic_core": PACKAGES,
    "numpy": PACKAGES,
}


class Import(NamedTuple):
    source: str
    target: str
    at_load: bool  # False inside a function or under TYPE_CHECKING


MODULES = rooms.modules()


def imports_of(name: str) -> Iterator[Import]:
    tree = ast.parse(MODULES[name].read_text("utf-8"))
    is_package = MODULES[name].name == "__init__.py"
    for node, at_load in _statements(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name, alias.name, at_load)
        elif isinstance(node, ast.ImportFrom):
            base = _base(name, is_package, node)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield Import(name, full if full in MODULES else base, at_load)


def _statements(tree: ast.Module) -> Iterator[tuple[ast.AST, bool]]:
    """All statements, and whether each is run when the module is loaded."""
    found = deque[tuple[ast.AST, bool]]([(tree, True)])
    while found:
        node, at_load = found.popleft()
        yield node, at_load
        at_load = at_load and not _is_lazy(node)
        children = ast.iter_child_nodes(node)
        found += [(child, at_load) for child in children if not isinstance(child, ast.expr)]


def _is_lazy(node: ast.AST) -> bool:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return True
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _base(name: str, is_package: bool, node: ast.ImportFrom) -> str:
    if node.level == 0:
        return node.module or ""
    parts = name.split(".")
    kept = parts[: len(parts) - node.level + is_package]
    return ".".join([*kept, *([node.module] if node.module else [])])


IMPORTS = [found for name in MODULES for found in imports_of(name)]
OURS = [i for i in IMPORTS if i.target.split(".")[0] in PACKAGES]
FOREIGN = [
    i
    for i in IMPORTS
    if i.target.split(".")[0] not in {*PACKAGES, *sys.stdlib_module_names, "__future__"}
]


def within(module: str, room: str) -> bool:
    return module == room or module.startswith(room + ".")


def room_of(module: str) -> str:
    return max((room for room in LAYERS if within(module, room)), key=len, default="")


def named(found: list[Import]) -> list[str]:
    return sorted(f"{i.source} imports {i.target}" for i in found)


def test_the_reader_sees_the_code() -> None:
    assert len(MODULES) > 10
    assert Import("aiaas_client.protocol.tensors", "numpy", True) in IMPORTS
    assert any(i.target.startswith("aiaas_client.protocol.") for i in OURS)


def test_every_module_of_the_server_has_a_layer() -> None:
    rooms = {room_of(m) for m in MODULES if m.startswith("aiaas_server.")}
    assert "aiaas_server" not in rooms, [
        m for m in MODULES if m.startswith("aiaas_server.") and room_of(m) == "aiaas_server"
    ]


def test_the_server_imports_only_the_protocol_of_the_client() -> None:
    allowed = ("aiaas_client.protocol",)
    # The command line carries the client's commands beside its own.
    commands = {"aiaas_server.cli": ("aiaas_client._cli.commands",)}
    wrong = [
        i
        for i in OURS
        if i.source.startswith("aiaas_server") and i.target.startswith("aiaas_client")
        if not any(within(i.target, a) for a in (*allowed, *commands.get(i.source, ())))
    ]
    assert named(wrong) == []


def test_arrows_point_down_only() -> None:
    rooms = [(i, room_of(i.source), room_of(i.target)) for i in OURS]
    wrong = [i for i, a, b in rooms if a and b and a != b and LAYERS[a] < LAYERS[b]]
    assert named(wrong) == []


def test_the_leaves_do_not_know_one_another() -> None:
    rooms = [(i, room_of(i.source), room_of(i.target)) for i in OURS]
    wrong = [i for i, a, b in rooms if a != b and LAYERS.get(a) == LAYERS.get(b) == 3]
    assert named(wrong) == []


def test_the_client_reaches_the_server_only_for_the_embedded_mode() -> None:
    crossing = [
        i
        for i in OURS
        if i.source.startswith("aiaas_client") and i.target.startswith("aiaas_server")
    ]
    assert named([i for i in crossing if i.source != "aiaas_client._transport.local"]) == []
    assert named([i for i in crossing if i.at_load]) == []


def test_the_protocol_knows_nothing_above_it() -> None:
    wrong = [
        i
        for i in IMPORTS
        if within(i.source, "aiaas_client.protocol")
        and i.target.split(".")[0] not in sys.stdlib_module_names
        and not within(i.target, "aiaas_client.protocol")
        and i.target.split(".")[0] not in {"numpy", "pydantic", "pydantic_core", "ml_dtypes"}
        # A prediction draws itself on a picture; the library is loaded when it does.
        and (i.target.split(".")[0] != "PIL" or i.at_load)
    ]
    assert named(wrong) == []


def test_the_core_knows_no_framework() -> None:
    allowed = {"numpy", "pydantic", "pydantic_core"}
    wrong = [
        i
        for i in FOREIGN
        if within(i.source, "aiaas_server.core") and i.target.split(".")[0] not in allowed
    ]
    assert named(wrong) == []


def test_third_party_names_have_one_home_each() -> None:
    wrong = [
        i
        for i in FOREIGN
        if not any(within(i.source, home) for home in HOMES.get(i.target.split(".")[0], ()))
    ]
    assert named(wrong) == []


def test_every_module_of_the_client_has_a_room() -> None:
    rooms = {m for m in MODULES if m.startswith("aiaas_client.")}
    assert [m for m in rooms if not any(within(m, room) for room in CLIENT_LAYERS)] == []


def test_arrows_inside_the_client_point_down_only() -> None:
    rooms = [(i, client_room_of(i.source), client_room_of(i.target)) for i in OURS]
    wrong = [i for i, a, b in rooms if a and b and a != b and CLIENT_LAYERS[a] <= CLIENT_LAYERS[b]]
    assert named(wrong) == []


def client_room_of(module: str) -> str:
    return next((room for room in CLIENT_LAYERS if within(module, room)), "")


@pytest.mark.parametrize("package", PACKAGES)
def test_there_are_no_import_cycles(package: str) -> None:
    graph: dict[str, set[str]] = {m: set() for m in MODULES if within(m, package)}
    for found in OURS:  # lazy ones and those for type checkers too: they are knowledge as well
        if found.source in graph and found.target in graph and found.target != found.source:
            graph[found.source].add(found.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def test_rooms_do_not_know_one_another_mutually() -> None:
    """But a folder's own files may stand above and below those of a folder inside it."""
    graph = rooms.graph()
    mutual = [(a, b) for a in graph for b in graph[a] if a in graph.get(b, ())]
    assert [
        pair for pair in mutual if not any(x.startswith(y + "/") for x, y in (pair, pair[::-1]))
    ] == []


def test_the_http_libraries_are_loaded_with_the_first_request_only() -> None:
    transports = tuple(
        f"aiaas_client._transport.{name}"
        for name in ("pools", "threads", "loop", "borrowed", "aiohttp", "urllib3")
    )
    early = [
        i
        for i in OURS
        if i.at_load
        and any(within(i.target, room) for room in transports)
        and not any(within(i.source, room) for room in transports)
    ]
    assert named(early) == []


def test_what_thinks_in_the_client_does_not_wait() -> None:
    """The core of clients and handles, and the seam below, load nothing that does I/O."""
    thinking = (
        "_api",
        "_send.core",
        "_send.endpoints",
        "_send.status_errors",
        "_bulk.core",
        "_bulk.coalescer",
        "_bulk.plan",
        "_models.handle",
        "_models.inputs",
        "_models.infers",
        "_models.bulk",
        "_transport.wire",
    )
    waits = {"asyncio", "socket", "ssl", "select", "selectors"}
    wrong = [
        i
        for i in IMPORTS
        if i.at_load
        and any(within(i.source, f"aiaas_client.{name}") for name in thinking)
        and i.target.split(".")[0] in waits
    ]
    assert named(wrong) == []
