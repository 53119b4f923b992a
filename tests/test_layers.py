"""The picture of who may import whom, read from the source and held as an assertion.

    4  app cli serve embedded __main__                 wires everything
    3  http                                            bytes in, bytes out
    2  runtimes store tasks generate jobs tenancy observe scaleout
    1  core settings
    0  aiaas_client.protocol                           no I/O, no framework

Arrows point down only; the packages of layer 2 do not know one another.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("aiaas_client", "aiaas_server")

LAYERS = {
    "aiaas_client.protocol": 0,
    "aiaas_server.core": 1,
    "aiaas_server.settings": 1,
    "aiaas_server.runtimes": 2,
    "aiaas_server.store": 2,
    "aiaas_server.tasks": 2,
    "aiaas_server.observe": 2,
    "aiaas_server.zoo": 2,
    "aiaas_server.http": 3,
    "aiaas_server.app": 4,
    "aiaas_server.cli": 4,
    "aiaas_server.serve": 4,
    "aiaas_server.listen": 4,
    "aiaas_server.workers": 4,
    "aiaas_server.embedded": 4,
    "aiaas_server.__main__": 4,
    "aiaas_server": 0,  # the package itself: its version
}

# Third-party module -> the only places that may import it.
HOMES = {
    "onnxruntime": ("aiaas_server.runtimes.onnx",),
    "starlette": ("aiaas_server.http", "aiaas_server.app"),
    "uvicorn": ("aiaas_server.http.edge", "aiaas_server.serve"),
    "httptools": ("aiaas_server.http.edge",),
    "uvloop": ("aiaas_server.serve",),
    "orjson": ("aiaas_server.http",),
    "google": ("aiaas_server.store",),
    "watchfiles": ("aiaas_server.store",),
    "httpx2": ("aiaas_client._http",),
    "httpx": ("aiaas_client._http",),
    "httpcore2": ("aiaas_client._http",),
    "httpcore": ("aiaas_client._http",),
    "aiohttp": ("aiaas_client._aiohttp",),
    "yarl": ("aiaas_client._aiohttp",),
    "tenacity": ("aiaas_client._retry",),
    "opentelemetry": ("aiaas_client.otel", "aiaas_server.observe.spans"),
    "pynvml": ("aiaas_server.observe.machine",),
    "typer": (
        "aiaas_server.cli",
        "aiaas_client._commands",
        "aiaas_client._commands_predict",
        "aiaas_server.zoo.commands",
    ),
    "rich": (
        "aiaas_client._commands_predict",
        "aiaas_server.cli",
        "aiaas_client._commands",
        "aiaas_client._progress",
        "aiaas_server.zoo.commands",
    ),
    "tqdm": ("aiaas_client._progress",),
    "soxr": ("aiaas_server.tasks.audio",),
    "hibari": ("aiaas_server.tasks.text_to_speech",),
    "onnx": ("aiaas_server.zoo",),
    "ml_dtypes": ("aiaas_client.protocol",),
    "PIL": ("aiaas_server.tasks", "aiaas_client.protocol.predictions"),
    "tokenizers": ("aiaas_server.tasks",),
    "soundfile": ("aiaas_server.tasks",),
    "pydantic": PACKAGES,
    "pydantic_core": PACKAGES,
    "numpy": PACKAGES,
    "typing_extensions": PACKAGES,
}


class Import(NamedTuple):
    source: str
    target: str
    at_load: bool  # False inside a function or under TYPE_CHECKING


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = path
    return found


MODULES = modules()


def imports_of(name: str) -> Iterator[Import]:
    tree = ast.parse(MODULES[name].read_text("utf-8"))
    is_package = MODULES[name].name == "__init__.py"
    lazy = {id(node) for outer in ast.walk(tree) if _is_lazy(outer) for node in ast.walk(outer)}
    for node in ast.walk(tree):
        at_load = id(node) not in lazy
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name, alias.name, at_load)
        elif isinstance(node, ast.ImportFrom):
            base = _base(name, is_package, node)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield Import(name, full if full in MODULES else base, at_load)


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
    assert Import("aiaas_client.protocol.codec", "numpy", True) in IMPORTS
    assert any(i.target.startswith("aiaas_client.protocol.") for i in OURS)


def test_every_module_of_the_server_has_a_layer() -> None:
    rooms = {room_of(m) for m in MODULES if m.startswith("aiaas_server.")}
    assert "aiaas_server" not in rooms, [
        m for m in MODULES if m.startswith("aiaas_server.") and room_of(m) == "aiaas_server"
    ]


def test_the_server_imports_only_the_protocol_of_the_client() -> None:
    allowed = ("aiaas_client.protocol",)
    # The command line carries the client's commands beside its own.
    commands = {"aiaas_server.cli": ("aiaas_client._commands",)}
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


def test_packages_of_the_second_layer_do_not_know_one_another() -> None:
    rooms = [(i, room_of(i.source), room_of(i.target)) for i in OURS]
    wrong = [i for i, a, b in rooms if a != b and LAYERS.get(a) == LAYERS.get(b) == 2]
    assert named(wrong) == []


def test_the_client_reaches_the_server_only_for_the_embedded_mode() -> None:
    crossing = [
        i
        for i in OURS
        if i.source.startswith("aiaas_client") and i.target.startswith("aiaas_server")
    ]
    assert named([i for i in crossing if i.source != "aiaas_client._local"]) == []
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
    allowed = {"numpy", "pydantic", "pydantic_core", "typing_extensions"}
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


@pytest.mark.parametrize("package", PACKAGES)
def test_there_are_no_import_cycles(package: str) -> None:
    graph: dict[str, set[str]] = {m: set() for m in MODULES if within(m, package)}
    for found in OURS:
        # A package's own `from . import x` names x; what counts is who is loaded for whom.
        if found.at_load and found.source in graph and found.target != found.source:
            graph[found.source].add(found.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def test_the_http_libraries_are_loaded_with_the_first_request_only() -> None:
    transports = ("aiaas_client._http", "aiaas_client._aiohttp")
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
    thinking = ("_core", "_handle", "_calls", "_wire", "_answers", "_inputs", "_endpoints")
    waits = {"asyncio", "socket", "ssl", "select", "selectors"}
    wrong = [
        i
        for i in IMPORTS
        if i.at_load
        and i.source in {f"aiaas_client.{name}" for name in thinking}
        and i.target.split(".")[0] in waits
    ]
    assert named(wrong) == []
