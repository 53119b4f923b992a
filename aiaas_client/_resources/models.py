"""`client.models`, for threads and tasks alike; it holds the client's sender and no state."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from aiaas_client._api import oip as calls
from aiaas_client._resources.changes import ChangeFeed, afollow, follow
from aiaas_client._resources.deploying import Deploying
from aiaas_client._resources.monitoring import AsyncMonitoring, ThreadMonitoring
from aiaas_client._resources.registry import Registry
from aiaas_client._resources.resource import Viewed
from aiaas_client._resources.rollouts import Rollouts
from aiaas_client._resources.traffic import Traffic
from aiaas_client._send.flavours import Document, Metadata, Statistics
from aiaas_client._send.own_names import with_own_names
from aiaas_client._send.raw import AsyncWhole, Whole, WithRawResponse
from aiaas_client._send.work import acarry_out, carry_out

if TYPE_CHECKING:  # all of them named in the base classes below
    from pathlib import Path

    from aiaas_client._send.sender import AsyncStream, Stream  # noqa: F401
    from aiaas_client.protocol.management import (
        Change,  # noqa: F401
        Diff,
        Erasure,
        HistoryEntry,
        Model,
        Version,
    )
    from aiaas_client.protocol.messages import (
        ModelMetadata,
        ModelStatistics,
        RepositoryEntry,
    )

Config = str | Mapping[str, Any]
Files = Mapping[str, bytes | str | PathLike[str]]

# What a call gives, or an awaitable of it.
Entries = TypeVar("Entries")
Nothing = TypeVar("Nothing")


class _Loaded(Generic[Entries, Metadata, Nothing, Statistics, Document]):
    """The models that a server has loaded, or can load."""

    def __init__(self, sender: Any) -> None:
        self._sender = sender

    def list(self, *, ready: bool = False) -> Entries:
        """Give every known version, or only those that are ready.

        Raises:
            NotSupportedError: this server has no repository index.
        """
        found: Entries = self._sender.send(calls.index(ready=ready))
        return found

    def get(self, name: str, version: str | int | None = None) -> Metadata:
        """Give a model's inputs and outputs, as the server tells them now.

        Raises:
            NotFoundError: there is no such model or version.
        """
        found: Metadata = self._sender.send(calls.model_metadata(name, version))
        return found

    def load(
        self,
        name: str,
        *,
        config: Config | None = None,
        files: Files | None = None,
        force: bool = False,
    ) -> Nothing:
        """Load or reload a model; returns when it serves.

        Args:
            name: The model.
            config: A configuration in place of the stored one, as a dict or JSON text.
            files: Contents (bytes) or paths by `<version>/<name>`, in place of the stored ones.
            force: Load again even if nothing changed.
        Raises:
            LoadFailedError: the model or its configuration is bad; the old one keeps serving.
            NotSupportedError: this server does not load on request.
        """
        found: Nothing = self._sender.send(
            calls.load(name, calls.load_config(config), calls.load_files(files), force=force)
        )
        return found

    def unload(self, name: str, *, unload_dependents: bool = False) -> Nothing:
        """Stop serving a model, after the requests it has accepted."""
        found: Nothing = self._sender.send(calls.unload(name, unload_dependents=unload_dependents))
        return found

    def statistics(self, name: str | None = None, version: str | int | None = None) -> Statistics:
        """Give counts and times of every version, or of one model's.

        Raises:
            NotSupportedError: this server keeps no statistics.
        """
        found: Statistics = self._sender.send(calls.statistics(name, version))
        return found

    def config(self, name: str, version: str | int | None = None) -> Document:
        """Give a model's configuration.

        Raises:
            NotSupportedError: this server does not tell it.
        """
        found: Document = self._sender.send(calls.config(name, version))
        return found


@with_own_names
class Models(
    Viewed["RawModels"],
    _Loaded[
        "list[RepositoryEntry]", "ModelMetadata", None, "list[ModelStatistics]", "dict[str, Any]"
    ],
    Registry[
        "Model", "Version", "list[Model]", "list[Version]", "list[HistoryEntry]", "Diff", "Erasure"
    ],
    Traffic["Model"],
    Rollouts["Model"],
    Deploying["Version", "Path"],
    ChangeFeed["Stream[Change]"],
    ThreadMonitoring,
):
    """The models of a server, for threads."""

    _carry_out = staticmethod(carry_out)
    _follow = staticmethod(follow)


class RawModels(WithRawResponse, of=Models):
    """The same calls, each giving its whole answer; of several requests that of the last one."""

    list = Whole(Models.list)
    get = Whole(Models.get)
    load = Whole(Models.load)
    unload = Whole(Models.unload)
    statistics = Whole(Models.statistics)
    config = Whole(Models.config)
    registered = Whole(Models.registered)
    about = Whole(Models.about)
    versions = Whole(Models.versions)
    version = Whole(Models.version)
    history = Whole(Models.history)
    diff = Whole(Models.diff)
    update = Whole(Models.update)
    delete = Whole(Models.delete)
    promote = Whole(Models.promote)
    unalias = Whole(Models.unalias)
    split = Whole(Models.split)
    unsplit = Whole(Models.unsplit)
    shadow = Whole(Models.shadow)
    unshadow = Whole(Models.unshadow)
    pin = Whole(Models.pin)
    unpin = Whole(Models.unpin)
    rollback = Whole(Models.rollback)
    deploy = Whole(Models.deploy)
    export = Whole(Models.export)
    import_ = Whole(Models.import_)
    monitoring = Whole(Models.monitoring)
    drift = Whole(Models.drift)
    profile = Whole(Models.profile)
    set_profile = Whole(Models.set_profile)
    remove_profile = Whole(Models.remove_profile)


@with_own_names
class AsyncModels(
    Viewed["RawAsyncModels"],
    _Loaded[
        Coroutine[Any, Any, "list[RepositoryEntry]"],
        Coroutine[Any, Any, "ModelMetadata"],
        Coroutine[Any, Any, None],
        Coroutine[Any, Any, "list[ModelStatistics]"],
        Coroutine[Any, Any, "dict[str, Any]"],
    ],
    Registry[
        Coroutine[Any, Any, "Model"],
        Coroutine[Any, Any, "Version"],
        Coroutine[Any, Any, "list[Model]"],
        Coroutine[Any, Any, "list[Version]"],
        Coroutine[Any, Any, "list[HistoryEntry]"],
        Coroutine[Any, Any, "Diff"],
        Coroutine[Any, Any, "Erasure"],
    ],
    Traffic[Coroutine[Any, Any, "Model"]],
    Rollouts[Coroutine[Any, Any, "Model"]],
    Deploying[Coroutine[Any, Any, "Version"], Coroutine[Any, Any, "Path"]],
    ChangeFeed["AsyncStream[Change]"],
    AsyncMonitoring,
):
    """The models of a server, on an event loop."""

    _carry_out = staticmethod(acarry_out)
    _follow = staticmethod(afollow)


class RawAsyncModels(WithRawResponse, of=AsyncModels):
    """The same calls, each giving its whole answer; of several requests that of the last one."""

    list = AsyncWhole(AsyncModels.list)
    get = AsyncWhole(AsyncModels.get)
    load = AsyncWhole(AsyncModels.load)
    unload = AsyncWhole(AsyncModels.unload)
    statistics = AsyncWhole(AsyncModels.statistics)
    config = AsyncWhole(AsyncModels.config)
    registered = AsyncWhole(AsyncModels.registered)
    about = AsyncWhole(AsyncModels.about)
    versions = AsyncWhole(AsyncModels.versions)
    version = AsyncWhole(AsyncModels.version)
    history = AsyncWhole(AsyncModels.history)
    diff = AsyncWhole(AsyncModels.diff)
    update = AsyncWhole(AsyncModels.update)
    delete = AsyncWhole(AsyncModels.delete)
    promote = AsyncWhole(AsyncModels.promote)
    unalias = AsyncWhole(AsyncModels.unalias)
    split = AsyncWhole(AsyncModels.split)
    unsplit = AsyncWhole(AsyncModels.unsplit)
    shadow = AsyncWhole(AsyncModels.shadow)
    unshadow = AsyncWhole(AsyncModels.unshadow)
    pin = AsyncWhole(AsyncModels.pin)
    unpin = AsyncWhole(AsyncModels.unpin)
    rollback = AsyncWhole(AsyncModels.rollback)
    deploy = AsyncWhole(AsyncModels.deploy)
    export = AsyncWhole(AsyncModels.export)
    import_ = AsyncWhole(AsyncModels.import_)
    monitoring = AsyncWhole(AsyncModels.monitoring)
    drift = AsyncWhole(AsyncModels.drift)
    profile = AsyncWhole(AsyncModels.profile)
    set_profile = AsyncWhole(AsyncModels.set_profile)
    remove_profile = AsyncWhole(AsyncModels.remove_profile)
