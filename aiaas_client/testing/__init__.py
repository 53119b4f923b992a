"""A server for tests: models are Python functions, faults come on demand.

    from aiaas_client import Client
    from aiaas_client.testing import FakeServer, tensor

    with FakeServer() as server, Client(server.url) as client:
        server.add("double", lambda x: {"y": x * 2}, inputs=[tensor("x", "FP32", [-1, 2])],
                   outputs=[tensor("y", "FP32", [-1, 2])], max_batch_size=8)
        assert client.model("double").infer(x=[[1.0, 2.0]])["y"].tolist() == [[2.0, 4.0]]
        server.fail(503, times=2, retry_after=0.0)     # the next two inference requests
        server.limit(50, window=1)                     # 429 for more than 50 a second

Tasks are Python functions, too: `server.add_task("mood", lambda text: Classification(...),
task="text-classification")` answers `client.model("mood").predict("text")`.

So are models that stream: `server.add_generator("story", tell)`, where `tell(prompt)` yields
`{"text": ...}` for each event, answers `client.model("story").generate_stream(prompt="once")`.

So are models that write and that hear: `server.add_writer("parrot", lambda messages:
messages[-1]["content"])` answers `client.chat("parrot", "hello").text`, and `add_hearer` answers
`client.transcribe`.

Programs that deploy can be tested, too: the server has a registry in memory, with drafts, versions,
aliases, traffic, history and rollback.

    version = client.models.deploy("m", "model.onnx", alias="production")
    assert server.registry.versions("m")[0].digest == version.digest
    server.fail(422, "no such operator", code="model_rejected", path="/commit")

So can programs that train: data sets and jobs are kept in memory, and a job ends as the test says.
Nothing is computed.

    server.job_result({"versions": [1], "metrics": {"accuracy": 0.9}}, kind="train")
    job = client.jobs.train("m", recipe="logistic", dataset="iris").wait()

It is a real HTTP server on a loopback port in a thread, speaking the Open Inference Protocol in
JSON and binary, and needs nothing but this package. Inputs are checked as a real server checks
them. `requests` records everything that arrived, `wait_for` waits until enough has.
"""

from __future__ import annotations

from aiaas_client.testing.auditing import FakeAudit
from aiaas_client.testing.datasets import FakeDatasets
from aiaas_client.testing.fake_model import FakeError, FakeModel, tensor
from aiaas_client.testing.fake_server import FakeServer
from aiaas_client.testing.faults import Gate
from aiaas_client.testing.jobs import FakeJobs
from aiaas_client.testing.limits import FakeLimit
from aiaas_client.testing.registry import FakeRegistry
from aiaas_client.testing.state import RecordedRequest

__all__ = [
    "FakeAudit",
    "FakeDatasets",
    "FakeError",
    "FakeJobs",
    "FakeLimit",
    "FakeModel",
    "FakeRegistry",
    "FakeServer",
    "Gate",
    "RecordedRequest",
    "tensor",
]
