"""What changes the server while it runs, as one kind of value: an operation.

The route that receives a change checks it and hands it to the `ProcessGroup`; every process that
serves carries it out through `Operations`. Between processes they travel as JSON, model files by
path.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.http.oip.dynamic_settings import DynamicSettings
from aiaas_server.http.oip.regions import Regions

OperationKind = Literal[
    "load", "unload", "logging", "tracing", "model_tracing", "register", "unregister"
]
SETTINGS: frozenset[OperationKind] = frozenset({"logging", "tracing", "model_tracing"})
Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Operation:
    """One change.

    Attributes:
        name: The model or the region it is about; empty for the server, or all regions.
        body: Its arguments.
        files: A load's model files, `<version>/<file name>` to bytes.
        stored: The same, to where they lie; for processes that hand the operation on.
    """

    kind: OperationKind
    name: str = ""
    body: Document = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    stored: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> Document:
        """For another process; files must be stored."""
        return {
            "kind": self.kind,
            "name": self.name,
            "body": self.body,
            "stored": dict(self.stored),
        }

    @classmethod
    def from_json(cls, document: Document) -> Self:
        """Read what `as_json` wrote."""
        return cls(document["kind"], document["name"], document["body"], stored=document["stored"])


Follow = Callable[[str], Awaitable[None]]
"""Does what the registry says of a model now."""


async def _nothing(*_: str) -> None:
    """There is nothing to follow."""


class Operations:
    """Carries operations out in this process.

    Attributes:
        follow: Called with the name of a model that another process has changed in the registry.
        follow_keys: Called when another process has changed keys, tenants or plans.
    """

    def __init__(
        self,
        pool: ModelPool,
        settings: DynamicSettings,
        regions: Regions,
        follow: Follow = _nothing,
    ) -> None:
        self.follow = follow
        self.follow_keys: Callable[[], Awaitable[None]] = _nothing
        self._pool = pool
        self._settings = settings
        self._regions = regions

    async def apply(self, operation: Operation) -> None:
        """Do what `operation` says; returns when it is done.

        Raises:
            ServerError: It cannot be done; nothing has changed.
        """
        body = operation.body
        if operation.kind == "load":
            await self._load(operation)
        elif operation.kind == "unload":
            await self._pool.unload(operation.name, **body)
        elif operation.kind == "register":
            self._regions.register(operation.name, **body)
        elif operation.kind == "unregister":
            self._regions.unregister(operation.name)
        else:
            self._settings.change(operation.kind, operation.name, body)

    async def _load(self, operation: Operation) -> None:
        files = operation.files
        if operation.stored:
            files = await asyncio.to_thread(_read_all, operation.stored)
        await self._pool.load(operation.name, files=files, **operation.body)

    def serves(self, name: str) -> bool:
        """Whether a model is loaded."""
        return self._pool.is_ready(name)


def _read_all(stored: Mapping[str, str]) -> dict[str, bytes]:
    return {name: Path(place).read_bytes() for name, place in stored.items()}
