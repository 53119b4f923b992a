"""A shadow gets copies of what comes by every door: infer, the lane, predictions, in process."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from aiaas_client.protocol.management import Serving, Shadow
from aiaas_server.app import Application, create_app
from aiaas_server.core.events import Caller, InferenceRecord
from aiaas_server.embedded import EmbeddedServer
from aiaas_server.monitor.shadow import Shadows
from aiaas_server.monitor.shadow_counts import ShadowCounts
from aiaas_server.settings import Settings
from tests.server.http.conftest import CALLERS
from tests.server.monitor.staging import idle, row
from tests.task_bundles import DIGIT_CARD, write_bundle

INFER = "/v2/models/m/infer"
PREDICT = "/v1/models/m:predict"


def picture() -> dict[str, str]:
    """A grey square, as the task takes it."""
    drawn = BytesIO()
    Image.new("L", (28, 28), 128).save(drawn, "PNG")
    return {"b64": base64.b64encode(drawn.getvalue()).decode()}


@pytest.fixture
def repository(tmp_path: Path, onnx_models: SimpleNamespace) -> Path:
    """Versions 1 and 2 of `m`, which reads digits; both are the same, and both serve."""
    root = tmp_path / "models"
    write_bundle(root, "m", DIGIT_CARD, onnx_models.mlp())
    shutil.copytree(root / "m" / "1", root / "m" / "2")
    (root / "m" / "config.json").write_text('{"version_policy": {"all": {}}}')
    return root


def oldest(name: str, caller: Caller) -> int | None:
    """The version for calls that name none."""
    return 1


class Wired:
    """Shadows of an application's pool, of which version 2 of `m` is one."""

    def __init__(self, app: Application) -> None:
        self.pool = app.pool
        self.shadows = Shadows(self.pool.find, self.pool.models, node="a")
        self.shadows.follow("id", "m", Serving(shadow=Shadow(version=2)))

    async def counts(self) -> ShadowCounts:
        """What was counted, when all copies have been run."""
        mirror = self.shadows._models["m"].shadow
        assert mirror is not None
        await idle(mirror)
        return self.shadows._watches["id", 2].taken()


@pytest.mark.parametrize("adapter", ["bare", "lane", "edge"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        (
            INFER,
            {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 784],
                         "data": [0.5] * 784}]},
        ),
        (PREDICT, {"instances": [picture(), picture()]}),
    ],
    ids=["infer", "predict"],
)  # fmt: skip
async def test_by_every_door(repository: Path, adapter: str, path: str, body: Any) -> None:
    records: list[InferenceRecord] = []
    settings = Settings(models=repository)
    async with create_app(settings, observers=[records.append], choose=oldest) as app:
        wired = Wired(app)
        call: Callable[..., Any] = CALLERS[adapter](app)
        for number in range(3):
            headers = {"x-request-id": f"r{number}", "content-type": "application/json"}
            answer = await call("POST", path, json.dumps(body).encode(), headers)
            assert answer.status == 200, answer.body
            counts = await wired.counts()
            assert (counts.agreed, counts.failed, counts.dropped) == (1, 0, 0)
            assert counts.labels == counts.same_labels > 0  # digits are labels
    asked = [record.caller.request_id for record in records if not record.caller.shadow]
    copied = [record.caller.request_id for record in records if record.caller.shadow]
    assert asked == copied == ["r0", "r1", "r2"]
    assert {record.version for record in records if record.caller.shadow} == {2}


def test_in_process_where_a_model_runs_in_the_callers_thread(repository: Path) -> None:
    server = EmbeddedServer(Settings(models=repository))
    try:
        server.start()

        async def wire() -> Wired:
            return Wired(server._app)

        wired = server.submit(wire()).result(60)
        for _ in range(3):
            server.infer("m", 1, {"image": row(*[0.5] * 784)}, ("logits",))
        _, outcome = server.infer_queued("m", 1, {"image": row(*[0.5] * 784)}, (), 60.0).result(60)
        assert list(outcome.outputs) == ["logits"]
        counts = server.submit(wired.counts()).result(60)
        assert counts.agreed + counts.dropped == 4
        assert counts.agreed > 0
    finally:
        server.close()
