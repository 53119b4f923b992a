"""Verdicts on versions: read over all processes, and told once when they change."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

from sqlalchemy import Connection, select

from aiaas_client.protocol.monitoring import Drift
from aiaas_server.core.names import full_name
from aiaas_server.monitor.alerts import Alert
from aiaas_server.monitor.drift import drift_of
from aiaas_server.monitor.profiles import StoredProfile, get_profile, when_made
from aiaas_server.monitor.windows import DriftCounts, Window, read_windows
from aiaas_server.state.tables import CHANGES

KIND: Final = "drift"
REMIND_SECONDS: Final = 24 * 3600.0
_REASONS_TOLD: Final = 10


def drifts_of(
    connection: Connection, names: Mapping[str, str], window: int, now: float
) -> list[tuple[str, Drift]]:
    """The verdict on every version of some models that has a reference.

    Args:
        names: Of models by their ids.
        window: Seconds to look back.
    """
    found: list[tuple[str, Drift]] = []
    windows: dict[str, list[Window]] = {}
    for model_id, version in sorted(when_made(connection, list(names))):
        stored = get_profile(connection, model_id, version)
        if stored is None:
            continue
        if model_id not in windows:
            windows[model_id] = read_windows(connection, model_id, "drift", now - window, now=now)
        own = [one for one in windows[model_id] if one.version == version]
        found.append((model_id, judged(names[model_id], version, window, stored, own, now)))
    return found


def judged(
    model: str, version: int, window: int, stored: StoredProfile, counted: list[Window], now: float
) -> Drift:
    """The verdict on one version's windows; those in the bins of another profile do not count."""
    profile = stored.profile
    total = DriftCounts(profile.id, profile.empty())
    for one in counted:
        counts = DriftCounts.read(one.counts)
        if counts.profile == profile.id:
            total.merge(counts)
    drift = drift_of(model, version, window, profile, total.counts, total.rows)
    return drift.model_copy(update={"at": now, "reference_created": stored.created})


def note_verdict(tenant: str, drift: Drift) -> Callable[[Connection], Alert | None]:
    """A transaction that tells the feed of a verdict if it is news; gives the alert then.

    It is news that a version has drifted, unless that was told within a day, and that one which
    had is as its reference again.
    """

    def work(connection: Connection) -> Alert | None:
        now = time.time()
        last, at = _last_told(connection, tenant, drift)
        is_old = last == "raised" and now - at < REMIND_SECONDS
        if drift.verdict == "drifted" and not is_old:
            state = "raised"
        elif drift.verdict == "ok" and last == "raised":
            state = "cleared"
        else:
            return None
        data = {
            "version": drift.version,
            "state": state,
            "verdict": drift.verdict,
            "reasons": drift.reasons[:_REASONS_TOLD],
        }
        connection.execute(
            CHANGES.insert().values(tenant=tenant, kind=KIND, object=drift.model, data=data, at=now)
        )
        details = {
            "rows": drift.rows,
            "window": drift.window,
            "reference": drift.source,
            "features": [one.name for one in drift.features if one.verdict == "drifted"],
        }
        reasons = tuple(drift.reasons[:_REASONS_TOLD])
        return Alert(KIND, full_name(tenant, drift.model), drift.version, state, reasons, details)

    return work


def _last_told(connection: Connection, tenant: str, drift: Drift) -> tuple[str, float]:
    """What the feed said last of this version, and when; "" where it said nothing."""
    asked = (
        select(CHANGES.c.data, CHANGES.c.at)
        .where(CHANGES.c.tenant == tenant, CHANGES.c.kind == KIND, CHANGES.c.object == drift.model)
        .order_by(CHANGES.c.seq.desc())
        .limit(100)
    )
    for data, at in connection.execute(asked):
        if data["version"] == drift.version:
            return data["state"], at
    return "", 0.0
