"""Alerts go to the operator's address and nowhere else, are tried again, and never wait."""

from __future__ import annotations

import json
import threading

import pytest

from aiaas_server.monitor.alerts import Alert, Alerts, post_json
from tests.waiting import wait_until
from tests.webhook import hook

DRIFT = Alert("drift", "m", 3, "raised", ("input 'x': drifted",), {"rows": 400})


def test_an_alert_is_posted_as_json_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with hook() as server:
        alerts = Alerts(server.url)
        alerts.send(DRIFT)
        wait_until(lambda: alerts.posted["delivered"] == 1)
        alerts.close()
        ((path, body),) = server.received
    document = json.loads(body)
    assert path == "/hook"
    assert document.pop("at") > 0
    assert document == {
        "kind": "drift",
        "model": "m",
        "version": 3,
        "state": "raised",
        "reasons": ["input 'x': drifted"],
        "details": {"rows": 400},
    }
    assert "alert: drift raised for version 3 of model 'm': input 'x': drifted" in caplog.text
    assert alerts.raised == {("drift", "m", "3"): 1}


def test_a_server_that_is_busy_is_asked_again() -> None:
    with hook(503, 429) as server:
        alerts = Alerts(server.url, pauses=(0.01, 0.01))
        alerts.send(DRIFT)
        wait_until(lambda: alerts.posted["delivered"] == 1)
        alerts.close()
        assert len(server.received) == 3


@pytest.mark.parametrize("status", [302, 307, 400])
def test_redirects_are_not_followed_and_refusals_not_repeated(status: int) -> None:
    with hook(status) as server:
        alerts = Alerts(server.url, pauses=(0.01, 0.01))
        alerts.send(DRIFT)
        wait_until(lambda: alerts.posted["failed"] == 1)
        alerts.close()
        assert [path for path, _ in server.received] == ["/hook"]


def test_an_address_that_nobody_answers_fails_in_the_background(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with hook() as server:
        url = server.url
    alerts = Alerts(url, pauses=(0.01,))
    alerts.send(DRIFT)
    wait_until(lambda: alerts.posted["failed"] == 1)
    alerts.close()
    assert "an alert could not be posted" in caplog.text
    assert url not in caplog.text, "an address may hold a secret"


def test_alerts_never_wait_and_what_does_not_fit_is_dropped() -> None:
    held = threading.Event()

    def post(url: str, body: bytes) -> int:
        held.wait(60)
        return 200

    alerts = Alerts("http://127.0.0.1:1/", post=post)
    for _ in range(400):
        alerts.send(DRIFT)
    assert alerts.posted["dropped"] > 100
    held.set()
    alerts.close()
    alerts.send(DRIFT)
    assert alerts.raised["drift", "m", "3"] == 401


def test_without_an_address_nothing_is_posted() -> None:
    alerts = Alerts()
    alerts.send(DRIFT)
    alerts.close()
    assert not alerts.posted


def test_only_http_is_spoken(tmp_path: object) -> None:
    with pytest.raises(OSError, match="unknown url type"):
        post_json(f"file://{tmp_path}/x", b"{}")
