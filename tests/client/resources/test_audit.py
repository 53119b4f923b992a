"""`client.audit`, from threads and tasks: what was done, whether it is whole, a month of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest

from aiaas_client import InputError, NotFoundError, NotSupportedError
from aiaas_client._api.audit import seconds_of
from aiaas_client.testing import FakeServer

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC).timestamp()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture
def caller(either: Any, server: FakeServer) -> Any:
    """With two acts on record that were done, and one that failed."""
    caller = either(server.url)
    caller.run(caller.client.models.deploy("m", b"one"))
    with pytest.raises(NotFoundError):
        caller.run(caller.client.models.delete("other"))
    return caller


def test_acts_are_listed_by_what_is_asked(caller: Any) -> None:
    entries = caller.run(caller.client.audit.list())
    assert [one.seq for one in entries] == list(range(len(entries), 0, -1))
    assert {one.act for one in entries} == {
        "models.drafts.create",
        "models.deploy",
        "models.delete",
    }
    for filters, acts in (
        ({"act": "models.delete"}, ["begun", "failed"]),
        ({"act": "models.d*", "result": "failed"}, ["failed"]),
        ({"actor": "nobody"}, []),
        ({"object": "other"}, ["begun", "failed"]),
        ({"since": "1h", "act": "models.delete"}, ["begun", "failed"]),
        ({"until": "1h"}, []),
    ):
        found = caller.run(caller.client.audit.list(**filters))
        assert [one.result for one in reversed(found)] == acts, filters
    assert len(caller.run(caller.client.audit.list(limit=1))) == 1


def test_an_entry_that_was_edited_is_found(caller: Any, server: FakeServer) -> None:
    assert caller.run(caller.client.audit.verify()).intact
    server.audit.entries[1] = server.audit.entries[1].model_copy(update={"actor": "other"})
    (finding,) = caller.run(caller.client.audit.verify()).findings
    assert (finding.kind, finding.seq) == ("edited", 2)


def test_a_month_is_counted(caller: Any) -> None:
    month = time.strftime("%Y-%m", time.gmtime())
    report = caller.run(caller.client.audit.report(month))
    counts = {one.act: (one.done, one.failed) for one in report.acts}
    assert counts["models.delete"] == (0, 1)
    assert counts["models.deploy"] == (1, 0)


@pytest.mark.parametrize("month", ["2026-13", "2026", "", None])
def test_what_is_no_month_is_not_sent(caller: Any, month: Any) -> None:
    with pytest.raises(InputError, match="expected a month"):
        caller.run(caller.client.audit.report(month))


def test_a_server_without_a_registry_has_no_audit(either: Any) -> None:
    with FakeServer(registry=False) as server:
        caller = either(server.url)
        with pytest.raises(NotSupportedError):
            caller.run(caller.client.audit.list())


@pytest.mark.parametrize(
    ("when", "seconds"),
    [
        (12, 12.0),
        ("2026-11-30T12:00", NOON),
        ("2026-11-30T13:00+01:00", NOON),
        ("2026-11-30", NOON - 43_200),
        (date(2026, 11, 30), NOON - 43_200),
        (datetime(2026, 11, 30, 12), NOON),  # without a zone it is UTC
        (datetime(2026, 11, 30, 14, tzinfo=timezone(timedelta(hours=2))), NOON),
    ],
    ids=["seconds", "text", "zone", "day", "date", "datetime", "datetime-zone"],
)
def test_times_are_told_in_many_ways(when: Any, seconds: float) -> None:
    assert seconds_of("since", when) == seconds


@pytest.mark.parametrize("when", ["yesterday", "", True, [], "-1h", "2026-13-01"], ids=repr)
def test_what_is_no_time_is_refused(when: Any) -> None:
    with pytest.raises(InputError, match="since: expected a time"):
        seconds_of("since", when)
