"""`Monitor`: counts what is picked up, writes it every few seconds, judges it, and raises alarms.

One thread does all of it; the answer's path only fills the rings of `collector`. What it knows of
models and references is read again each time it writes. Several processes on one database count
each for itself; the alarm of a drift is raised by whoever records it first.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import TimeoutError as NotInTime
from typing import Final, NamedTuple

import numpy as np
from sqlalchemy import Connection

from aiaas_client.protocol.management import Policy
from aiaas_client.protocol.monitoring import Drift
from aiaas_server.core.errors import ServerError
from aiaas_server.core.events import Caller
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.names import full_name, plain
from aiaas_server.monitor.alerts import Alerts
from aiaas_server.monitor.collector import Collector, Key, Picked, Seen, VersionTap, predicted_by
from aiaas_server.monitor.feedback import Pending, Remembered, prune_feedback, write_predictions
from aiaas_server.monitor.learning import Learning
from aiaas_server.monitor.profile import Profile
from aiaas_server.monitor.profiles import add_profile, get_profile, when_made
from aiaas_server.monitor.traffic import Traffic
from aiaas_server.monitor.verdicts import drifts_of, note_verdict
from aiaas_server.monitor.windows import (
    DriftCounts,
    Windows,
    known_models,
    prune_windows,
    write_windows,
)
from aiaas_server.state.database import Database

_log = logging.getLogger("aiaas_server")

DRAIN_SECONDS: Final = 0.05
FLUSH_SECONDS: Final = 2.0
JUDGE_SECONDS: Final = 30.0
PRUNE_SECONDS: Final = 600.0
JUDGED_WINDOW: Final = 3600
_WRITE_TIMEOUT: Final = 30.0


class Known(NamedTuple):
    """What the registry says of a model."""

    model_id: str
    tenant: str
    policy: Policy


class Reference(NamedTuple):
    """The profile of a version and when it was made."""

    profile: Profile
    created: float


class Snapshot(NamedTuple):
    """How things stood a moment ago.

    Attributes:
        totals: Counts of this process since it began.
        drifts: The last verdicts.
        dropped: What there was no room to count.
    """

    totals: Mapping[Key, Traffic]
    drifts: Mapping[Key, Drift]
    dropped: Mapping[str, int]


class Monitor:
    """Monitoring of one process.

    Args:
        alerts: Hears of drift.
        clock: Seconds since 1970.
        learn_rows: Items of traffic that become the reference of a version without one.

    Attributes:
        collector: An `Observer`, and what `attach` puts beside a version.
        snapshot: For the metrics page; at most a few seconds old.
    """

    def __init__(
        self,
        database: Database,
        alerts: Alerts,
        *,
        clock: Callable[[], float] = time.time,
        learn_rows: int = 1000,
    ) -> None:
        self._database = database
        self._alerts = alerts
        self._clock = clock
        self.collector = Collector()
        self.snapshot = Snapshot({}, {}, {})
        self._windows = Windows(uuid.uuid4().hex)
        self._pending = Pending()
        self._learning = Learning(learn_rows)
        self._known: dict[str, Known | None] = {}
        self._references: dict[tuple[str, int], Reference] = {}
        self._totals: dict[Key, Traffic] = {}
        self._drifts: dict[Key, Drift] = {}
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    # Its life

    def attach(self, model: LoadedModel) -> None:
        """Look on at a version that is about to serve."""
        self.collector.attach(model)

    def start(self) -> None:
        """Begin to count."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="aiaas-monitor", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Count and write what is left; may take as long as the database does."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._attempt(self.flush)

    def _run(self) -> None:
        written = judged = time.monotonic()
        pruned = 0.0
        while not self._stop.wait(DRAIN_SECONDS):
            self._attempt(self.drain)
            now = time.monotonic()
            if now - written >= FLUSH_SECONDS:
                self._attempt(self.flush)
                written = time.monotonic()
            if now - judged >= JUDGE_SECONDS:
                self._attempt(self.judge)
                judged = time.monotonic()
            if now - pruned >= PRUNE_SECONDS:
                self._attempt(self.prune)
                pruned = time.monotonic()

    def _attempt(self, work: Callable[[], object]) -> None:
        try:
            work()
        except (ServerError, NotInTime) as error:
            _log.warning("monitoring waits for the database: %s", error)
        except Exception:
            _log.exception("monitoring failed; it goes on")

    # Counting

    def drain(self) -> None:
        """Count what has come since last time."""
        with self._lock:
            now = self._clock()
            picked = self.collector.take()
            self._count_traffic(picked, now)
            for tap, seen in picked.seen.items():
                self._count_seen(tap, seen, now)
            for (name, version), caller, answers in picked.told:
                known = self._model(name)
                predicted = predicted_by(answers)
                if predicted is not None and known is not None and _is_kept(known, caller):
                    self._remember(known, version, caller.request_id, predicted, now, final=True)

    def _count_traffic(self, picked: Picked, now: float) -> None:
        counted: dict[Key, Traffic] = {}
        for key, records in picked.records.items():
            counted.setdefault(key, Traffic()).add(records)
        for (key, name), times in picked.phases.items():
            seconds = np.array(times, np.float64) / 1e9
            counted.setdefault(key, Traffic()).phase(name).add(seconds)
        for key, count in picked.unseen.items():
            counted.setdefault(key, Traffic()).unseen += count
        for key, traffic in counted.items():
            self._totals.setdefault(key, Traffic()).merge(traffic)
            known = self._model(key[0])
            if known is not None:
                self._windows.add(known.model_id, key[1], "traffic", now, traffic)

    def _count_seen(self, tap: VersionTap, seen: Sequence[Seen], now: float) -> None:
        name, version = tap.key
        known = self._model(name)
        if known is None:
            return
        outputs = [one[2] for one in seen]
        if known.policy.feedback:
            predicted = tap.layout.predicted(outputs)
            for (_, _, _, caller), values in zip(seen, predicted, strict=True):
                if values and caller.request_id and _is_kept(known, caller):
                    self._remember(known, version, caller.request_id, values, now)
        if not known.policy.drift:
            return
        blocks = tap.layout.inputs([one[1] for one in seen]) + tap.layout.outputs(outputs)
        reference = self._references.get((known.model_id, version))
        if reference is None:
            self._learning.add(known.model_id, version, blocks)
            return
        counts = DriftCounts(reference.profile.id, reference.profile.empty())
        reference.profile.count(blocks, counts.counts)
        counts.rows = max((int(one.sum()) for one in counts.counts), default=0)
        self._windows.add(known.model_id, version, "drift", now, counts)

    def _remember(
        self,
        known: Known,
        version: int,
        request_id: str,
        predicted: Sequence[str | float],
        now: float,
        *,
        final: bool = False,
    ) -> None:
        model_id, tenant, _ = known
        self._pending.add(Remembered(tenant, request_id, model_id, version, predicted, now, final))

    def _model(self, name: str) -> Known | None:
        """What the registry says of a model; None of one that is not in it."""
        if name not in self._known:
            self._known[name] = None
            self._learn_models([name])
        return self._known[name]

    def _learn_models(self, names: Sequence[str]) -> None:
        found = self._database.read_now(lambda connection: known_models(connection, names))
        told = {name: Known(i, tenant, Policy.model_validate(p)) for name, i, tenant, p in found}
        self._known.update({name: told.get(name) for name in names})
        self._learn_references()

    def _learn_references(self) -> None:
        """Read references that are new, forget those that are gone."""
        ids = [known.model_id for known in self._known.values() if known is not None]
        if not ids:
            return

        def read(connection: Connection) -> dict[tuple[str, int], Reference]:
            found: dict[tuple[str, int], Reference] = {}
            for key, created in when_made(connection, ids).items():
                own = self._references.get(key)
                if own is not None and own.created == created:
                    found[key] = own
                    continue
                stored = get_profile(connection, *key)
                if stored is not None:
                    found[key] = Reference(*stored)
            return found

        self._references = self._database.read_now(read)
        self._learning.forget(self._references)

    # Writing

    def flush(self) -> None:
        """Write what has been counted; returns when the disk has it.

        Raises:
            ServerError: It does not take it now; it is written next time.
        """
        with self._lock:
            self.drain()
            self._publish()
            windows, waiting = self._windows.changed(), self._pending.waiting()
            learned = self._learning.finished()
            names = list(self._known)

            def write(connection: Connection) -> None:
                write_windows(connection, self._windows.node, windows)
                write_predictions(connection, waiting)
                for (model_id, version), profile in learned.items():
                    add_profile(connection, model_id, version, profile)

            if windows or waiting or learned:
                self._database.submit(write).result(_WRITE_TIMEOUT)
                self._windows.written(list(windows), self._clock())
                self._pending.written(waiting)
            if names:
                self._learn_models(names)

    def prune(self) -> None:
        """Remove what is older than it is kept."""
        now = self._clock()

        def work(connection: Connection) -> None:
            prune_windows(connection, now)
            prune_feedback(connection, now)

        self._database.submit(work).result(_WRITE_TIMEOUT)

    # Judging

    def judge(self) -> None:
        """Compare the last hour of each version with its reference; tell of what has changed."""
        with self._lock:
            names = {known.model_id: plain(name) for name, known in self._known.items() if known}
            tenants = {known.model_id: known.tenant for known in self._known.values() if known}
        now = self._clock()
        drifts = self._database.read_now(
            lambda connection: drifts_of(connection, names, JUDGED_WINDOW, now)
        )
        told: dict[Key, Drift] = {}
        for model_id, drift in drifts:
            told[full_name(tenants[model_id], drift.model), drift.version] = drift
            work = note_verdict(tenants[model_id], drift)
            alert = self._database.submit(work).result(_WRITE_TIMEOUT)
            if alert is not None:
                self._alerts.send(alert)
        with self._lock:
            self._drifts = told
            self._publish()

    def _publish(self) -> None:
        """Let the metrics page see how things stand: it never waits for what happens here."""
        totals: dict[Key, Traffic] = {}
        for key, traffic in self._totals.items():
            totals[key] = Traffic()
            totals[key].merge(traffic)
        dropped = {"record": self.collector.dropped, "prediction": self._pending.dropped}
        self.snapshot = Snapshot(totals, dict(self._drifts), dropped)


def _is_kept(known: Known, caller: Caller) -> bool:
    """Whether it is remembered what a caller was predicted, until it may say what was right.

    Not of other tenants: ids of requests are theirs to choose, and a public model is not theirs to
    correct.
    """
    return known.policy.feedback and caller.identity.tenant == known.tenant
