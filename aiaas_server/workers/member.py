"""One worker's side of the group: asks the parent, and does what the parent says."""

from __future__ import annotations

import asyncio
import shutil
import socket
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from aiaas_server.core.errors import Draining
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.http.operations import Operation, Operations
from aiaas_server.http.process_group import own_totals
from aiaas_server.observe.metrics import RequestMetrics
from aiaas_server.observe.totals import Key, Totals
from aiaas_server.workers.link import Document, Link, LinkLost

TELL_EVERY = 2.0  # seconds between two tellings of what has been counted; what a crash may lose
PARENT_WAIT = 5.0  # seconds a parent whose end of the link is gone gets to be gone altogether
_Stamp = tuple[int, ...]


class Parent(Protocol):
    """The process that started this one, as `multiprocessing.parent_process` gives it."""

    def is_alive(self) -> bool:
        """Whether it has not ended."""
        ...

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end, at most `timeout` seconds."""
        ...


class Member:
    """This process among the workers: an `http.process_group.ProcessGroup`, a `process.Membership`.

    Args:
        sock: This end of the socket pair.
        files: A directory of all workers, for model files on their way.
        worker: This worker's number, from 1.
        parent: Who holds the other end.
    """

    def __init__(self, sock: socket.socket, files: Path, worker: int, parent: Parent) -> None:
        self._sock = sock
        self._files = files
        self._worker = worker
        self._parent = parent
        self._others_ready = False
        self._lost = False
        self._told: dict[Key, _Stamp] = {}
        self._operations: Operations
        self._pool: ModelPool
        self._requests: RequestMetrics
        self._link: Link | None = None
        self._stop: Callable[[], None]
        self._opened = asyncio.Event()

    def __call__(self, operations: Operations, pool: ModelPool, requests: RequestMetrics) -> Member:
        """Take part with this process's models; for `create_app`."""
        self._operations, self._pool, self._requests = operations, pool, requests
        return self

    # The group, as the routes see it

    @property
    def ready(self) -> bool:
        """Whether all workers serve."""
        return self._others_ready

    async def apply(self, operation: Operation) -> None:
        """Have all workers carry `operation` out; returns when all have."""
        if operation.files:
            stored = await asyncio.to_thread(self._store, operation)
            operation = replace(operation, files={}, stored=stored)
        await self._ask("apply", operation.as_json())

    async def follow(self, name: str) -> None:
        """Have the other workers do what the registry says of a model now, or soon."""
        await self._ask("follow", {"name": name})

    async def follow_keys(self) -> None:
        """Have the other workers read anew who may ask, now or soon."""
        await self._ask("follow_keys")

    async def totals(self) -> Totals:
        """The counts of all workers together, those of ended ones included."""
        return Totals.from_json(await self._ask("totals"))

    async def _ask(self, call: str, body: Document | None = None) -> Document:
        await self._opened.wait()
        assert self._link is not None  # opened
        try:
            return await self._link.ask(call, body)
        except LinkLost:
            raise Draining("the server is stopping") from None

    def _store(self, operation: Operation) -> dict[str, str]:
        folder = self._files / uuid.uuid4().hex
        folder.mkdir(mode=0o700, parents=True)
        stored = {}
        for number, (name, content) in enumerate(operation.files.items()):
            place = folder / str(number)
            place.write_bytes(content)
            stored[name] = str(place)
        return stored

    # The worker, as its process runs it

    async def serve(self, stop: Callable[[], None]) -> None:
        """Listen to the parent; `stop` is called when it says so, or when it is gone."""
        self._stop = stop
        link = self._link = await Link.open(self._sock, self._on_call)
        self._opened.set()
        telling = asyncio.create_task(self._keep_telling(link))
        try:
            await link.serve()
        finally:
            telling.cancel()
        self._lost = True
        stop()

    async def join(self, lines: list[str]) -> None:
        """Catch up with the other workers and count as one of them.

        Args:
            lines: What a person is told when all have joined.
        Raises:
            ServerError: What the others were told cannot be done here.
        """
        await self._ask("join", {"lines": lines, "ready": self._pool.ready})

    def leave(self) -> None:
        """Take no further part in what the others are told, because this worker stops."""
        if self._link is not None:
            self._link.tell("leave")

    def end(self) -> None:
        """Tell the last counts and close; who has lost the parent clears away after it."""
        if self._link is not None:
            self._link.tell("counts", self._changes())
            self._link.close()
        if self._lost:
            # The kernel closes what a killed parent held piece by piece: the link may go first.
            self._parent.join(PARENT_WAIT)
        if not self._parent.is_alive():
            shutil.rmtree(self._files, ignore_errors=True)

    async def _on_call(self, call: str, body: Document) -> Document:
        if call == "apply":
            return await self._apply(Operation.from_json(body))
        if call == "counts":
            return self._changes()
        if call == "follow":
            await self._operations.follow(body["name"])
        elif call == "follow_keys":
            await self._operations.follow_keys()
        elif call == "ready":
            self._others_ready = body["ready"]
        elif call == "stop":
            self._stop()
        return {}

    async def _apply(self, operation: Operation) -> Document:
        served = self._operations.serves(operation.name)
        await self._operations.apply(operation)
        return {"served": served, "ready": self._pool.ready}

    async def _keep_telling(self, link: Link) -> None:
        while True:
            await asyncio.sleep(TELL_EVERY)
            link.tell("counts", self._changes())

    def _changes(self) -> Document:
        """This process's counts, without the models that have not changed since last time."""
        totals = own_totals(self._pool, self._requests, str(self._worker))
        document = totals.as_json()
        changed = []
        for entry in document["models"]:
            name, version, counts = entry
            stamp = tuple([value for value in counts.values() if isinstance(value, int)])
            if self._told.get((name, version)) != stamp:
                self._told[name, version] = stamp
                changed.append(entry)
        document["models"] = changed
        document["ready"] = self._pool.ready
        return document
