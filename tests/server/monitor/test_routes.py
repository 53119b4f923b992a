"""Monitoring over the wire: routes, the SDK in both flavours, commands, the metrics page."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from aiaas_client import (
    AsyncClient,
    BadRequestError,
    Client,
    ConfigurationError,
    InputError,
    Monitoring,
    NotFoundError,
)
from aiaas_server.app import create_app
from aiaas_server.cli import app as commands
from aiaas_server.monitor.feedback import Remembered, write_predictions
from aiaas_server.settings import Settings
from tests.conftest import BUILDERS, scale
from tests.server.http.serving import LiveServer, serving
from tests.server.monitor.conftest import add_model, prepared_database
from tests.task_bundles import write_repository

RNG = np.random.default_rng(5)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Tiny models with cards, of which the registry knows `moods`, `m` and `quiet`."""
    root = tmp_path_factory.mktemp("monitoring")
    models = write_repository(root / "models", BUILDERS)
    for version, factor in ((1, 2.0), (2, 3.0)):
        folder = models / "m" / str(version)
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(scale(factor))
    (models / "m" / "config.json").write_text(json.dumps({"version_policy": {"all": {}}}))
    database = prepared_database(root / "data")
    add_model(database, "m", (1, 2))
    add_model(database, "moods")
    add_model(database, "quiet")
    database.close()
    with serving(create_app(Settings(models=models, data=root / "data"))) as live:
        yield live


@pytest.fixture
def client(server: LiveServer) -> Iterator[Client]:
    with Client(server.url, max_retries=0) as made:
        yield made


def x(rows: int, shift: float = 0.0) -> np.ndarray:
    return RNG.normal(shift, 1.0, (rows, 4)).astype(np.float32)


def test_a_label_joins_the_answer_that_was_just_given(client: Client) -> None:
    """However soon it comes: what is remembered is written first."""
    model = client.model("m", 2)
    result = model.infer(x=np.array([[0, 0, 9, 0], [5, 0, 0, 0]], np.float32))
    told = client.feedback(result, 2)
    assert (told.status, told.model, told.version) == ("recorded", "m", 2)
    assert (told.predicted, told.correct) == ("2", True)
    assert client.feedback(result.request_id, "1", row=1).correct is False
    assert client.feedback(result, 2).status == "unchanged"
    assert client.feedback(result, 1).status == "replaced"
    with pytest.raises(NotFoundError, match="no prediction is remembered for item 7"):
        client.feedback(result, 1, row=7)


def test_a_prediction_carries_the_request_that_it_answers(client: Client) -> None:
    good, bad = client.model("moods").predict_many(["good", "bad"])
    assert good.request_id
    assert client.feedback(good, good.label).correct is True
    told = client.feedback_many([(bad, "positive"), ("never-heard", 1), (good.request_id, "x", 99)])
    assert [one.status for one in told] == ["recorded", "unknown", "unknown"]
    assert told[0].correct is False
    latency = client.models.monitoring("moods").version(1).latency
    assert latency["preprocess"].count >= 1
    assert latency["postprocess"].count >= 1


def test_monitoring_tells_of_each_version(client: Client) -> None:
    client.model("m", 1).infer(x=x(3))
    found = client.models.monitoring("m", window="5m")
    assert isinstance(found, Monitoring)
    one = found.version(1)
    assert one.requests >= 1
    assert one.rows >= 3
    assert one.latency["total"].p99 > 0
    assert sum(point.requests for point in one.series) == one.requests
    assert [v.version for v in client.models.monitoring("m", 1).versions] == [1]
    assert client.models.monitoring("m", "production").versions[0].version == 2
    with pytest.raises(KeyError, match="nothing is known of version 9"):
        found.version(9)


