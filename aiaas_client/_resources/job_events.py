"""A job's events, followed to its end: `events`, `wait` and `history` of its handle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aiaas_client import _errors as errors
from aiaas_client._api import jobs as calls
from aiaas_client._resources.changes import PASSING, Following
from aiaas_client._send.options import LONGEST, positive
from aiaas_client._send.work import Hear, Pause, Within

if TYPE_CHECKING:
    from aiaas_client._api.call import Call, Response, StreamCall
    from aiaas_client._bulk.live import JobView
    from aiaas_client._send.work import Work
    from aiaas_client.protocol.jobs import Job, JobEvent, Progress

SILENCE = 10.0
"""Seconds without an event after which the job itself is looked at; below a stream's heartbeat."""
_TRIES, _PAUSE = 5, 0.2  # of what is told of a job that has ended; seconds between them
_LEAST = 0.05  # seconds for one look
_TAIL = 5  # lines of the log in the text of an error


class FollowingJob(Following["JobEvent", "JobEvent"]):
    """The events of one job, to the one that ends it."""

    def __init__(self, job: str, after: int, patience: float) -> None:
        super().__init__(patience)
        self._job = job
        self.last = after

    def call(self) -> StreamCall[JobEvent]:
        """What to ask for now."""
        return calls.events(self._job, self.last)

    def heard(self, told: JobEvent) -> JobEvent:
        """Note an event, and give it."""
        self.last = max(self.last, told.seq)
        self._news()
        self.is_over = is_end(told)
        return told

    def check(self) -> Call[bool] | None:
        """Whether the job has ended: a stream ends as well where a server does."""
        call = calls.job(self._job)

        def done(response: Response) -> bool:
            return call.parse(response).done

        return replace(call, parse=done)  # type: ignore[arg-type,return-value]  # the type changes


def is_end(event: JobEvent) -> bool:
    """Whether an event tells that the job has ended."""
    from aiaas_client.protocol.jobs import ENDED

    return event.kind == "state" and event.data.get("state") in ENDED


def until_ended(
    job: str,
    now: Callable[[], float],
    timeout: float | None,
    view: JobView,
    patience: float,
) -> Work[Job]:
    """Follow a job to its end; a server that is away for a moment is waited for.

    Raises:
        DeadlineExceededError: It goes on.
    """
    ends = None if timeout is None else now() + positive("timeout", timeout)
    following = FollowingJob(job, 0, patience)

    def left() -> float:
        return LONGEST if ends is None else ends - now()

    def heard(event: JobEvent) -> bool:
        view.hear(following.heard(event))
        return following.is_over or left() <= 0

    while True:
        failure: errors.AiaasError | None = None
        try:
            document: Job = yield Within(calls.job(job), {"deadline": max(left(), _LEAST)})
            if not document.done and not following.is_over and left() > 0:
                limits = {"timeout": min(SILENCE, left()), "deadline": left(), "max_retries": 0}
                yield Hear(following.call(), heard, limits)
                continue
        except PASSING as error:
            failure = error
        else:
            if document.done:
                yield from _rest(following, view)
                return document
        if left() <= 0:
            raise _goes_on(job, timeout) from failure
        pause = following.pause(failure)
        if not (isinstance(failure, errors.APITimeoutError) and failure.phase == "read"):
            yield Pause(max(min(pause, left()), 0.0))


def _rest(following: FollowingJob, view: JobView) -> Work[None]:
    """What a job that has ended told, and was not heard of yet; nobody waits for it."""
    if following.is_over or not view.is_shown:
        return

    def heard(event: JobEvent) -> bool:
        view.hear(following.heard(event))
        return following.is_over

    for _ in range(_TRIES):
        try:
            yield Hear(following.call(), heard, {"timeout": SILENCE, "max_retries": 0})
        except PASSING:
            yield Pause(_PAUSE)
        else:
            return


def told_so_far(job: str) -> Work[list[Progress]]:
    """All progress of a job up to now; what a new attempt did over again stands there once."""
    from aiaas_client.protocol.jobs import Progress

    document: Job = yield calls.job(job)
    found: list[Progress] = []
    is_anew = False
    last = document.progress

    def heard(event: JobEvent) -> bool:
        nonlocal is_anew
        if event.kind == "state":
            is_anew = True
        if event.kind != "progress":
            return is_end(event)
        one = Progress.model_validate(event.data)
        if is_anew:
            found[:] = [old for old in found if old.phase != one.phase or old.step < one.step]
            is_anew = False
        found.append(one)
        return not document.done and one == last

    if not document.done and last == Progress():
        return found
    try:
        yield Hear(calls.events(job), heard, {"timeout": SILENCE, "max_retries": 0})
    except errors.APITimeoutError:
        if not found:
            raise
    return found


def check_end(job: Job) -> None:
    """See that a job did what it was to do.

    Raises:
        JobFailedError, JobCancelledError: It did not.
    """
    if job.state == "cancelled":
        raise errors.JobCancelledError(f"job {job.id} ({job.kind}) was cancelled", job=job.id)
    if job.state != "failed":
        return
    code, message = ("failed", "no reason was given")
    details: dict[str, Any] = {}
    if job.error is not None:
        code, message, details = job.error.code, job.error.message, job.error.details
    tail = "".join(f"\n  {line}" for line in job.log[-_TAIL:])
    raise errors.JobFailedError(
        f"job {job.id} ({job.kind}) failed: {code}: {message}{tail}",
        job=job.id,
        code=code,
        details=details,
        log=job.log,
    )


def _goes_on(job: str, timeout: float | None) -> errors.DeadlineExceededError:
    return errors.DeadlineExceededError(f"job {job} goes on after {timeout:g} s", phase="deadline")
