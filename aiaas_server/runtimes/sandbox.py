"""A model in a process of its own, behind `core.session.Session`: for what strangers deploy."""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from aiaas_client.protocol.tensors import Array, TensorError
from aiaas_server.core.confine.seccomp import why_not
from aiaas_server.core.describe.config import ModelConfig
from aiaas_server.core.errors import (
    DeadlineExceeded,
    InvalidInput,
    LoadFailed,
    ModelCrashed,
    ModelUnavailable,
    OutOfMemory,
    ServerError,
)
from aiaas_server.core.session import ISOLATION, Isolation, StopToken
from aiaas_server.core.signature import TensorSpec
from aiaas_server.runtimes.isolated.channel import Channel, Given, Gone
from aiaas_server.runtimes.isolated.frames import CODES, DTYPES, Broken
from aiaas_server.runtimes.isolated.keeper import UNLOADED, Keeper, Terms
from aiaas_server.runtimes.isolated.orders import Order
from aiaas_server.runtimes.isolated.process import Ending, Worker

GRACE: Final = 1.0
"""Seconds that a run may go on after it was asked to end."""
_TERMS: Final = Terms()
_LOOK: Final = 1.0  # seconds between two looks at the memory of a process
_GROWN, _SPARE = 1.5, 256 << 20
_FULL: Final = 0.8  # of its memory: one that ends with so much has found no more


class SandboxedSession:
    """One model in a process of its own; see `core.session.Session`.

    What the process tells is believed in its form only: names, datatypes and shapes of outputs are
    those that it told when it opened the model, tensors are copied before they are looked at.

    Attributes:
        isolation: What became of its processes.
    """

    def __init__(
        self, order: Order, content: bytes = b"", *, name: str = "", terms: Terms = _TERMS
    ) -> None:
        """Start the process and have it open the model.

        Args:
            content: The model, where the order has no path.
            name: Of the model, for the log.
        Raises:
            LoadFailed: It cannot be opened, and run once, within the limits; the reason.
        """
        self.isolation = Isolation(confined=order.filters)
        self._memory = order.memory_bytes
        self._keeper = Keeper(name, order, content, self.isolation, terms)
        told = self._keeper.open()
        self.inputs: tuple[TensorSpec, ...] = tuple(tensor.spec() for tensor in told.inputs)
        self.outputs: tuple[TensorSpec, ...] = tuple(tensor.spec() for tensor in told.outputs)
        self.providers: tuple[str, ...] = told.providers
        kept = "process" if order.filters else "process, weak: system calls are not filtered"
        self.metadata: Mapping[str, str] = {**told.metadata, ISOLATION: kept}
        self.graph = told.graph
        self._inputs = {
            spec.name: (position, CODES[spec.datatype]) for position, spec in enumerate(self.inputs)
        }
        self._outputs = {spec.name: position for position, spec in enumerate(self.outputs)}
        self._calls = itertools.count(1)
        self._look_at = 0.0

    def run(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], stop: StopToken | None = None
    ) -> list[Array]:
        """Run once; arrays in the order of `outputs`; see `core.session.Session`.

        Raises:
            ModelCrashed: The process ended meanwhile.
            OutOfMemory: It ended for want of memory, or the run found none.
            ModelUnavailable: There is no process now.
        """
        given = self._given(inputs)
        wanted = self._wanted(outputs)
        for last in (False, True):
            worker = self._keeper.worker(stop)
            try:
                channel = worker.take()
            except (ConnectionError, Broken) as error:
                self._lost(worker, error)
                continue
            try:
                return self._run_on(worker, channel, given, wanted, stop)
            except Gone as gone:
                ending = self._keeper.died(worker)
                if gone.began or last:
                    raise self._ended(ending, stop) from None
            except Broken as error:
                ending = self._lost(worker, error)
                raise self._ended(ending, stop) from None
            finally:
                worker.give(channel)
        raise ModelCrashed("the model's process ended again before it took the request")

    def wait_closed(self, timeout: float | None = None) -> None:
        """After `close`: wait until nothing is left of the process."""
        self._keeper.wait_closed(timeout)

    def close(self) -> None:
        """End the process, whatever it does; this returns at once."""
        self._keeper.close()

    def _run_on(
        self,
        worker: Worker,
        channel: Channel,
        given: Sequence[Given],
        wanted: Sequence[int],
        stop: StopToken | None,
    ) -> list[Array]:
        call = channel.call = next(self._calls)
        if stop is not None:
            stop.on_stop(partial(_stop, worker, channel, call))
        try:
            arrays = channel.run(call, given, wanted, self.outputs)
        except TensorError as error:
            raise InvalidInput(f"a text: {error}") from error
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + _LOOK
            if worker.resident() > _GROWN * worker.memory_bytes + _SPARE:
                self._keeper.recycle()
        return arrays

    def _given(self, inputs: Mapping[str, Array]) -> list[Given]:
        given: list[Given] = []
        for name, array in inputs.items():
            known = self._inputs.get(name)
            if known is None:
                raise InvalidInput(f"unknown input '{name[:64]}'")
            position, code = known
            if array.dtype != DTYPES[code]:
                expected = self.inputs[position].datatype
                raise InvalidInput(f"input '{name[:64]}': expected {expected}, got {array.dtype}")
            given.append((position, code, array))
        return given

    def _wanted(self, outputs: Sequence[str]) -> list[int]:
        try:
            return [self._outputs[name] for name in outputs]
        except KeyError as error:
            raise InvalidInput(f"unknown output '{str(error.args[0])[:64]}'") from None

    def _lost(self, worker: Worker, error: Exception) -> Ending:
        """Give a process up that has ended, or does not keep to the rules."""
        reason = f"it broke the rules: {error}" if isinstance(error, Broken) else ""
        return self._keeper.died(worker, reason)

    def _ended(self, ending: Ending, stop: StopToken | None) -> ServerError:
        """What a run is told that was under way when the process ended."""
        if stop is not None and stop.stopped:
            return DeadlineExceeded("the run was stopped: nobody waits for its answer")
        if ending.reason == UNLOADED:
            return ModelUnavailable(UNLOADED, retry_after=1.0)
        # Who is killed, and not by this server, was killed by a system without memory.
        full = ending.most_bytes >= _FULL * self._memory
        if not ending.reason and (full or ending.code == -signal.SIGKILL):
            return OutOfMemory(f"inference failed: out of memory, of {self._memory} bytes")
        return ModelCrashed(f"the model's process ended while it ran this request: {ending}")


