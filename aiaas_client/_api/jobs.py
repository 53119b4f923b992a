"""What to send to `/api/v1/jobs` and `/api/v1/recipes`, and how to read the answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from aiaas_client import _errors as errors
from aiaas_client._api.call import DOWNLOAD, Call, DownloadCall, ServerEvent, StreamCall, read_json
from aiaas_client._api.documents import document_call, kind_of, made, page_call
from aiaas_client._api.failures import stream_error
from aiaas_client._api.management import (
    NO_CONTENT,
    PAGE_ITEMS,
    ROOT,
    Part,
    no_event,
    nothing,
    registry_call,
    validated,
)

if TYPE_CHECKING:
    from aiaas_client.protocol.jobs import Job, JobEvent, JobRequest, RecipeInfo

JOBS, RECIPES = f"{ROOT}/jobs", f"{ROOT}/recipes"


def create(request: JobRequest) -> Call[Job]:
    """`POST /api/v1/jobs`."""
    return document_call("POST", "jobs.Job", JOBS, body=request)


def jobs(
    state: str | None, kind: str | None, model: str | None, after: str | None, limit: int
) -> Call[Part]:
    """`GET /api/v1/jobs`: the newest first."""
    query = {"state": state, "kind": kind, "model": model}
    return page_call("jobs.Job", JOBS, after, limit, query)


def job(job: str) -> Call[Job]:
    """`GET /api/v1/jobs/{j}`."""
    return document_call("GET", "jobs.Job", _path(job))


def cancel(job: str) -> Call[Job]:
    """`POST /api/v1/jobs/{j}/cancel`."""
    return document_call("POST", "jobs.Job", _path(job, "/cancel"))


def delete(job: str) -> Call[None]:
    """`DELETE /api/v1/jobs/{j}`: what it made as versions and data sets stays."""
    return registry_call("DELETE", _path(job), nothing, accept=NO_CONTENT, retryable=False)


def events(job: str, after: int = 0) -> StreamCall[JobEvent]:
    """`GET /api/v1/jobs/{j}/events`: those behind the `seq` of one that is known."""
    headers = ((b"Accept", b"text/event-stream"), (b"Last-Event-ID", b"%d" % after))
    request = registry_call("GET", _path(job, "/events"), nothing, headers=headers)
    return StreamCall(request, _read_event)


def download(job: str, file: str) -> DownloadCall:
    """`GET /api/v1/jobs/{j}/files/{name}`: the bytes as they come."""
    path = _path(job, f"/files/{quote(file, safe='')}")
    return DownloadCall(registry_call("GET", path, nothing, headers=(DOWNLOAD,)), no_event)


def recipes(after: str | None = None, limit: int = PAGE_ITEMS) -> Call[Part]:
    """`GET /api/v1/recipes`: by name."""
    return page_call("jobs.RecipeInfo", RECIPES, after, limit)


def recipe(name: str) -> Call[RecipeInfo]:
    """`GET /api/v1/recipes/{name}`."""
    return document_call("GET", "jobs.RecipeInfo", f"{RECIPES}/{quote(name, safe='')}")


def asked(
    spec: str,
    members: Mapping[str, Any],
    *,
    note: str = "",
    attempts: int | None = None,
    timeout: float | None = None,
) -> JobRequest:
    """The request for a job.

    Args:
        spec: The class of its specification, `TrainSpec`.
        members: Those of the specification; what is None is left to the server.
        attempts, note, timeout: Of the request.
    Raises:
        InputError: A member that it cannot have.
    """
    kind = kind_of(f"jobs.{spec}").model_fields["kind"].default
    given = {"kind": kind, **{key: one for key, one in members.items() if one is not None}}
    whole = {
        "spec": made(f"jobs.{spec}", given, given.get("model")),
        **({"note": note} if note else {}),
        **({} if attempts is None else {"attempts": attempts}),
        **({} if timeout is None else {"timeout": timeout}),
    }
    request: JobRequest = made("jobs.JobRequest", whole)
    return request


def split_of(split: Any) -> Any:
    """How rows are held out: a share, a `Split`, or a dict of its members.

    Raises:
        InputError: It is none of these.
    """
    if split is None or isinstance(split, kind_of("datasets.Split")):
        return split
    if isinstance(split, Mapping):
        return made("datasets.Split", split)
    if isinstance(split, float):
        return made("datasets.Split", {"test": split})
    raise errors.InputError(
        f"split: expected the share held out, such as 0.2, a Split, or a dict of its members, "
        f"got {str(split)[:64]!r}"
    )


def document_of(kind: str, what: str, value: Any) -> Any:
    """A document given as such or as a dict of its members.

    Raises:
        InputError: It is neither.
    """
    if value is None or isinstance(value, kind_of(kind)):
        return value
    if isinstance(value, Mapping):
        return made(kind, value)
    raise errors.InputError(
        f"{what}: expected a {kind.rpartition('.')[2]}, or a dict of its members, "
        f"got {type(value).__name__}"
    )


def model_reference(model: Any) -> str:
    """`m@3` of whatever stands for a version: a text, or a `Version`.

    Raises:
        InputError: It is neither.
    """
    from aiaas_client.protocol.jobs import read_model_ref
    from aiaas_client.protocol.management import Version

    told = f"{model.model}@{model.version}" if isinstance(model, Version) else model
    try:
        read_model_ref(told)
    except ValueError as error:
        raise errors.InputError(f"model: {error}") from None
    except TypeError:
        raise errors.InputError(
            f"model: expected MODEL@VERSION or a Version, got {type(model).__name__}"
        ) from None
    return str(told)


def _path(job: Any, suffix: str = "") -> str:
    if not isinstance(job, str) or not job or "/" in job:
        raise errors.InputError(f"job: expected its id, got {str(job)[:64]!r}")
    return f"{JOBS}/{quote(job, safe='')}{suffix}"


def _read_event(event: ServerEvent) -> JobEvent:
    document = read_json(event.data)
    failure = stream_error(document, None)
    if failure is not None:
        raise failure
    found: JobEvent = validated(kind_of("jobs.JobEvent"), document)
    return found
