"""The life of a model: what it takes to deploy, promote, roll back, restart and look back.

What rules cost a request is in `lifecycle_lane`. Figures of several servers are of servers of this
machine: what a network adds is not in them.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, Final

import graphs
import inprocess
import lifecycle_lane
import numpy as np
import processes
import wire
from load import Connection, write_requests
from plan import Plan
from processes import Target
from sqlalchemy.engine import make_url
from table import Row, at_most, value_at_most
from zoo import digits

from aiaas_client import Client
from aiaas_client.protocol.management import Policy, Serving
from aiaas_server.state.migrate import upgrade
from tests import postgres
from tests.server.registry.bringing import Bringer

GROUP: Final = lifecycle_lane.GROUP
NAME: Final = "digits"
VERSIONS: Final = 3
CALLERS: Final = 8
MILLI: Final = 1e3
PATIENCE: Final = 300.0


def rows(plan: Plan) -> Iterator[Row]:
    """All of it."""
    yield from lifecycle_lane.rows(plan)
    yield from _swaps(plan)
    yield from _deploys(plan)
    yield from _follows(plan)
    yield from _start(plan)
    yield from _history(plan)


def _serve(
    plan: Plan, data: Path, **settings: int | str
) -> AbstractContextManager[processes.Target]:
    """A server of that data directory, and of no other models."""
    nothing = plan.work / "no-models"
    nothing.mkdir(exist_ok=True)
    return processes.aiaas(nothing, data=str(data), **settings)


def _client(server: Target) -> Client:
    return Client(f"http://127.0.0.1:{server.port}")


def _bring(plan: Plan, client: Client, versions: int = VERSIONS) -> bytes:
    """Some versions, the first one serves; gives a request."""
    content = (plan.network / "digits" / "1" / "model.onnx").read_bytes()
    for number in range(1, versions + 1):
        client.models.deploy(NAME, graphs.variant(content, number))
    client.models.promote(NAME, 1)
    _, held_out = digits.load()
    return wire.binary(NAME, {"image": np.ascontiguousarray(held_out.images[:1])})


# Promotions and rollbacks under load


def _swaps(plan: Plan) -> Iterator[Row]:
    requests, changes = plan.count(100_000, 500), plan.count(100, 4)
    with _serve(plan, plan.work / "swaps") as server, _client(server) as client:
        path = plan.work / "swaps.requests"
        write_requests(path, [_bring(plan, client)])
        calm = [processes.generate(server, path, CALLERS, plan.seconds) for _ in range(plan.rounds)]
        rate = statistics.median(one["requests"] / one["seconds"] for one in calm)
        seconds = max(requests / rate / plan.rounds, 0.3)
        pause = seconds * plan.rounds / changes
        changing = threading.Thread(target=_change_often, args=(client, changes, pause))
        changing.start()
        seen: list[dict[str, Any]] = []
        while changing.is_alive() or sum(one["requests"] for one in seen) < requests:
            seen.append(processes.generate(server, path, CALLERS, seconds))
        changing.join()
        done = len(client.models.history(NAME, limit=1000)) - VERSIONS - 1
    total = sum(one["requests"] for one in seen)
    failed = total - sum(one["statuses"].get("200", 0) for one in seen)
    what = f"{done} promotions and rollbacks under load"
    yield Row(GROUP, f"{what}: failed requests", float(failed), "", total, "all", value_at_most(0))
    before, during = (
        statistics.median(one["p99"] for one in some) * MILLI for some in (calm, seen)
    )
    yield Row(GROUP, f"{what}: p99", during, "ms", before, "before", at_most(2))


def _change_often(client: Client, changes: int, pause: float) -> None:
    began, serves = time.monotonic(), 1
    for number in range(changes):
        if number % 4 == 3:
            model = client.models.rollback(NAME)
        else:
            model = client.models.promote(NAME, serves % VERSIONS + 1)
        serves = model.serving.aliases["production"]
        time.sleep(max(0.0, began + (number + 1) * pause - time.monotonic()))


# Deploying


def _deploys(plan: Plan) -> Iterator[Row]:
    megabytes, rounds = plan.count(100), plan.count(3)
    content, file = graphs.heavy(megabytes), plan.work / "heavy.onnx"
    ours, least = [], []
    with _serve(plan, plan.work / "deploys") as server, _client(server) as client:
        for number in range(rounds):
            file.write_bytes(graphs.variant(content, number))
            least.append(_seconds(lambda: _copied_and_loaded(file, plan.work / "copy.onnx")))
            ours.append(_seconds(lambda: client.models.deploy("heavy", file)))
        again = min(_seconds(lambda: client.models.deploy("heavy", file)) for _ in range(rounds))
    what = f"deploy of {megabytes} MB over loopback"
    beside = "copy, fsync, load"
    yield Row(GROUP, f"{what}, verified", min(ours), "s", min(least), beside, at_most(3))
    yield Row(GROUP, f"{what} again: the same version", again, "s", min(least), beside)


def _copied_and_loaded(file: Path, copy: Path) -> None:
    shutil.copyfile(file, copy)
    handle = os.open(copy, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
    inprocess.open_session(copy, 0)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


# Promotions seen by others


def _follows(plan: Plan) -> Iterator[Row]:
    times = plan.count(10, 2)
    workers = plan.work / "workers"
    with _serve(plan, workers, workers=2) as server, _client(server) as client:
        request = _bring(plan, client, 2)
        yield from _seen("the 2 workers of a node", client, [server], request, times, 0.2)
    nodes = plan.work / "nodes"
    with _serve(plan, nodes) as server, _serve(plan, nodes) as other, _client(server) as client:
        request = _bring(plan, client, 2)
        yield from _seen("another node, SQLite", client, [other], request, times, 2)
    if postgres.why_not():
        return
    with ExitStack() as stack:
        state = postgres.Postgres()
        stack.callback(state.remove)
        url = state.make_database()
        both = [
            stack.enter_context(_serve(plan, plan.work / "shared", database_url=url))
            for _ in range(2)
        ]
        client = stack.enter_context(_client(both[0]))
        request = _bring(plan, client, 2)
        yield from _seen("another node, PostgreSQL", client, both[1:], request, times, 2)


def _seen(
    who: str, client: Client, servers: list[Target], request: bytes, times: int, limit: float
) -> Iterator[Row]:
    """From a promotion's answer until every connection of many has the new version."""
    connections = [Connection("127.0.0.1", one.port) for one in servers for _ in range(16)]
    found = []
    for number in range(times):
        version = number % 2 + 1
        client.models.promote(NAME, version)
        found.append(_seconds(lambda v=version: _wait_for(connections, request, v)))  # type: ignore[misc]
    for connection in connections:
        connection.socket.close()
    half = statistics.median(found)
    yield Row(GROUP, f"promotion seen by {who}", half, "s", goal=value_at_most(limit))
    yield Row(GROUP, f"promotion seen by {who}, the slowest of {times}", max(found), "s")


