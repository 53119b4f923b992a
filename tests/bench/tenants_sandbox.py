"""What a process of its own costs a model, for tenants' models run in one each.

Requests go one after the other through the scheduler of a loaded model, so that the way to a
thread and back counts, which only an isolated model's requests always take. Both kinds take turns,
in rounds; of each kind its quickest round counts: a machine with other work makes whatever changes
between processes slower than what does not.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from statistics import median

import inprocess
import numpy as np
import sentences
import uvloop
from plan import Plan
from table import Row, at_most, value_at_most
from zoo import digits

from aiaas_server.core.describe.stored import StoredModel
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.repository.repository import Repository
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.runtimes.sandbox import open_isolated
from aiaas_server.settings import Settings

GROUP = "a model in a process of its own"
LONGER = 4.0
"""Times as long as a round of load: a run of MiniLM takes a good part of that."""
BATCHING = {"max_batch_size": 64, "dynamic_batching": {}}


class Both(Repository):
    """Each model twice: under its own name, and in a process of its own under that and `-apart`."""

    def find(self, name: str) -> StoredModel | None:
        found = super().find(name)
        if found is None:
            return None
        return replace(found, isolated=name.endswith("-apart"))


def rows(plan: Plan) -> Iterator[Row]:
    root = plan.work / "apart"
    for name, source in (("digits", plan.network / "digits"), ("minilm", plan.models / "minilm")):
        for kind in (name, f"{name}-apart"):
            shutil.copytree(source / "1", root / kind / "1")
            (root / kind / "config.json").write_text(json.dumps(BATCHING), "utf-8")
    _, held_out = digits.load()
    image = {"image": np.ascontiguousarray(held_out.images[:1])}
    text = max(sentences.feeds(64), key=lambda feed: feed["input_ids"].size)
    found = uvloop.run(_measured(plan, Both(root), {"digits": image, "minilm": text}))
    here, apart = found["digits"]
    yield Row(GROUP, "784-32-10: p50", apart, "µs", here, "in the server's")
    yield Row(GROUP, "784-32-10: added to p50", apart - here, "µs", goal=value_at_most(150))
    here, apart = found["minilm"]
    yield Row(GROUP, "MiniLM: p50", apart / 1e3, "ms", here / 1e3, "in the server's", at_most(1.05))


async def _measured(
    plan: Plan, both: Both, feeds: dict[str, inprocess.Feed]
) -> dict[str, tuple[float, float]]:
    """Microseconds of a request by model, in the server's process and in its own."""
    pool = ModelPool(both, open_session, Settings(), open_isolated=open_isolated)
    await pool.start()
    found: dict[str, tuple[float, float]] = {}
    try:
        for name, feed in feeds.items():
            took: dict[str, list[float]] = {name: [], f"{name}-apart": []}
            for _ in range(plan.rounds + 1):
                for kind, rounds in took.items():
                    rounds.append(await _round(pool, kind, feed, plan.seconds * LONGER / 2))
            here, apart = (min(rounds) for rounds in took.values())
            found[name] = here, apart
    finally:
        await pool.close()
    return found


async def _round(pool: ModelPool, name: str, feed: inprocess.Feed, seconds: float) -> float:
    loaded = pool.find(name)
    assert loaded is not None, "it was loaded"
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        began = time.perf_counter_ns()
        await loaded.infer(feed)
        times.append((time.perf_counter_ns() - began) / 1e3)
    return median(times)
