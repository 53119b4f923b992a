"""Monitoring and feedback, for threads and tasks: parts of the clients and `client.models`."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from aiaas_client._api import monitoring as calls

if TYPE_CHECKING:
    from aiaas_client._api.plots import Monitoring  # named in the base classes below
    from aiaas_client.protocol.monitoring import DriftDocument, FeedbackResult, Profile

# What a call gives, or an awaitable of it.
AnyMonitoring = TypeVar("AnyMonitoring")
AnyDrift = TypeVar("AnyDrift")
AnyProfile = TypeVar("AnyProfile")
NoProfile = TypeVar("NoProfile")
AnyResult = TypeVar("AnyResult")
AnyResults = TypeVar("AnyResults")


class MonitoringCalls(Generic[AnyMonitoring, AnyDrift, AnyProfile, NoProfile]):
    """What can be asked of how models do."""

    _sender: Any

    def monitoring(
        self, name: str, version: str | int | None = None, *, window: str = "1h"
    ) -> AnyMonitoring:
        """Tell how each version did lately: rate, errors, latency by phase, drift, accuracy.

        Args:
            name: The model.
            version: One version, by number or alias; all by default.
            window: "5m", "15m", "1h", "6h", "24h" or "7d".
        Returns:
            A `Monitoring`; its `plot()` draws it.
        Raises:
            NotFoundError: the registry has no such model or version.
        """
        found: AnyMonitoring = self._sender.send(calls.monitoring(name, version, window))
        return found

    def drift(self, name: str, version: str | int | None = None, *, window: str = "1h") -> AnyDrift:
        """Tell whether inputs and predictions still look like the reference, by feature.

        Raises:
            NotFoundError: the registry has no such model or version.
        """
        found: AnyDrift = self._sender.send(calls.drift(name, version, window))
        return found

    def profile(self, name: str, version: str | int) -> AnyProfile:
        """Give the reference of a version: counts in bins.

        Raises:
            NotFoundError: it has none yet.
        """
        found: AnyProfile = self._sender.send(calls.profile(name, version))
        return found

    def set_profile(
        self,
        name: str,
        version: str | int,
        inputs: Mapping[str, Any],
        outputs: Mapping[str, Any] | None = None,
    ) -> AnyProfile:
        """Make the reference of a version of data of your own, such as what it was trained on.

        The server counts them and keeps the counts only.

        Args:
            name: The model.
            version: Its version, by number or alias.
            inputs: By input name, rows first; NaN is a missing value.
            outputs: What the version answers to them, to compare predictions as well.
        Raises:
            BadRequestError: they are not inputs of this version, or too few.
        """
        call = calls.set_profile(name, version, inputs, outputs)
        found: AnyProfile = self._sender.send(call)
        return found

    def remove_profile(self, name: str, version: str | int) -> NoProfile:
        """Forget the reference of a version; the next one is made of its traffic.

        Raises:
            NotFoundError: it has none.
        """
        found: NoProfile = self._sender.send(calls.remove_profile(name, version))
        return found


class ThreadMonitoring(MonitoringCalls["Monitoring", "DriftDocument", "Profile", None]):
    """How models do, from threads."""


class AsyncMonitoring(
    MonitoringCalls[
        Coroutine[Any, Any, "Monitoring"],
        Coroutine[Any, Any, "DriftDocument"],
        Coroutine[Any, Any, "Profile"],
        Coroutine[Any, Any, None],
    ]
):
    """How models do, from an event loop."""


class FeedbackCalls(Generic[AnyResult, AnyResults]):
    """What would have been right."""

    _sender: Any

    def feedback(self, about: Any, label: Any, *, row: int | None = None) -> AnyResult:
        """Tell what would have been right; the server joins it to what was predicted.

        Args:
            about: A request's id, or the result or prediction that it gave.
            label: A label as the model tells it, or a number.
            row: Which item of the request; by default that of the prediction, or the first.
        Raises:
            NotFoundError: no such request is remembered (any more).
        """
        found: AnyResult = self._sender.send(calls.feedback_on(about, label, row))
        return found

    def feedback_many(self, items: Iterable[Sequence[Any]]) -> AnyResults:
        """Tell up to 5,000 labels at once: `(about, label)` or `(about, label, row)` each.

        Returns:
            One result an item, in order; `status` is "unknown" where no request is remembered.
        """
        found: AnyResults = self._sender.send(calls.feedback(calls.feedback_items(items)))
        return found


class ThreadFeedback(FeedbackCalls["FeedbackResult", "list[FeedbackResult]"]):
    """What would have been right, told from threads."""


class AsyncFeedback(
    FeedbackCalls[
        Coroutine[Any, Any, "FeedbackResult"], Coroutine[Any, Any, "list[FeedbackResult]"]
    ]
):
    """What would have been right, told from an event loop."""
