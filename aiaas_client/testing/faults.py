"""Faults on demand: each is for the next `times` requests whose path contains `path`, in order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiaas_client.protocol.jsontext import PYDANTIC_JSON
from aiaas_client.testing.fake_model import CODES
from aiaas_client.testing.limits import FakeLimit
from aiaas_client.testing.state import Answer, Fault, RecordedRequest, State


class Gate:
    """Holds requests until `release`; `wait_for(n)` returns once n of them stand there."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open = False
        self.arrived = 0

    @property
    def is_open(self) -> bool:
        """Whether it has been released."""
        return self._open

    def release(self) -> None:
        """Let everything through, from now on."""
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def wait_for(self, count: int = 1, timeout: float = 10.0) -> None:
        """Block until `count` requests are held.

        Raises:
            TimeoutError: fewer came within `timeout` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.arrived >= count, timeout):
                raise TimeoutError(f"expected {count} held requests, got {self.arrived}")

    def _pass(self) -> None:
        with self._changed:
            self.arrived += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._open)


class Faults:
    """The part of `FakeServer` that makes things go wrong."""

    _state: State

    def fail(
        self,
        status: int,
        text: str = "asked to fail",
        *,
        times: int = 1,
        path: str = "/infer",
        code: str = "",
        retryable: bool | None = None,
        retry_after: float | None = None,
        body: bytes | None = None,
    ) -> None:
        """Answer with an error status; `body` replaces the usual JSON error body."""
        content: dict[str, Any] = {"error": text, "code": code or CODES.get(status, "internal")}
        if retryable is not None:
            content["retryable"] = retryable
        headers = [] if retry_after is None else [("Retry-After", f"{retry_after:g}")]
        raw = PYDANTIC_JSON.dumps(content) if body is None else body
        self._add(Fault(path, times, instead=Answer(status, raw, headers)))

    def drop(self, *, times: int = 1, path: str = "/infer") -> None:
        """Read the request, then close the connection without an answer."""
        self._add(Fault(path, times, drop=True))

    def truncate(self, keep: int = 10, *, times: int = 1, path: str = "/infer") -> None:
        """Promise the whole answer, send `keep` bytes of its body (events of a stream), close."""
        self._add(Fault(path, times, cut=keep))

    def garbage(
        self, body: bytes = b"\x00not an answer", *, times: int = 1, path: str = "/infer"
    ) -> None:
        """Answer 200 with bytes that are no answer."""
        self._add(Fault(path, times, instead=Answer(200, body)))

    def alter(
        self, change: Callable[[bytes], bytes], *, times: int = 1, path: str = "/infer"
    ) -> None:
        """Answer with `change(body)` in place of the body; the headers stay as they were."""
        self._add(Fault(path, times, alter=change))

    def wrong_shape(self, *, times: int = 1, path: str = "/infer") -> None:
        """Claim another shape than the data has, in JSON and binary answers alike."""
        self.alter(lambda body: body.replace(b'"shape":[', b'"shape":[7,'), times=times, path=path)

    @contextmanager
    def hold(self, *, times: int = 1_000_000, path: str = "/infer") -> Iterator[Gate]:
        """Hold matching requests until the gate's `release()` or the end of the block."""
        gate = Gate()
        fault = Fault(path, times, before=gate._pass)
        self._add(fault)
        try:
            yield gate
        finally:
            gate.release()
            with self._state.changed:
                fault.times = 0

    def limit(self, requests: int, window: int = 1, *, path: str = "/infer") -> FakeLimit:
        """Let so many requests in within `window` seconds from now on, and refuse the others with
        429; every answer tells what is left. In place of the limit before; `clear()` lifts it.

        Returns:
            What counts them: `.admitted` and `.refused`.
        Raises:
            ValueError: a number below 1.
        """
        made = self._state.limit = FakeLimit(requests, window, path)
        return made

    def _add(self, fault: Fault) -> None:
        with self._state.changed:
            self._state.faults.append(fault)


def take_fault(state: State, request: RecordedRequest) -> Fault | None:
    with state.changed:
        for fault in state.faults:
            if fault.times > 0 and fault.path in request.path:
                fault.times -= 1
                return fault
    return None