def test_a_reference_of_own_data_finds_what_has_moved(client: Client) -> None:
    reference = x(400)
    made = client.models.set_profile("m", 1, {"x": reference}, {"y": reference * 2})
    assert (made.version, made.source, made.rows) == (1, "training", 400)
    assert client.models.profile("m", 1) == made
    client.model("m", 1).infer(x=x(60))
    (few,) = client.models.drift("m", 1).versions
    assert (few.verdict, few.source) == ("few", "training")
    for _ in range(5):
        client.model("m", 1).infer(x=x(60, shift=1.0))
    (drift,) = client.models.drift("m", 1).versions
    assert drift.verdict == "drifted"
    assert {one.name for one in drift.features if one.verdict == "drifted"} >= {"x[0]", "x[3]"}
    client.models.remove_profile("m", 1)
    with pytest.raises(NotFoundError, match="has no reference yet"):
        client.models.profile("m", 1)
    with pytest.raises(NotFoundError, match="has no reference yet"):
        client.models.remove_profile("m", 1)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"x": np.ones((5, 4))}, "at least 20 rows, got 5"),
        ({"x": np.ones((30, 3))}, r"inputs.x: expected shape \(-1, 4\), got \(30, 3\)"),
        ({"z": np.ones((30, 4))}, r"expected some of \['x'\], got 'z'"),
        ({"x": [[1, 2, 3, 4], [5]]}, "inhomogeneous|equal lengths"),
        ({"x": [["a"] * 4] * 30}, "inputs.x: expected nested lists"),
    ],
    ids=["few", "shape", "name", "ragged", "texts"],
)
def test_data_that_are_no_reference_are_refused(client: Client, inputs: Any, words: str) -> None:
    with pytest.raises((BadRequestError, InputError, ValueError), match=words):
        client.models.set_profile("m", 1, inputs)


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("models/unknown/monitoring", 404, "model 'unknown' is not in the registry"),
        ("models/m/monitoring?window=2h", 400, "window: expected one of 5m, 15m"),
        ("models/m/monitoring?version=9", 404, "has no version 9"),
        ("models/m/drift?version=canary", 404, "has no version or alias 'canary'"),
        ("models/m/versions/2/profile", 404, "has no reference yet"),
        ("models/m/versions/%2e%2e/profile", 400, "not allowed as path segments"),
    ],
)
def test_what_cannot_be_told_is_refused_by_name(
    client: Client, path: str, status: int, words: str
) -> None:
    with pytest.raises((NotFoundError, BadRequestError), match=words) as caught:
        client.request("GET", f"/api/v1/{path}")
    assert caught.value.status_code == status


@pytest.mark.parametrize(
    "body",
    [
        {"items": []},
        {"items": [{"request_id": "r"}]},
        {"items": [{"request_id": "../x", "label": 1}]},
        {"items": [{"request_id": "r", "label": [1]}]},
        {"items": [{"request_id": "r", "label": None}]},
        {"items": [{"request_id": "r", "label": 1, "row": -1}]},
        {"items": [{"request_id": "r", "label": 1, "extra": 1}]},
        {"items": [{"request_id": "r", "label": 1}] * 5001},
        [],
    ],
)
def test_labels_that_are_none_are_refused(client: Client, body: Any) -> None:
    with pytest.raises(BadRequestError):
        client.request("POST", "/api/v1/feedback", json=body)


def test_the_sdk_refuses_what_is_no_label_before_it_leaves(client: Client) -> None:
    for about, label in (("", 1), (object(), 1), ("not an id", 1), ("r", [1])):
        with pytest.raises(InputError, match="feedback"):
            client.feedback(about, label)
    with pytest.raises(InputError, match="item 0: expected"):
        client.feedback_many(["r"])
    with pytest.raises(InputError, match=r"item 0: expected \(request id, label\) .* got .*'r'"):
        client.feedback_many([{"request_id": "r", "label": 1}])  # type: ignore[list-item]


