"""`client.jobs`: jobs are begun, followed to their end, and fetched from."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aiaas_client import (
    APIConnectionError,
    AsyncClient,
    AsyncJobHandle,
    BadRequestError,
    Client,
    ConflictError,
    DeadlineExceededError,
    InputError,
    JobCancelledError,
    JobError,
    JobFailedError,
    JobHandle,
    NotFoundError,
    Progress,
    ProtocolError,
    RecipeInfo,
    Search,
    Split,
)
from aiaas_client.testing import FakeServer

EPOCHS = [
    Progress(
        phase="training",
        step=step,
        total=3,
        unit="epochs",
        metrics={"loss": 1.0 / step, "accuracy": step / 4},
    )
    for step in (1, 2, 3)
]
MADE = {"versions": [1], "metrics": {"accuracy": 0.75}}


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        with Client(server.url) as client:
            client.datasets.upload("d", {"x": [1.0, 2.0], "label": ["a", "b"]})
            for content in (b"one", b"two"):
                client.models.deploy("m", content)
        server.job_result(MADE, progress=EPOCHS, log=["reading", "done"])
        yield server


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


def train(client: Client) -> JobHandle:
    return client.jobs.train("m", recipe="logistic", dataset="d")


def wait_threads(server: FakeServer, policy: Any, **options: Any) -> Any:
    with Client(server.url, retry=policy, breaker=None) as client:
        return train(client).wait(**options)


def wait_tasks(server: FakeServer, policy: Any, **options: Any) -> Any:
    async def run() -> Any:
        async with AsyncClient(server.url, retry=policy, breaker=None) as client:
            job = await client.jobs.train("m", recipe="logistic", dataset="d")
            return await job.wait(**options)

    return asyncio.run(run())


@pytest.fixture(params=[wait_threads, wait_tasks], ids=["threads", "tasks"])
def wait(request: pytest.FixtureRequest, server: FakeServer, fake_clock: Any) -> Callable[..., Any]:
    """Trains and waits, with pauses that take no time."""

    def run(**options: Any) -> Any:
        return request.param(server, fake_clock.policy(), **options)

    return run


def test_a_job_is_followed_to_its_end(wait: Any) -> None:
    told: list[Progress] = []
    job = wait(progress=told.append)
    assert told == EPOCHS
    assert (job.state, job.done, job.version, job.versions) == ("succeeded", True, "m@1", ["m@1"])
    assert job.metrics == {"accuracy": 0.75}
    assert job.result.model == "m"


@pytest.mark.parametrize(
    "harm",
    [
        lambda server: server.truncate(4, path="/events"),
        lambda server: server.drop(path="/events"),
        lambda server: server.fail(503, path="/events", times=3),
        lambda server: server.fail(503, path="/jobs/", times=2),
    ],
    ids=["cut off", "dropped", "refused", "away"],
)
def test_nothing_is_lost_or_told_twice_when_it_breaks(
    wait: Any, server: FakeServer, harm: Callable[[FakeServer], None]
) -> None:
    harm(server)
    told: list[Progress] = []
    assert wait(progress=told.append).done
    assert told == EPOCHS


def test_a_failure_is_an_error_with_the_last_lines(wait: Any, server: FakeServer) -> None:
    error = JobError(code="diverged", message="the loss is NaN at step 3", details={"step": 3})
    server.job_result(error, log=[f"line {n}" for n in range(9)], progress=EPOCHS)
    with pytest.raises(JobFailedError) as found:
        wait()
    assert (found.value.code, found.value.details) == ("diverged", {"step": 3})
    assert len(found.value.log) == 9
    assert str(found.value).endswith(
        "NaN at step 3\n" + "\n".join(f"  line {n}" for n in range(4, 9))
    )


def test_a_timeout_leaves_the_job_as_it_is(client: Client, server: FakeServer) -> None:
    server.job_result(MADE, hold=True)
    job = train(client)
    with pytest.raises(DeadlineExceededError, match=rf"job {job.id} goes on after 0\.2 s"):
        job.wait(0.2)
    assert job.refresh().state == "running"
    server.jobs.finish(job.id)
    assert client.jobs.get(job.id).wait(10.0).version == "m@1"


def test_a_server_that_stays_away_is_not_waited_for_forever(wait: Any, server: FakeServer) -> None:
    server.drop(path="/events", times=1000)
    server.job_result(MADE, hold=True)
    with pytest.raises(APIConnectionError):
        wait(patience=2.0)


def test_a_job_is_cancelled_by_somebody_else(client: Client, server: FakeServer) -> None:
    server.job_result(MADE, hold=True, progress=EPOCHS[:1])
    job = train(client)
    first = threading.Event()
    other = threading.Thread(
        target=lambda: first.wait(10) and client.jobs.get(job.id).cancel(), daemon=True
    )
    other.start()
    with pytest.raises(JobCancelledError, match="was cancelled") as found:
        job.wait(30.0, progress=lambda one: first.set())
    other.join()
    assert found.value.job == job.id
    assert job.state == "cancelled"
    with pytest.raises(ConflictError, match="cancelled already"):
        job.cancel()


def test_events_are_told_from_the_beginning_or_a_place_on(
    client: Client, server: FakeServer
) -> None:
    job = train(client)
    server.truncate(3, path="/events")
    with job.events() as stream:
        events = list(stream)
    kinds = ["state", "state", "log", "log", *["progress"] * 3, "state"]
    assert [event.kind for event in events] == kinds
    assert [event.seq for event in events] == sorted({event.seq for event in events})
    assert list(job.events(after=events[-2].seq)) == events[-1:]
    assert list(job.events(after=events[-1].seq)) == []  # of a job that is over


def test_a_stream_that_ends_before_its_job_is_gone_on_with(
    client: Client, server: FakeServer
) -> None:
    server.job_result(MADE, hold=True, progress=EPOCHS)
    job = train(client)
    seen = []
    with job.events() as stream:
        for event in stream:
            seen.append(event.kind)
            if event.kind == "progress" and seen.count("progress") == 3:
                server.jobs.end_streams()  # as a server that is stopped ends them
                server.jobs.finish(job.id)
    assert seen.count("progress") == 3
    assert seen[-1] == "state"


def test_history_is_each_step_once(client: Client, server: FakeServer) -> None:
    server.job_result(MADE, hold=True, progress=EPOCHS[:2])
    job = train(client)
    assert job.history() == EPOCHS[:2]
    assert job.metrics == {}
    assert job.refresh().metrics == EPOCHS[1].metrics
    server.jobs.restart(job.id)  # from its checkpoint after step 1
    for one in EPOCHS[1:]:
        server.jobs.tell(job.id, one)
    server.jobs.finish(job.id)
    assert job.history() == EPOCHS


def test_a_job_that_has_told_nothing_has_no_history(client: Client, server: FakeServer) -> None:
    server.job_result(MADE, hold=True)
    job = train(client)
    assert job.history() == []
    with pytest.raises(InputError, match="no metrics that can be drawn"):
        job.plot()


def test_the_log_is_its_last_lines(client: Client) -> None:
    assert train(client).log() == "reading\ndone"


def test_learning_curves_are_drawn(client: Client, server: FakeServer) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    confusion = {"labels": ["a", "b"], "counts": [[3, 1], [0, 4]]}
    server.job_result({"details": {"confusion": confusion}}, progress=EPOCHS)
    figure = train(client).wait().plot(Figure())
    falling, rising, matrix = figure.axes
    (line,) = falling.lines
    assert (line.get_label(), list(line.get_xdata())) == ("loss", [1, 2, 3])
    assert list(rising.lines[0].get_ydata()) == [0.25, 0.5, 0.75]
    assert (falling.get_xlabel(), matrix.get_title()) == ("epochs", "confusion")
    assert [text.get_text() for text in matrix.texts] == ["3", "1", "0", "4"]


@pytest.mark.parametrize(
    ("table", "label"),
    [
        (
            [
                {"metric": "f1", "difference": 0.1, "low": 0.05, "high": 0.2},
                {"metric": "roc_auc", "difference": 0.1, "low": None, "high": None},
            ],
            "f1",
        ),
        ([{"candidate": "m@1", "p50_ms": 2.0, "r2": 0.5}, {"candidate": "fp16"}], "m@1"),
        ([{"feature": "age", "importance": 0.2}], "age"),
    ],
    ids=["compare", "optimise", "explain"],
)
def test_what_a_job_found_is_drawn(
    client: Client, server: FakeServer, table: list[dict[str, Any]], label: str
) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    server.job_result({"table": table})
    (axes,) = train(client).wait().plot(Figure()).axes
    told = [text.get_text() for text in axes.get_yticklabels()]
    told += axes.get_legend_handles_labels()[1]
    assert label in told


def test_files_and_the_report_are_fetched(
    client: Client, server: FakeServer, tmp_path: Path
) -> None:
    server.job_result(MADE, files={"report.html": b"<html>", "rows.csv": b"a\n"})
    job = train(client)
    assert job.report(tmp_path / "r.html").read_bytes() == b"<html>"
    assert job.download("rows.csv", tmp_path / "rows.csv").read_bytes() == b"a\n"
    with pytest.raises(InputError, match="no file 'x'; it has report.html, rows.csv"):
        job.download("x", tmp_path / "x")
    server.alter(lambda body: b"<HTML>", path="/files/")
    with pytest.raises(ProtocolError, match="sha256"):
        job.report(tmp_path / "r.html")
    assert (tmp_path / "r.html").read_bytes() == b"<html>"  # as it was


def test_a_job_is_forgotten_once_it_has_ended(client: Client, server: FakeServer) -> None:
    server.job_result(MADE, hold=True)
    job = train(client)
    with pytest.raises(ConflictError, match="cancel it first"):
        job.delete()
    job.cancel()
    job.delete()
    with pytest.raises(NotFoundError, match="no job"):
        client.jobs.get(job.id)


def test_jobs_are_found_again(client: Client, server: FakeServer) -> None:
    first = train(client)
    server.job_result(JobError(code="failed", message="no"), kind="evaluate")
    second = client.jobs.evaluate("m@2", dataset="d")
    assert [one.id for one in client.jobs.list()] == [second.id, first.id]
    assert [one.id for one in client.jobs.list(state="failed")] == [second.id]
    assert [one.id for one in client.jobs.list(kind="train")] == [first.id]
    assert [one.id for one in client.jobs.list(model="m", limit=1)] == [second.id]
    assert client.jobs.list(model="other") == []


def spec_of(job: JobHandle) -> dict[str, Any]:
    return {key: value for key, value in job.spec.items() if value not in (None, {}, [])}


def test_each_kind_of_job_says_what_it_wants(client: Client) -> None:
    jobs, version = client.jobs, client.models.version("m", 1)
    data = client.datasets.get("d")
    job = jobs.train(
        "n",
        recipe="mlp",
        dataset=data,
        features=("x",),
        params={"epochs": 3},
        split=Split(test=0.3, by="stratified"),
        search={"params": {"lr": [0.1, 0.2]}, "folds": 2},
        class_weight={"a": 2.0},
        workers=2,
        alias="canary",
        attempts=5,
        timeout=60.0,
        note="why",
    )
    spec = spec_of(job)
    assert (spec["dataset"], spec["params"], spec["workers"]) == ("d@1", {"epochs": 3}, 2)
    assert (spec["split"]["test"], spec["split"]["by"]) == (0.3, "stratified")
    assert (spec["search"]["folds"], spec["class_weight"]) == (2, {"a": 2.0})
    assert (job.document.attempts, job.document.note) == (5, "why")
    assert spec_of(jobs.evaluate(version, dataset="d", held_out=True))["model"] == "m@1"
    assert spec_of(jobs.compare("m@1", version, dataset="d"))["models"] == ["m@1", "m@1"]
    assert spec_of(jobs.score("m", dataset="d", keep=["x"]))["model"] == "m@2"
    found = spec_of(jobs.optimise("m@2", dataset="d", targets=["fp16"], guard={"window": 5.0}))
    assert (found["targets"], found["guard"]["window"]) == (["fp16"], 5.0)
    assert spec_of(jobs.optimize("m@2", dataset="d"))["kind"] == "optimise"
    assert spec_of(jobs.explain("m@latest", dataset="d", rows=50))["rows"] == 50


@pytest.mark.parametrize(
    ("begin", "text"),
    [
        (lambda jobs: jobs.train("a b", recipe="r", dataset="d"), r"model: .*'a b'"),
        (lambda jobs: jobs.train("m", recipe="r", dataset=5), "upload it first"),
        (lambda jobs: jobs.train("m", recipe="r", dataset="d@x"), "NAME@NUMBER"),
        (
            lambda jobs: jobs.train("m", recipe="r", dataset="d", split=2),
            "split: expected the share",
        ),
        (lambda jobs: jobs.train("m", recipe="r", dataset="d", split=1.5), "test: .*less than 1"),
        (
            lambda jobs: jobs.train("m", recipe="r", dataset="d", split={"tset": 0.2}),
            "did you mean 'test'",
        ),
        (
            lambda jobs: jobs.train("m", recipe="r", dataset="d", search={"param": {}}),
            "did you mean 'params'|params: Field required",
        ),
        (
            lambda jobs: jobs.train("m", recipe="r", dataset="d", search=[1]),
            "search: expected a Se",
        ),
        (lambda jobs: jobs.train("m", recipe="r", dataset="d", workers=0), "workers: .*'0'"),
        (lambda jobs: jobs.evaluate("m@1@2", dataset="d"), "MODEL or MODEL@VERSION"),
        (lambda jobs: jobs.evaluate(3, dataset="d"), "MODEL@VERSION or a Version, got int"),
        (lambda jobs: jobs.optimise("m", dataset="d", targets=["int4"]), r"targets\.0: .*'int4'"),
        (lambda jobs: jobs.get("../x"), "job: expected its id"),
    ],
)
def test_what_no_job_can_be_is_refused_before_it_is_sent(
    client: Client, server: FakeServer, begin: Any, text: str
) -> None:
    server.clear()
    with pytest.raises(InputError, match=text):
        begin(client.jobs)
    assert server.requests == []


def test_what_is_not_there_is_told(client: Client, server: FakeServer) -> None:
    with pytest.raises(NotFoundError, match="no data set 'e'"):
        client.jobs.train("m", recipe="r", dataset="e")
    with pytest.raises(NotFoundError, match="'nobody'"):
        client.jobs.evaluate("nobody", dataset="d")
    server.add_recipe(RecipeInfo(name="logistic", title="Logistic regression"))
    with pytest.raises(BadRequestError, match="did you mean 'logistic'"):
        client.jobs.train("m", recipe="logistik", dataset="d")
    client.datasets.delete("d@1")
    with pytest.raises(NotFoundError, match="'d@1' is erased"):
        client.jobs.train("m", recipe="logistic", dataset="d@1")


def test_recipes_are_listed(client: Client, server: FakeServer) -> None:
    server.add_recipe(RecipeInfo(name="ridge", task="regression"))
    server.add_recipe(RecipeInfo(name="mlp", parallel=True))
    assert [one.name for one in client.jobs.recipes()] == ["mlp", "ridge"]
    assert client.jobs.recipe("ridge").task == "regression"
    with pytest.raises(NotFoundError, match="did you mean 'ridge'"):
        client.jobs.recipe("rigde")


def test_a_handle_shows_how_it_is(client: Client, server: FakeServer) -> None:
    job = train(client).wait()
    assert repr(job) == f"<JobHandle {job.id}: train m, succeeded, m@1>"
    assert "<th>accuracy</th><td>0.75</td>" in job._repr_html_()
    server.job_result(JobError(code="lost", message="<gone>"))
    lost = train(client).refresh()
    assert "lost: <gone>" in repr(lost)
    assert "&lt;gone&gt;" in lost._repr_html_()


def test_all_of_it_from_an_event_loop(server: FakeServer, tmp_path: Path) -> None:
    server.job_result(MADE, progress=EPOCHS, log=["x"], files={"report.html": b"<html>"})

    async def run() -> None:
        async with AsyncClient(server.url) as client:
            search = Search(params={"lr": [0.1]})
            job = await client.jobs.train("m", recipe="r", dataset="d", split=0.5, search=search)
            assert isinstance(job, AsyncJobHandle)
            assert await job.wait() is job
            assert await job.refresh() is job
            assert await job.history() == EPOCHS
            assert await job.log() == "x"
            async with job.events() as stream:
                assert [event.kind async for event in stream][-1] == "state"
            assert (await job.report(tmp_path / "r.html")).is_file()
            (found,) = await client.jobs.list()
            assert (await client.jobs.get(found.id)).version == "m@1"
            assert await client.jobs.recipes() == []
            await job.delete()

    asyncio.run(run())
