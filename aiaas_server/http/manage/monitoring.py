"""Routes of monitoring: how a model does, whether its world has changed, references, labels."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from aiaas_client.protocol.management import Rollout
from aiaas_client.protocol.monitoring import (
    WINDOWS,
    DriftDocument,
    FeedbackAnswer,
    FeedbackRequest,
    FeedbackResult,
    MonitoringDocument,
    Profile,
    ProfileRequest,
    RolloutMonitoring,
)
from aiaas_client.protocol.tensors import Array
from aiaas_server.core.describe.card import Card
from aiaas_server.core.errors import NotFound, ServerError
from aiaas_server.core.signature import Signature, TensorSpec
from aiaas_server.http.errors import bad_request
from aiaas_server.http.manage.requests import (
    READ,
    WRITE,
    Manage,
    author_of,
    read_asked,
    read_version,
    told,
)
from aiaas_server.http.openapi import NOTHING
from aiaas_server.monitor.feedback import model_names, record_feedback
from aiaas_server.monitor.profile import LEAST_ROWS, profile_from
from aiaas_server.monitor.profiles import (
    StoredProfile,
    get_profile,
    put_profile,
    remove_profile,
)
from aiaas_server.monitor.report import drift_document, monitoring_of, shadows_of
from aiaas_server.registry.models import get_model
from aiaas_server.registry.rows import ModelRow, VersionRow
from aiaas_server.registry.traffic import resolve
from aiaas_server.settings import Settings
from aiaas_server.state.database import Connection, Database

T = TypeVar("T")

FEEDBACK = "infer"
"""Who may call a model may say what would have been right."""
DEFAULT_WINDOW = "1h"
_MODEL = "/models/{model}"
_VERSION = _MODEL + "/versions/{version}"


class Flushes(Protocol):
    """Whoever counts in this process."""

    def flush(self) -> None:
        """Write what has been counted."""
        ...


class Trials(NamedTuple):
    """What is known in this process of versions on trial.

    Attributes:
        flush: Writes what shadows have counted.
        waiting: Takes a model's id; gives what its rollout waits for, in words.
    """

    flush: Callable[[], Awaitable[None]]
    waiting: Callable[[str], str]


async def _nothing() -> None:
    """There are no shadows."""


NO_TRIALS: Final = Trials(_nothing, lambda model_id: "")


class MonitoringRoutes:
    """What is asked and told of monitoring.

    Args:
        monitor: Writes what it has counted before it is read, where that matters.
        patience: Seconds after which what other processes have counted is written as well; 0
            where there are none.
        trials: What is known of shadows and rollouts.
    """

    def __init__(
        self,
        database: Database,
        settings: Settings,
        monitor: Flushes,
        patience: float = 0.0,
        trials: Trials = NO_TRIALS,
    ) -> None:
        self._trials = trials
        self._database = database
        self._settings = settings
        self._monitor = monitor
        self._patience = patience

    def routes(self, manage: Manage) -> list[BaseRoute]:
        """The routes."""
        profile = _VERSION + "/profile"
        return [
            manage.route(
                _MODEL + "/monitoring", self.monitoring, "GET", READ, tells=MonitoringDocument
            ),
            manage.route(_MODEL + "/drift", self.drift, "GET", READ, tells=DriftDocument),
            manage.route(profile, self.profile, "GET", READ, tells=Profile),
            manage.route(
                profile, self.set_profile, "PUT", WRITE, asks=ProfileRequest, tells=Profile
            ),
            manage.route(profile, self.remove_profile, "DELETE", WRITE, tells=NOTHING),
            manage.route(
                "/feedback",
                self.feedback,
                "POST",
                FEEDBACK,
                asks=FeedbackRequest,
                tells=FeedbackAnswer,
            ),
        ]

    async def monitoring(self, request: Request) -> Response:
        """How each version did within `?window=`, or that of `?version=`; who is on trial."""
        window, waiting = window_of(request), self._trials.waiting
        await self._refresh()

        def read(connection: Connection, model: ModelRow, version: int | None) -> Any:
            now, serving = time.time(), model.serving
            found = monitoring_of(connection, model.id, model.name, window, now, version)
            shadows = shadows_of(connection, model.id, now - window, serving.shadow, version)
            rollout = _rollout(serving.rollout, waiting(model.id))
            return found.model_copy(update={"shadows": shadows, "rollout": rollout})

        return told(await self._of_model(request, read))

    async def drift(self, request: Request) -> Response:
        """The verdict on each version within `?window=`, or on that of `?version=`."""
        window = window_of(request)
        await self._refresh()

        def read(connection: Connection, model: ModelRow, version: int | None) -> Any:
            return drift_document(connection, model.id, model.name, window, time.time(), version)

        return told(await self._of_model(request, read))

    async def profile(self, request: Request) -> Response:
        """The reference of a version."""

        def read(connection: Connection) -> Profile:
            model, version = _addressed(connection, request)
            stored = get_profile(connection, model.id, version.number)
            if stored is None:
                raise _no_profile(model, version)
            return _document(model, version, stored)

        return told(await self._database.read(read))

    async def set_profile(self, request: Request) -> Response:
        """Make the reference of a version of data that is sent; the data are not kept."""
        asked = await read_asked(request, ProfileRequest, self._settings)
        _, version = await self._database.read(lambda c: _addressed(c, request))
        made = await asyncio.to_thread(_profile_of, version, asked)

        def write(connection: Connection) -> Profile:
            model, version = _addressed(connection, request)
            created = put_profile(connection, model.id, version.number, made)
            return _document(model, version, StoredProfile(made, created))

        document = await self._database.write(write)
        await self._flush()  # this process compares with it from now on
        return told(document)

    async def remove_profile(self, request: Request) -> Response:
        """Forget the reference of a version; the next one is made of its traffic."""

        def write(connection: Connection) -> None:
            model, version = _addressed(connection, request)
            if not remove_profile(connection, model.id, version.number):
                raise _no_profile(model, version)

        await self._database.write(write)
        await self._flush()
        return Response(status_code=204)

    async def feedback(self, request: Request) -> Response:
        """Join labels to what was predicted; one result an item, of which some may be unknown."""
        asked = await read_asked(request, FeedbackRequest, self._settings)
        author = author_of(request)

        def write(connection: Connection) -> list[FeedbackResult]:
            found = record_feedback(connection, author.tenant, author.by, asked.items)
            names = model_names(connection, [one.model for one in found])
            return [one.model_copy(update={"model": names.get(one.model, "")}) for one in found]

        await self._flush()
        results = await self._database.write(write)
        if self._patience and any(one.status == "unknown" for one in results):
            await asyncio.sleep(self._patience)  # the process that answered has written by then
            results = await self._database.write(write)
        return told(FeedbackAnswer(results=results))

    async def _refresh(self) -> None:
        """Have what was counted here written; what cannot be is told the next time."""
        with suppress(ServerError, TimeoutError):
            await self._flush()
            await self._trials.flush()

    async def _flush(self) -> None:
        await asyncio.to_thread(self._monitor.flush)

    async def _of_model(
        self, request: Request, read: Callable[[Connection, ModelRow, int | None], T]
    ) -> T:
        """Read something of the model, and of the version that `?version=` names."""
        tenant, name = author_of(request).tenant, request.path_params["model"]
        asked = request.query_params.get("version", "")

        def work(connection: Connection) -> T:
            model = get_model(connection, tenant, name)
            row = resolve(connection, model, read_version(asked)) if asked else None
            return read(connection, model, None if row is None else row.number)

        return await self._database.read(work)


def _rollout(rollout: Rollout | None, waiting: str) -> RolloutMonitoring | None:
    if rollout is None:
        return None
    return RolloutMonitoring(
        version=rollout.version,
        stable=rollout.stable,
        alias=rollout.alias,
        step=rollout.step + 1,
        steps=len(rollout.guard.steps),
        share=rollout.guard.steps[rollout.step],
        since=rollout.since,
        waiting=waiting,
    )


def window_of(request: Request) -> int:
    """`?window=` in seconds.

    Raises:
        HttpError: 400 for what is none of `WINDOWS`.
    """
    text = request.query_params.get("window", DEFAULT_WINDOW)
    seconds = WINDOWS.get(text)
    if seconds is None:
        raise bad_request(f"window: expected one of {', '.join(WINDOWS)}, got {text[:64]!r}")
    return seconds


def _addressed(connection: Connection, request: Request) -> tuple[ModelRow, VersionRow]:
    """The model and version that a path names.

    Raises:
        NotFound: There is none such.
    """
    tenant, path = author_of(request).tenant, request.path_params
    model = get_model(connection, tenant, path["model"])
    return model, resolve(connection, model, read_version(path["version"]))


def _profile_of(version: VersionRow, asked: ProfileRequest) -> Any:
    """The profile of data that were sent.

    Raises:
        HttpError: 400 where they are not data of this version.
    """
    specs = {side: _specs(version.signature[side]) for side in ("inputs", "outputs")}
    # Rows first in either case: a version that does not batch gets them one by one.
    signature = Signature("", specs["inputs"], specs["outputs"], max_batch_size=1)
    inputs = _arrays(asked.inputs, specs["inputs"], "inputs")
    outputs = _arrays(asked.outputs, specs["outputs"], "outputs")
    rows = {len(array) for array in (*inputs.values(), *outputs.values())}
    if len(rows) != 1:
        raise bad_request(f"inputs, outputs: expected as many rows of each, got {sorted(rows)}")
    card = None if version.card is None else Card.model_validate(version.card)
    made = profile_from(signature, inputs, outputs, card=card, source="training")
    if made is None:
        raise bad_request(f"inputs: expected at least {LEAST_ROWS} rows, got {rows.pop()}")
    return made


def _specs(documents: Sequence[Mapping[str, Any]]) -> list[TensorSpec]:
    return [TensorSpec(one["name"], one["datatype"], tuple(one["shape"])) for one in documents]


def _arrays(values: Mapping[str, Any], specs: Sequence[TensorSpec], side: str) -> dict[str, Array]:
    known = {spec.name: spec for spec in specs}
    found: dict[str, Array] = {}
    for name, plain in values.items():
        spec = known.get(name)
        if spec is None:
            raise bad_request(f"{side}: expected some of {sorted(known)}, got '{name[:64]}'")
        found[name] = _array(f"{side}.{name[:64]}", plain, spec)
    return found


def _array(where: str, plain: Any, spec: TensorSpec) -> Array:
    try:
        kind = object if spec.datatype == "BYTES" else np.float64
        array = np.array(plain, kind)
    except (ValueError, TypeError):
        raise bad_request(f"{where}: expected nested lists of equal lengths, rows first") from None
    shape = spec.shape
    fits = array.ndim == len(shape) and all(
        size in (-1, got) for size, got in zip(shape[1:], array.shape[1:], strict=True)
    )
    if not fits:
        raise bad_request(f"{where}: expected shape {(-1, *shape[1:])}, got {array.shape}")
    return array


def _document(model: ModelRow, version: VersionRow, stored: StoredProfile) -> Profile:
    profile = stored.profile
    return Profile(
        model=model.name,
        version=version.number,
        source=profile.source,
        rows=profile.rows,
        created=stored.created,
        features=[one._asdict() for one in profile.features],
    )


def _no_profile(model: ModelRow, version: VersionRow) -> NotFound:
    return NotFound(f"version {version.number} of model '{model.name}' has no reference yet")
