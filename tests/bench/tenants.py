"""Tenants on one server: what they cost a request, and what one that floods it leaves another.

The quiet tenant sends at random moments, on average 40 % of what the server can do: within its
share, which is half. Beside it, in turns, nobody and a tenant that sends ten times its own share.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import overload
import processes
import real
import sealed
import sentences
import tenants_costs
import tenants_sandbox
import wire
from load import write_requests
from plan import Plan
from table import Row, at_least, at_most
from zoo import digits

from aiaas_client.protocol.tenants import Limits
from tests.tenants import Tenants

SHARE = 0.5
QUIET = 0.4
"""Of what the server can do."""
NOISE = 10 * SHARE
MILLI, MICRO = 1e3, 1e6


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What the quiet tenant got, alone and beside the other; and what came of the other's."""

    alone: Mapping[str, Any]
    beside: Mapping[str, Any]
    noise: Mapping[str, Any]


def rows(plan: Plan) -> Iterator[Row]:
    yield from tenants_costs.rows()
    yield from _whole_request(plan)
    yield from tenants_sandbox.rows(plan)
    yield from sealed.rows(plan)
    yield from _neighbours(plan)


def _whole_request(plan: Plan) -> Iterator[Row]:
    """The server's CPU under load of 32 connections, in turns: of a directory, with a database, and
    with a key as well.
    """
    _, held_out = digits.load()
    request = wire.binary("digits", {"image": np.ascontiguousarray(held_out.images[:1])})
    data, most = plan.work / "keyed", 1_000_000_000
    tenants = Tenants(data)
    tenants.tenant("acme", Limits(requests_per_second=most, burst=most, in_flight=1000))
    keyed = _with_key([request], tenants.key("acme"))
    with (
        processes.aiaas(plan.network) as plain,
        processes.aiaas(plan.network, data=str(plan.work / "keyless")) as open_to_all,
        processes.aiaas(plan.network, data=str(data), tenants=1) as limited,
    ):
        found = processes.interleaved(
            [(plain, [request]), (open_to_all, [request]), (limited, keyed)],
            32, plan.seconds, plan.rounds,
        )  # fmt: skip
    directory, without, with_them = (load.cpu * MICRO for load in found)
    group, unit = tenants_costs.GROUP, "µs/request"
    yield Row(group, "server CPU, --tenants and a key", with_them, unit, without, "--data alone")
    yield Row(group, "server CPU, --data", without, unit, directory, "a directory")


def _neighbours(plan: Plan) -> Iterator[Row]:
    folder = real.repository(plan.models, plan.work / "neighbours")
    texts = [wire.binary("minilm", feed) for feed in sentences.feeds(plan.count(384, 48))]
    data = plan.work / "tenants"
    tenants = Tenants(data)
    quiet, noisy = tenants.key("quiet"), tenants.key("noisy")
    settings = {"data": str(data), "tenants": 1, "max_connections_per_address": 0}
    with processes.aiaas(folder, **settings) as server:
        found = [
            _round(plan, server, _with_key(texts, quiet), _with_key(texts, noisy))
            for _ in range(min(plan.rounds, 3))
        ]
    yield from _rows(found)


def _rows(found: Sequence[Neighbours]) -> Iterator[Row]:
    """Of the round that whatever else the machine did disturbed least."""
    group = "a tenant at 10 × its share, MiniLM"
    one = max(found, key=_undisturbed)
    alone, beside = one.alone["goodput"], one.beside["goodput"]
    yield Row(group, "the quiet one", beside, "rows/s", alone, "alone", at_least(0.9))
    for which, goal in (("p50", None), ("p99", at_most(2.0))):
        alone, beside = one.alone[which] * MILLI, one.beside[which] * MILLI
        yield Row(group, f"the quiet one: {which}", beside, "ms", alone, "alone", goal)
    yield Row(group, "the other one", one.noise["goodput"], "rows/s")


def _undisturbed(one: Neighbours) -> tuple[float, float]:
    """How much the quiet one kept of its throughput, to some per cent, and of its p99."""
    kept = one.beside["goodput"] / (one.alone["goodput"] or 1.0)
    return round(min(kept, 1.0) * 20), -one.beside["p99"] / (one.alone["p99"] or 1.0)


def _round(
    plan: Plan, server: processes.Target, quiet: list[bytes], noisy: list[bytes]
) -> Neighbours:
    capacity = processes.one_round(server, quiet, 64, plan.seconds * 2).rate
    quiet, noisy = map(overload.with_deadlines, (quiet, noisy))
    alone = _finish(_begin(plan, server, "quiet", quiet, QUIET * capacity), server)
    noise = _begin(plan, server, "noisy", noisy, NOISE * capacity, longer=1.0)
    beside = _begin(plan, server, "quiet", quiet, QUIET * capacity)
    told = _finish(beside, server)
    return Neighbours(alone, told, _finish(noise, server))


def _begin(
    plan: Plan,
    server: processes.Target,
    name: str,
    requests: list[bytes],
    rate: float,
    longer: float = 0.0,
) -> subprocess.Popen[str]:
    """Start to send; what is counted begins when all that can fill is full."""
    path: Path = plan.work / f"flood-{name}"
    write_requests(path, requests)
    seconds = max(plan.seconds * 8, 1.0)
    numbers = [rate, seconds + longer, overload.DEADLINE, overload.DEADLINE]
    pids = ",".join(map(str, processes.family(server.pid)))
    arguments = ["127.0.0.1", str(server.port), *map(str, numbers), str(path), pids]
    command = [sys.executable, "-S", str(processes.HERE / "flood.py"), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _finish(process: subprocess.Popen[str], server: processes.Target) -> Mapping[str, Any]:
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError("the generator failed")
    return overload.told(server, output)


def _with_key(requests: list[bytes], key: str) -> list[bytes]:
    line = b"\r\nauthorization: Bearer %b\r\n" % key.encode()
    return [request.replace(b"\r\n", line, 1) for request in requests]
