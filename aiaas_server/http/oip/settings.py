"""The logging and trace settings of the protocol: checked, changed in all processes, told back.

`log_verbose_level` above 0 and the `log_*` switches set the level of the server's own logger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from aiaas_server.core.errors import NotSupported
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.http.answers import JsonAnswer
from aiaas_server.http.errors import bad_request
from aiaas_server.http.json_body import read_control
from aiaas_server.http.lookup import check_known
from aiaas_server.http.oip.dynamic_settings import TRACING, DynamicSettings
from aiaas_server.http.operations import Operation
from aiaas_server.http.process_group import ProcessGroup
from aiaas_server.settings import Settings

Document = dict[str, Any]
Check = Callable[[Any], bool]

_TRACE_LEVELS = frozenset({"OFF", "TIMESTAMPS", "TENSORS"})


def _is_boolean(value: Any) -> bool:
    return isinstance(value, bool)


def _is_level(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _is_count(value: Any) -> bool:
    return (
        isinstance(value, str)
        and value.isascii()
        and value.removeprefix("-").isdigit()
        and len(value) <= 20
    )


def _are_levels(value: Any) -> bool:
    return (
        isinstance(value, list)
        and 0 < len(value) <= len(_TRACE_LEVELS)
        and all(isinstance(level, str) and level in _TRACE_LEVELS for level in value)
    )


_LOGGING_CHECKS: Mapping[str, tuple[Check, str]] = {
    "log_info": (_is_boolean, "a boolean"),
    "log_warning": (_is_boolean, "a boolean"),
    "log_error": (_is_boolean, "a boolean"),
    "log_verbose_level": (_is_level, "an integer of 0 or more"),
    "log_format": (lambda value: value in ("default", "ISO8601"), "'default' or 'ISO8601'"),
}
_TRACE_CHECKS: Mapping[str, tuple[Check, str]] = {
    "trace_level": (_are_levels, "a list out of OFF, TIMESTAMPS, TENSORS"),
    "trace_rate": (_is_count, "digits in a string"),
    "trace_count": (_is_count, "digits in a string"),
    "log_frequency": (_is_count, "digits in a string"),
    "trace_mode": (lambda value: value in ("triton", "opentelemetry"), "a trace mode"),
}


class SettingsRoutes:
    """`/v2/logging`, `/v2/trace/setting` and `/v2/models/{m}/trace/setting`."""

    def __init__(
        self, pool: ModelPool, settings: Settings, dynamic: DynamicSettings, group: ProcessGroup
    ) -> None:
        self._pool = pool
        self._settings = settings
        self._dynamic = dynamic
        self._group = group

    async def logging(self, request: Request) -> Response:
        """GET tells, POST changes any subset and tells all."""
        if request.method == "POST":
            changes = await read_control(request, self._settings)
            if changes.get("log_file") is not None:
                raise NotSupported("log_file: not supported; the log goes to the standard error")
            given = {key: value for key, value in changes.items() if value is not None}
            _check(given, _LOGGING_CHECKS)
            await self._group.apply(Operation("logging", body=given))
        return JsonAnswer(self._dynamic.logging)

    async def tracing(self, request: Request) -> Response:
        """The server's trace settings; null resets a key."""
        if request.method == "POST":
            changes = await read_control(request, self._settings)
            _check_tracing(changes)
            await self._group.apply(Operation("tracing", body=changes))
        return JsonAnswer(self._dynamic.tracing)

    async def model_tracing(self, request: Request) -> Response:
        """A model's trace settings: the server's where it has none; null resets a key to that."""
        name = request.path_params["model"]
        check_known(self._pool, name)
        if request.method == "POST":
            changes = await read_control(request, self._settings)
            _check_tracing(changes)
            await self._group.apply(Operation("model_tracing", name, changes))
        return JsonAnswer(self._dynamic.tracing_of(name))


def _check_tracing(changes: Document) -> None:
    if changes.get("trace_file") is not None:
        raise NotSupported("trace_file: not supported")
    given = {key: v for key, v in changes.items() if v is not None and key != "trace_file"}
    _check(given, _TRACE_CHECKS)
    for key in changes:
        if key not in TRACING:
            raise bad_request(f"unexpected trace setting {key[:64]!r}")


def _check(given: Document, checks: Mapping[str, tuple[Check, str]]) -> None:
    for key, value in given.items():
        if key not in checks:
            raise bad_request(f"unexpected setting {key[:64]!r}")
        accepts, expected = checks[key]
        if not accepts(value):
            raise bad_request(f"{key!r}: expected {expected}")
