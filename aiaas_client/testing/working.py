"""The routes of data sets, jobs and recipes of a fake server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from aiaas_client.protocol.datasets import DatasetRequest
from aiaas_client.protocol.jobs import JobRequest
from aiaas_client.protocol.management import Page
from aiaas_client.testing.answers import asked, page, told, wrong_method
from aiaas_client.testing.datasets import FakeDatasets
from aiaas_client.testing.fake_model import FakeError
from aiaas_client.testing.jobs import FakeJobs
from aiaas_client.testing.registry import FakeRegistry
from aiaas_client.testing.state import Answer, RecordedRequest

_BYTES = [("Content-Type", "application/octet-stream")]


class Working:
    """Answers what is about data and about work on them."""

    def __init__(self, registry: FakeRegistry) -> None:
        self.datasets = FakeDatasets()
        self.jobs = FakeJobs(registry, self.datasets)

    def answer(self, request: RecordedRequest, rest: Sequence[str]) -> Answer:
        """Answer one request; `rest` is its path behind `/api/v1`."""
        match rest:
            case ["datasets"]:
                return page(request, self.datasets.every(), "name")
            case ["datasets", name] if request.method == "DELETE":
                return told(Page(items=[one.model_dump() for one in self.datasets.erase_all(name)]))
            case ["datasets", name, "versions", *more]:
                return self._version(request, name, more)
            case ["datasets", name, "drafts", *more]:
                return self._draft(request, name, more)
            case ["jobs", *more]:
                return self._job(request, more)
            case ["recipes"]:
                return page(request, self.jobs.recipes(), "name")
            case ["recipes", name]:
                return told(self.jobs.recipe(name))
        raise FakeError(404, "Not Found")

    def _version(self, request: RecordedRequest, name: str, rest: Sequence[str]) -> Answer:
        match request.method, rest:
            case "GET", []:
                return page(request, self.datasets.versions(name), "number")
            case "GET", [number]:
                return told(self.datasets.version(name, number))
            case "DELETE", [number]:
                return told(self.datasets.erase(name, number))
            case "GET", [number, "data"]:
                return Answer(200, self.datasets.data(name, number), _BYTES)
        raise wrong_method()

    def _draft(self, request: RecordedRequest, name: str, rest: Sequence[str]) -> Answer:
        datasets = self.datasets
        match request.method, rest:
            case "POST", []:
                draft, is_new = datasets.draft(name, asked(request, DatasetRequest))
                return told(draft, 201 if is_new else 200)
            case "GET", [draft_id]:
                return told(datasets.told_draft(name, draft_id))
            case "DELETE", [draft_id]:
                datasets.drop_draft(name, draft_id)
                return Answer(204, b"")
            case "PUT", [draft_id, "files", file]:
                offset = int(request.query.get("offset", "0"))
                return told(datasets.put(name, draft_id, file, offset, request.body))
            case "POST", [draft_id, "commit"]:
                version, is_new = datasets.commit(name, draft_id)
                return told(version, 201 if is_new else 200)
        raise wrong_method()

    def _job(self, request: RecordedRequest, rest: Sequence[str]) -> Answer:
        jobs, query = self.jobs, request.query
        match request.method, rest:
            case "POST", []:
                return told(jobs.create(asked(request, JobRequest)), 202)
            case "GET", []:
                filters = (query.get(one, "") for one in ("state", "kind", "model"))
                return page(request, jobs.every(*filters), "id")
            case "GET", [job]:
                return told(jobs.get(job))
            case "DELETE", [job]:
                jobs.delete(job)
                return Answer(204, b"")
            case "POST", [job, "cancel"]:
                return told(jobs.cancel(job))
            case "GET", [job, "files", name]:
                return Answer(200, jobs.file(job, name), _BYTES)
            case "GET", [job, "events"]:
                jobs.get(job)
                after = int(request.headers.get("last-event-id", "0"))
                stream = [("Content-Type", "text/event-stream")]
                return Answer(200, b"", stream, _events(jobs, job, after))
        raise wrong_method()


def _events(jobs: FakeJobs, job: str, after: int) -> Iterator[bytes]:
    for event in jobs.events(job, after):
        yield b"id: %d\ndata: %b\n\n" % (event.seq, event.model_dump_json().encode())
