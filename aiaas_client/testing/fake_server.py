"""`FakeServer`: starts, is told what to serve, records, and ends."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from aiaas_client.protocol.jobs import JobError, JobResult, Progress, RecipeInfo
from aiaas_client.protocol.messages import TensorMetadata
from aiaas_client.testing.auditing import FakeAudit
from aiaas_client.testing.datasets import FakeDatasets
from aiaas_client.testing.fake_model import FakeModel, ModelFunction
from aiaas_client.testing.faults import Faults
from aiaas_client.testing.jobs import FakeJobs, Outcome
from aiaas_client.testing.listener import Listener
from aiaas_client.testing.managing import Managing
from aiaas_client.testing.prices import FakePrices
from aiaas_client.testing.registry import FakeRegistry
from aiaas_client.testing.state import (
    FakeTask,
    GeneratorFunction,
    HearerFunction,
    RecordedRequest,
    State,
    TaskFunction,
    WriterFunction,
)
from aiaas_client.testing.tenants import FakeTenants
from aiaas_client.testing.usage import FakeUsage


class FakeServer(Faults):
    """A loopback inference server for tests; see the package's example.

    Args:
        binary: False behaves like a server without the binary extension: binary requests are
            refused with 400 and the extension is not listed.
        api_key: When given, `/v2` answers 401 without `Authorization: Bearer <key>`, the health
            routes excepted.
        registry: False behaves like a server that has none: the management routes are not there.
        host, port: Where to listen; port 0 takes a free one.
    """

    def __init__(
        self,
        models: Mapping[str, ModelFunction] | None = None,
        *,
        binary: bool = True,
        api_key: str = "",
        registry: bool = True,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._state = State(api_key=api_key)
        if not binary:
            self._state.extensions = ("model_repository", "statistics")
        self._managing = Managing() if registry else None
        self._http = Listener((host, port), self._state, self._managing)
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(0.02,), name="fake-server", daemon=True
        )
        self._thread.start()
        self._closed = False
        for name, function in (models or {}).items():
            self.add(name, function)

    @property
    def url(self) -> str:
        """Base URL, such as `http://127.0.0.1:40123`."""
        host, port = self._http.server_address[:2]
        return f"http://{host!s}:{port}"

    @property
    def registry(self) -> FakeRegistry:
        """What has been deployed: models, versions, who serves.

        Raises:
            ValueError: this server was made without one.
        """
        return self._managed().registry

    @property
    def audit(self) -> FakeAudit:
        """What was done to it through its management routes.

        Raises:
            ValueError: this server was made without a registry.
        """
        return self._managed().audit

    @property
    def datasets(self) -> FakeDatasets:
        """What has been uploaded.

        Raises:
            ValueError: this server was made without a registry.
        """
        return self._managed().work.datasets

    @property
    def jobs(self) -> FakeJobs:
        """What has been begun; `finish` ends a job that is held.

        Raises:
            ValueError: this server was made without a registry.
        """
        return self._managed().work.jobs

    @property
    def prices(self) -> FakePrices:
        """What use costs; `bill` puts lines on statements. Whoever calls is the operator.

        Raises:
            ValueError: this server was made without a registry.
        """
        return self._managed().prices

    @property
    def tenants(self) -> FakeTenants:
        """Who was made: tenants, plans, keys. Whoever calls is the operator.

        Raises:
            ValueError: this server was made without a registry.
        """
        return self._managed().tenants

    @property
    def usage(self) -> FakeUsage:
        """What was used, as a test adds it.

        Raises:
            ValueError: this server was made without a registry.
        """
        return self._managed().usage

    def job_result(
        self,
        result: JobResult | JobError | Mapping[str, Any] | None = None,
        *,
        kind: str = "",
        progress: Sequence[Progress] = (),
        log: Sequence[str] = (),
        files: Mapping[str, bytes] | None = None,
        hold: bool = False,
    ) -> None:
        """Say how jobs go from now on; without this they succeed at once, with nothing made.

        Args:
            result: What they make, or the error with which they fail.
            kind: Only of those that "train", "evaluate", …; of any by default.
            progress: What they tell before they end.
            log: What they print.
            files: What can be downloaded from them, by name.
            hold: Keep them running until `server.jobs.finish(id)`, or a cancellation.
        """
        error = result if isinstance(result, JobError) else None
        made = JobResult() if result is None or error is not None else result
        outcome = Outcome(JobResult.model_validate(made), error, progress, log, files or {}, hold)
        self.jobs.prepare(kind, outcome)

    def add_recipe(self, recipe: RecipeInfo) -> None:
        """Know a recipe; once there is one, jobs by others are refused."""
        self.jobs.add_recipe(recipe)

    @property
    def requests(self) -> list[RecordedRequest]:
        """Everything that arrived so far, in order."""
        with self._state.changed:
            return list(self._state.requests)

    @property
    def infer_requests(self) -> list[RecordedRequest]:
        """The inference requests that arrived so far."""
        return [request for request in self.requests if request.path.endswith("/infer")]

    def add(
        self,
        name: str,
        function: ModelFunction,
        *,
        inputs: Sequence[TensorMetadata] = (),
        outputs: Sequence[TensorMetadata] = (),
        max_batch_size: int = 0,
        versions: Sequence[str] = ("1",),
        optional: Sequence[str] = (),
    ) -> FakeModel:
        """Serve `function` as a model, or replace one; see `FakeModel` for the arguments."""
        accepted = inspect.signature(function).parameters
        takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in accepted.values())
        for spec in inputs:
            if spec.name not in accepted and not takes_any:
                raise ValueError(f"model {name!r}: its function has no argument {spec.name!r}")
        model = FakeModel(
            name, function, inputs, outputs, max_batch_size, versions, frozenset(optional)
        )
        self._state.models[name] = model
        return model

    def add_task(self, name: str, function: TaskFunction, *, task: str, kind: str = "text") -> None:
        """Serve `function` as a model with a card, for `predict` and all that goes with it.

        Args:
            name: The model's name.
            function: Called with one payload (bytes where a file was sent) and the params as
                keywords; gives a prediction or its fields. A `ValueError` is what is wrong with
                that payload; any other exception, but `FakeError`, is a failure of the model.
            task: The task of the card, by which the client knows the prediction's type.
            kind: What the card says of payloads: text, image, audio, features, bytes or any.
        """
        self._state.tasks[name] = FakeTask(function, task, kind)

    def add_generator(self, name: str, function: GeneratorFunction) -> None:
        """Serve a generator function as a model that streams, for `generate` and its stream.

        Args:
            name: The model's name.
            function: Called with the members of the request and its parameters as keywords; yields
                a mapping for each event. `generate` answers with all of them as one: texts joined,
                anything else as it was told last. Before the first event an error is the answer, as
                for other models; after it an event tells of it. When the client leaves, the
                generator is closed at its next event.
        """
        self._state.generators[name] = function

    def add_writer(self, name: str, function: WriterFunction) -> None:
        """Serve `function` as a model that writes, for `chat` and `generate`, whole and streamed.

        Args:
            name: The model's name.
            function: Called with the messages of a chat, or the prompt, and as keywords with those
                options of the request that it has arguments for. Gives a text; or its pieces,
                each an event of a stream; or `{"content": text or pieces, "tool_calls": [{"name",
                "arguments"}], "finish_reason": "length"}`, all of which may be left out. A word
                counts as a token. Errors are as those of generators.
        """
        self._state.writers[name] = function

    def add_hearer(self, name: str, function: HearerFunction) -> None:
        """Serve `function` as a model that hears, for `transcribe`.

        Args:
            name: The model's name.
            function: Called with the recording's bytes, and as keywords with those fields of the
                form that it has arguments for, such as `response_format`. Gives a text, or a
                `Transcription` or its fields.
        """
        self._state.hearers[name] = function

    def remove(self, name: str) -> None:
        """Forget a model; it answers 404 from now on."""
        self._state.hearers.pop(name, None)
        self._state.writers.pop(name, None)
        self._state.generators.pop(name, None)
        self._state.models.pop(name, None)
        self._state.tasks.pop(name, None)

    def set_ready(self, ready: bool) -> None:
        """Choose what `/v2/health/ready` answers: 200 or 503."""
        self._state.ready = ready

    def clear(self) -> None:
        """Forget the recorded requests, the faults still to come and the limit."""
        self._state.limit = None
        with self._state.changed:
            self._state.requests.clear()
            self._state.faults.clear()

    def wait_for(self, count: int, timeout: float = 10.0) -> None:
        """Block until `count` inference requests have arrived.

        Raises:
            TimeoutError: fewer came within `timeout` seconds.
        """
        with self._state.changed:
            if not self._state.changed.wait_for(lambda: self._arrived() >= count, timeout):
                raise TimeoutError(f"expected {count} inference requests, got {self._arrived()}")

    def _managed(self) -> Managing:
        if self._managing is None:
            raise ValueError("this server was made with registry=False")
        return self._managing

    def _arrived(self) -> int:
        return sum(request.path.endswith("/infer") for request in self._state.requests)

    def close(self) -> None:
        """Stop listening, end every connection and the threads behind them."""
        if self._closed:
            return
        self._closed = True
        if self._managing is not None:
            self._managing.close()
        self._http.shutdown()
        self._http.end_connections()
        self._http.server_close()
        self._thread.join()

    def __enter__(self) -> FakeServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
