"""What changes the server while it runs, as one kind of value: an order.

The route that receives a change checks it and hands it to the `Group`; every process that serves
carries it out through `Orders`. Orders travel between processes as JSON, model files by path.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from aiaas_server.core.pool import ModelPool
from aiaas_server.http.changeable import Changeable
from aiaas_server.http.regions import Regions

OrderKind = Literal[
    "load", "unload", "logging", "tracing", "model_tracing", "register", "unregister"
]
SETTINGS: frozenset[OrderKind] = frozenset({"logging", "tracing", "model_tracing"})
Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Order:
    """One change.

    Attributes:
        name: The model or the region it is about; empty for the server, or all regions.
        body: Its arguments.
        files: A load's model files, `<version>/<file name>` to bytes.
        stored: The same, to where they lie; for processes that hand the order on.
    """

    kind: OrderKind
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


class Orders:
    """Carries orders out in this process."""

    def __init__(self, pool: ModelPool, changeable: Changeable, regions: Regions) -> None:
        self._pool = pool
        self._changeable = changeable
        self._regions = regions

    async def apply(self, order: Order) -> None:
        """Do what `order` says; returns when it is done.

        Raises:
            ServerError: It cannot be done; nothing has changed.
        """
        body = order.body
        if order.kind == "load":
            await self._load(order)
        elif order.kind == "unload":
            await self._pool.unload(order.name, **body)
        elif order.kind == "register":
            self._regions.register(order.name, **body)
        elif order.kind == "unregister":
            self._regions.unregister(order.name)
        else:
            self._changeable.change(order.kind, order.name, body)

    async def _load(self, order: Order) -> None:
        files = order.files
        if order.stored:
            files = await asyncio.to_thread(_read_all, order.stored)
        await self._pool.load(order.name, files=files, **order.body)

    def serves(self, name: str) -> bool:
        """Whether a model is loaded."""
        return self._pool.is_ready(name)


def _read_all(stored: Mapping[str, str]) -> dict[str, bytes]:
    return {name: Path(place).read_bytes() for name, place in stored.items()}
