"""The jobs of a fake server, in memory: each ends as the test says, and none computes anything."""

from __future__ import annotations

import hashlib
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from typing import Any

from aiaas_client.protocol.jobs import (
    Job,
    JobError,
    JobEvent,
    JobFile,
    JobRequest,
    JobResult,
    Progress,
    RecipeInfo,
    read_model_ref,
)
from aiaas_client.testing.datasets import FakeDatasets
from aiaas_client.testing.fake_model import FakeError
from aiaas_client.testing.registry import FakeRegistry
from aiaas_client.testing.rows import BY


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job goes: what it tells, and how it ends; `hold` keeps it running meanwhile."""

    result: JobResult = field(default_factory=JobResult)
    error: JobError | None = None
    progress: Sequence[Progress] = ()
    log: Sequence[str] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    hold: bool = False


@dataclass(slots=True)
class _Row:
    job: Job
    outcome: Outcome
    events: list[JobEvent] = field(default_factory=list)


class FakeJobs:
    """What a fake server knows of jobs; `server.jobs`."""

    def __init__(self, registry: FakeRegistry, datasets: FakeDatasets) -> None:
        self._registry = registry
        self._datasets = datasets
        self._changed = threading.Condition(threading.RLock())
        self._rows: dict[str, _Row] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._recipes: dict[str, RecipeInfo] = {}
        self._seq = 0
        self._endings = 0

    # For tests

    def prepare(self, kind: str, outcome: Outcome) -> None:
        """Have the jobs of a kind go like this from now on; of any kind where it is empty."""
        with self._changed:
            self._outcomes[kind] = outcome

    def finish(self, job: str) -> None:
        """End a job that was held."""
        with self._changed:
            self._end(self._row(job))

    def restart(self, job: str) -> None:
        """Have a job that is held be lost, and begun again by another process."""
        with self._changed:
            row = self._row(job)
            self._state(row, state="queued")
            self._state(row, state="running", attempt=row.job.attempt + 1)

    def tell(self, job: str, progress: Progress) -> None:
        """Have a job that is held tell that it came further."""
        with self._changed:
            row = self._row(job)
            row.job = row.job.model_copy(update={"progress": progress})
            self._event(row, "progress", progress.model_dump(mode="json"))

    def add_recipe(self, recipe: RecipeInfo) -> None:
        """Know a recipe; once there is one, jobs by others are refused."""
        with self._changed:
            self._recipes[recipe.name] = recipe

    # Routes

    def recipes(self) -> list[RecipeInfo]:
        with self._changed:
            return [one for _, one in sorted(self._recipes.items())]

    def recipe(self, name: str) -> RecipeInfo:
        with self._changed:
            if name not in self._recipes:
                raise FakeError(404, self._no_recipe(name))
            return self._recipes[name]

    def every(self, state: str, kind: str, model: str) -> list[Job]:
        """The newest first; an empty text asks for any."""
        with self._changed:
            every = [row.job for row in self._rows.values()][::-1]
        return [
            one
            for one in every
            if state in ("", one.state) and kind in ("", one.kind)
            if not model or model in _models(one)
        ]

    def get(self, job: str) -> Job:
        with self._changed:
            return self._row(job).job

    def create(self, request: JobRequest) -> Job:
        spec = self._resolved(request.spec.model_dump(mode="json"))
        kind = spec["kind"]
        with self._changed:
            outcome = self._outcomes.get(kind) or self._outcomes.get("") or Outcome()
            now = time.time()
            job = Job(
                id=uuid.uuid4().hex,
                kind=kind,
                spec=spec,
                note=request.note,
                attempts=request.attempts,
                created=now,
                created_by=BY,
            )
            row = self._rows[job.id] = _Row(job, outcome)
            self._state(row, state="queued")
            self._state(row, state="running", attempt=1, started=now)
            for line in outcome.log:
                row.job = row.job.model_copy(update={"log": [*row.job.log, line]})
                self._event(row, "log", {"line": line})
            for one in outcome.progress:
                self.tell(job.id, one)
            if not outcome.hold:
                self._end(row)
        return job

    def cancel(self, job: str) -> Job:
        with self._changed:
            row = self._row(job)
            if row.job.done:
                raise FakeError(409, f"job {job} has {row.job.state} already", code="conflict")
            self._state(row, state="cancelled", ended=time.time())
            return row.job

    def delete(self, job: str) -> None:
        with self._changed:
            if not self._row(job).job.done:
                raise FakeError(409, f"job {job} goes on: cancel it first", code="conflict")
            del self._rows[job]

    def file(self, job: str, name: str) -> bytes:
        with self._changed:
            row = self._row(job)
            if row.job.state != "succeeded" or name not in row.outcome.files:
                raise FakeError(404, f"job {job} has no file '{name[:64]}'")
            return row.outcome.files[name]

    def events(self, job: str, after: int) -> Iterator[JobEvent]:
        """Events as they happen, to the one that ends the job."""
        with self._changed:
            row, endings = self._row(job), self._endings
        while True:
            with self._changed:
                self._changed.wait_for(partial(self._is_over_or_has_news, row, after, endings))
                news = [event for event in row.events if event.seq > after]
                is_over = self._endings > endings or row.job.done
            yield from news
            after = news[-1].seq if news else after
            if is_over:
                return

    def end_streams(self) -> None:
        """End the streams of events that are open, as a server that stops does."""
        with self._changed:
            self._endings += 1
            self._changed.notify_all()

    close = end_streams

    # Inside, with the lock held

    def _is_over_or_has_news(self, row: _Row, after: int, endings: int) -> bool:
        has_news = bool(row.events) and row.events[-1].seq > after
        return self._endings > endings or row.job.done or has_news

    def _end(self, row: _Row) -> None:
        outcome, now = row.outcome, time.time()
        if outcome.error is not None:
            error = outcome.error.model_dump(mode="json")
            row.job = row.job.model_copy(update={"error": outcome.error})
            self._state(row, {"error": error}, state="failed", ended=now)
            return
        files = [
            JobFile(name=name, size=len(content), sha256=hashlib.sha256(content).hexdigest())
            for name, content in outcome.files.items()
        ]
        told: dict[str, Any] = {"files": files} if files else {}
        if not outcome.result.model:
            told["model"] = next(iter(_models(row.job)), "")
        row.job = row.job.model_copy(update={"result": outcome.result.model_copy(update=told)})
        self._state(row, state="succeeded", ended=now)

    def _state(self, row: _Row, more: Mapping[str, Any] | None = None, **members: Any) -> None:
        row.job = row.job.model_copy(update=members)
        data = {"state": row.job.state, "attempt": row.job.attempt, **(more or {})}
        self._event(row, "state", data)

    def _event(self, row: _Row, kind: Any, data: Mapping[str, Any]) -> None:
        self._seq += 1
        row.events.append(JobEvent(seq=self._seq, at=time.time(), kind=kind, data=dict(data)))
        self._changed.notify_all()

    def _row(self, job: str) -> _Row:
        found = self._rows.get(job)
        if found is None:
            raise FakeError(404, f"there is no job '{job[:64]}'")
        return found

    def _no_recipe(self, name: str) -> str:
        close = get_close_matches(name, self._recipes, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        return f"there is no recipe '{name[:64]}'{hint}"

    def _resolved(self, spec: dict[str, Any]) -> dict[str, Any]:
        """The specification with numbers in place of names, as a server keeps it."""
        recipe = spec.get("recipe")
        if recipe is not None and self._recipes and recipe not in self._recipes:
            raise FakeError(400, self._no_recipe(recipe))
        found = dict(spec)
        if "dataset" in spec:
            dataset = self._datasets.get(spec["dataset"])
            if dataset.state == "erased":
                raise FakeError(404, f"data set '{dataset.ref}' is erased")
            found["dataset"] = dataset.ref
        if spec["kind"] == "train":
            return found
        if "model" in spec:
            found["model"] = self._version(spec["model"])
        if "models" in spec:
            found["models"] = [self._version(one) for one in spec["models"]]
        return found

    def _version(self, ref: str) -> str:
        name, version = read_model_ref(ref)
        number = self._registry.choose(name) if version is None else version
        return f"{name}@{self._registry.version(name, str(number)).version}"


def _models(job: Job) -> list[str]:
    """Names of the models that a job is about."""
    refs = [job.spec["model"]] if job.spec.get("model") else job.spec.get("models") or []
    return [str(ref).partition("@")[0] for ref in refs]
