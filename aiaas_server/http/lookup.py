"""The model that a request names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from starlette.requests import Request

from aiaas_server.core.events import NOBODY, Caller
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.http.incoming import RequestContext, context_of

MAX_VERSION_DIGITS = 18  # few enough for any integer type


@contextmanager
def in_use(model: LoadedModel) -> Iterator[None]:
    """Between a call that has found `model` and its run, it is neither unloaded nor retired."""
    model.in_use += 1
    try:
        yield
    finally:
        model.in_use -= 1


def addressed(pool: ModelPool, request: Request) -> tuple[str, int | None]:
    """The model and the version, if one is given, that the path names.

    Raises:
        VersionNotFound: The model has no version of that name.
    """
    name, caller = request.path_params["model"], context_of(request).caller
    return name, pool.number(name, request.path_params.get("version"), caller)


async def obtain(
    pool: ModelPool, name: str, version: int | str | None, context: RequestContext
) -> LoadedModel:
    """The model to call for a request, loaded for it if need be.

    Raises:
        ServerError: As `ModelPool.obtain`.
    """
    return await pool.obtain(name, version, context.caller, context.deadline)


async def obtain_named(pool: ModelPool, name: str, context: RequestContext) -> LoadedModel:
    """The model that a body names, as `obtain`: `m`, or a version of it, `m@3` or `m@production`.

    OpenAI's routes have no other place for a version.
    """
    model, _, version = name.partition("@")
    return await obtain(pool, model, _version(version), context)


def _version(text: str) -> int | str | None:
    digits = text.isascii() and text.isdigit() and len(text) <= MAX_VERSION_DIGITS
    return int(text) if digits else text or None


async def obtain_addressed(pool: ModelPool, request: Request) -> LoadedModel:
    """The model that the path names, as `obtain`."""
    return await obtain(pool, *addressed(pool, request), context_of(request))


def check_known(
    pool: ModelPool, name: str, version: int | None = None, caller: Caller = NOBODY
) -> None:
    """Return when the model serves or would be loaded by a call of the caller's.

    Raises:
        ModelNotFound, VersionNotFound, ModelUnavailable: As `ModelPool.resolve`.
    """
    if not pool.is_ready(name, version, caller):
        pool.resolve(name, version, caller)
