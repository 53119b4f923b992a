"""Guarded promotions and shadows as their users meet them: over HTTP, by SDK and command line."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from aiaas_client import APIStatusError, Client, Guard, Model, NotFoundError, RolledBackError
from aiaas_server.app import create_app
from aiaas_server.cli import app as commands
from aiaas_server.settings import Settings
from tests.graphs import fails_at, takes_long
from tests.server.http.serving import serving
from tests.waiting import wait_until
from tests.webhook import Hook, hook

pytestmark = pytest.mark.slow

STABLE, GOOD, SLOW, FAILING, WRONG = 1, 2, 3, 4, 5
LONG = 300.0  # seconds after which a test gives up


class Site:
    """A server with five versions of `m`, of which the first is in production.

    Attributes:
        client: Of it.
        hook: Gets its alerts.
        failed: Requests that callers saw fail.
    """

    def __init__(self, url: str, client: Client, alerts: Hook) -> None:
        self.url = url
        self.client = client
        self.hook = alerts
        self.failed: list[str] = []

    @contextmanager
    def callers(self) -> Iterator[None]:
        """Callers who name no version, for as long as the block lasts."""
        stop = threading.Event()
        threads = [threading.Thread(target=self._call, args=(stop, n)) for n in range(4)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def _call(self, stop: threading.Event, caller: int) -> None:
        with Client(self.url, max_retries=0) as client:
            number = caller
            while not stop.is_set():
                number += 1
                model = client.model("m", sticky_key=f"caller-{number}")
                try:
                    answer = model.infer(np.full((1, 4), number % 10, np.float32))
                    assert answer.array.shape == (1, 4)
                except APIStatusError as error:
                    self.failed.append(str(error))

    def ended(self) -> Model:
        """The model once no rollout goes on."""
        wait_until(
            lambda: self.client.models.about("m").serving.rollout is None,
            "the rollout never ended",
            LONG,
        )
        return self.client.models.about("m")

    def kinds(self, since: int) -> list[str]:
        """What was done since an entry of the history, the oldest first."""
        return [one.kind for one in self.client.models.history("m") if one.seq > since][::-1]

    def newest(self) -> Any:
        """The newest entry of the history."""
        return self.client.models.history("m", limit=1)[0]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, onnx_models: SimpleNamespace) -> Iterator[Site]:
    """One server for all tests, each of which leaves version 1 in production."""
    root = tmp_path_factory.mktemp("guarded")
    versions = {
        STABLE: onnx_models.scale(2.0),
        GOOD: takes_long(1),
        SLOW: takes_long(600),
        FAILING: fails_at(5),
        WRONG: onnx_models.scale(3.0),
    }
    with hook() as alerts:
        settings = Settings(data=root / "data", alert_url=alerts.url, disk_reserve_bytes=0)
        with serving(create_app(settings)) as server, Client(server.url) as client:
            for number, content in versions.items():
                assert client.models.deploy("m", content).version == number
                client.models.pin("m", number)
            client.models.promote("m", STABLE)
            yield Site(server.url, client, alerts)


def run(site: Site, *arguments: str) -> str:
    """What a command prints."""
    result = CliRunner().invoke(commands, [*arguments, "--url", site.url], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output


def put(url: str, path: str, document: Any) -> Any:
    """What `PUT /api/v1/models/m/...` answers."""
    connection = HTTPConnection(url.removeprefix("http://"), timeout=60)
    try:
        headers = {"content-type": "application/json"}
        connection.request("PUT", f"/api/v1/models/m/{path}", json.dumps(document), headers)
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 200, text
        return json.loads(text)
    finally:
        connection.close()


BROKEN = {
    "slow": (SLOW, {"max_p99_ratio": 1.5}, "99th percentile"),
    "failing": (FAILING, {}, "failed or were turned away"),
    "wrong": (WRONG, {"max_disagreement": 0.05}, "answered differently"),
}


@pytest.mark.parametrize(("what", "by"), [("slow", "sdk"), ("failing", "http"), ("wrong", "cli")])
def test_a_broken_version_goes_back_by_itself(site: Site, what: str, by: str) -> None:
    version, bounds, words = BROKEN[what]
    began, alerts = site.newest().seq, len(site.hook.received)
    guard = {"window": 1.0, "steps": [0.1, 1.0], **bounds}
    with site.callers():
        if by == "sdk":
            model = site.client.models.promote("m", version, guard=Guard(**guard))
            assert model.serving.rollout is not None
        elif by == "http":
            told = put(site.url, "aliases/production", {"version": version, "guard": guard})
            assert told["serving"]["rollout"]["version"] == version
        else:
            shown = run(
                site, "promote", "m", str(version), "--guard", "--max-disagreement", "0.05",
                "--window", "1", "--steps", "0.2,1",
            )  # fmt: skip
            assert "step 1 of 2" in shown
            assert "step 1 of 2" in run(site, "models")
        model = site.ended()
    assert model.serving.aliases == {"production": STABLE}
    assert site.kinds(began) == ["rollout_started", "rolled_back"]
    entry = site.newest()
    assert words in entry.reason
    with pytest.raises(RolledBackError, match=re.escape(entry.reason)):
        site.client.models.wait_rollout("m")
    assert entry.version == version
    wait_until(lambda: len(site.hook.received) > alerts, "no alert was posted")
    alert = json.loads(site.hook.received[alerts][1])
    assert (alert["kind"], alert["model"], alert["version"]) == ("guard", "m", version)
    assert alert["reasons"] == [entry.reason]
    assert words in run(site, "history", "m", "--json")
    if what != "failing":
        assert site.failed == []
    site.failed.clear()


def test_a_good_version_is_promoted_and_can_be_rolled_back(site: Site) -> None:
    models = site.client.models
    began = site.newest().seq
    guard = Guard(window=1.0, steps=[0.2, 0.5, 1.0], max_disagreement=0.05, min_requests=20)
    kinds = ["rollout_started", "rollout_advanced", "rollout_advanced", "promoted"]
    with site.client.models.changes(after=0) as feed, site.callers():
        models.promote("m", GOOD, guard=guard, note="the good one")
        rollout = models.monitoring("m").rollout
        assert rollout is not None
        assert (rollout.version, rollout.stable, rollout.steps) == (GOOD, STABLE, 3)
        assert rollout.waiting
        assert f"rollout of version {GOOD}" in run(site, "monitor", "m")
        assert models.wait_rollout("m", LONG).production == GOOD
        found = []
        for change in feed:
            if change.kind == "model" and change.data["change"] != "deployed":
                found.append(change.data["change"])
            if found[-4:] == kinds:
                break
    assert site.kinds(began) == kinds
    assert site.failed == []
    seen = models.monitoring("m")
    assert seen.rollout is None
    assert min(seen.version(number).requests for number in (STABLE, GOOD)) > 20
    assert seen.version(STABLE).failed == seen.version(GOOD).failed == 0
    assert models.rollback("m").production == STABLE
    assert float(site.client.model("m").infer(np.ones((1, 4), np.float32)).array[0, 0]) == 2.0


def test_a_shadow_is_compared_and_seen_by_no_caller(site: Site) -> None:
    models = site.client.models
    models.shadow("m", WRONG)
    with site.callers():
        wait_until(
            lambda: any(one.compared > 50 for one in models.monitoring("m").shadows),
            "the shadow was never compared",
            LONG,
        )
    assert site.failed == []
    (shadow,) = models.monitoring("m", window="5m").shadows
    assert (shadow.version, shadow.share, shadow.failed) == (WRONG, 1.0, 0)
    assert shadow.agreeing is not None
    assert shadow.agreeing < 0.2  # what is 0 is so in both
    assert shadow.largest_difference == 9.0
    assert shadow.latency_ratio is not None
    assert shadow.latency_ratio > 0
    told = run(site, "monitor", "m")
    assert "agreeing" in told
    models.unshadow("m")
    (shadow,) = models.monitoring("m", WRONG).shadows
    assert shadow.share is None
    assert models.monitoring("m", STABLE).shadows == []


def test_two_servers_exchange_a_model_byte_for_byte(site: Site, tmp_path: Path) -> None:
    place = site.client.models.export("m", tmp_path / "m.bundle", GOOD)
    settings = Settings(data=tmp_path / "data", disk_reserve_bytes=0)
    with serving(create_app(settings)) as server, Client(server.url) as other:
        brought = other.models.import_(place, alias="production")
        assert brought.digest == site.client.models.version("m", GOOD).digest
        assert other.model("m").infer(np.ones((1, 4), np.float32)).array[0, 0] == 2.0
        again = other.models.export("m", tmp_path / "again.bundle")
        names = sorted(path.name for path in place.iterdir())
        assert names == sorted(path.name for path in again.iterdir())
        for name in set(names) - {"bundle.json"}:
            assert (place / name).read_bytes() == (again / name).read_bytes()
        proof = other.models.delete("m", force=True)
        assert (proof.versions, proof.verified) == ([1], True)
        with pytest.raises(NotFoundError):
            other.model("m").infer(np.ones((1, 4), np.float32))
