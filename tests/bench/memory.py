"""Resident memory of the server: small, and flat whatever it has served."""

from __future__ import annotations

from collections.abc import Iterator

import graphs
import numpy as np
import processes
import wire
from plan import Plan
from table import Row, value_at_most
from zoo import digits

from aiaas_client import Client

GROUP = "resident memory"
LARGE = 64 << 20
FLAT = value_at_most(5)


def rows(plan: Plan) -> Iterator[Row]:
    yield from _requests(plan)
    yield from _cycles(plan)
    yield from _large(plan)


def _requests(plan: Plan) -> Iterator[Row]:
    _, held_out = digits.load()
    request = [wire.binary("digits", {"image": np.ascontiguousarray(held_out.images[:1])})]
    wanted = plan.count(1_000_000 if plan.long else 200_000)
    with processes.aiaas(plan.network) as server:
        ready = server.settled_rss(0.5)
        yield Row(GROUP, "one tiny model, ready", ready / 1e6, "MB", None, "", value_at_most(110))
        processes.one_round(server, request, 32, plan.seconds)
        before, served = server.settled_rss(), 0
        while served < wanted:
            served += round(processes.one_round(server, request, 32, plan.seconds * 3).requests)
        after = server.settled_rss()
        yield Row(GROUP, "one tiny model, after the load", after / 1e6, "MB")
    yield Row(
        GROUP, f"growth over {served:,} requests", (after - before) / 1e6, "MB", None, "", FLAT
    )


def _cycles(plan: Plan) -> Iterator[Row]:
    folder = plan.work / "cycles"
    graphs.copies(plan.network / "digits", folder, 1)
    graphs.place(folder, "heavy", graphs.heavy(20))
    warm, cycles = plan.count(10), plan.count(200)
    row = np.ones((1, 1000), np.float32)
    with (
        processes.aiaas(folder, load_models="digits-0") as server,
        Client(f"http://127.0.0.1:{server.port}") as client,
    ):

        def cycle() -> None:
            client.models.load("heavy")
            client.model("heavy").infer(x=row)
            client.models.unload("heavy")

        for _ in range(warm):
            cycle()
        before = server.settled_rss()
        for _ in range(cycles):
            cycle()
        growth = server.settled_rss() - before
    name = f"growth over {cycles} cycles: load, infer, unload 20 MB"
    yield Row(GROUP, name, growth / 1e6, "MB", None, "", FLAT)


def _large(plan: Plan) -> Iterator[Row]:
    folder = plan.work / "one-large"
    graphs.place(folder, "total", graphs.total())
    room = LARGE + (1 << 20)
    with (
        processes.aiaas(folder, max_body_bytes=room) as server,
        Client(f"http://127.0.0.1:{server.port}", timeout=60.0) as client,
    ):
        client.model("total").infer(x=np.ones(4, np.float32))
        before = server.settled_rss()
        client.model("total").infer(x=np.ones(LARGE // 4, np.float32))
        growth = server.settled_rss() - before
    yield Row(GROUP, "growth after one 64 MiB request", growth / 1e6, "MB", None, "", FLAT)