def _wait_for(connections: list[Connection], request: bytes, version: int) -> None:
    wanted, end = b'"model_version":"%d"' % version, time.monotonic() + PATIENCE
    waiting = connections
    while waiting:
        if time.monotonic() > end:
            raise RuntimeError(f"version {version} was not served everywhere after {PATIENCE} s")
        waiting = [one for one in waiting if wanted not in _ask(one, request)]


def _ask(connection: Connection, request: bytes) -> bytes:
    connection.send(request)
    while not connection.receive():
        pass
    return connection.answer


# Starting


def _start(plan: Plan) -> Iterator[Row]:
    """Ten models with a hundred versions each; beside it a directory of the ten that serve."""
    count, names = plan.count(1_000, 10), [f"m-{number}" for number in range(10)]
    content = (plan.network / "digits" / "1" / "model.onnx").read_bytes()
    data, served, none = plan.work / "start", plan.work / "start-models", plan.work / "start-none"
    bringer = Bringer(data)
    with ThreadPoolExecutor(16) as threads:  # they share waits for the disk
        for at in range(count):
            threads.submit(bringer.bring, names[at % len(names)], graphs.variant(content, at))
    bringer.close()
    for name in names:
        graphs.place(served, name, content)
    with _serve(plan, data) as server, _client(server) as client:
        for name in names:
            client.models.promote(name, max(count // len(names) // 2, 1))
    ours, least, bare = [], [], []
    for _ in range(max(plan.rounds - 2, 1)):
        with _serve(plan, data) as server:
            ours.append(server.start_seconds)
        with processes.aiaas(served) as server:
            least.append(server.start_seconds)
        with _serve(plan, none) as server:
            bare.append(server.start_seconds)
    more = min(ours) - min(least)
    what = f"start with {count:,} versions, {len(names)} aliased"
    beside = f"--models with {len(names)}"
    yield Row(GROUP, f"{what}: beyond the models", more, "s", goal=value_at_most(3))
    yield Row(GROUP, f"{what}: to ready", min(ours), "s", min(least), beside)
    yield Row(GROUP, "start with an empty registry: to ready", min(bare), "s", min(least), beside)


# Looking back


def _history(plan: Plan) -> Iterator[Row]:
    data, entries = plan.work / "history", plan.count(1_000_000, 2_000)
    models = plan.count(1_000, 5)
    _write_history(data, entries, models)
    times = plan.count(100, 3)
    with _serve(plan, data) as server:
        api = "/api/v1/models"
        for what, path in (
            ("`history`, the newest 100", f"{api}/m-0/history?limit=100"),
            ("`history`, 100 of the middle", f"{api}/m-0/history?limit=100&after={entries // 2}"),
            ("`get`", f"{api}/m-0"),
            ("`list`, 100 models", f"{api}?limit=100"),
            ("`list`, 100 versions", f"{api}/m-0/versions?limit=100"),
        ):
            request = f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()
            connection = Connection("127.0.0.1", server.port)
            _check(_ask(connection, request))
            found = [_seconds(lambda c=connection, r=request: _ask(c, r)) for _ in range(times)]  # type: ignore[misc]
            connection.socket.close()
            half = statistics.median(found) * MILLI
            yield Row(
                GROUP, f"{entries:,} history rows: {what}", half, "ms", goal=value_at_most(20)
            )


def _check(answer: bytes) -> None:
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(f"answered {answer[:200]!r}")


def _write_history(data: Path, entries: int, models: int) -> None:
    """So many entries, half of them of one model; each model has ten versions, none to load."""
    data.mkdir()
    upgrade(make_url(f"sqlite:///{data / 'state.db'}"))
    policy, serving = Policy().model_dump_json(), Serving(aliases={"production": 3})
    document, empty = serving.model_dump_json(), Serving().model_dump_json()
    sides = json.dumps({"inputs": [], "outputs": []})
    ids = [f"{number:032x}" for number in range(models)]
    now = time.time()
    with sqlite3.connect(data / "state.db") as database:
        database.executemany(
            "INSERT INTO models (id, tenant, name, description, policy, serving, revision,"
            " next_version, created, created_by) VALUES (?,'default',?,'',?,?,1,11,?,'bench')",
            ((one, f"m-{n}", policy, empty, now) for n, one in enumerate(ids)),
        )
        database.executemany(
            "INSERT INTO versions (model_id, number, digest, state, reason, size, files, signature,"
            " report, metrics, lineage, note, created, created_by)"
            " VALUES (?,?,?,'corrupt','',0,'[]',?,'{}','{}','{}','',?,'bench')",
            ((one, n, f"{n:064x}", sides, now) for one in ids for n in range(1, 11)),
        )
        places = (0 if n % 2 else n // 2 % models for n in range(entries))
        database.executemany(
            "INSERT INTO history (tenant, model_id, model, kind, version, before, after, position,"
            " reason, at, by, request_id)"
            " VALUES ('default',?,?,'promote',3,?,?,NULL,'',?,'bench','')",
            ((ids[place], f"m-{place}", document, document, now) for place in places),
        )
    database.close()
