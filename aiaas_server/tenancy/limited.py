"""`Limited`: a tenant or a key, and what it has used of its limits in this process."""

from __future__ import annotations

from math import ceil, floor
from sys import maxsize
from typing import Final, NamedTuple

from aiaas_client.protocol.tenants import Limits
from aiaas_server.core.errors import LimitReached
from aiaas_server.tenancy.gcra import SECOND, Gcra

_POLICY: Final = 'ratelimit-policy: "%s";q=%d;w=%d\r\nratelimit: "%s";r=%%d;t=%%d\r\n'
_PLACES: Final = b'ratelimit-policy: "in_flight";q=%d\r\nratelimit: "in_flight";r=0;t=1\r\n'
_WAIT_FOR_PLACE: Final = 1.0  # seconds; when a request ends nobody knows


class Rates(NamedTuple):
    """The limits that are looked at with every request; None is none.

    Attributes:
        requests: A second.
        burst: Requests that may come at once.
        rows: A second; as many may come at once.
        in_flight: Requests at one time.
    """

    requests: float | None
    burst: float
    rows: float | None
    in_flight: int | None

    @classmethod
    def of(cls, limits: Limits) -> Rates:
        """Those among all limits."""
        requests = limits.requests_per_second
        burst = limits.burst or max(1.0, float(ceil(requests or 0.0)))
        return cls(requests, burst, limits.rows_per_second, limits.in_flight)

    @property
    def limits_anything(self) -> bool:
        """Whether there is a limit among them."""
        return not (self.requests is None and self.rows is None and self.in_flight is None)


class Limited:
    """One tenant, or one key.

    Args:
        name: As leases know it: a tenant's, or "key/<id>".
        whose: As those are told who run into a limit.
        share: This process's part of the limits, above 0.
        full: Whether everything may be used at once; else it comes with time.

    Attributes:
        requests, rows: What is left of each; None where there is no such limit.
        in_flight: Requests that are here.
        most: In flight.
        asked: Requests that came, refused ones too, since somebody set it to 0.
        text: Header lines of an answer, to which what is left is added; empty without a limit of
            requests.
    """

    __slots__ = (
        "_share",
        "asked",
        "in_flight",
        "most",
        "name",
        "rates",
        "requests",
        "rows",
        "text",
        "whose",
    )

    def __init__(
        self, name: str, whose: str, rates: Rates, share: float, now: int, *, full: bool
    ) -> None:
        self.name, self.whose, self.rates = name, whose, rates
        self.in_flight = self.asked = 0
        self.requests: Gcra | None = None
        self.rows: Gcra | None = None
        self.text = b""
        self._share = share
        self._measure(now, full=full)

    def change(self, rates: Rates, share: float, now: int) -> None:
        """Have other limits from now on; of those that stay nothing is forgotten."""
        if (rates, share) != (self.rates, self._share):
            self.rates, self._share = rates, share
            self._measure(now, full=True)

    def _measure(self, now: int, *, full: bool) -> None:
        rates, share = self.rates, self._share
        self.requests = _changed(self.requests, rates.requests, rates.burst, share, now, full)
        self.rows = _changed(self.rows, rates.rows, rates.rows or 0.0, share, now, full)
        self.most = maxsize
        if rates.in_flight is not None:
            self.most = max(1, floor(rates.in_flight * share))
        self.text = b""
        if rates.requests is not None:
            self.text = _policy("requests", rates.requests, rates.burst)

    def refuse(self, now: int) -> LimitReached | None:
        """Why a request may not come in now; None where it may."""
        rates, requests, rows = self.rates, self.requests, self.rows
        if requests is not None and (wait := requests.wait(now)):
            assert rates.requests is not None, "there is its bucket"
            return self._reached(
                f"requests_per_second: {self.whose} may ask {rates.requests:g} times a second, "
                f"{rates.burst:g} at once",
                wait / SECOND,
                self.text,
            )
        if rows is not None and (wait := rows.wait(now)):
            assert rates.rows is not None, "there is its bucket"
            return self._reached(
                f"rows_per_second: {self.whose} may send {rates.rows:g} rows a second; those of "
                "its last requests are still to be waited for",
                wait / SECOND,
                _policy("rows", rates.rows, rates.rows),
            )
        if self.in_flight >= self.most:
            return LimitReached(
                f"in_flight: {self.whose} may have {rates.in_flight} requests under way at one "
                f"time, {self.in_flight} are"
                + (
                    ""
                    if self.most == rates.in_flight
                    else f" in this process, which has {self.most}"
                ),
                retry_after=_WAIT_FOR_PLACE,
                headers=b'ratelimit-policy: "in_flight";q=%d\r\nratelimit: "in_flight";r=0;t=1\r\n'
                % (rates.in_flight or 1),
            )
        return None

    def _reached(self, message: str, seconds: float, text: bytes) -> LimitReached:
        return LimitReached(message, retry_after=seconds, headers=text % (0, max(1, ceil(seconds))))


def _changed(
    known: Gcra | None, rate: float | None, burst: float, share: float, now: int, full: bool
) -> Gcra | None:
    """The bucket of a limit that may be new, another one, or gone."""
    if rate is None:
        return None
    if known is None:
        return Gcra(rate * share, burst * share, now, full=full)
    known.change(rate * share, burst * share, now)
    return known


def _policy(name: str, rate: float, burst: float) -> bytes:
    """Header lines of a limit over time, in the words of the IETF's draft; what is left, and the
    seconds until all is there again, are to be added.

    The window is whole seconds, at least as long as the burst takes to come.
    """
    window = max(1, ceil(burst / rate))
    return (_POLICY % (name, max(1, floor(rate * window)), window, name)).encode("ascii")
