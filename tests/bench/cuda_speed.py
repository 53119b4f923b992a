"""Groups of `cuda.py` about figures: answers, warm sizes, ways to run, served and in process."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import inprocess
import load
import numpy as np
import onnxruntime
import processes
import wire
from cuda_plan import EFFICIENTNETS, MODELS, NEAR, NONE, Server, Work
from table import Row, at_most, value_at_most

from aiaas_client import Client
from aiaas_server.core.describe.config import ModelConfig
from aiaas_server.core.errors import LoadFailed
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.runtimes.session import OnnxSession

MILLI = 1e3
HIDDEN = "last_hidden_state"
Join = Callable[[Sequence[inprocess.Feed], int], list[inprocess.Feed]]


class Session:
    """Our own session with the call of onnxruntime's, for `inprocess.work`."""

    def __init__(self, work: Work, name: str, *, binds: bool = False, graphs: bool = False) -> None:
        told = {"instance_group": [{"gpus": [work.device]}]}
        config = ModelConfig.parse(
            {**told, "parameters": {"cuda_graphs": {"string_value": str(int(graphs))}}}
        )
        providers = (work.provider,)
        self.ours: OnnxSession = open_session(
            work.kit.model(name), config, providers=providers, io_binding=binds
        )
        self.names = [spec.name for spec in self.ours.outputs]

    def run(self, _: object, feed: inprocess.Feed) -> list[Any]:
        return self.ours.run(feed, self.names)


def answers(server: Server) -> Iterator[Row]:
    """What the device answers beside what the CPU does."""
    work, group = server.work, "answers"
    yield Row(group, "start to ready, all models", server.target.start_seconds, "s")
    missing = [name for name in MODELS if not server.serves(name)]
    yield Row(group, "models that did not load", len(missing), "models", goal=NONE)
    device = "KIND_GPU" if work.on_card else "KIND_CPU"
    with Client(server.url, timeout=120.0) as client:
        elsewhere = 0
        for name in MODELS:
            if name not in missing:
                placed = client.model(name).config()["instance_group"]
                elsewhere += any(one["kind"] != device for one in placed)
        yield Row(group, "models that are not on the device", elsewhere, "models", goal=NONE)
        cpu = _on_cpu(work, "efficientnet")
        for name in filter(server.serves, EFFICIENTNETS):
            worst = wrong = 0.0
            for feed in [*work.kit.pictures] * 2:
                told = client.model(name).infer(feed)["probabilities"]
                (expected,) = cpu.run(None, dict(feed))
                worst = max(worst, float(np.abs(told - expected).max()))
                wrong += float(told.argmax() != expected.argmax())
            # Convolutions of CUDA round to TF32, ten bits.
            what = f"{name}: largest difference of a probability from the CPU's"
            yield Row(group, what, worst, "", goal=value_at_most(0.02))
            yield Row(group, f"{name}: another top class", wrong, "pictures", goal=NONE)


def sizes(server: Server) -> Iterator[Row]:
    """One request of each warm size: the first is to be as quick as those after it."""
    work, group = server.work, "warm batch sizes, EfficientNet"
    connection = load.Connection("127.0.0.1", server.target.port)
    picture = work.kit.pictures[0]["image"]
    for rows in work.sizes:
        request = wire.binary("efficientnet", {"image": np.repeat(picture, rows, axis=0)})
        times = [_answered(connection, request) for _ in range(4 if work.quick else 16)]
        median = statistics.median(times[1:])
        yield Row(
            group, f"first request of {rows} rows", times[0] * MILLI, "ms",
            median * MILLI, "the median of the next", work.quickly(at_most(3.0)),
        )  # fmt: skip
        yield Row(group, f"a row of {rows}", median / rows * MILLI, "ms/row")


