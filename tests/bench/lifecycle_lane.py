"""What rules of traffic cost a request in the lane, and what it costs to count it afterwards.

"In process" are connections without sockets, on which requests come from memory; all variants are
models of one server, called in turns. "Its calls" is a loop over the functions that do it: such a
figure is told to a tenth of a microsecond, and is a lower bound.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import graphs
import numpy as np
import uvloop
import wire
from plan import Plan
from table import Goal, Row, value_at_most
from unplugged import Connections
from zoo import digits

from aiaas_client import Client
from aiaas_server.app import Application, create_app
from aiaas_server.core.events import Caller, InferenceRecord, Units
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.schedule.requests import Outcome
from aiaas_server.http.edge.heads import Heads, LaneHead
from aiaas_server.http.edge.target import read_target
from aiaas_server.http.gate import Gate, request_id_of
from aiaas_server.monitor.alerts import Alerts
from aiaas_server.monitor.collector import VersionTap
from aiaas_server.monitor.features import Layout
from aiaas_server.monitor.mirror import Mirror, Witness
from aiaas_server.monitor.monitor import Monitor
from aiaas_server.monitor.profile import Profile
from aiaas_server.observe.metrics import RequestMetrics
from aiaas_server.registry.routing import Choices, divided
from aiaas_server.settings import Settings
from aiaas_server.state.database import Database

GROUP: Final = "lifecycle"
MICRO: Final = 1e6
CROWD: Final = 32
STICKY: Final = b"X-Sticky-Key: somebody"
FEATURES: Final = 30
LEARNED: Final = 1_000  # requests that become the reference
SLICES: Final = 300
RARELY: Final = 1e-6  # a share that is a rule, and yet leaves all calls to one session
A_MICROSECOND: Final = value_at_most(1)

Ask = Callable[[], Awaitable[object]]


def rows(plan: Plan) -> Iterator[Row]:
    """All of it."""
    data = plan.work / "lane"
    nothing = plan.work / "lane-models"
    nothing.mkdir()
    _bring(plan.network / "digits" / "1" / "model.onnx", nothing, data)
    yield from uvloop.run(_in_process(plan, data))
    yield from uvloop.run(_by_calls(nothing, data))


def _bring(model: Path, nothing: Path, data: Path) -> None:
    """Versions, and rules for them."""
    content = model.read_bytes()
    with Client.local(nothing, data=str(data)) as client:
        for name in ("plain", "split", "halve", "cover"):
            for number in (1,) if name == "plain" else (1, 2):
                client.models.deploy(name, graphs.variant(content, number))
            client.models.promote(name, 1)
        client.models.split("split", {"1": 1 - RARELY, "2": RARELY})
        client.models.split("halve", {"1": 0.5, "2": 0.5})
        client.models.shadow("cover", 2)
        client.models.deploy("sheet", graphs.linear(FEATURES))


class Variant(NamedTuple):
    """A request to one application, and what stands beside it."""

    what: str
    app: Application
    request: bytes
    beside: str = ""


async def _in_process(plan: Plan, data: Path) -> list[Row]:
    _, held_out = digits.load()
    inputs = {"image": np.ascontiguousarray(held_out.images[:1])}

    def asked(name: str, *lines: bytes) -> bytes:
        request = wire.binary(name, inputs)
        for line in lines:
            request = wire.with_header(request, line)
        return request

    plain = Settings(models=plan.network)
    async with (
        create_app(plain) as bare,
        create_app(Settings(data=data, models=plan.network)) as app,
    ):
        return await _compared(
            plan,
            {
                "bare": Variant("", bare, asked("digits")),
                "beside": Variant("--data: a model of --models", app, asked("digits"), "bare"),
                "plain": Variant("--data: a model of the registry", app, asked("plain"), "bare"),
                "split": Variant("a split", app, asked("split"), "plain"),
                "sticky": Variant("a split, a sticky key", app, asked("split", STICKY), "plain"),
                "halve": Variant("a split into halves: two sessions", app, asked("halve"), "plain"),
                "cover": Variant("a shadow, and its work", app, asked("cover"), "plain"),
            },
        )


async def _compared(plan: Plan, variants: Mapping[str, Variant]) -> list[Row]:
    found: list[Row] = []
    for count, how in ((1, "one at a time"), (CROWD, f"{CROWD} in a turn")):
        open_ = {app: Connections(app, count) for app in {one.app for one in variants.values()}}
        calls = {
            name: _ask(open_[variant.app], variant.request) for name, variant in variants.items()
        }
        seconds = await _interleaved(calls, plan.count(SLICES, 3), 640 // count // 16)
        cost = {name: one / count * MICRO for name, one in seconds.items()}
        for name, (what, _, _, beside) in variants.items():
            if beside:
                text = "without --data" if beside == "bare" else "no rule"
                found.append(
                    Row(GROUP, f"{what}, {how} (in process)", cost[name], "µs", cost[beside], text)
                )
    return found


def _ask(connections: Connections, request: bytes) -> Ask:
    return lambda: connections.ask(request)


async def _interleaved(calls: Mapping[str, Ask], slices: int, times: int) -> dict[str, float]:
    """CPU seconds of one call of each on the event loop's thread: the least mean of some."""
    best = dict.fromkeys(calls, float("inf"))
    for turn in range(slices + 1):
        for name, call in calls.items():
            began = time.thread_time()
            for _ in range(times):
                await call()
            if turn:  # the first is to warm up
                best[name] = min(best[name], (time.thread_time() - began) / times)
    return best


