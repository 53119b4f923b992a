"""Training of a network by workers of a Ray cluster: the loop of `torch_training`, an actor each.

Plain actors and torch's own process group, not Ray Train: that brings pandas, pyarrow's file
systems and a directory that all nodes share, and restarts by its own checkpoints, where a job has
its checkpoint in its own process already. What Ray does here is to place processes, to tell when
one has died, and to bring each of them the rows.
"""

from __future__ import annotations

import os
import queue
import socket
import struct
import threading
from contextlib import suppress
from typing import Any, Final, NamedTuple, Protocol
from uuid import uuid4

from aiaas_server.jobs.recipes.recipe import Cluster, Watch
from aiaas_server.jobs.recipes.torch_training import Epoch, Plan, Rows, Tell, train

RESTARTS: Final = 3  # of all workers, before the training fails
_AHEAD: Final = 2  # epochs that wait to be told
_ADDRESS_OF: Final = 0x8915  # SIOCGIFADDR, of linux/sockios.h


class Follower(Protocol):
    """Is told of each epoch; what it raises ends the training."""

    state: bytes
    """Of the last epoch, or of the attempt before."""

    def __call__(self, epoch: Epoch) -> None:
        """The next one."""
        ...


class Meeting(NamedTuple):
    """Where the workers find one another.

    Attributes:
        url: Of the rendezvous.
        backend: `nccl` where each has a GPU of its own, else `gloo`.
    """

    url: str
    size: int
    backend: str
    is_local: bool


class Seat:
    """One worker; made by Ray in a process of its own."""

    def __init__(self) -> None:
        self._told: queue.Queue[Epoch | BaseException | None] = queue.Queue(_AHEAD)

    def url(self) -> str:
        """A rendezvous at this worker, on the address by which others of the cluster reach it."""
        import ray

        address = ray.util.get_node_ip_address()
        with socket.socket() as found:
            found.bind(("", 0))
            return f"tcp://{address}:{found.getsockname()[1]}"

    def begin(
        self,
        meeting: Meeting,
        rank: int,
        plan: Plan,
        rows: Rows,
        validation: Rows | None,
        restored: bytes,
    ) -> None:
        """Start to train, in a thread: `next` tells how far it is."""

        def work() -> None:
            try:
                _trained(meeting, rank, plan, rows, validation, restored, self._told.put)
                self._told.put(None)
            except BaseException as error:
                self._told.put(error)

        threading.Thread(target=work, name="training", daemon=True).start()

    def next(self) -> Epoch | None:
        """The next epoch, from the first worker; None at the end.

        Raises:
            BaseException: What ended the training.
        """
        found = self._told.get()
        if isinstance(found, BaseException):
            raise found
        return found


def train_on_ray(
    plan: Plan,
    rows: Rows,
    validation: Rows | None,
    cluster: Cluster,
    watch: Watch,
    follow: Follower,
) -> None:
    """Train on the workers that are held; if one dies, all begin anew from the last epoch.

    Raises:
        MemoryError: A worker has too little.
        RuntimeError: Workers died again and again.
    """
    import ray
    from ray.exceptions import RayError

    laid = ray.put(rows), ray.put(validation)
    for left in reversed(range(RESTARTS + 1)):
        try:
            _attempt(ray, plan, laid, cluster, follow)
            return
        except RayError as error:
            told = str(error).strip().splitlines()[-1][:500]
            if isinstance(error, MemoryError):  # Ray's errors are of the worker's class as well
                raise MemoryError(told) from None
            if not left:
                raise RuntimeError(f"a worker failed {RESTARTS + 1} times: {told}") from None
            watch.log(f"a worker has failed, all begin anew from the last epoch: {told}")


def _attempt(
    ray: Any, plan: Plan, laid: tuple[Any, Any], cluster: Cluster, follow: Follower
) -> None:
    make = ray.remote(Seat)
    seats = [make.options(**cluster.options(at)).remote() for at in range(cluster.workers)]
    try:
        meeting = _meeting(ray, seats[0], cluster)
        restored = ray.put(follow.state)
        begun = [
            seat.begin.remote(meeting, rank, plan, *laid, restored)
            for rank, seat in enumerate(seats)
        ]
        ray.get(begun)
        waiting = {seat.next.remote(): seat for seat in seats}
        while waiting:
            (done, *_), _ = ray.wait(list(waiting), num_returns=1)
            seat = waiting.pop(done)
            epoch = ray.get(done)
            if epoch is not None:
                follow(epoch)
                waiting[seat.next.remote()] = seat
    finally:
        for seat in seats:
            with suppress(Exception):  # it may be gone, or the cluster
                ray.kill(seat)


def _meeting(ray: Any, first: Any, cluster: Cluster) -> Meeting:
    backend = "nccl" if cluster.gpus else "gloo"
    if cluster.is_local:  # a file, so that nothing listens beyond the machine
        url = f"file://{os.getcwd()}/scratch/meeting-{uuid4().hex[:8]}"  # noqa: PTH109
    else:
        url = ray.get(first.url.remote())
    return Meeting(url, cluster.workers, backend, cluster.is_local)


def _trained(
    meeting: Meeting,
    rank: int,
    plan: Plan,
    rows: Rows,
    validation: Rows | None,
    restored: bytes,
    tell: Tell,
) -> None:
    import torch

    if not torch.distributed.is_initialized():
        device = "lo" if meeting.is_local else _interface()
        if device:
            os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = device
    torch.distributed.init_process_group(
        meeting.backend, meeting.url, rank=rank, world_size=meeting.size
    )
    try:
        train(plan, rows, validation, restored, tell)
    finally:
        torch.distributed.destroy_process_group()


def _interface() -> str:
    """The network interface that has the address by which this machine is known to Ray; a host
    name, by which gloo would go, often stands for the loopback."""
    import fcntl

    import ray

    own = ray.util.get_node_ip_address()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # it has no address
                packed = struct.pack("256s", name.encode()[:15])
                found = fcntl.ioctl(asked.fileno(), _ADDRESS_OF, packed)[20:24]
                if socket.inet_ntoa(found) == own:
                    return name
    return ""
