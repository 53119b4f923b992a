"""What a process of its own costs a model: `python -m tests.bench.tenants_sandbox [--seconds S]`.

Requests go one after the other through the scheduler of a loaded model, so that the way to a
thread and back counts, which only an isolated model's requests always take. Both kinds take turns,
in rounds. Told are the medians of all requests, and those of each kind's quickest round: a machine
with other work makes whatever changes between processes slower than what does not.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from onnx import helper

from aiaas_server.core.describe.stored import StoredModel
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.repository.repository import Repository
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.runtimes.sandbox import open_isolated
from aiaas_server.settings import Settings
from tests.graphs import model, value

ROUNDS = 10


def small() -> bytes:
    """The 784-32-10 network."""
    return _dense([784, 32, 10], ["n", 784], ["n", 10])


def as_minilm() -> bytes:
    """As many multiplications as all-MiniLM-L6 has in six layers, (n, 128, 384) -> the same."""
    return _dense([384, 1536, 384, 1152, 384] * 6, ["n", 128, 384], ["n", 128, 384])


def _dense(widths: list[int], given: list[Any], got: list[Any]) -> bytes:
    random = np.random.default_rng(0)
    nodes, weights, last = [], {}, "x"
    for number, (rows, columns) in enumerate(pairwise(widths)):
        name = f"w{number}"
        weights[name] = random.normal(0, rows**-0.5, (rows, columns)).astype(np.float32)
        nodes.append(helper.make_node("MatMul", [last, name], [f"h{number}"]))
        nodes.append(helper.make_node("Relu", [f"h{number}"], [f"r{number}"]))
        last = f"r{number}"
    nodes.append(helper.make_node("Identity", [last], ["y"]))
    return model(nodes, [value("x", given)], [value("y", got)], **weights)


INPUTS: Mapping[str, tuple[int, ...]] = {"784-32-10": (1, 784), "minilm": (1, 128, 384)}


class Both(Repository):
    """Each model twice: under its own name, and in a process of its own under that and `-apart`."""

    def find(self, name: str) -> StoredModel | None:
        found = super().find(name)
        if found is None:
            return None
        return replace(found, isolated=name.endswith("-apart"))


async def measured(root: Path, seconds: float) -> dict[str, list[float]]:
    """Microseconds of a request by model: here and apart, then those of the quickest rounds."""
    pool = ModelPool(Both(root), open_session, Settings(), open_isolated=open_isolated)
    await pool.start()
    found: dict[str, list[float]] = {}
    try:
        for name, shape in INPUTS.items():
            x = np.random.default_rng(0).random(shape, np.float32)
            took: dict[str, list[list[float]]] = {name: [], f"{name}-apart": []}
            for _ in range(ROUNDS):
                for kind, rounds in took.items():
                    rounds.append(await _run(pool, kind, x, seconds / ROUNDS / 2))
            found[name] = [
                *(median(chain(*rounds)) for rounds in took.values()),
                *(min(map(median, rounds)) for rounds in took.values()),
            ]
    finally:
        await pool.close()
    return found


async def _run(pool: ModelPool, name: str, x: Any, seconds: float) -> list[float]:
    loaded = pool.find(name)
    assert loaded is not None, "it was loaded"
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter_ns()
        await loaded.infer({"x": x})
        times.append((time.perf_counter_ns() - began) / 1e3)
    return times


def main() -> None:
    """Measure, and print a line a model."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=10.0, help="for each model")
    seconds = options.parse_args().seconds
    with tempfile.TemporaryDirectory() as place:
        for name, content in (("784-32-10", small()), ("minilm", as_minilm())):
            for kind in (name, f"{name}-apart"):
                path = Path(place) / kind / "1"
                path.mkdir(parents=True)
                (path / "model.onnx").write_bytes(content)
        for name, told in asyncio.run(measured(Path(place), seconds)).items():
            for what, (here, apart) in (("p50", told[:2]), ("p50 of the quickest", told[2:])):
                added = apart - here
                print(
                    f"{name}: {what}: here {here:.0f} us, apart {apart:.0f} us, "
                    f"{added:+.0f} us, {added / here:+.1%}"
                )


if __name__ == "__main__":
    main()
