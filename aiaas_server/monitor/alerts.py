"""Alerts: a POST to the address that the operator configured, from a thread of their own.

The address comes from the settings and from nowhere else; redirects are not followed, proxies of
the environment not used. What cannot be delivered is tried a few times and then logged.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping
from http.client import HTTPException
from typing import Any, Final, NamedTuple

_log = logging.getLogger("aiaas_server")

TIMEOUT: Final = 5.0
PAUSES: Final = (1.0, 5.0, 25.0)
_MOST_WAITING: Final = 256
_TRY_AGAIN: Final = frozenset({408, 425, 429, 500, 502, 503, 504})

Post = Callable[[str, bytes], int]


class Alert(NamedTuple):
    """Something an operator wants to know.

    Attributes:
        kind: `drift`, `guard`, `corrupt`, `budget`, or `usage`: it cannot be written.
        model: "" of what is about no model.
        state: `raised`, or `cleared` when it is over.
        reasons: One line each.
        details: Further facts, as JSON; never a value that a caller sent.
    """

    kind: str
    model: str
    version: int
    state: str = "raised"
    reasons: tuple[str, ...] = ()
    details: Mapping[str, Any] = {}

    def body(self, at: float) -> bytes:
        """What is posted."""
        document = self._asdict() | {"reasons": list(self.reasons), "at": at}
        return json.dumps(document | {"details": dict(self.details)}).encode()


class Alerts:
    """Logs alerts, counts them, and posts them where there is an address. Never waits.

    Args:
        url: `http://…` or `https://…`; empty posts nothing.
        post: Sends a body to an address and gives the status; raises OSError.
        pauses: Seconds before each further try.

    Attributes:
        raised: By kind and model, version and state.
        posted: By outcome: `delivered`, `failed`, `dropped`.
    """

    def __init__(
        self, url: str = "", *, post: Post | None = None, pauses: tuple[float, ...] = PAUSES
    ) -> None:
        self._url = url
        self._post = post or post_json
        self._pauses = pauses
        self._waiting: queue.Queue[tuple[Alert, float] | None] = queue.Queue(_MOST_WAITING)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self.raised: Counter[tuple[str, str, str]] = Counter()
        self.posted: Counter[str] = Counter()

    def send(self, alert: Alert) -> None:
        """Raise an alert; from any thread."""
        reasons = "; ".join(alert.reasons[:3]) or "no reason given"
        about = f" for version {alert.version} of model '{alert.model}'" if alert.model else ""
        _log.warning("alert: %s %s%s: %s", alert.kind, alert.state, about, reasons)
        self.raised[alert.kind, alert.model, str(alert.version)] += 1
        if not self._url or self._stopping.is_set():
            return
        try:
            self._waiting.put_nowait((alert, time.time()))
        except queue.Full:
            self.posted["dropped"] += 1
            return
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._deliver_all, name="aiaas-alerts", daemon=True
                )
                self._thread.start()

    def close(self) -> None:
        """Stop; what is being posted is waited for, what waits is given up."""
        self._stopping.set()
        if self._thread is not None:
            try:
                self._waiting.put_nowait(None)
            except queue.Full:
                _log.debug("alerts that wait are given up")
            self._thread.join(TIMEOUT + 1.0)

    def _deliver_all(self) -> None:
        while not self._stopping.is_set():
            taken = self._waiting.get()
            if taken is None:
                return
            alert, at = taken
            try:
                delivered = self._deliver(alert.body(at))
            except Exception:
                _log.exception("an alert could not be posted")
                delivered = False
            self.posted["delivered" if delivered else "failed"] += 1

    def _deliver(self, body: bytes) -> bool:
        problem = ""
        for pause in (0.0, *self._pauses):
            if self._stopping.wait(pause) and pause:
                return False
            try:
                status = self._post(self._url, body)
            except (OSError, HTTPException) as error:
                problem = type(error).__name__  # not its text, which may tell the address
                continue
            if 200 <= status < 300:
                return True
            problem = f"status {status}"
            if status not in _TRY_AGAIN:
                break
        _log.error("an alert could not be posted: %s", problem)
        return False


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


_opener: Final = urllib.request.OpenerDirector()
for _handler in (
    urllib.request.HTTPHandler(),
    urllib.request.HTTPSHandler(),
    urllib.request.HTTPDefaultErrorHandler(),
    urllib.request.HTTPErrorProcessor(),
    urllib.request.UnknownHandler(),
    _NoRedirects(),
):
    _opener.add_handler(_handler)


def post_json(url: str, body: bytes) -> int:
    """POST a JSON body; gives the status, a redirect's too.

    Raises:
        OSError: Nobody answers, or not in time.
    """
    headers = {"Content-Type": "application/json", "User-Agent": "aiaas-server"}
    request = urllib.request.Request(url, body, headers, method="POST")
    try:
        with _opener.open(request, timeout=TIMEOUT) as answer:
            status: int = answer.status
            return status
    except urllib.error.HTTPError as error:
        with error:
            return error.code
