"""`Client` and `AsyncClient`: two shells around one core without I/O."""

from __future__ import annotations

from typing import TypeVar

from aiaas_client._calls import Call

T = TypeVar("T")


class Client:
    """Calls models, from threads."""

    def _send(self, call: Call[T], *, options: object | None = None) -> T:
        """Send `call` with retries inside the deadline; `options` overrides the client's own."""
        raise RuntimeError("not built yet")


class AsyncClient:
    """Calls models, on an event loop."""

    async def _send(self, call: Call[T], *, options: object | None = None) -> T:
        """Send `call` with retries inside the deadline; `options` overrides the client's own."""
        raise RuntimeError("not built yet")