# By their calls


async def _by_calls(nothing: Path, data: Path) -> list[Row]:
    async with create_app(Settings(data=data, models=nothing)) as app:
        model = app.pool.find("sheet")
        assert model is not None, "it was brought"
        return [*_rules(app, model), *_counting(model, data)]


def _rules(app: Application, model: LoadedModel) -> Iterator[Row]:
    choices, caller = Choices(), Caller("0123456789abcdef-12345")
    keyed = caller._replace(sticky="somebody")
    choices.put("one", divided("one", {1: 1.0}))
    choices.put("two", divided("two", {1: 0.95, 2: 0.05}))
    unused = _each(lambda: choices.choose("one", caller))
    yield _piece("nothing asked for: its version found", unused, A_MICROSECOND)
    split, by_key = (_each(lambda c=c: choices.choose("two", c)) for c in (caller, keyed))  # type: ignore[misc]
    yield _piece("a split", split - unused, A_MICROSECOND)
    read = _door(app, STICKY) - _door(app, b"")
    yield _piece("a sticky key, besides the split", read + by_key - split, A_MICROSECOND)
    mirror = Mirror(
        model.name, 2, 1.0, app.pool.find, Witness(_nothing, lambda: None),
        asyncio.get_running_loop(),
    )  # fmt: skip
    show, (inputs, outcome) = mirror.tap(model), _shown(model)

    def shadowed() -> None:
        show(inputs, outcome, caller)
        mirror._new.clear()  # as the event loop does it, behind the answer

    cost = _each(shadowed) - _each(mirror._new.clear)
    mirror.end()
    yield _piece("a shadow: the copy handed over", cost, A_MICROSECOND)


def _door(app: Application, line: bytes) -> float:
    """Seconds to recall a head and let the request in, with `line` in it or without."""
    endpoint = app.hot.find("POST", "/v2/models/sheet/infer")
    assert endpoint is not None
    text = wire.post("/v2/models/sheet/infer", b"", "application/json")
    if line:
        text = wire.with_header(text, line)
    first, *lines = text.strip().split(b"\r\n")
    headers = {n.lower(): v for n, v in (one.split(b": ", 1) for one in lines)}
    target = read_target(first.split(b" ")[1])
    heads, gate = Heads(), Gate(app.settings, RequestMetrics(), observed=False)
    heads.learn(text, LaneHead("POST", target, headers, 0, endpoint))

    def come_in() -> None:
        head = heads.recall(text)
        assert head is not None
        gate.open(request_id_of(head.headers), head.headers, target.path, b"", "127.0.0.1")

    return _each(come_in)


