"""What carries a sender's attempts: a library it knows, the caller's client or transport."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from aiaas_client._send.core import Core
from aiaas_client._send.middleware import check_kinds
from aiaas_client._send.options import check_backend, check_http_client, loaded

Place = tuple[str, str]  # a module, and the name of a class in it


class Backends(Core):
    """The choice of a transport, and the way to it, for threads and tasks alike."""

    _asynchronous: ClassVar[bool]
    _backends: ClassVar[Mapping[str, Place]]
    _borrowed: ClassVar[Place]

    def _check(self, backend: str, http_client: Any, middleware: Sequence[Any]) -> None:
        check_kinds(middleware, asynchronous=self._asynchronous)
        check_backend(backend, self._backends)
        self._backend = backend
        if http_client is not None:
            check_http_client(http_client, asynchronous=self._asynchronous)

    def _new_transport(self) -> Any:
        if self._given_transport is not None:
            return self._given_transport
        if self._http_client is not None:
            return loaded(self._borrowed)(self._http_client, self._max_answer_bytes)
        pooled = loaded(self._backends[self._backend])
        return pooled(self._trust(), self._limits, self._max_answer_bytes)

    def _last_transport(self) -> Any:
        """Take no more calls; the transport to be closed, None where that is done or not ours."""
        shared = self._shared
        if shared.closed:
            return None
        shared.closed = True
        transport = shared.transport or self._given_transport
        return transport if shared.process == os.getpid() else None