def test_tasks_and_raw_answers_have_the_same_calls(server: LiveServer) -> None:
    async def run() -> None:
        async with AsyncClient(server.url) as client:
            result = await client.model("m", 2).infer(x=x(1))
            assert (await client.feedback(result, 0)).status == "recorded"
            (unknown,) = await client.feedback_many([("never-heard", 1)])
            assert unknown.code == 404
            found = await client.models.monitoring("m")
            assert found.version(2).quality.labels >= 1
            raw = await client.models.with_raw_response.drift("m", 2)
            assert raw.status == 200
            assert raw.parse().model == "m"

    asyncio.run(run())
    with Client(server.url) as client:
        given = client.model("m", 2).infer(x=x(1))
        told = client.with_raw_response.feedback(given, 0)
        assert told.status == 200
        assert told.parse().status == "recorded"


@pytest.mark.slow
def test_the_picture_shows_every_version_and_its_drift(client: Client) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    client.model("m", 2).infer(x=x(1))
    client.models.set_profile("m", 2, {"x": x(100)})
    figure = client.models.monitoring("m").plot()
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:3] == ["requests/s", "failed, %", "latency, ms"]
    assert titles[3].startswith("drift of version 2: ")
    plt.close(figure)
    empty = client.models.monitoring("quiet").plot(plt.figure())
    assert empty.axes[3].get_title() == "drift: no reference yet"
    plt.close(empty)
    client.models.remove_profile("m", 2)


def test_without_matplotlib_the_extra_is_named(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigurationError, match=r"aiaas-client\[plot\]"):
        client.models.monitoring("quiet").plot()


def test_the_commands_show_and_tell(server: LiveServer, client: Client, tmp_path: Path) -> None:
    result = client.model("m", 2).infer(x=np.array([[0, 0, 9, 0]], np.float32))
    runner = CliRunner()

    def run(*args: str, text: str | None = None) -> Any:
        return runner.invoke(commands, [*args, "--url", server.url], input=text)

    told = run("feedback", result.request_id, "2")
    assert told.exit_code == 0, told.output
    assert "recorded" in told.output
    lines = json.dumps({"request_id": result.request_id, "label": 2}) + "\n\n"
    told = run("feedback", "--json", text=lines + '{"request_id": "never-heard", "label": 1}')
    assert told.exit_code == 1
    assert "1 of 2 requests are not remembered" in told.output
    assert run("feedback", "r").exit_code == 2
    assert run("feedback", text="nonsense").exit_code == 2
    shown = run("monitor", "m", "--version", "2")
    assert shown.exit_code == 0, shown.output
    for word in ("requests", "compute", "p99", "drift of version 2"):
        assert word in shown.output
    document = json.loads(run("monitor", "m", "--json").stdout)
    assert document["model"] == "m"
    assert "no version of quiet was called" in run("monitor", "quiet").output
    assert run("monitor", "unknown").exit_code == 1


def test_the_metrics_page_tells_of_phases_and_alerts(client: Client) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    client.model("m", 2).infer(x=x(1))
    client.models.monitoring("m")  # writes, and lets the page see what was counted
    page = client.request("GET", "/metrics").text
    families = {family.name: family for family in text_string_to_metric_families(page)}
    phases = families["aiaas_phase_duration_seconds"]
    found = {s.labels["phase"] for s in phases.samples if s.labels.get("model") == "m"}
    assert found >= {"queue", "compute"}
    assert "aiaas_drift_score" in families
    assert "aiaas_monitor_unseen" in families
    of = {"model": "m", "version": "2", "phase": "compute"}
    buckets = [
        (float(s.labels["le"]), s.value)
        for s in phases.samples
        if s.name.endswith("_bucket") and of.items() <= s.labels.items()
    ]
    assert buckets
    assert [value for _, value in buckets] == sorted(value for _, value in buckets)


def test_a_label_of_a_request_that_another_process_answered(
    server: LiveServer, client: Client
) -> None:
    """It is in the database, not in this process."""
    platform = server.app._platform
    assert platform is not None
    from aiaas_server.monitor.windows import known_models

    ((_, model_id, _, _),) = platform.database.read_now(lambda c: known_models(c, ["quiet"]))
    one = Remembered("default", "elsewhere", model_id, 1, ["a"], time.time(), False)
    platform.database.submit(lambda c: write_predictions(c, [one])).result()
    assert client.feedback("elsewhere", "a").correct is True
