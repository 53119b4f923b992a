"""What can go wrong below HTTP. No status codes here: `http/errors.py` holds the table.

ServerError
├── InvalidInput        the request does not fit the model
├── PayloadTooLarge     the request is larger than a limit
├── OutputTooLarge      the answer is larger than a limit
├── ModelNotFound       no such model, or none of its versions is loaded
├── VersionNotFound     the model has no such version, or it is not loaded
├── ModelUnavailable    the version is being loaded or unloaded: try again
├── ModelNotReady       loaded, but cannot serve
├── LimitReached        more at a time, or a second, than the tenant or key may
├── QuotaExceeded       more kept than the tenant may
├── BudgetExceeded      the tenant has spent what it may in this month
├── ModelCrashed        the process of a model died while it ran this request
├── QueueFull           no room to wait in
├── QueueTimeout        waited longer than the queue policy allows
├── DeadlineExceeded    the caller's deadline passed
├── Draining            the server is stopping
├── LoadFailed          a model or its configuration is unusable
├── ControlDisabled     load and unload are switched off
├── NotFound            no such object, or another tenant's
├── Conflict            it is not in a state in which that can be done
├── NotAllowed          the key that asks may not do that
├── StaleRevision       it was changed since the caller read it
├── Rejected            a model was looked at and is refused
├── StorageFull         the disk has no room for what would be written
├── StateUnavailable    the database or the store of artefacts does not answer
├── NotSupported        known to the protocol, not offered here
└── InferenceFailed     the runtime failed on input that fits the model
"""

from __future__ import annotations

from typing import TypeVar

E = TypeVar("E", bound=BaseException)


def bare(error: E) -> E:
    """`error` without traceback and cause, whose frames keep all that they worked on."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


class ServerError(Exception):
    """Root of the tree.

    Attributes:
        message: One line for the caller: names the thing, what was expected, what came.
        retry_after: Seconds after which a retry may succeed; None when there is no such time.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after


class InvalidInput(ServerError):
    """The request does not fit the model: a name, datatype, shape or value is wrong."""


class PayloadTooLarge(ServerError):
    """The request is larger than a limit of the server."""


class OutputTooLarge(ServerError):
    """The answer would be larger than a limit of the server."""


class ModelNotFound(ServerError):
    """No model of that name, or none of its versions is loaded."""


class VersionNotFound(ServerError):
    """The model exists, that version of it does not or is not loaded."""


class ModelUnavailable(ServerError):
    """The version is being loaded or unloaded."""


class ModelNotReady(ServerError):
    """The version is loaded and cannot serve."""


class LimitReached(ServerError):
    """The tenant or its key asks for more at a time, or a second, than it may.

    Attributes:
        headers: Lines that the answer carries besides, each with its end.
    """

    def __init__(
        self, message: str, *, retry_after: float | None = None, headers: bytes = b""
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.headers = headers


class QuotaExceeded(ServerError):
    """The tenant has as much stored, deployed or queued as it may."""


class BudgetExceeded(ServerError):
    """The tenant has spent what it may in this month."""


class ModelCrashed(ServerError):
    """The process that ran the model died of this request, or was killed for it."""


class QueueFull(ServerError):
    """The queue of the model, or of the server, has no room."""


class QueueTimeout(ServerError):
    """The request waited longer than its queue policy or its own `timeout` allows."""


class DeadlineExceeded(ServerError):
    """The caller's deadline passed before the answer was ready."""


class Draining(ServerError):
    """The server is stopping and takes no new work."""


class LoadFailed(ServerError):
    """A model file or a configuration is unusable; the message is the cleaned reason."""


class ControlDisabled(ServerError):
    """Loading and unloading over the network are switched off."""


class NotFound(ServerError):
    """There is no such object, or it is another tenant's."""


class Conflict(ServerError):
    """The object is not in a state in which that can be done, or exists with other content."""


class NotAllowed(ServerError):
    """The key that asks may not do that: it would go beyond what it may itself."""


class StaleRevision(ServerError):
    """The object was changed since the caller read it."""


class Rejected(ServerError):
    """A model that somebody brought was looked at and is refused; the message says why."""


class StorageFull(ServerError):
    """There is no room to write; what only reads goes on."""


class StateUnavailable(ServerError):
    """The database or the store of artefacts does not answer; what is loaded serves on."""


class NotSupported(ServerError):
    """The protocol has it, this server does not."""


class InferenceFailed(ServerError):
    """The runtime failed although the input fits the model's signature."""


class OutOfMemory(InferenceFailed):
    """The device has no room for a run on this input; a smaller one may fit."""


def misnamed_version(model: str, version: str, names: str = "whole numbers") -> VersionNotFound:
    """The error for a version that the model cannot have.

    Args:
        names: What versions are called here.
    """
    shown = version[:64]
    return VersionNotFound(
        f"Request for unknown model: '{model[:64]}' version '{shown}' is not found; "
        f"versions here are {names}"
    )