def ways(server: Server) -> Iterator[Row]:
    """How a run is best done, nothing served: plain, bound, over buffers that stay."""
    work = server.work
    group, picture = "ways to run", work.kit.pictures[0]["image"]
    many = work.sizes[-2]
    for name, feed in (
        ("efficientnet", {"image": picture}),
        ("efficientnet", {"image": np.repeat(picture, many, axis=0)}),
        ("minilm", inprocess.joined_by_length(work.kit.sentences[:many], many)[0]),
    ):
        rows, base = len(next(iter(feed.values()))), 0.0
        for way, opened in _ways(work, name, feed).items():
            try:
                run = opened().run
            except LoadFailed as refused:
                yield Row(group, f"{name}, {way}: {refused.message[:60]}", 0.0, "runs")
                continue
            took, halt = _timed(partial(run, None, feed), work.seconds / 2)
            what = f"{name}, {rows} row{'s' * (rows > 1)}, {way}"
            yield Row(
                group, what, took * MILLI, "ms/run", base * MILLI or None, "plain" * bool(base)
            )
            yield Row(group, f"{what}: another thread halted", halt * MILLI, "ms")
            base = base or took


def _ways(work: Work, name: str, feed: inprocess.Feed) -> dict[str, Callable[[], Session | _Kept]]:
    return {
        "plain": lambda: Session(work, name),
        "bound": lambda: Session(work, name, binds=True),
        "buffers that stay": lambda: _Kept(Session(work, name), feed, work),
        "recorded": lambda: Session(work, name, graphs=True),
    }


def served(server: Server) -> Iterator[Row]:
    """The server beside the best that a person would write around the same session."""
    work, kit = server.work, server.work.kit
    few = work.quick
    yield from _against(
        server, "efficientnet", kit.pictures, 1 if few else 32, inprocess.joined,
        EFFICIENTNETS,
    )  # fmt: skip
    sentences = kit.sentences[: 16 if few else None]
    yield from _against(server, "minilm", sentences, 1, inprocess.joined_by_length, ("minilm",))


def mixed(server: Server) -> Iterator[Row]:
    """Requests of one to four sentences of any length at once: each gets its own answer."""
    work, group = server.work, "mixed shapes, MiniLM"
    few = 12 if work.quick else 240
    requests = [
        inprocess.joined_by_length(
            [work.kit.sentences[(at * 7 + n) % 384] for n in range(at % 4 + 1)], 4
        )[0]
        for at in range(few)
    ]
    cpu = _on_cpu(work, "minilm")
    with Client(server.url, timeout=120.0) as client, ThreadPoolExecutor(16) as threads:
        began = time.perf_counter()
        told = list(threads.map(lambda feed: client.model("minilm").infer(feed)[HIDDEN], requests))
        took = time.perf_counter() - began
    apart = 0.0
    for feed, answer in zip(requests, told, strict=True):
        expected = _pooled(cpu.run(None, dict(feed))[0], feed)
        apart = max(apart, float((1 - (_pooled(answer, feed) * expected).sum(1)).max()))
    what = "largest distance of a sentence's vector from the CPU's (1 - cosine)"
    yield Row(group, what, apart, "", goal=value_at_most(1e-3))
    rows = sum(len(feed["input_ids"]) for feed in requests)
    yield Row(group, "16 threads of one client", rows / took, "rows/s")


class _Kept:
    """Runs of one shape over device buffers that stay: what reuse could gain at most."""

    def __init__(self, session: Session, feed: inprocess.Feed, work: Work) -> None:
        inner: Any = session.ours._session
        kind = "cuda" if work.on_card else "cpu"
        self.session, self.binding, self.held = inner, inner.io_binding(), {}
        for name, array in feed.items():
            value = onnxruntime.OrtValue.ortvalue_from_numpy(array.copy(), kind, work.device)
            self.held[name] = value
            self.binding.bind_ortvalue_input(name, value)
        for name in session.names:
            self.binding.bind_output(name, kind, work.device)

    def run(self, _: object, feed: inprocess.Feed) -> list[Any]:
        for name, array in feed.items():
            self.held[name].update_inplace(array)
        self.session.run_with_iobinding(self.binding, None)
        answers: list[Any] = self.binding.copy_outputs_to_cpu()
        return answers


