"""What a handle knows of its model, and how it comes to know: generators of calls, without I/O."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from aiaas_client._api import oip as calls
from aiaas_client._api.call import version_text
from aiaas_client._errors import (
    MethodNotAllowedError,
    ModelNotFoundError,
    NotFoundError,
    NotSupportedError,
    VersionNotFoundError,
)

if TYPE_CHECKING:
    from aiaas_client._api.call import Call
    from aiaas_client._config import ServerFacts
    from aiaas_client.protocol.messages import ModelMetadata

T = TypeVar("T")
Steps = Generator["Call[Any]", Any, T]


@dataclass(frozen=True, slots=True)
class KnownMetadata:
    """What is known about a model: its metadata (None: the server has none) and its ETag."""

    metadata: ModelMetadata | None
    etag: str = ""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What the configuration adds: rows a request may hold (None: not told), optional inputs."""

    max_batch_size: int | None = None
    optional: frozenset[str] = frozenset()


NOTHING_KNOWN = BatchLimits()


class Handle:
    """What both flavours of handle know of their model."""

    def __init__(self, name: str, version: str | int | None, facts: ServerFacts) -> None:
        self.name = name
        self.version = version_text(version)
        self._facts = facts
        self._known_metadata: KnownMetadata | None = None
        self._limits: BatchLimits | None = None

    def __repr__(self) -> str:
        version = "" if self.version is None else f", version={self.version!r}"
        return f"{type(self).__name__}({self.name!r}{version})"

    def _fetch_metadata(self) -> Steps[KnownMetadata]:
        """Ask for the metadata, cheaply when it has not changed since."""
        known = self._known_metadata
        etag = known.etag if known is not None else ""
        try:
            fresh = yield calls.metadata(self.name, self.version, etag)
        except (ModelNotFoundError, VersionNotFoundError):
            self._known_metadata = None
            raise
        except (NotFoundError, MethodNotAllowedError, NotSupportedError):
            found = KnownMetadata(None)
        else:
            told = fresh.metadata
            same = known is not None and told in (None, known.metadata)
            found = known if known is not None and same else KnownMetadata(told, fresh.etag)
        if found is not known:
            self._known_metadata, self._limits = found, None
        return found

    def _fetch_limits(self) -> Steps[BatchLimits]:
        if self._limits is None:
            try:
                self._limits = _read_limits((yield calls.config(self.name, self.version)))
            except (NotFoundError, NotSupportedError, MethodNotAllowedError):
                self._limits = BatchLimits()
        return self._limits


def _read_limits(config: Mapping[str, Any]) -> BatchLimits:
    told = config.get("max_batch_size", 0)
    largest = int(told) if isinstance(told, int | str) and str(told).isdecimal() else 0
    inputs = config.get("input")
    entries = [entry for entry in inputs if isinstance(entry, Mapping)] if inputs else []
    optional = frozenset(str(entry.get("name")) for entry in entries if entry.get("optional"))
    return BatchLimits(largest, optional)


def told_metadata(metadata: ModelMetadata | None, model: str) -> ModelMetadata:
    if metadata is None:
        raise NotSupportedError(f"model {model!r}: this server has no metadata", model=model)
    return metadata
