"""`JobHandle`: a job on the server, followed and fetched from; leaving it does not end the job."""

from __future__ import annotations

from collections.abc import Coroutine
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from aiaas_client import _errors as errors
from aiaas_client._api import jobs as calls
from aiaas_client._resources.changes import PATIENCE, afollow, follow
from aiaas_client._resources.deploying import COMMIT_TIMEOUT
from aiaas_client._resources.job_events import (
    FollowingJob,
    check_end,
    told_so_far,
    until_ended,
)
from aiaas_client._resources.job_facts import JobFacts
from aiaas_client._send.options import LONGEST
from aiaas_client._send.own_names import with_own_names
from aiaas_client._send.work import Local, acarry_out, carry_out

if TYPE_CHECKING:
    from aiaas_client._bulk.live import Tell
    from aiaas_client._send.sender import AsyncStream, Stream  # noqa: F401  # in the bases below
    from aiaas_client._send.work import Work
    from aiaas_client.protocol.jobs import Job, JobEvent, Progress  # noqa: F401

# What a call gives, or an awaitable of it.
Itself = TypeVar("Itself")
AllEvents = TypeVar("AllEvents")  # a stream of them
Steps = TypeVar("Steps")
Text = TypeVar("Text")
Drawn = TypeVar("Drawn")  # a figure
Place = TypeVar("Place")  # a path
Nothing = TypeVar("Nothing")

REPORT = "report.html"