def _shown(model: LoadedModel) -> tuple[dict[str, Any], Outcome]:
    """A request and its answer as a socket brings them: nobody can write to what came."""
    inputs = {"x": np.random.default_rng(0).standard_normal((1, FEATURES)).astype(np.float32)}
    outcome = model.infer_now(inputs)
    inputs["x"].flags.writeable = False
    return inputs, outcome


def _counting(model: LoadedModel, data: Path) -> Iterator[Row]:
    """What monitoring does of each request of 30 features: before its answer, and behind it."""
    database, alerts = Database(f"sqlite:///{data / 'state.db'}"), Alerts("")
    monitor = Monitor(database, alerts, learn_rows=LEARNED)
    collector, tap = monitor.collector, VersionTap(monitor.collector, model)
    generator = np.random.default_rng(0)
    shown = []
    for number in range(LEARNED):
        x = generator.standard_normal((1, FEATURES)).astype(np.float32)
        outcome = model.infer_now({"x": x})
        x.flags.writeable = False
        caller = Caller(f"0123456789abcdef-{number:x}")
        record = InferenceRecord(model.name, 1, Units(1), 1, 1e-5, 2e-5, 3e-5, None, caller)
        shown.append((record, {"x": x}, outcome, caller))

    def pick(some: list[Any]) -> float:
        began = time.thread_time()
        for record, inputs, outcome, caller in some:
            collector(record)
            tap(inputs, outcome, caller)
        return time.thread_time() - began

    def counted(some: list[Any]) -> tuple[float, float]:
        """Seconds a request, before and behind its answer."""
        before = pick(some)
        began = time.thread_time()
        monitor.drain()
        return before / len(some), (time.thread_time() - began) / len(some)

    try:
        counted(shown)
        monitor.flush()  # the reference, from here on
        few, many = [counted(shown[:100]) for _ in range(50)], [counted(shown) for _ in range(10)]
        (reference,) = monitor._references.values()
    finally:
        monitor.close()
        alerts.close()
        database.close()
    before = min(one for one, _ in (*few, *many)) * MICRO
    yield _piece(f"monitoring, {FEATURES} features: picked up before the answer", before)
    for count, found in ((100, few), (LEARNED, many)):
        cost = _drift(tap.layout, reference.profile, shown[:count])
        times = f"{count:,} at a time, behind the answer"
        yield _piece(f"drift of {FEATURES} features counted, {times}", cost, value_at_most(5))
        behind = min(one for _, one in found) * MICRO
        yield _piece(f"all that is monitored, drift too, {times}", behind)


def _drift(layout: Layout, profile: Profile, shown: list[Any]) -> float:
    """Microseconds a request to count inputs and predictions into the bins of a reference."""
    inputs, outputs = [one[1] for one in shown], [one[2].outputs for one in shown]
    counts = profile.empty()

    def count() -> None:
        profile.count(layout.inputs(inputs) + layout.outputs(outputs), counts)

    return _each(count, 20) / len(shown)


def _piece(what: str, seconds_or_micro: float, goal: Goal | None = None) -> Row:
    return Row(GROUP, f"{what} (its calls)", seconds_or_micro, "µs/request", goal=goal)


def _nothing(_: object) -> None: ...


def _each(call: Callable[[], object], times: int = 5_000) -> float:
    """Microseconds of one call: the best of some rounds."""
    found = []
    for _ in range(9):
        began = time.thread_time()
        for _ in range(times):
            call()
        found.append((time.thread_time() - began) / times)
    return min(found) * MICRO
