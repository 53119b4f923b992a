"""Options of sessions and of runs, and the memory that a session keeps between runs."""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import onnxruntime as ort

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.describe.config import ModelConfig
from aiaas_server.core.errors import LoadFailed
from aiaas_server.core.session import StopToken

SHRINK: Final = "memory.enable_memory_arena_shrinkage"
"""The option of a run that gives arenas back; its value names their devices."""
_SMALL_RUN: Final = 64 * 1024  # input bytes of runs whose memory is not worth giving back
# A quarter of a convolutional batch's time, see `Arena`; a tiny model gains nothing from it, and
# a thousand of them would take a gigabyte, since an arena begins with one megabyte.
_ARENA_FROM: Final = 1 << 20
# The key under which a weight names its file. A small model that calls something else so has an
# arena for nothing.
_FURTHER_FILES: Final = (b"location",)
# What the runtime works out of constants at load is kept for good: larger is worked out a run.
_FOLDED_BYTES: Final = 512 << 20


def session_options(
    config: ModelConfig, threads: int, *, arena: bool, directory: Path | None
) -> ort.SessionOptions:
    """The options of a session.

    Args:
        threads: Inside one run, where the configuration's `intra_op_thread_count` does not say.
        arena: Keep memory between runs.
        directory: Where further files lie of a model that is given as bytes.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = config.threads_per_run(threads)
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = arena
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry(
        "optimization.constant_folding_max_output_size_in_bytes", str(_FOLDED_BYTES)
    )
    if directory is not None:
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(directory)
        )
    options.log_severity_level = 4  # errors come as exceptions, and are logged without paths
    return options


def stoppable(stop: StopToken) -> ort.RunOptions:
    """The options of a run that ends when `stop` asks for it."""
    options = ort.RunOptions()

    def terminate() -> None:
        options.terminate = True

    stop.on_stop(terminate)
    return options


class Arena:
    """Decides which runs give the session's arenas back to the system.

    An arena keeps what a run took for the next one, which saves a quarter of the time of large
    batches, and keeps the most that any run ever took. So a run gives it back where the largest
    one since then was far from typical: after a single huge request, and once large ones stop.

    Args:
        devices: Whose arenas, as the runtime writes it: `cpu:0`, `gpu:1`, or both with a `;`
            between. On a GPU a run's own inputs and outputs still lie in the arena when it gives
            back; they go with the next run.
    """

    __slots__ = ("_again", "_devices", "_largest", "_twice", "_typical")

    def __init__(self, devices: str = "cpu:0") -> None:
        self._devices = devices
        self._twice = "gpu" in devices
        self._again = False
        self._largest = 0
        self._typical = 0.0

    def options(
        self, inputs: Mapping[str, Array], options: ort.RunOptions | None
    ) -> ort.RunOptions | None:
        """The options of a run on `inputs`, made from `options`; None is the default ones."""
        size = 0
        for array in inputs.values():
            size += array.nbytes
        self._typical += (size - self._typical) / 8
        if size > self._largest:
            self._largest = size
        if self._largest >= _SMALL_RUN and self._largest >= 4 * self._typical:
            self._largest = 0
            self._again = self._twice
        elif self._again:
            self._again = False
        else:
            return options
        options = options or ort.RunOptions()
        options.add_run_config_entry(SHRINK, self._devices)
        return options

    def give_back(self) -> None:
        """Have the next run give back, whatever its size: one found no room, as others may."""
        self._again = True


def arena_of(*, on_cpu: bool, gpu: int | None) -> Arena | None:
    """The arenas that a session keeps: the CPU's, that of a GPU by its number, both or none."""
    devices = ["cpu:0"] if on_cpu else []
    devices += [] if gpu is None else [f"gpu:{gpu}"]
    return Arena(";".join(devices)) if devices else None


def wants_arena(model: Path | bytes) -> bool:
    """Whether a model is large: by itself, or by weights in further files."""
    size = len(model) if isinstance(model, bytes) else model.stat().st_size
    return size >= _ARENA_FROM or holds(model, _FURTHER_FILES)


def holds(model: Path | bytes, marks: Sequence[bytes]) -> bool:
    """Whether any of `marks` occurs in the file."""
    if isinstance(model, bytes):
        return any(mark in model for mark in marks)
    try:
        with model.open("rb") as file:
            if file.seek(0, 2) == 0:
                raise LoadFailed("the model file is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                return any(view.find(mark) >= 0 for mark in marks)
    except OSError as error:
        raise LoadFailed(f"the model file cannot be read: {error.strerror}") from error