class AnyJob(JobFacts, Generic[Itself, AllEvents, Steps, Text, Drawn, Place, Nothing]):
    """What can be done with a job."""

    _carry_out: Any  # does what steps ask for: `carry_out`, or `acarry_out`
    _follow: Any  # makes a stream: `follow`, or `afollow`

    def __init__(self, sender: Any, document: Job) -> None:
        self._sender = sender
        self._document = document

    def refresh(self) -> Itself:
        """Ask how it is now; gives the handle itself, which tells it from now on."""
        return self._done(self._updated(calls.job(self.id)))

    def cancel(self) -> Itself:
        """Ask the server to end it, which takes a moment; nothing of it is kept.

        Raises:
            ConflictError: It has ended already.
        """
        return self._done(self._updated(calls.cancel(self.id)))

    def wait(
        self,
        timeout: float | None = None,
        *,
        progress: bool | Tell = False,
        patience: float = PATIENCE,
    ) -> Itself:
        """Wait until it has ended; gives the handle itself.

        Ctrl-C, a timeout and the end of the program leave the job as it is: `client.jobs.get(id)`
        finds it again.

        Args:
            timeout: Seconds; as long as it takes by default.
            progress: True shows a bar and a table of the metrics as they come, in a terminal or a
                notebook; elsewhere a line now and then. A callable is told each `Progress`.
            patience: Seconds that no server may be reached.
        Raises:
            JobFailedError: It failed; the text says why.
            JobCancelledError: It was cancelled.
            DeadlineExceededError: It goes on.
        """
        return self._done(self._waited(timeout, progress, patience))

    def events(self, *, after: int = 0, patience: float = PATIENCE) -> AllEvents:
        """Give all it tells as it tells it, from the beginning to its end: states, progress, log.

        A connection that breaks is made again, and goes on after the last event that was told.

        Args:
            after: The `seq` of an event that is known: begin with the one behind it.
            patience: Seconds that no server may be reached.
        Raises:
            APIConnectionError: No server was reached for so long; in the iteration, like all.
        """
        following = FollowingJob(self.id, after, patience)
        found: AllEvents = self._follow(self._sender, following)
        return found

    def history(self) -> Steps:
        """Give each progress so far: step, phase, rate, and the metrics of that step."""
        found: Steps = self._carry_out(told_so_far(self.id), self._sender)
        return found

    def log(self) -> Text:
        """Give the last lines that it printed, secrets left out."""
        found: Text = self._carry_out(self._logged(), self._sender)
        return found

    def plot(self, figure: Any = None) -> Drawn:
        """Draw its learning curves and what it found: the confusion matrix, differences with their
        intervals, candidates by latency, the importance of columns.

        Args:
            figure: A matplotlib figure to draw on; a new one by default.
        Returns:
            The figure.
        Raises:
            InputError: It has told of no metrics yet.
            ConfigurationError: matplotlib is not installed.
        """
        found: Drawn = self._carry_out(self._drawn(figure), self._sender)
        return found

    def download(self, name: str, path: str | PathLike[str] | None = None) -> Place:
        """Fetch a file that it made; `files` lists them.

        Args:
            name: Of the file.
            path: Where it goes, replacing what is there; by its own name by default.
        Returns:
            The path.
        Raises:
            InputError: It made no such file.
            ProtocolError: What came is not what its digest says.
        """
        steps = self._fetched(name, Path(name) if path is None else Path(path))
        sender = self._sender.with_options(timeout=COMMIT_TIMEOUT, deadline=LONGEST)
        found: Place = self._carry_out(steps, sender)
        return found

    def report(self, path: str | PathLike[str] | None = None, *, show: bool = False) -> Place:
        """Fetch its readable report, a page with plots.

        Args:
            path: Where it goes; `<kind>-<id>.html` by default.
            show: Open it in a browser as well.
        Returns:
            The path.
        Raises:
            InputError: It has made none (yet).
        """
        target = Path(f"{self.kind}-{self.id}.html") if path is None else Path(path)
        sender = self._sender.with_options(timeout=COMMIT_TIMEOUT, deadline=LONGEST)
        found: Place = self._carry_out(self._shown(target, show), sender)
        return found

    def delete(self) -> Nothing:
        """Forget it with its files; versions and data sets that it made stay.

        Raises:
            ConflictError: It has not ended: cancel it first.
        """
        found: Nothing = self._sender.send(calls.delete(self.id))
        return found

    def _done(self, steps: Work[Any]) -> Itself:
        found: Itself = self._carry_out(steps, self._sender)
        return found

    def _updated(self, call: Any) -> Work[Any]:
        self._document = yield call
        return self

    def _waited(self, timeout: float | None, progress: bool | Tell, patience: float) -> Work[Any]:
        from aiaas_client._bulk.live import open_view

        view = open_view(progress, self.title)
        now = self._sender.clock.monotonic
        try:
            self._document = yield from until_ended(self.id, now, timeout, view, patience)
        finally:
            view.close()
        check_end(self._document)
        return self

    def _logged(self) -> Work[str]:
        self._document = yield calls.job(self.id)
        return "\n".join(self._document.log)

    def _drawn(self, figure: Any) -> Work[Any]:
        from aiaas_client._api.job_plots import draw_job

        history: list[Progress] = yield from told_so_far(self.id)
        self._document = yield calls.job(self.id)
        return draw_job(self._document, self.title, history, figure)

    def _fetched(self, name: str, target: Path) -> Work[Path]:
        from aiaas_client._bundles.arriving import fetch_to
        from aiaas_client.protocol.management import BundleFile

        if not self.done:
            self._document = yield calls.job(self.id)
        for file in self.files:
            if file.name == name:
                announced = BundleFile(**file.model_dump())
                return (yield from fetch_to(calls.download(self.id, name), announced, target))
        listed = ", ".join(file.name for file in self.files) or "none"
        raise errors.InputError(f"job {self.id} has no file {name[:80]!r}; it has {listed}")

    def _shown(self, target: Path, show: bool) -> Work[Path]:
        path = yield from self._fetched(REPORT, target)
        if show:
            import webbrowser

            yield Local(lambda: webbrowser.open(path.resolve().as_uri()))
        return path


@with_own_names
class JobHandle(
    AnyJob["JobHandle", "Stream[JobEvent]", "list[Progress]", str, Any, "Path", None],
):
    """A job, for threads."""

    _carry_out = staticmethod(carry_out)
    _follow = staticmethod(follow)


@with_own_names
class AsyncJobHandle(
    AnyJob[
        Coroutine[Any, Any, "AsyncJobHandle"],
        "AsyncStream[JobEvent]",
        Coroutine[Any, Any, "list[Progress]"],
        Coroutine[Any, Any, str],
        Coroutine[Any, Any, Any],
        Coroutine[Any, Any, "Path"],
        Coroutine[Any, Any, None],
    ]
):
    """A job, on an event loop."""

    _carry_out = staticmethod(acarry_out)
    _follow = staticmethod(afollow)
