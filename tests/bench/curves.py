"""Throughput and p99 against connections, for `plot.py`: the 784-32-10 network, single rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import processes
import wire
from plan import Plan
from zoo import digits

CONNECTIONS = (1, 4, 16, 64, 256)


@dataclass(frozen=True, slots=True)
class Point:
    """One server under one number of connections; rate a second, seconds, CPU seconds."""

    server: str
    connections: int
    rate: float
    p99: float
    cpu: float


def along(name: str, target: processes.Target, request: bytes, plan: Plan) -> list[Point]:
    """One server's curve."""
    points = []
    for connections in _connections(plan):
        (load,) = processes.interleaved(
            [(target, [request])], connections, plan.seconds, min(plan.rounds, 3)
        )
        points.append(Point(name, connections, load.rate, load.p99, load.cpu))
    return points


def ours(plan: Plan) -> list[Point]:
    """Our server in both forms, and what stands below it."""
    _, held_out = digits.load()
    inputs = {"image": np.ascontiguousarray(held_out.images[:1])}
    with (
        processes.aiaas(plan.network, **processes.CROWD) as server,
        processes.floor(plan.network) as floor,
        processes.echo() as echo,
    ):
        binary = wire.binary("digits", inputs)
        return [
            *along("aiaas, binary", server, binary, plan),
            *along("aiaas, JSON", server, wire.text("digits", inputs), plan),
            *along("floor, binary", floor, binary, plan),
            *along("bare ASGI echo", echo, binary, plan),
        ]


def as_json(points: Sequence[Point]) -> list[dict[str, object]]:
    return [asdict(point) for point in points]


def _connections(plan: Plan) -> Sequence[int]:
    return CONNECTIONS if plan.share == 1 else CONNECTIONS[:2]
