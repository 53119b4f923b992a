"""`client.usage`: what was used is asked for, added up, drawn and written to files."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from aiaas_client import AsyncClient, Client, InputError, UsageReport
from aiaas_client.testing import FakeServer

NOON = int(datetime(2026, 11, 3, 12, tzinfo=UTC).timestamp())
DAY = 86_400


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        server.usage.add("m", at=NOON, key="a", requests=3, rows=30)
        server.usage.add("m", at=NOON + 3600, key="b", requests=4)
        server.usage.add("n", at=NOON + DAY, key="a", version=2, requests=5)
        server.usage.add(at=NOON, stored_byte_seconds=10**15)
        yield server


def test_sums_by_what_is_asked_for(server: FakeServer) -> None:
    with Client(server.url) as client:
        total = client.usage.get(start="2026-11-01", end="2026-12-01").total
        assert total == {"requests": 12, "rows": 30, "stored_byte_seconds": 10**15}
        found = client.usage.get(["model", "day"], unit="requests", start="2026-11-01")
        assert isinstance(found, UsageReport)
        told = [(row.model, row.time, row.amount, row.key) for row in found.rows]
        midnight = NOON - 12 * 3600
        assert told == [("m", midnight, 7, None), ("n", midnight + DAY, 5, None)]
        assert client.usage.get("key", key="a", start="2026-11-01").total["requests"] == 8
        assert client.usage.get(model="n", version=2, start="2026-11-01").total == {"requests": 5}


@pytest.mark.parametrize(
    "start",
    [
        date(2026, 11, 4),
        datetime(2026, 11, 4, tzinfo=UTC),
        datetime(2026, 11, 4),  # of UTC where it does not say
        datetime(2026, 11, 4, 2, tzinfo=timezone(timedelta(hours=2))),
        "2026-11-04",
        "2026-11-04T02:00:00+02:00",
    ],
    ids=["date", "aware", "naive", "offset", "text", "offset text"],
)
def test_times_in_every_form(server: FakeServer, start: Any) -> None:
    with Client(server.url) as client:
        assert client.usage.get(start=start).total == {"requests": 5}
        assert client.usage.get(start="2026-11-01", end=start).total["requests"] == 7


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"by": ["colour"]}, "by: expected some of tenant, key"),
        ({"by": "hour,day"}, "by: expected one of hour, day, month"),
        ({"start": "yesterday"}, "start: expected a date"),
        ({"end": 5}, "end: expected a date"),
        ({"unit": "euro"}, "unit: expected one of requests"),
    ],
    ids=["by", "two times", "text", "number", "unit"],
)
def test_what_cannot_be_asked_is_told_before_anything_is_sent(
    server: FakeServer, asked: Any, told: str
) -> None:
    with Client(server.url) as client, pytest.raises(InputError, match=told):
        client.usage.get(**asked)
    assert not server.requests


def test_many_rows_come_in_parts(server: FakeServer) -> None:
    for index in range(2500):
        server.usage.add(f"m{index:04}", at=NOON, requests=index)
    with Client(server.url) as client:
        found = client.usage.get("model", unit="requests", start="2026-11-01")
    assert len(found.rows) == 2502
    assert found.total["requests"] == sum(range(2500)) + 12


def test_a_frame_has_a_column_for_each_unit(server: FakeServer) -> None:
    pytest.importorskip("pandas")
    with Client(server.url) as client:
        frame = client.usage.get("model,month", start="2026-11-01").to_frame()
        totals = client.usage.get(start="2026-11-01").to_frame()
    assert list(frame) == ["time", "model", "requests", "rows", "stored_byte_seconds"]
    assert frame.set_index("model")["requests"].to_dict() == {"": 0, "m": 7, "n": 5}
    assert str(frame["time"].iloc[0]) == "2026-11-01 00:00:00+00:00"
    assert totals.to_dict("records") == [
        {"requests": 12, "rows": 30, "stored_byte_seconds": 10**15}
    ]


@pytest.mark.parametrize("by", ["model", "model,day", ""])
def test_a_picture_of_one_unit(server: FakeServer, by: str) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    for index in range(12):
        server.usage.add(f"x{index}", at=NOON, requests=100 + index)
    with Client(server.url) as client:
        found = client.usage.get(by, start="2026-11-01")
    figure = found.plot(figure=Figure())
    (axes,) = figure.axes
    assert axes.get_title() == "requests"
    labels = (
        [text.get_text() for text in axes.get_legend().get_texts()]
        if "day" in by
        else [text.get_text() for text in axes.get_yticklabels()][::-1]
    )
    if by:
        assert labels[0] == "x11"
        assert labels[-1] == "others"
        assert len(labels) == 9
    with pytest.raises(InputError, match="unit"):
        found.plot("euro")


def test_everything_is_written_to_a_file(server: FakeServer, tmp_path: Path) -> None:
    place, kept = tmp_path / "usage.csv", io.BytesIO()
    with Client(server.url) as client:
        client.usage.export(place, start="2026-11-01")
        client.usage.export(kept, format="jsonl", by=["model"], start="2026-11-01")
        with pytest.raises(InputError, match="format"):
            client.usage.export(kept, format="xlsx")  # type: ignore[arg-type]
    lines = place.read_text("utf-8").splitlines()
    assert lines[0] == "tenant,key,model,version,time,unit,amount"
    assert "default,a,m,1,2026-11-03T12:00:00+00:00,requests,3" in lines
    rows = [json.loads(line) for line in kept.getvalue().splitlines()]
    assert {"model": "m", "unit": "requests", "amount": 7} in rows
    assert [path.name for path in tmp_path.iterdir()] == ["usage.csv"]


async def test_from_an_event_loop(server: FakeServer, tmp_path: Path) -> None:
    async with AsyncClient(server.url) as client:
        found = await client.usage.get("model", start="2026-11-01")
        await client.usage.export(tmp_path / "usage.csv")
    assert found.total["requests"] == 12
    assert (tmp_path / "usage.csv").is_file()
