"""Other servers with the same network, each in its own process with the least service it can have.

Whatever the given interpreter can import is measured, the rest skipped with the reason. Servers
get one row as JSON, in the form they expect; `clients` measures what calls our own server.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import clients
import curves
import numpy as np
import processes
import wire
from plan import Plan
from table import Row
from told import Told
from zoo import digits

GROUP = "peers"
HERE = Path(__file__).parent / "peers"
MICRO = 1e6
Report = Callable[[str], None]
Image = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True, slots=True)
class Peer:
    """A server: the package to import, its service here, where it takes requests."""

    name: str
    package: str
    service: str
    path: str
    ready: str


PEERS = (
    Peer("LitServe", "litserve", "litserve_service.py", "/predict", "/health"),
    Peer(
        "MLServer", "mlserver", "mlserver_service.py", "/v2/models/digits/infer",
        "/v2/models/digits/ready",
    ),
    Peer("BentoML", "bentoml", "bentoml_service.py", "/predict", "/readyz"),
    Peer("Ray Serve", "ray.serve", "ray_service.py", "/", "/"),
)  # fmt: skip


def measure(plan: Plan, pythons: Sequence[Path], report: Report, found: Told) -> None:
    """Measure every peer that one of `pythons` can import, in turns with our server."""
    _, held_out = digits.load()
    image = np.ascontiguousarray(held_out.images[:1])
    model = plan.network / "digits" / "1" / "model.onnx"
    with processes.aiaas(plan.network, max_connections_per_address=0) as server:
        for peer in PEERS:
            having = ((python, installed(python, peer.package)) for python in pythons)
            python, version = next((one for one in having if one[1]), (None, None))
            if version is None:
                report(f"{peer.name}: skipped, no {peer.package} in {', '.join(map(str, pythons))}")
                continue
            report(f"measuring {peer.name} {version} ...")
            command = [str(python), str(HERE / peer.service), str(model)]
            try:
                with processes.started(peer.name, command, ready=peer.ready) as target:
                    _compare(peer, version, target, server, image, plan, found)
            except (RuntimeError, OSError) as error:
                report(f"{peer.name} {version}: skipped, {error}")
        found.rows.extend(clients.rows(server, image, plan, report))


def _compare(
    peer: Peer,
    version: str,
    target: processes.Target,
    server: processes.Target,
    image: Image,
    plan: Plan,
    found: Told,
) -> None:
    own = wire.text("digits", {"image": image})
    theirs = _request(peer, image)
    for connections in (32, 1):
        ours, load = processes.interleaved(
            [(server, [own]), (target, [theirs])], connections, plan.seconds, plan.rounds
        )
        name = f"JSON, {connections} conn"
        beside = f"{peer.name} {version}"
        cpu, their_cpu = ours.cpu * MICRO, load.cpu * MICRO
        found.rows += [
            Row(GROUP, f"{name}: server CPU", cpu, "µs/request", their_cpu, beside),
            Row(GROUP, f"{name}: rate", ours.rate, "requests/s", load.rate, beside),
            Row(GROUP, f"{name}: p99", ours.p99 * MICRO, "µs", load.p99 * MICRO, beside),
        ]
    found.points += curves.along(f"{peer.name} {version}, JSON", target, theirs, plan)


def _request(peer: Peer, image: Image) -> bytes:
    numbers = [[round(float(value), 4) for value in row] for row in image]
    if peer.package == "mlserver":
        return wire.text("digits", {"image": image})
    body: object = {"image": numbers}
    content = json.dumps(body, separators=(",", ":")).encode()
    return wire.post(peer.path, content, "application/json")


def installed(python: Path, package: str, distribution: str | None = None) -> str | None:
    """The version of a package that an interpreter can import; None where it cannot.

    Args:
        distribution: Whose version it is, where it is not called as the package is.
    """
    root = distribution or package.partition(".")[0]
    code = f"import {package}, importlib.metadata as m; print(m.version({root!r}))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.split()[-1] if done.returncode == 0 else None