def _stop(worker: Worker, channel: Channel, call: int) -> None:
    """Ask a run to end, and end its process where it does not; on the event loop."""
    if channel.call != call:
        return
    worker.stop(call)

    def insist() -> None:
        if channel.call == call:
            worker.kill(f"a run went on for {GRACE:g} s after it was asked to end")

    timer = threading.Timer(GRACE, insist)
    timer.daemon = True
    timer.start()


def open_isolated(
    model: Path | bytes,
    config: ModelConfig | None = None,
    *,
    providers: Sequence[str] = ("auto",),
    intra_op_threads: int = 1,
    memory_bytes: int = 2 << 30,
    allow_weak: bool = False,
) -> SandboxedSession:
    """Open an ONNX model in a process of its own; on the CPU, whatever else there is.

    A GPU's driver wants files, devices and system calls all the time, which is what such a process
    is to do without.

    Args:
        model: The file, or its bytes when it has no further files.
        config: Its name is used in the log.
        providers: What models run on here; they must leave the CPU free to be used.
        intra_op_threads: Threads inside one run.
        memory_bytes: What the process may take besides what it takes before it opens the model.
        allow_weak: Take one with limits only, where the system cannot filter system calls.
    Raises:
        LoadFailed: The model cannot be opened within the limits, or asks for another device; or
            this system cannot confine a process.
    """
    config = config or ModelConfig()
    _refuse_devices(providers, config)
    unable = why_not()
    if unable and not allow_weak:
        raise LoadFailed(
            f"{unable}: a model of this tenant runs only where that can be done, or where the "
            "operator has started the server with --allow-weak-sandbox"
        )
    order = Order(
        path=None if isinstance(model, bytes) else str(model.absolute()),
        size=len(model) if isinstance(model, bytes) else 0,
        config=config,
        threads=intra_op_threads,
        memory_bytes=memory_bytes,
        filters=not unable,
    )
    content = model if isinstance(model, bytes) else b""
    return SandboxedSession(order, content, name=config.name)


def _refuse_devices(providers: Sequence[str], config: ModelConfig) -> None:
    if any(group.kind == "KIND_GPU" for group in config.instance_group):
        raise LoadFailed(
            "instance_group asks for KIND_GPU: a model in a process of its own runs on the CPU"
        )
    asked = [name.lower() for name in providers]
    if not any(name in ("auto", "cpu", "cpuexecutionprovider") for name in asked):
        raise LoadFailed(
            f"models run on {', '.join(providers)} here, a model in a process of its own on the "
            "CPU: start the server with 'cpu' among its providers, too"
        )
