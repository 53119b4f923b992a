"""Many rows and large tensors through the SDK, beside a raw socket copy and the model itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import graphs
import inprocess
import numpy as np
import processes
import real
import sentences
import sockets
from plan import Plan
from table import Goal, Row, at_least, at_most, value_at_most
from zoo import digits

from aiaas_client import Client

GROUP = "infer_many"
PIECE = 4 << 20
LARGE = 64 << 20
MILLI = 1e3


def rows(plan: Plan) -> Iterator[Row]:
    """`infer_many` and `infer_array` over a loopback server."""
    folder = real.repository(plan.models, plan.work / "bulk")
    graphs.copies(plan.network / "digits", folder, 1)
    with (
        processes.aiaas(folder) as server,
        sockets.copying() as copy,
        Client(f"http://127.0.0.1:{server.port}") as client,
    ):
        yield from _network(plan, folder, client, copy)
        yield from _sentences(plan, folder, client, copy)


def _network(plan: Plan, folder: Path, client: Client, copy: sockets.Copy) -> Iterator[Row]:
    _, held_out = digits.load()
    count = plan.count(100_000, 2_000)
    images = np.resize(held_out.images, (count, 784))
    model = client.model("digits-0")
    session = inprocess.open_session(folder / "digits-0" / "1" / "model.onnx", 1)
    batches = [{"image": images[at : at + 1024]} for at in range(0, count, 1024)]
    (logits,) = session.run(None, batches[0])
    back = logits.nbytes * count // len(logits)

    def alone() -> float:
        return inprocess.work(session, batches, real.CORES).seconds

    def copied() -> float:
        return _copied(copy, images.nbytes, back)

    blocks = [images[at : at + 64] for at in range(0, count, 64)]
    ways: list[tuple[str, Callable[[], Iterable[object]], bool]] = [
        ("rows", lambda: model.infer_many({"image": images}), True),
        ("rows in blocks of 64", lambda: model.infer_many(blocks, rows=True), False),
    ]
    for name, call, judged in ways:
        yield from _beside(
            f"network, {count:,} {name}", count, call, alone, copied,
            rounds=plan.rounds, judged=judged,
        )  # fmt: skip
    shape = (count, *logits.shape[1:])
    place = np.lib.format.open_memmap(plan.work / "logits.npy", "w+", logits.dtype, shape)
    whole: list[tuple[str, Callable[[], object]]] = [
        ("rows", lambda: model.infer_array(image=images)),
        ("rows to a memory map", lambda: model.infer_array(image=images, out={"logits": place})),
    ]
    for name, run in whole:
        yield _at_once(f"network, {count:,} {name}", run, alone, copied, rounds=2 * plan.rounds)


def _at_once(
    name: str,
    call: Callable[[], object],
    alone: Callable[[], float],
    copied: Callable[[], float],
    *,
    rounds: int,
) -> Row:
    """One result of very many rows: a call is short, so more rounds find a quiet moment."""
    ours, bare, raw = [], [], []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        ours.append(time.perf_counter() - began)
        bare.append(alone())
        raw.append(copied())
    seconds, model, copy = map(min, (ours, bare, raw))
    least = copy + model
    return Row(
        "infer_array", f"{name}: time", seconds, "s", least, "socket copy + in process",
        at_most(1.4),
    )  # fmt: skip


def _sentences(plan: Plan, folder: Path, client: Client, copy: sockets.Copy) -> Iterator[Row]:
    count = plan.count(2_000, 64)
    feeds = sentences.feeds(count)
    way = real.best(folder / "minilm", feeds[:256], inprocess.joined_by_length, (8, 16, 32))
    size = int(way.name.split()[-1])
    session = inprocess.open_session(folder / "minilm" / "1" / "model.onnx", 1)
    batches = inprocess.joined_by_length(feeds, size)
    there = sum(array.nbytes for feed in feeds for array in feed.values())
    back = sum(feed["input_ids"].shape[1] * 384 * 4 for feed in feeds)
    items = [{name: array[0] for name, array in feed.items()} for feed in feeds]
    model = client.model("minilm")
    yield from _beside(
        f"MiniLM, {count:,} sentences", count, lambda: model.infer_many(items),
        lambda: inprocess.work(session, batches, real.CORES).seconds,
        lambda: _copied(copy, there, back), rounds=1,
    )  # fmt: skip


def _beside(
    name: str,
    count: int,
    call: Callable[[], Iterable[object]],
    alone: Callable[[], float],
    copied: Callable[[], float],
    *,
    rounds: int,
    judged: bool = True,
) -> Iterator[Row]:
    ours, bare, raw = [], [], []
    for _ in range(rounds):
        began = time.perf_counter()
        got = sum(1 for _ in call())
        ours.append(time.perf_counter() - began)
        assert got, name
        bare.append(alone())
        raw.append(copied())
    seconds, model, copy = map(min, (ours, bare, raw))
    goals: Sequence[Goal | None] = (at_most(1.5), at_least(0.85)) if judged else (None, None)
    least = copy + model
    yield Row(GROUP, f"{name}: time", seconds, "s", least, "socket copy + in process", goals[0])
    yield Row(
        GROUP, f"{name}: rate", count / seconds, "rows/s", count / model, "in process", goals[1]
    )


def _copied(copy: sockets.Copy, there: int, back: int) -> float:
    """Seconds to carry the bytes in pieces of four MiB at most."""
    pieces = -(-max(there, back) // PIECE)
    piece = bytes(there // pieces)
    return sum(copy.seconds(piece, back // pieces) for _ in range(pieces))


def large(plan: Plan) -> Iterator[Row]:
    """64 MiB of float32 one way, through the SDK."""
    folder = plan.work / "large"
    graphs.place(folder, "total", graphs.total())
    graphs.place(folder, "filled", graphs.filled())
    count = LARGE // 4
    array, size = np.ones(count, np.float32), np.array([count], np.int64)
    room = LARGE + (1 << 20)
    with (
        processes.aiaas(folder, max_body_bytes=room, max_answer_bytes=room) as server,
        sockets.copying() as copy,
        Client(f"http://127.0.0.1:{server.port}", timeout=60.0, max_answer_bytes=room) as client,
    ):
        total, filled = client.model("total"), client.model("filled")
        yield from _one_way(
            plan, "64 MiB there", lambda: total.infer(x=array),
            lambda: copy.seconds(array.data.cast("B"), 4),
        )  # fmt: skip
        yield from _one_way(
            plan, "64 MiB back", lambda: filled.infer(size=size), lambda: copy.seconds(b"1", LARGE)
        )
        fixed = filled.infer(size=size)["x"]
        readonly = 0.0 if fixed.flags.writeable and fixed.nbytes == LARGE else 1.0
        yield Row(
            "large", "64 MiB back: arrays that are not writable", readonly, "", None, "",
            value_at_most(0),
        )  # fmt: skip


def _one_way(
    plan: Plan, name: str, call: Callable[[], object], copied: Callable[[], float]
) -> Iterator[Row]:
    call()
    ours, raw = [], []
    for _ in range(3 * plan.rounds):
        began = time.perf_counter()
        call()
        ours.append(time.perf_counter() - began)
        raw.append(copied())
    seconds, least = min(ours) * MILLI, min(raw) * MILLI
    yield Row("large", f"{name}: time", seconds, "ms", least, "socket copy", at_most(2.0))
