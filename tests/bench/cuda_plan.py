"""What the groups of `cuda.py` work with, and the repository that they serve."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cuda_kit
import processes
from table import Goal, at_least, value_at_most

PADDING = {
    "pad": {name: {"axis": 1} for name in cuda_kit.INPUTS},
    "slice": {"last_hidden_state": 1},
}
EFFICIENTNETS = ("efficientnet", "efficientnet-bound", "efficientnet-graphs")
MODELS = (*EFFICIENTNETS, "minilm", "busy", "shaped")
CORES = len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True)
class Work:
    """One run of the script.

    Attributes:
        provider: `cuda` or `cpu`.
        device: The card's number.
        kit: Models and inputs.
        folder: For what a group makes.
        quick: Tiny counts, as a test of the script itself.
        used: Bytes of the card that are taken; None on the CPU, where the server's own count.
    """

    provider: str
    device: int
    kit: cuda_kit.Kit
    folder: Path
    quick: bool
    used: Callable[[], int] | None

    @property
    def on_card(self) -> bool:
        return self.provider != "cpu"

    @property
    def sizes(self) -> tuple[int, ...]:
        """Batch sizes that are warm before a model serves."""
        if self.quick:
            return (1, 2, 4)
        return (1, 2, 4, 8, 16, 32, 64) if self.on_card else (1, 2, 4, 8, 16)

    @property
    def connections(self) -> int:
        return 4 if self.quick else 64 if self.on_card else 16

    @property
    def threads(self) -> tuple[int, ...]:
        """Runs at a time to try in process: one, and one that copies while another computes."""
        return (1, 2, 3) if self.on_card else (CORES,)

    @property
    def seconds(self) -> float:
        return 0.1 if self.quick else 2.0

    @property
    def rounds(self) -> int:
        return 1 if self.quick else 3

    def quickly(self, goal: Goal) -> Goal | None:
        """A goal of speed, which only a whole run on a card can be held to."""
        return goal if self.on_card and not self.quick else None

    def soon(self, seconds: float) -> Goal | None:
        """A goal of time, to which a quick run on a machine that does other things is not held."""
        return None if self.quick else value_at_most(seconds)


@dataclass(frozen=True, slots=True)
class Server:
    """The server under measurement, and the way to ask it."""

    target: processes.Target
    work: Work

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.target.port}"

    def serves(self, name: str) -> bool:
        """Whether a model is loaded: a runtime may refuse to record its graph, for one."""
        try:
            with urllib.request.urlopen(f"{self.url}/v2/models/{name}/ready", timeout=30) as told:
                return bool(told.status == 200)
        except urllib.error.HTTPError:
            return False


NEAR = at_least(0.95)
NONE = value_at_most(0)


def repository(work: Work) -> Path:
    """All models as they are served; EfficientNet also bound whatever its size, and recorded."""
    folder = work.folder / "models"
    largest = work.sizes[-1]
    warm = {"warm_batch_sizes": ", ".join(map(str, work.sizes))}
    batching = {"max_batch_size": largest, "dynamic_batching": {}}
    ways: tuple[dict[str, str], ...] = ({}, {"io_binding": "1"}, {"cuda_graphs": "1"})
    for name, way in zip(EFFICIENTNETS, ways, strict=True):
        config = _config(work, {**warm, **way}, batching)
        cuda_kit.place(folder, name, work.kit.model("efficientnet"), config)
    padded = {**warm, "batching": json.dumps(PADDING)}
    cuda_kit.place(folder, "minilm", work.kit.model("minilm"), _config(work, padded, batching))
    one = {"max_batch_size": 0}
    for name, parameters in (("busy", {}), ("shaped", {"gpu_mem_limit": str(256 << 20)})):
        cuda_kit.place(folder, name, work.kit.model(name), _config(work, parameters, one, count=1))
    return folder


def _config(
    work: Work, parameters: dict[str, str], more: dict[str, Any], count: int = 0
) -> dict[str, Any]:
    config = dict(more)
    config["parameters"] = {key: {"string_value": text} for key, text in parameters.items()}
    group: dict[str, Any] = {"gpus": [work.device]} if work.on_card else {}
    if count:
        group["count"] = count
    if group:
        config["instance_group"] = [group]
    return config
