"""The monitor over a real database: counted once, merged over processes, nothing kept of inputs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Connection, delete, func, select, update

from aiaas_client.protocol.management import Policy
from aiaas_client.protocol.monitoring import FeedbackItem, FeedbackResult, Quality
from aiaas_server.core.errors import StateUnavailable
from aiaas_server.core.events import NOBODY, Caller, InferenceRecord, Units
from aiaas_server.core.schedule.requests import Outcome
from aiaas_server.core.schedule.taps import Taps, with_tap, without_tap
from aiaas_server.core.signature import Signature, TensorSpec
from aiaas_server.monitor.alerts import Alert, Alerts
from aiaas_server.monitor.feedback import (
    Pending,
    Remembered,
    judged,
    prune_feedback,
    quality_of,
    record_feedback,
    write_predictions,
)
from aiaas_server.monitor.monitor import Monitor
from aiaas_server.monitor.profile import profile_from
from aiaas_server.monitor.profiles import get_profile, put_profile
from aiaas_server.monitor.report import drift_document, monitoring_of, read_traffic
from aiaas_server.monitor.windows import HOUR, MINUTE, prune_windows, read_windows
from aiaas_server.registry.erasure import erase_row
from aiaas_server.registry.models import find_version
from aiaas_server.state.database import Database
from aiaas_server.state.tables import (
    CHANGES,
    FEEDBACK,
    MODELS,
    PREDICTIONS,
    PROFILES,
    VERSIONS,
    WINDOWS,
)
from tests.server.monitor.conftest import add_model

SIGNATURE = Signature(
    "m", [TensorSpec("x", "FP32", (-1, 4))], [TensorSpec("y", "FP32", (-1, 4))], 512
)
NOW = 1_800_000_000.0  # a whole hour


class Version:
    """A loaded version, as far as it is looked at."""

    def __init__(self, monitor: Monitor, number: int = 1, name: str = "m") -> None:
        self.name = self.full = name
        self.version = number
        self.signature, self.card = SIGNATURE, None
        self.labels: Mapping[str, Any] = {}
        self.scheduler = self
        self.tap: Any = None
        self.watch: Any = None
        self._monitor = monitor
        monitor.attach(self)  # type: ignore[arg-type]

    def serve(
        self, x: np.ndarray, request_id: str = "", failure: Any = None, seconds: float = 0.01
    ) -> None:
        """One request, answered with itself or failed."""
        caller = Caller(request_id or f"r{time.monotonic_ns()}")
        record = InferenceRecord(
            self.name, self.version, Units(len(x)), len(x), 0.0, seconds, seconds, failure, caller
        )
        self._monitor.collector(record)
        if failure is None:
            self.tap({"x": x}, Outcome({"y": x}, 0, 0, 0, 0, len(x)), caller)


class Clock:
    """Seconds that the test sets."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class Heard(Alerts):
    """Keeps alerts for the test."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Alert] = []

    def send(self, alert: Alert) -> None:
        self.heard.append(alert)


MakeMonitor = Callable[..., Monitor]


@pytest.fixture
def alerts() -> Heard:
    return Heard()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_monitor(database: Database, alerts: Heard, clock: Clock) -> MakeMonitor:
    """A process that monitors; its thread is not started: the test says when it counts."""

    def make(**options: Any) -> Monitor:
        return Monitor(database, alerts, clock=clock, **options)

    return make


def rows(count: int, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(shift, 1.0, (count, 4))
    return drawn.astype(np.float32)


def told(database: Database, model_id: str, window: int = 3600, now: float = NOW) -> Any:
    return database.read_now(lambda c: monitoring_of(c, model_id, "m", window, now))


def count_of(database: Database, table: Any) -> int:
    def read(connection: Connection) -> int:
        found: int = connection.execute(select(func.count()).select_from(table)).scalar_one()
        return found

    return database.read_now(read)


def test_requests_are_counted_by_version_with_their_failures(
    database: Database, make_monitor: MakeMonitor
) -> None:
    model_id = add_model(database, versions=(1, 2))
    monitor = make_monitor()
    one, two = Version(monitor), Version(monitor, 2)
    for _ in range(3):
        one.serve(rows(5))
    two.serve(rows(1), failure="BACKEND")
    two.serve(rows(1), seconds=0.5)
    monitor.flush()
    first, second = told(database, model_id).versions
    assert (first.version, first.requests, first.rows, first.failed) == (1, 3, 15, 0)
    assert first.batch_sizes == {"8": 3}
    assert 0.008 < first.latency["total"].p50 <= 0.01
    assert (second.requests, second.failed, second.errors) == (2, 1, {"BACKEND": 1})
    assert second.error_rate == 0.5
    assert second.latency["compute"].count == 1
    assert 0.4 < second.latency["total"].p99 <= 0.5


def test_writing_again_counts_nothing_twice_and_processes_add_up(
    database: Database, make_monitor: MakeMonitor
) -> None:
    model_id = add_model(database)
    here, there = make_monitor(), make_monitor()
    for monitor, times in ((here, 3), (there, 4)):
        version = Version(monitor)
        for _ in range(times):
            version.serve(rows(1))
            monitor.flush()
        monitor.flush()
    assert told(database, model_id).versions[0].requests == 7
    assert count_of(database, WINDOWS) == 2 * 2  # a minute and an hour of each process
    total = database.read_now(lambda c: read_traffic(c, model_id, 1, NOW - 60, NOW))
    assert total.requests == 7


def test_a_database_that_is_away_costs_nothing_that_was_counted(
    database: Database, make_monitor: MakeMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_id = add_model(database)
    monitor = make_monitor()
    version = Version(monitor)
    version.serve(rows(1), "first")
    monitor.flush()

    def refuse(work: Any) -> Any:
        raise StateUnavailable("the database does not answer")

    with monkeypatch.context() as away:
        away.setattr(database, "submit", refuse)
        version.serve(rows(1), "second")
        with pytest.raises(StateUnavailable):
            monitor.flush()
    version.serve(rows(1), "third")
    monitor.flush()
    assert told(database, model_id).versions[0].requests == 3
    assert count_of(database, PREDICTIONS) == 3


def test_long_windows_are_read_by_the_hour_and_old_ones_are_removed(
    database: Database, make_monitor: MakeMonitor, clock: Clock
) -> None:
    model_id = add_model(database)
    monitor = make_monitor()
    version = Version(monitor)
    for minutes in (0, 30, 90, 240):
        clock.now = NOW + 60 * minutes
        version.serve(rows(1))
        monitor.flush()
    now = clock.now
    assert told(database, model_id, 300, now).versions[0].requests == 1
    assert told(database, model_id, 24 * HOUR, now).versions[0].requests == 4
    database.submit(lambda c: prune_windows(c, now)).result()
    assert told(database, model_id, 24 * HOUR, now).versions[0].requests == 4
    left = database.read_now(lambda c: list(c.scalars(select(WINDOWS.c.seconds))))
    assert left.count(MINUTE) == 2  # traffic of the last minute and of the one 150 minutes ago
    database.submit(lambda c: prune_windows(c, now + 32 * 24 * HOUR)).result()
    assert count_of(database, WINDOWS) == 0


def test_what_the_registry_does_not_know_or_has_erased_leaves_no_trace(
    database: Database, make_monitor: MakeMonitor
) -> None:
    model_id = add_model(database)
    monitor = make_monitor()
    other = Version(monitor, name="of the directory")
    other.serve(rows(3), "a")
    gone = Version(monitor)
    gone.serve(rows(3), "b")
    erase = update(VERSIONS).where(VERSIONS.c.model_id == model_id).values(state="erased")
    database.submit(lambda c: c.execute(erase)).result()
    monitor.flush()
    assert count_of(database, WINDOWS) == 0
    database.submit(lambda c: c.execute(delete(MODELS))).result()
    gone.serve(rows(3), "c")
    monitor.flush()
    assert count_of(database, WINDOWS) == count_of(database, PREDICTIONS) == 0
    assert monitor.snapshot.totals["of the directory", 1].requests == 1


def test_the_policy_switches_drift_and_feedback_off(
    database: Database, make_monitor: MakeMonitor
) -> None:
    model_id = add_model(database, policy=Policy(drift=False, feedback=False))
    monitor = make_monitor(learn_rows=20)
    Version(monitor).serve(rows(50), "a")
    monitor.flush()
    assert count_of(database, PREDICTIONS) == 0
    assert database.read_now(lambda c: get_profile(c, model_id, 1)) is None
    assert told(database, model_id).versions[0].requests == 1


def test_a_reference_is_made_of_the_first_traffic_and_drift_told_once(
    database: Database, make_monitor: MakeMonitor, alerts: Heard, clock: Clock
) -> None:
    model_id = add_model(database)
    here, there = make_monitor(learn_rows=500), make_monitor(learn_rows=500)
    version = Version(here)
    version.serve(rows(300, 1))
    here.flush()
    document = database.read_now(lambda c: drift_document(c, model_id, "m", 3600, NOW))
    assert [one.verdict for one in document.versions] == ["unknown"]
    version.serve(rows(300, 2))
    here.flush()
    stored = database.read_now(lambda c: get_profile(c, model_id, 1))
    assert stored is not None
    assert (stored.profile.source, stored.profile.rows) == ("traffic", 600)
    version.serve(rows(400, 3))
    here.flush()
    here.judge()
    assert alerts.heard == []
    assert here.snapshot.drifts["m", 1].verdict == "ok"
    version.serve(rows(400, 4, shift=1.0))
    other = Version(there)  # another process: it learns of the reference, and judges as well
    other.serve(rows(10, 4, shift=1.0))
    here.flush()
    there.flush()
    here.judge()
    there.judge()
    assert [(one.kind, one.state, one.version) for one in alerts.heard] == [("drift", "raised", 1)]
    assert alerts.heard[0].reasons
    clock.now += 2 * HOUR
    version.serve(rows(400, 5))
    here.flush()
    here.judge()
    here.judge()
    assert [one.state for one in alerts.heard] == ["raised", "cleared"]
    changes = database.read_now(lambda c: c.execute(select(CHANGES).order_by("seq")).all())
    assert [(one.kind, one.object, one.data["state"]) for one in changes] == [
        ("drift", "m", "raised"),
        ("drift", "m", "cleared"),
    ]


def test_counts_in_the_bins_of_another_reference_do_not_count(
    database: Database, make_monitor: MakeMonitor
) -> None:
    model_id = add_model(database)
    monitor = make_monitor()
    version = Version(monitor)
    for seed in (1, 2):
        made = profile_from(SIGNATURE, {"x": rows(200, seed)})
        assert made is not None
        database.submit(lambda c, made=made: put_profile(c, model_id, 1, made)).result()
        monitor.flush()
        version.serve(rows(150, 7 + seed))
        monitor.flush()
        document = database.read_now(lambda c: drift_document(c, model_id, "m", 3600, NOW))
        assert [(one.verdict, one.rows) for one in document.versions] == [("ok", 150)]
    kept = database.read_now(lambda c: read_windows(c, model_id, "drift", NOW - 60, now=NOW))
    assert len(kept) == 1


def test_the_thread_counts_by_itself_and_what_is_left_is_written_at_the_end(
    database: Database, make_monitor: MakeMonitor
) -> None:
    model_id = add_model(database)
    monitor = make_monitor()
    version = Version(monitor)
    monitor.start()
    for _ in range(20):
        version.serve(rows(1))
    monitor.close()
    assert told(database, model_id).versions[0].requests == 20


def test_a_full_ring_drops_and_counts_and_arrays_of_this_process_are_copied(
    database: Database, make_monitor: MakeMonitor
) -> None:
    model_id = add_model(database)
    monitor = make_monitor()
    monitor.collector.most_seen = 3
    version = Version(monitor)
    mine = rows(1)
    outcome = Outcome({"y": mine}, 0, 0, 0, 0, 1)
    version.tap({"x": mine}, outcome, NOBODY)
    kept = monitor.collector.seen[0]
    mine[:] = 99.0
    assert float(kept[1]["x"].max()) < 99.0
    assert float(kept[2]["y"].max()) < 99.0
    for _ in range(5):
        version.serve(rows(1))
    monitor.flush()
    assert told(database, model_id).versions[0].unseen == 3


def test_large_requests_are_looked_at_now_and_then(
    database: Database, make_monitor: MakeMonitor
) -> None:
    monitor = make_monitor()
    version = Version(monitor)
    for _ in range(50):
        version.serve(rows(512).repeat(4, axis=0))
    assert 1 <= len(monitor.collector.seen) < 50
    assert len(monitor.collector.unseen) == 50 - len(monitor.collector.seen)


# Feedback


@pytest.fixture
def answered(database: Database, make_monitor: MakeMonitor) -> tuple[Database, str]:
    """Request `r` of two items was answered 3 and 1, request `n` with a number."""
    model_id = add_model(database)
    ones = [
        Remembered("default", "r", model_id, 1, ["3", "1"], time.time(), False),
        Remembered("default", "n", model_id, 1, [2.5], time.time(), False),
    ]
    database.submit(lambda c: write_predictions(c, ones)).result()
    return database, model_id


def tell(database: Database, *items: tuple[str, Any, int]) -> list[FeedbackResult]:
    asked = [FeedbackItem(request_id=i, label=label, row=row) for i, label, row in items]
    return database.submit(lambda c: record_feedback(c, "default", "me", asked)).result()


def test_labels_are_joined_to_what_was_predicted(answered: tuple[Database, str]) -> None:
    database, model_id = answered
    known = [("r", "3", 0), ("r", 2, 1), ("n", 2, 0)]
    results = tell(database, *known, ("r", "1", 2), ("unheard", 1, 0))
    assert [one.status for one in results] == ["recorded"] * 3 + ["unknown"] * 2
    assert [one.code for one in results] == [200, 200, 200, 404, 404]
    assert [one.correct for one in results[:3]] == [True, False, None]
    assert results[2].error == 0.5
    quality = database.read_now(lambda c: quality_of(c, model_id, 1))
    assert quality == Quality(labels=3, accuracy=0.5, mean_absolute_error=0.5)


def test_a_label_counts_once_and_another_takes_its_place(answered: tuple[Database, str]) -> None:
    database, model_id = answered
    results = tell(database, ("r", "1", 0), ("r", "1", 0), ("r", "3", 0))
    assert [one.status for one in results] == ["recorded", "unchanged", "replaced"]
    quality = database.read_now(lambda c: quality_of(c, model_id, 1))
    assert (quality.labels, quality.accuracy) == (1, 1.0)
    database.submit(lambda c: c.execute(delete(PREDICTIONS))).result()
    again = tell(database, ("r", "1", 0), ("r", "1", 1))
    assert [one.status for one in again] == ["replaced", "unknown"]
    assert again[0].correct is False


def test_another_tenants_requests_are_unknown(answered: tuple[Database, str]) -> None:
    database, _ = answered
    asked = [FeedbackItem(request_id="r", label="3")]
    results = database.submit(lambda c: record_feedback(c, "other", "me", asked)).result()
    assert results[0].status == "unknown"


def test_what_the_caller_was_told_takes_the_place_of_what_a_run_gave(
    database: Database,
) -> None:
    model_id = add_model(database)

    def one(value: str, final: bool) -> Remembered:
        return Remembered("default", "r", model_id, 1, [value], 0.0, final)

    pending = Pending(most=1)
    pending.add(one("first run", False))
    pending.add(one("second run", False))
    assert pending.waiting()[0].predicted == ["first run"]
    pending.add(one("told", True))
    pending.add(Remembered("default", "more", model_id, 1, ["x"], 0.0, True))
    assert [w.predicted for w in pending.waiting()] == [["told"]]
    assert pending.dropped == 1
    for first, second, kept in ((False, True, "b"), (True, False, "a"), (False, False, "a")):
        database.submit(lambda c: c.execute(delete(PREDICTIONS))).result()
        database.submit(lambda c, f=first: write_predictions(c, [one("a", f)])).result()
        database.submit(lambda c, s=second: write_predictions(c, [one("b", s)])).result()
        found = database.read_now(lambda c: c.scalars(select(PREDICTIONS.c.predicted)).all())
        assert found == [[kept]]


def test_what_is_remembered_is_bounded_in_age_and_number(database: Database) -> None:
    model_id = add_model(database)
    now = 100 * 24 * 3600.0
    ones = [
        Remembered("default", f"r{index}", model_id, 1, ["x"], now - index, False)
        for index in range(10)
    ]
    ones.append(Remembered("default", "old", model_id, 1, ["x"], 0.0, False))
    database.submit(lambda c: write_predictions(c, ones)).result()
    database.submit(lambda c: prune_feedback(c, now, most=4)).result()
    left = database.read_now(lambda c: sorted(c.scalars(select(PREDICTIONS.c.request_id))))
    assert left == ["r0", "r1", "r2", "r3"]


@pytest.mark.parametrize(
    ("predicted", "label", "expected"),
    [
        ("cat", "cat", (True, None)),
        ("3", 3, (True, None)),
        (3, "4", (False, None)),
        (1, True, (True, None)),
        (2.0, 3, (None, 1.0)),
        (2.5, "high", (False, None)),
    ],
)
def test_labels_and_numbers_are_compared_as_they_mean(
    predicted: Any, label: Any, expected: tuple[bool | None, float | None]
) -> None:
    assert judged(predicted, label) == expected


def test_an_erased_version_leaves_nothing(
    answered: tuple[Database, str], make_monitor: MakeMonitor
) -> None:
    database, model_id = answered
    monitor = make_monitor(learn_rows=20)
    Version(monitor).serve(rows(50), "s")
    monitor.flush()
    tell(database, ("r", "3", 0))
    version = database.read_now(lambda c: find_version(c, model_id, 1))
    assert version is not None
    database.submit(lambda c: erase_row(c, "default", version)).result()
    for table in (WINDOWS, PROFILES, PREDICTIONS, FEEDBACK):
        assert count_of(database, table) == 0, table.name


# Taps


def test_taps_are_joined_and_taken_away_and_one_that_fails_harms_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen: list[str] = []

    def first(inputs: Any, outcome: Any, caller: Any) -> None:
        seen.append("first")
        raise ValueError("broken")

    def second(inputs: Any, outcome: Any, caller: Any) -> None:
        seen.append("second")

    assert with_tap(None, first) is first
    both = with_tap(first, second)
    assert with_tap(both, second).taps == (first, second)  # type: ignore[attr-defined]
    both({}, Outcome({}, 0, 0, 0, 0, 0), NOBODY)
    assert seen == ["first", "second"]
    assert "one of several taps failed" in caplog.text
    assert without_tap(both, first) is second
    assert without_tap(second, second) is None
    assert isinstance(both, Taps)
