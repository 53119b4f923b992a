"""`client.datasets` and `client.jobs`, as typed code: checked by mypy and pyright, never run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, assert_type

import numpy as np

from aiaas_client import (
    AsyncClient,
    AsyncDatasetHandle,
    AsyncJobHandle,
    AsyncStream,
    Client,
    Column,
    Dataset,
    DatasetErasure,
    DatasetHandle,
    Guard,
    Job,
    JobError,
    JobEvent,
    JobHandle,
    JobResult,
    Key,
    MadeKey,
    Plan,
    Price,
    Progress,
    RawResponse,
    RecipeInfo,
    Search,
    Split,
    Statement,
    Stream,
    Tenant,
    UsageReport,
    Verification,
    Whoami,
)
from aiaas_client.testing import FakeDatasets, FakeJobs, FakeServer


def data(client: Client, frame: object) -> None:
    datasets = client.datasets
    handle = datasets.upload("d", frame, kinds={"zip": "category"}, progress=True)
    assert_type(handle, DatasetHandle)
    assert_type(datasets.upload("d", {"x": np.zeros(3)}), DatasetHandle)
    assert_type(datasets.upload("d", {"images": Path("a"), "labels": "b"}), DatasetHandle)
    assert_type(datasets.list(limit=3), list[Dataset])
    assert_type(datasets.versions("d"), list[Dataset])
    assert_type(datasets.get("d@1").columns, list[Column])
    assert_type(datasets.delete("d", all=True), list[DatasetErasure])
    assert_type(handle.to_frame(backend="polars", columns=["a"]), Any)
    assert_type(handle.download("x"), Path)
    assert_type(handle.delete(), DatasetErasure)
    assert_type(handle.document, Dataset)
    datasets.upload("d", frame, format="xls")  # type: ignore[arg-type]
    handle.to_frame(backend="arrow")  # type: ignore[arg-type]


def jobs(client: Client, dataset: DatasetHandle) -> None:
    job = client.jobs.train(
        "m",
        recipe="ridge",
        dataset=dataset,
        split=Split(test=0.1),
        search=Search(params={"alpha": [0.1]}),
        class_weight="balanced",
    )
    assert_type(job, JobHandle)
    assert_type(client.jobs.train("m", recipe="r", dataset="d", split={"test": 0.1}), JobHandle)
    assert_type(client.jobs.evaluate(client.models.version("m", 1), dataset="d"), JobHandle)
    assert_type(client.jobs.compare("m@1", "m@2", dataset=dataset.document), JobHandle)
    assert_type(client.jobs.score("m", dataset="d", keep=["id"]), JobHandle)
    assert_type(client.jobs.optimise("m", dataset="d", targets=["fp16"], guard=Guard()), JobHandle)
    assert_type(client.jobs.optimize("m", dataset="d"), JobHandle)
    assert_type(client.jobs.explain("m", dataset="d"), JobHandle)
    assert_type(client.jobs.list(state="failed"), list[JobHandle])
    assert_type(client.jobs.get("id"), JobHandle)
    assert_type(client.jobs.recipes(), list[RecipeInfo])
    assert_type(client.jobs.recipe("ridge"), RecipeInfo)
    client.jobs.train("m", "ridge", dataset="d")  # type: ignore[call-arg]
    client.jobs.optimise("m", dataset="d", targets=["int4"])  # type: ignore[list-item]


def handle(job: JobHandle, tell: Any) -> None:
    assert_type(job.wait(60, progress=True).refresh().cancel(), JobHandle)
    assert_type(job.wait(progress=tell), JobHandle)
    assert_type(job.events(after=3), Stream[JobEvent])
    assert_type(job.history(), list[Progress])
    assert_type(job.log(), str)
    assert_type(job.download("rows.csv", Path("x")), Path)
    assert_type(job.report(show=True), Path)
    assert_type(job.metrics, dict[str, Any])
    assert_type(job.result, JobResult | None)
    assert_type(job.error, JobError | None)
    assert_type(job.version, str | None)
    assert_type(job.document, Job)
    job.delete()


async def tasks(client: AsyncClient, frame: object) -> None:
    dataset = await client.datasets.upload("d", frame)
    assert_type(dataset, AsyncDatasetHandle)
    assert_type(await dataset.download("x"), Path)
    assert_type(await client.datasets.list(), list[Dataset])
    job = await client.jobs.train("m", recipe="r", dataset=dataset)
    assert_type(job, AsyncJobHandle)
    assert_type(await job.wait(progress=True), AsyncJobHandle)
    assert_type(job.events(), AsyncStream[JobEvent])
    assert_type(await job.history(), list[Progress])
    assert_type(await client.jobs.list(), list[AsyncJobHandle])
    assert_type(await client.jobs.recipes(), list[RecipeInfo])


def fake(server: FakeServer) -> None:
    server.job_result({"metrics": {"accuracy": 1.0}}, kind="train", progress=[Progress(step=1)])
    server.job_result(JobError(code="failed", message="no"), hold=True)
    server.add_recipe(RecipeInfo(name="ridge"))
    assert_type(server.jobs, FakeJobs)
    assert_type(server.datasets, FakeDatasets)
    assert_type(server.jobs.get("id"), Job)


def whole_answers(client: Client, dataset: DatasetHandle) -> None:
    raw = client.with_raw_response
    assert_type(raw.datasets.list(), RawResponse[list[Dataset]])
    assert_type(raw.jobs.evaluate("m", dataset=dataset), RawResponse[JobHandle])
    assert_type(raw.jobs.optimize("m", dataset=dataset).parse(), JobHandle)
    raw.jobs.evaluate("m")  # type: ignore[call-arg]
    assert_type(raw.tenants.create("acme", plan="basic"), RawResponse[Tenant])
    assert_type(raw.plans.list(), RawResponse[list[Plan]])
    assert_type(raw.keys.create(name="ci", scopes=["infer"]).parse(), MadeKey)
    assert_type(raw.usage.get(by=["model", "day"]).parse(), UsageReport)
    assert_type(raw.usage.statement("2026-11"), RawResponse[Statement])
    assert_type(client.audit.with_raw_response.verify(), RawResponse[Verification])
    assert_type(raw.prices.list(), RawResponse[list[Price]])
    assert_type(raw.whoami().parse(), Whoami)
    raw.keys.create(name="ci")  # type: ignore[call-arg]


async def whole_answers_on_a_loop(client: AsyncClient) -> None:
    raw = client.with_raw_response
    assert_type(await raw.datasets.get("d"), RawResponse[AsyncDatasetHandle])
    assert_type(await raw.jobs.get("id"), RawResponse[AsyncJobHandle])
    assert_type(await raw.keys.revoke("id"), RawResponse[Key])
    assert_type(await raw.usage.get("model,day"), RawResponse[UsageReport])
    assert_type(await raw.statements.get("2026-11"), RawResponse[Statement])
