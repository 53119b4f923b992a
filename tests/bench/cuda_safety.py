"""Groups of `cuda.py` about what must not happen: memory kept, runs that go on, a server lost."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import cuda_kit
import load
import numpy as np
import processes
import wire
from cuda_plan import NONE, Server, Work
from table import Row, value_at_most

from aiaas_client import Client
from aiaas_server.runtimes.probe import gives_back
from aiaas_server.runtimes.providers import CUDA

FOR_EVER = 10**9
MEGA = 1e6
PATIENCE = 2.0


class Answer(NamedTuple):
    status: int
    text: str
    seconds: float


def memory(server: Server) -> Iterator[Row]:
    """What a model takes goes with it, and what one huge request took goes after it."""
    work, group = server.work, "memory"
    folder = work.folder / "memory"
    largest = work.sizes[-1]
    config = {"max_batch_size": largest, "dynamic_batching": {}}
    if work.on_card:
        config["instance_group"] = [{"gpus": [work.device]}]
    cuda_kit.place(folder, "efficientnet", work.kit.model("efficientnet"), config)
    cuda_kit.place(folder, "busy", work.kit.model("busy"), {"max_batch_size": 0})
    whole = np.repeat(work.kit.pictures[0]["image"], largest, axis=0)
    with (
        _second_server(work, folder) as other,
        Client(f"http://127.0.0.1:{other.port}", timeout=120.0) as client,
    ):
        used = _reader(work, other)

        def cycle() -> int:
            client.models.load("efficientnet")
            model = client.model("efficientnet")
            model.infer(image=whole)
            taken = used()
            client.models.unload("efficientnet")
            return taken

        before = used()
        cycle()  # the libraries' own memory stays for the next model
        base = used()
        yield Row(group, "the first model's libraries", (base - before) / MEGA, "MB")
        cycles = 2 if work.quick else 5
        taken = [cycle() for _ in range(cycles)]
        yield Row(group, "taken while it serves", (max(taken) - base) / MEGA, "MB")
        kept = (used() - base) / MEGA
        what = f"kept after {cycles} cycles: load, infer {largest} rows, unload"
        yield Row(group, what, kept, "MB", goal=value_at_most(32))
        yield from _after_a_large_one(work, client, used)


def _after_a_large_one(work: Work, client: Client, used: Callable[[], int]) -> Iterator[Row]:
    client.models.load("efficientnet")
    model = client.model("efficientnet")
    one = work.kit.pictures[0]["image"]
    for _ in range(30):
        model.infer(image=one)
    before = used()
    model.infer(image=np.repeat(one, work.sizes[-1], axis=0))
    for _ in range(30):
        model.infer(image=one)
    kept = (used() - before) / MEGA
    what = f"kept of one request of {work.sizes[-1]} rows among single ones"
    yield Row("memory", what, kept, "MB", goal=value_at_most(64))
    if work.on_card:
        asked = gives_back(CUDA, f"gpu:{work.device}")
        yield Row("memory", "the runtime gives back on demand (1) or not (0)", float(asked), "")
    client.models.unload("efficientnet")


def deadlines(server: Server) -> Iterator[Row]:
    """A run that nobody waits for ends, and the model serves the next request."""
    group = "deadline and cancel"
    told = _asked(server, FOR_EVER, b"x-request-timeout-ms: 300\r\n")
    yield _told(group, "a run past its deadline is answered 504", told, told.status == 504)
    yield Row(group, "answered after", told.seconds, "s", goal=server.work.soon(PATIENCE))
    yield from _serves(server, group, "the next request after it")
    connection = load.Connection("127.0.0.1", server.target.port)
    connection.send(_busy(FOR_EVER))
    time.sleep(0.3)  # it runs by now; if not, it is dropped from the queue instead
    connection.socket.close()
    yield from _serves(server, group, "the next request after a client left in the middle of a run")


def room(server: Server) -> Iterator[Row]:
    """What does not fit the device fails alone, blames nobody, and takes nothing else with it."""
    group = "out of memory"
    sizes = [("no device could hold", 1 << 46)]
    if server.work.on_card:
        sizes.append(("is above gpu_mem_limit", 1 << 28))
    for why, elements in sizes:
        told = _shaped(server, elements)
        passed = told.status in (422, 500, 503)
        yield _told(group, f"a run that {why} fails, and not as the caller's mistake", told, passed)
    small = _shaped(server, 1000)
    yield _told(group, "the same model answers the next", small, small.status == 200)
    yield from _serves(server, group, "another model's next request")
    ready = _answer(server, b"GET /v2/health/ready HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
    yield _told(group, "the server is ready", ready, ready.status == 200)


def _serves(server: Server, group: str, what: str) -> Iterator[Row]:
    told = _asked(server, 1)
    yield _told(group, f"{what} is answered", told, told.status == 200)
    yield Row(group, f"{what}: after", told.seconds, "s", goal=server.work.soon(PATIENCE))


def _told(group: str, what: str, told: Answer, passed: bool) -> Row:
    """A row whose value is the number of wrong answers."""
    status = f"status {told.status}" if passed else f"status {told.status}: {told.text[:60]}"
    return Row(group, what, float(not passed), "wrong", None, status, NONE)


def _asked(server: Server, steps: int, head: bytes = b"") -> Answer:
    return _answer(server, _busy(steps, head))


def _busy(steps: int, head: bytes = b"") -> bytes:
    tensor: dict[str, object] = {
        "name": "steps",
        "shape": [1],
        "datatype": "INT64",
        "data": [steps],
    }
    return _json("busy", [tensor], head)


def _shaped(server: Server, elements: int) -> Answer:
    tensors: list[dict[str, object]] = [
        {"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]},
        {"name": "shape", "shape": [1], "datatype": "INT64", "data": [elements]},
    ]
    return _answer(server, _json("shaped", tensors))


def _json(model: str, tensors: list[dict[str, object]], head: bytes = b"") -> bytes:
    body = json.dumps({"inputs": tensors}).encode()
    return wire.post(f"/v2/models/{model}/infer", body, "application/json", head)


def _answer(server: Server, request: bytes) -> Answer:
    connection = load.Connection("127.0.0.1", server.target.port)
    connection.send(request)
    while not connection.receive():
        pass
    took = time.perf_counter() - connection.sent_at
    text = connection.answer[connection.answer.find(load.END_OF_HEAD) + 4 :]
    connection.socket.close()
    return Answer(int(connection.status()), text.decode("utf-8", "replace"), took)


@contextmanager
def _second_server(work: Work, folder: object) -> Iterator[processes.Target]:
    """A server of its own that loads what it is told to, besides a small model at start."""
    settings = {"providers": work.provider, "load_models": "busy"}
    with processes.aiaas(folder, patience=240.0, **settings) as target:  # type: ignore[arg-type]
        yield target


def _reader(work: Work, target: processes.Target) -> Callable[[], int]:
    """Reads the memory that matters, at rest: the least of a second."""
    read = work.used

    def used() -> int:
        if read is None:
            return target.settled_rss(0.2 if work.quick else 1.0)
        found = [read()]
        for _ in range(5):
            time.sleep(0.2)
            found.append(read())
        return min(found)

    return used
