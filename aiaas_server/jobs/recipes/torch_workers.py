"""Who trains: this process, several that torch's elastic launcher starts and starts again, or
workers of a Ray cluster.

Rows lie in files that all processes map. The first of the workers leaves each epoch's state in a
file and a line about it in a named pipe; this process reads both, and removes the file. If a worker
dies, the launcher ends the others and starts all anew: they go on from the last state.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import numpy as np

from aiaas_server.jobs.recipes.recipe import Cluster, Diverged, Watch
from aiaas_server.jobs.recipes.torch_training import Epoch, Plan, Rows, Tell, train

_SET_PDEATHSIG: Final = 1  # of linux/prctl.h
_STATE: Final = "state"
_PIPE: Final = "epochs"
_RESTARTS: Final = 3  # of all workers, before the training fails
_AHEAD: Final = 4  # epochs that the workers may be ahead of who reads their states
_LOOKS_APART: Final = 0.01  # seconds
_SOON: Final = 0.1  # seconds between two looks of the launcher at its workers


def train_here(
    plan: Plan,
    rows: Rows,
    validation: Rows | None,
    workers: int,
    watch: Watch,
    cluster: Cluster | None = None,
) -> bytes:
    """Train with so many processes; the state after the last epoch.

    Args:
        cluster: Whose workers they are, in place of this machine's.

    Raises:
        Diverged: The loss is not a number any more.
        RuntimeError: Workers died again and again.
    """
    place = watch.scratch / f"training-{uuid4().hex[:8]}"
    place.mkdir()
    try:
        restored = b"" if watch.restored is None else watch.restored.read_bytes()
        follower = _Follower(plan.params.epochs, watch, restored)
        if cluster is not None:
            from aiaas_server.jobs.recipes.torch_on_ray import train_on_ray

            train_on_ray(plan, rows, validation, cluster, watch, follower)
        elif workers == 1:
            train(plan, rows, validation, restored, follower)
        else:
            _launched(plan, rows, validation, workers, place, follower)
        return follower.state
    finally:
        shutil.rmtree(place, ignore_errors=True)


class _Follower:
    """Passes what is told of epochs on to whoever watches the job."""

    def __init__(self, epochs: int, watch: Watch, restored: bytes) -> None:
        self._epochs, self._watch = epochs, watch
        self.state = restored
        self.diverged = ""

    def __call__(self, epoch: Epoch) -> None:
        if epoch.diverged:
            raise Diverged(epoch.diverged)
        self.state = epoch.state
        self._watch.progress(
            epoch.number, self._epochs, "epochs", rate=epoch.rate, metrics=epoch.metrics
        )
        self._watch.checkpoint(epoch.number, lambda path: path.write_bytes(epoch.state))


def _launched(
    plan: Plan, rows: Rows, validation: Rows | None, workers: int, place: Path, follower: _Follower
) -> None:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    _lay_out(rows, place / "rows")
    if validation is not None:
        _lay_out(validation, place / "validation")
    if follower.state:
        (place / _STATE).write_bytes(follower.state)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=workers,
        run_id=place.name,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=_RESTARTS,
        monitor_interval=_SOON,
        start_method="spawn",
        logs_specs=DefaultLogsSpecs(log_dir=str(place / "logs")),
    )
    with _followed(place, follower):
        try:
            elastic_launch(config, _work)(plan, str(place.resolve()))
        except ChildFailedError as error:
            raise _told(error) from None


def _told(error: Any) -> RuntimeError:
    first = error.get_first_failure()[1]
    message = first.message if isinstance(first.message, str) else first.message.get("message", "")
    return RuntimeError(f"a worker failed {_RESTARTS + 1} times: {message[:1000]}")


@contextmanager
def _followed(place: Path, follower: _Follower) -> Iterator[None]:
    """Read the pipe in a thread while workers come and go; what it raises is raised at the end."""
    os.mkfifo(place / _PIPE, 0o600)
    reader = os.open(place / _PIPE, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(place / _PIPE, os.O_WRONLY)  # held, so that the pipe never ends by itself
    os.set_blocking(reader, True)
    failures: list[BaseException] = []

    def follow() -> None:
        with os.fdopen(reader, encoding="utf-8") as lines:
            for line in lines:
                if not line.strip():
                    return
                try:
                    epoch = _take_epoch(line, place)
                    if not failures:
                        follower(epoch)
                except BaseException as error:  # told below, by the thread that waits
                    failures.append(error)

    thread = threading.Thread(target=follow, name="epochs")
    thread.start()
    try:
        yield
    finally:
        os.write(writer, b"\n")
        thread.join()
        os.close(writer)
    if failures:
        raise failures[0]


def _take_epoch(line: str, place: Path) -> Epoch:
    """What a line tells of, and its state, whose file is used up."""
    found = json.loads(line)
    file = place / found.pop("file")
    state = b"" if found["diverged"] else file.read_bytes()
    file.unlink(missing_ok=True)
    return Epoch(**found, state=state)


def _work(plan: Plan, directory: str) -> None:
    """One worker, started by the launcher with its rank in the environment."""
    import torch

    _end_with_parent()
    place = Path(directory)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    # A file for each start: gloo would look for the dead at addresses that a kept store remembers.
    meeting = (place / f"meeting-{os.environ['TORCHELASTIC_RESTART_COUNT']}").as_uri()
    # NCCL wants a GPU for each process; gloo moves tensors of both.
    backend = "nccl" if torch.cuda.device_count() >= size else "gloo"
    torch.distributed.init_process_group(backend, meeting, rank=rank, world_size=size)
    try:
        state = place / _STATE
        restored = state.read_bytes() if state.exists() else b""
        validation = place / "validation"
        held_out = _mapped(validation) if validation.exists() else None
        train(plan, _mapped(place / "rows"), held_out, restored, _teller(place))
    finally:
        torch.distributed.destroy_process_group()


def _end_with_parent() -> None:
    """However the job's process ends, its workers do; the launcher's own signal can be ignored."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _teller(place: Path) -> Tell:
    # Names of this start: one that was killed may have left a state that nobody was told of.
    own = f"{_STATE}-{os.environ['TORCHELASTIC_RESTART_COUNT']}"

    def tell(epoch: Epoch) -> None:
        name = f"{own}-{epoch.number}"
        if epoch.state:
            _wait_until_gone(place / f"{own}-{epoch.number - _AHEAD}")
            (place / name).write_bytes(epoch.state)
            shutil.copyfile(place / name, place / f"{_STATE}.part")
            (place / f"{_STATE}.part").replace(place / _STATE)
        line = {**epoch._asdict(), "file": name}
        del line["state"]
        with (place / _PIPE).open("a", encoding="utf-8") as pipe:
            pipe.write(json.dumps(line) + "\n")  # far below what a pipe takes whole

    return tell


def _wait_until_gone(file: Path) -> None:
    """Wait for who reads the states, so that no more than a few of them lie about; a worker ends
    with its parent, so that it waits for nobody who is gone.
    """
    while file.exists():
        time.sleep(_LOOKS_APART)


def _lay_out(rows: Rows, place: Path) -> None:
    place.mkdir()
    for name, values in rows._asdict().items():
        if values is not None:
            np.save(place / f"{name}.npy", values)


def _mapped(place: Path) -> Rows:
    files = {path.stem: np.load(path, mmap_mode="r") for path in place.glob("*.npy")}
    return Rows(files["features"], files["target"], files.get("weights"))
