"""`client.datasets` and `client.jobs`, of either client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:  # all of them named in the base classes below
    from aiaas_client._resources.datasets import AsyncDatasets, Datasets  # noqa: F401
    from aiaas_client._resources.jobs import AsyncJobs, Jobs  # noqa: F401

AnyDatasets = TypeVar("AnyDatasets")
AnyJobs = TypeVar("AnyJobs")


class WorkCalls(Generic[AnyDatasets, AnyJobs]):
    """What is longer than a request, and what it works on."""

    _sender: Any
    _is_async: bool

    @property
    def datasets(self) -> AnyDatasets:
        """The server's data sets: upload, list, fetch, erase."""
        from aiaas_client._resources import datasets as home

        kind: Any = home.AsyncDatasets if self._is_async else home.Datasets
        found: AnyDatasets = kind(self._sender)
        return found

    @property
    def jobs(self) -> AnyJobs:
        """The server's jobs: train, evaluate, compare, score, optimise, explain."""
        from aiaas_client._resources import jobs as home

        kind: Any = home.AsyncJobs if self._is_async else home.Jobs
        found: AnyJobs = kind(self._sender)
        return found


class ThreadWork(WorkCalls["Datasets", "Jobs"]):
    """Work, from threads."""

    _is_async = False


class AsyncWork(WorkCalls["AsyncDatasets", "AsyncJobs"]):
    """Work, from an event loop."""

    _is_async = True