def _against(
    server: Server,
    name: str,
    feeds: Sequence[inprocess.Feed],
    times: int,
    join: Join,
    variants: Sequence[str],
) -> Iterator[Row]:
    work = server.work
    label, again = _best(work, name, [*feeds] * times, join)
    served = [variant for variant in variants if server.serves(variant)]
    requests = {v: [wire.binary(v, feed) for feed in feeds] for v in served}
    works: list[inprocess.Work] = []
    loads: dict[str, list[processes.Load]] = {variant: [] for variant in served}
    for _ in range(work.rounds):
        works.append(again())
        for variant in served:
            loads[variant].append(_loaded(server, requests[variant]))
    inside, group = inprocess.best(works), f"served, {name}"
    for variant in served:
        ours = processes.best(loads[variant])
        what = f"{variant}, {work.connections} clients, one row each"
        goal = work.quickly(NEAR) if variant == name else None
        beside = f"in process, {label}"
        yield Row(group, f"{what}: rate", ours.rate, "rows/s", inside.rate, beside, goal)
        yield Row(group, f"{what}: p99", ours.p99 * MILLI, "ms")


def _best(
    work: Work, name: str, feeds: Sequence[inprocess.Feed], join: Join
) -> tuple[str, Callable[[], inprocess.Work]]:
    """The fastest of some batch sizes, ways and numbers of threads in this process."""
    found = []
    sizes = [size for size in work.sizes if size in (1, 4, 16, 64)]
    for binds, way in ((False, "plain"), (True, "bound")):
        session: Any = Session(work, name, binds=binds)
        for size in sizes[-1:] if work.quick else sizes:
            batches = join(feeds, size)
            for batch in {next(iter(b.values())).shape: b for b in batches}.values():
                session.run(None, batch)  # every shape once, as the server's are warm
            for threads in work.threads:
                again = partial(inprocess.work, session, batches, threads)
                label = f"{way}, batches of {size}, {threads} at a time"
                found.append((again().rate, label, again))
    _, label, again = max(found, key=lambda one: one[0])
    rows = len(feeds)

    def whole() -> inprocess.Work:
        """For about as long as a round of load."""
        works = [again()]
        while sum(one.seconds for one in works) < work.seconds:
            works.append(again())
        seconds = sum(one.seconds for one in works)
        cpu = sum(one.cpu for one in works) / len(works)
        return inprocess.Work(cpu, rows * len(works) / seconds, seconds)

    return label, whole


def _loaded(server: Server, requests: list[bytes]) -> processes.Load:
    """A round of load by several generators at once, since one cannot feed a card."""
    work = server.work
    generators = min(4, work.connections) if work.on_card else 1
    each = work.connections // generators
    with ThreadPoolExecutor(generators) as threads:
        found = list(
            threads.map(
                lambda _: processes.one_round(server.target, requests, each, work.seconds),
                range(generators),
            )
        )
    rates, cpus, p50s, p99s, counts = zip(
        *[(one.rate, one.cpu, one.p50, one.p99, one.requests) for one in found], strict=True
    )
    return processes.Load(sum(rates), min(cpus), max(p50s), max(p99s), sum(counts))


def _timed(run: Callable[[], object], seconds: float) -> tuple[float, float]:
    """Seconds of a run, the median, and for how long another thread is halted, the tenth longest.

    The longest halts are copies that hold the interpreter; some few are the system's.
    """
    halts: list[float] = []
    done = threading.Event()

    def watch() -> None:
        last = time.perf_counter()
        while not done.is_set():
            time.sleep(0)
            now = time.perf_counter()
            halts.append(now - last)
            last = now

    run()
    watcher = threading.Thread(target=watch)
    watcher.start()
    times, until = [], time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    done.set()
    watcher.join()
    return statistics.median(times), sorted(halts)[-10:][0]


def _answered(connection: load.Connection, request: bytes) -> float:
    """Seconds until the whole answer is there.

    Raises:
        RuntimeError: It was not 200.
    """
    connection.send(request)
    while not connection.receive():
        pass
    took = time.perf_counter() - connection.sent_at
    if connection.status() != "200":
        raise RuntimeError(f"the server answered {connection.answer[:500]!r}")
    return took


def _on_cpu(work: Work, name: str) -> Any:
    """onnxruntime's own session on the CPU."""
    return inprocess.open_session(work.kit.model(name))


def _pooled(hidden: Any, feed: inprocess.Feed) -> Any:
    """Mean over what the mask shows, length 1: `(n, tokens, 384)` to `(n, 384)`."""
    weights = feed["attention_mask"][:, :, None].astype(np.float32)
    vectors = (hidden * weights).sum(1) / weights.sum(1)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
