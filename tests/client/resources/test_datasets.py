"""`client.datasets`: uploads that go on where they broke, rows that come back as they went."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiaas_client import (
    AsyncClient,
    AsyncDatasetHandle,
    BadRequestError,
    Client,
    Column,
    ConflictError,
    DatasetHandle,
    InputError,
    NotFoundError,
    NotSupportedError,
    ProtocolError,
    RetryPolicy,
    ServiceUnavailableError,
)
from aiaas_client._bundles.tables import gathered
from aiaas_client._bundles.uploads import UploadWishes, upload
from aiaas_client._resources.dataset import column_cells
from aiaas_client._send.work import acarry_out, carry_out
from aiaas_client.testing import FakeServer

CSV = b"a,label\n1,x\n2,y\n3,x\n"


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_bytes(CSV)
    return path


def run_threads(server: FakeServer, source: Any, clock: Any) -> Any:
    retry = RetryPolicy(max_retries=0, clock=clock)
    with Client(server.url, retry=retry, breaker=None) as client:
        steps = upload("d", partial(gathered, source), UploadWishes({}, piece=8))
        return carry_out(steps, client._sender)


def run_tasks(server: FakeServer, source: Any, clock: Any) -> Any:
    async def run() -> Any:
        retry = RetryPolicy(max_retries=0, clock=clock)
        async with AsyncClient(server.url, retry=retry, breaker=None) as client:
            steps = upload("d", partial(gathered, source), UploadWishes({}, piece=8))
            return await acarry_out(steps, client._sender)

    return asyncio.run(run())


@pytest.fixture(params=[run_threads, run_tasks], ids=["threads", "tasks"])
def run(request: pytest.FixtureRequest, fake_clock: Any) -> Callable[..., Any]:
    """Uploads in small pieces, with waits that take no time."""
    return partial(request.param, clock=fake_clock.clock())


def sent(server: FakeServer) -> list[tuple[int, int]]:
    return [
        (int(one.query["offset"]), len(one.body)) for one in server.requests if one.method == "PUT"
    ]


def test_a_piece_that_was_lost_is_sent_again(run: Any, server: FakeServer, rows: Path) -> None:
    server.drop(path="/files/")
    found = run(server, rows)
    assert sent(server) == [(0, 8), (0, 8), (8, 8), (16, 4)]
    assert (found.rows, found.created_now) == (3, True)


def test_an_upload_that_broke_off_goes_on_with_the_next_call(
    run: Any, server: FakeServer, rows: Path
) -> None:
    server.fail(503, path="/commit")
    with pytest.raises(ServiceUnavailableError):
        run(server, rows)
    server.clear()
    assert run(server, rows).number == 1
    assert sent(server) == []


def test_the_same_rows_are_the_same_version(client: Client, rows: Path) -> None:
    first = client.datasets.upload("d", rows, note="from the field")
    assert (first.ref, first.rows, first.created_now) == ("d@1", 3, True)
    assert [(one.name, one.kind) for one in first.columns] == [
        ("a", "integer"),
        ("label", "category"),
    ]
    assert first.column("a").maximum == 3.0
    again = client.datasets.upload("d", rows)
    assert (again.ref, again.created_now) == ("d@1", False)
    rows.write_bytes(CSV + b"4,y\n")
    assert client.datasets.upload("d", rows).ref == "d@2"
    assert [one.ref for one in client.datasets.versions("d")] == ["d@2", "d@1"]
    assert [one.ref for one in client.datasets.list()] == ["d@2"]
    assert client.datasets.get("d").ref == client.datasets.get("d@latest").ref == "d@2"
    assert client.datasets.get("d@1").document.note == "from the field"


def test_what_is_asked_for_besides_reaches_the_server(client: Client, rows: Path) -> None:
    found = client.datasets.upload(
        "d", rows, format="csv", kinds={"a": "category"}, description="of flowers"
    )
    assert found.column("a").kind == "category"
    assert found.document.description == "of flowers"
    with pytest.raises(InputError, match=r"kinds\.a: .*'colour'"):
        client.datasets.upload("d", rows, kinds={"a": "colour"})  # type: ignore[dict-item]


def test_progress_is_told_in_bytes(client: Client, rows: Path) -> None:
    told: list[tuple[int, int | None]] = []
    client.datasets.upload("d", rows, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (len(CSV), len(CSV))


def test_rows_come_back_as_frames(client: Client) -> None:
    pd, pl = pytest.importorskip("pandas"), pytest.importorskip("polars")
    frame = pd.DataFrame({"a": [1.5, None], "text": ["x", "y"]})
    handle = client.datasets.upload("d", frame)
    assert handle.to_frame().equals(frame)
    polars = handle.to_frame(backend="polars", columns=["text"])
    assert isinstance(polars, pl.DataFrame)
    assert polars["text"].to_list() == ["x", "y"]
    with pytest.raises(InputError, match="'d@1' has no column 'b': a, text"):
        handle.to_frame(columns=["b"])
    with pytest.raises(InputError, match="backend: expected 'pandas' or 'polars'"):
        handle.to_frame(backend="arrow")  # type: ignore[arg-type]


def test_what_has_a_shape_comes_back_with_it(client: Client) -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("polars")
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    handle = client.datasets.upload("d", {"image": images, "label": ["a", "b"]})
    assert handle.column("image").shape == [3, 4]
    assert np.array_equal(np.stack(handle.to_frame()["image"]), images)
    assert handle.to_frame(backend="polars")["image"].to_list() == images.tolist()


def test_a_download_is_the_digests_or_nothing(
    client: Client, server: FakeServer, tmp_path: Path
) -> None:
    pd = pytest.importorskip("pandas")
    handle = client.datasets.upload("d", pd.DataFrame({"a": [1]}))
    server.truncate(20, path="/data")  # is begun anew
    target = tmp_path / "below" / "rows.parquet"
    assert handle.download(target) == target
    assert pd.read_parquet(target)["a"].to_list() == [1]
    server.alter(lambda body: b"x" + body[1:], path="/data")
    with pytest.raises(ProtocolError, match="sha256"):
        handle.download(tmp_path / "other")
    assert [one.name for one in tmp_path.iterdir()] == ["below"]
    with pytest.raises(InputError, match="got a directory"):
        handle.download(tmp_path)


def test_versions_are_erased_for_good(client: Client, rows: Path, server: FakeServer) -> None:
    first = client.datasets.upload("d", rows)
    rows.write_bytes(CSV + b"4,y\n")
    client.datasets.upload("d", rows)
    (proof,) = client.datasets.delete("d@1")
    assert (proof.number, proof.gone) == (1, [first.digest])
    with pytest.raises(InputError, match="'d@1' is erased"):
        client.datasets.get("d@1").to_frame()
    with pytest.raises(InputError, match="'d@NUMBER', or all=True"):
        client.datasets.delete("d")
    with pytest.raises(InputError, match="the name alone with all=True"):
        client.datasets.delete("d@2", all=True)
    assert [one.number for one in client.datasets.delete("d", all=True)] == [2]
    assert [one.state for one in server.datasets.versions("d")] == ["erased", "erased"]


def test_a_job_that_needs_rows_keeps_them(client: Client, rows: Path, server: FakeServer) -> None:
    handle = client.datasets.upload("d", rows)
    server.fail(409, "job 1 reads it", code="conflict", path="/versions/1")
    with pytest.raises(ConflictError, match="job 1 reads it"):
        handle.delete()
    assert handle.delete().number == 1


def test_refusals_have_their_classes(client: Client, rows: Path) -> None:
    with pytest.raises(NotFoundError, match="no data set 'nowhere'"):
        client.datasets.get("nowhere")
    with pytest.raises(InputError, match=r"NAME or NAME@NUMBER, got 'd@x'"):
        client.datasets.get("d@x")
    with pytest.raises(InputError, match="data set: expected letters"):
        client.datasets.upload("no name", rows)
    rows.write_bytes(b"a,b\n1\n")
    with pytest.raises(BadRequestError, match="line 2: expected 2 cells"):
        client.datasets.upload("d", rows)


def test_a_server_without_a_registry_keeps_no_data_sets(rows: Path) -> None:
    with (
        FakeServer(registry=False) as server,
        Client(server.url) as client,
        pytest.raises(NotSupportedError, match="--data"),
    ):
        client.datasets.upload("d", rows)


def test_a_handle_shows_what_it_holds(client: Client) -> None:
    data = {"a<b": np.arange(30), "x": np.zeros((30, 2), np.float32)}
    handle = client.datasets.upload("d", data)
    assert repr(handle) == "<DatasetHandle d@1, 30 rows: a<b: integer, x: array>"
    html = handle._repr_html_()
    assert "a&lt;b" in html
    assert "array (float32 2)" in html
    assert "0 to 29" in html


@pytest.mark.parametrize(
    ("kind", "span"),
    [
        ("number", "0.5 to 90000"),
        ("category", ""),
        ("text", "0.5 to 90000 characters"),
        ("time", "1970-01-01 to 1970-01-02 01:00:00"),
    ],
)
def test_a_range_is_told_as_its_kind_is_read(kind: Any, span: str) -> None:
    column = Column(name="c", kind=kind, minimum=0.5, maximum=90000.0)
    assert column_cells(column)[4] == span


def test_all_of_it_from_an_event_loop(server: FakeServer, tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")

    async def run() -> None:
        async with AsyncClient(server.url) as client:
            handle = await client.datasets.upload("d", pd.DataFrame({"a": [1, 2]}))
            assert isinstance(handle, AsyncDatasetHandle)
            assert not isinstance(handle, DatasetHandle)
            assert (await handle.to_frame())["a"].to_list() == [1, 2]
            assert (await handle.download(tmp_path / "d.parquet")).is_file()
            assert [one.ref for one in await client.datasets.list()] == ["d@1"]
            assert (await client.datasets.get("d")).rows == 2
            (proof,) = await client.datasets.delete("d", all=True)
            assert proof.number == 1

    asyncio.run(run())
