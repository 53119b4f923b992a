"""Repository control: the index, loading and unloading.

A load or unload happens in all processes of the server, and one that has begun is finished even
if its client leaves.
"""

from __future__ import annotations

import asyncio
import binascii
import re
from base64 import b64decode
from collections.abc import Coroutine
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from aiaas_server.core.errors import ControlDisabled, ModelNotFound
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.http.answers import JsonAnswer
from aiaas_server.http.errors import bad_request
from aiaas_server.http.incoming import context_of
from aiaas_server.http.json_body import member, read_control
from aiaas_server.http.operations import Operation
from aiaas_server.http.process_group import ProcessGroup
from aiaas_server.settings import Settings

FILE_PREFIX = "file:"
_file_path = re.compile(r"[0-9]{1,18}/(?!\.{1,2}$)[^/\\\x00-\x1f]{1,255}").fullmatch


class RepositoryRoutes:
    """`POST /v2/repository/index` and `/v2/repository/models/{m}/load` and `/unload`."""

    def __init__(self, pool: ModelPool, settings: Settings, group: ProcessGroup) -> None:
        self._pool = pool
        self._settings = settings
        self._group = group
        self._running: set[asyncio.Task[Any]] = set()

    async def index(self, request: Request) -> Response:
        """Every known version with its state; `{"ready": true}` keeps the ready ones."""
        document = await read_control(request, self._settings)
        await self._pool.refresh()
        ready = member(document, "ready", bool, False)
        return JsonAnswer(self._pool.index(ready, context_of(request).caller))

    async def load(self, request: Request) -> Response:
        """Load or reload; answers after the model serves or has been refused."""
        self._check_control()
        document = await read_control(request, self._settings, upload=True)
        parameters = member(document, "parameters", dict, {})
        config, force, encoded = read_load(parameters)
        files = await asyncio.to_thread(decode_files, encoded) if encoded else {}
        name = request.path_params["model"]
        full = self._pool.controlled(name, context_of(request).caller)
        if full is None:
            raise ModelNotFound(f"model '{name[:64]}' is not in the repository")
        operation = Operation("load", full, {"config": config, "force": force}, files)
        await self._finish(self._group.apply(operation))
        return JsonAnswer({"name": name, "load": True})

    async def unload(self, request: Request) -> Response:
        """Unload after the requests in flight; also 200 when nothing was loaded."""
        self._check_control()
        document = await read_control(request, self._settings)
        parameters = member(document, "parameters", dict, {})
        for key in parameters:
            if key != "unload_dependents":
                raise bad_request(f"unload: unexpected parameter {key[:64]!r}")
        dependents = member(parameters, "unload_dependents", bool, False)
        name = request.path_params["model"]
        full = self._pool.controlled(name, context_of(request).caller)
        if full is not None:  # what is not there is unloaded
            operation = Operation("unload", full, {"unload_dependents": dependents})
            await self._finish(self._group.apply(operation))
        return JsonAnswer({"name": name, "unload": True})

    def _check_control(self) -> None:
        if self._settings.control == "none":
            raise ControlDisabled("explicit model load / unload is not allowed by this server")

    async def _finish(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        await asyncio.shield(task)


def read_load(parameters: dict[str, Any]) -> tuple[str | None, bool, dict[str, str]]:
    """Sort a load's parameters.

    Returns:
        The configuration's JSON text, `force`, and the files as base64 by `<version>/<name>`.
    Raises:
        HttpError: 400 for an unknown key, a wrong kind, a path that is not plain, or files
            without a configuration.
    """
    config = member(parameters, "config", str, None)
    force = member(parameters, "force", bool, False)
    files: dict[str, str] = {}
    for key, value in parameters.items():
        if key in ("config", "force"):
            continue
        if not key.startswith(FILE_PREFIX):
            raise bad_request(f"load: unexpected parameter {key[:64]!r}")
        path = key.removeprefix(FILE_PREFIX)
        if not _file_path(path):
            raise bad_request(f"load: expected 'file:<version>/<name>', got {key[:64]!r}")
        if not isinstance(value, str):
            raise bad_request(f"{key[:64]!r}: expected base64 text")
        files[path] = value
    if files and config is None:
        raise bad_request("load: 'config' is required when files are given")
    return config, force, files


def decode_files(encoded: dict[str, str]) -> dict[str, bytes]:
    """Decode base64 of the standard alphabet.

    Raises:
        HttpError: 400 for a text that is not.
    """
    files: dict[str, bytes] = {}
    for path, text in encoded.items():
        try:
            files[path] = b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise bad_request(f"file {path[:64]!r}: expected base64 text") from None
    return files
