"""`client.usage`: what was used, by key, model, version and time."""

from __future__ import annotations

import shutil
from collections.abc import Coroutine, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from aiaas_client._api import usage as calls
from aiaas_client._resources.registry import pages
from aiaas_client._resources.resource import Viewed
from aiaas_client._resources.statements import UsageStatement
from aiaas_client._send.own_names import with_own_names
from aiaas_client._send.raw import AsyncWhole, Whole, WithRawResponse
from aiaas_client._send.work import Local, Save, acarry_out, carry_out

if TYPE_CHECKING:
    from aiaas_client._api.usage import ExportFormat, Target, Time, UsageReport
    from aiaas_client._send.work import Work
    from aiaas_client.protocol.prices import Statement  # named in base classes
    from aiaas_client.protocol.usage import By, Unit

_LONGEST = 3600.0
"""Seconds that an export may take."""

# What a call gives, or an awaitable of it.
AnyUsage = TypeVar("AnyUsage")
Nothing = TypeVar("Nothing")


class UsageCalls(Generic[AnyUsage, Nothing]):
    """What was used, summed up by the server or as it was kept, by hours."""

    _carry_out: Any  # does what steps ask for: `carry_out`, or `acarry_out`

    def __init__(self, sender: Any) -> None:
        self._sender = sender

    def get(
        self,
        by: Sequence[By] | str = (),
        *,
        start: Time | None = None,
        end: Time | None = None,
        model: str | None = None,
        version: int | None = None,
        key: str | None = None,
        unit: Unit | None = None,
        tenant: str | None = None,
    ) -> AnyUsage:
        """Tell what was used, some two seconds ago or earlier.

        Args:
            by: What rows tell apart, beside the unit: "key", "model", "version", one of "hour",
                "day" and "month", and for the operator "tenant".
            start: Hours that begin from here on: a date, a time or ISO text, of UTC where it does
                not say; by default the beginning of this month.
            end: And before this; by default now.
            model, version, key, unit: Only of this one; a key by its id.
            tenant: For the operator: only of this one, or "*" for all. Others have their own.
        Returns:
            A `UsageReport`: `rows`, `total`, `to_frame()` and `plot()`.
        Raises:
            InputError: It cannot be asked for so.
            PermissionDeniedError: It is another tenant's, or the key has not the scope
                `usage:read`.
            NotSupportedError: The server counts nothing; it does with `--data`.
        """
        wanted = {"model": model, "version": version, "key": key, "unit": unit, "tenant": tenant}
        names = calls.names_of(by) if by else ()
        query = calls.query_of(names or None, start, end, **wanted)
        found: AnyUsage = self._carry_out(_got(names, query), self._sender)
        return found

    def export(
        self,
        to: Target,
        *,
        format: ExportFormat = "csv",
        by: Sequence[By] | str | None = None,
        start: Time | None = None,
        end: Time | None = None,
        model: str | None = None,
        version: int | None = None,
        key: str | None = None,
        unit: Unit | None = None,
        tenant: str | None = None,
    ) -> Nothing:
        """Write what was used to a file, however much it is.

        Args:
            to: The path of a file, which is there as a whole in the end or not at all; or an open
                binary file.
            format: "csv", or "jsonl" for a JSON object a line.
            by: As `get`; by default all there is: tenant, key, model, version and hour.
            start, end, model, version, key, unit, tenant: As `get`.
        Raises:
            InputError, PermissionDeniedError, NotSupportedError: As `get`.
        """
        wanted = {"model": model, "version": version, "key": key, "unit": unit, "tenant": tenant}
        call = calls.export(calls.query_of(by, start, end, **wanted), format)
        sender = self._sender.with_options(deadline=_LONGEST)
        done: Nothing = self._carry_out(_exported(call, to), sender)
        return done


@with_own_names
class UsageAccount(
    Viewed["RawUsageAccount"], UsageCalls["UsageReport", None], UsageStatement["Statement"]
):
    """What was used, for threads."""

    _carry_out = staticmethod(carry_out)


class RawUsageAccount(WithRawResponse, of=UsageAccount):
    """The same calls, each giving its whole answer; of several requests that of the last one."""

    get = Whole(UsageAccount.get)
    statement = Whole(UsageAccount.statement)


@with_own_names
class AsyncUsageAccount(
    Viewed["RawAsyncUsageAccount"],
    UsageCalls[Coroutine[Any, Any, "UsageReport"], Coroutine[Any, Any, None]],
    UsageStatement[Coroutine[Any, Any, "Statement"]],
):
    """What was used, on an event loop."""

    _carry_out = staticmethod(acarry_out)


class RawAsyncUsageAccount(WithRawResponse, of=AsyncUsageAccount):
    """The same calls, each giving its whole answer; of several requests that of the last one."""

    get = AsyncWhole(AsyncUsageAccount.get)
    statement = AsyncWhole(AsyncUsageAccount.statement)


def _got(names: tuple[By, ...], query: dict[str, str]) -> Work[UsageReport]:
    rows = yield from pages(partial(calls.usage_page, query), None)
    return calls.UsageReport(by=names, rows=tuple(rows))


def _exported(call: Any, to: Target) -> Work[None]:
    if not isinstance(to, str | Path):
        yield Save(call, to.write)
        return
    target = Path(to)
    kept = TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent)
    with kept as beside:
        whole = Path(beside) / "usage"
        with whole.open("wb") as file:
            yield Save(call, file.write)
        yield Local(partial(shutil.move, whole, target))
