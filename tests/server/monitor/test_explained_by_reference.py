"""Explanations of a version that has only a reference profile to be compared with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from aiaas_server.app import create_app
from aiaas_server.monitor.features import Block
from aiaas_server.monitor.profile import make_profile
from aiaas_server.monitor.profiles import put_profile
from aiaas_server.settings import Settings
from tests.graphs import model, value
from tests.server.http.serving import AsgiCaller
from tests.server.monitor.conftest import add_model, prepared_database


async def test_rows_are_drawn_from_the_reference_of_the_version(tmp_path: Path) -> None:
    """Without a reference it is refused and said what to give; with one it says what it drew."""
    place = tmp_path / "models" / "m" / "1"
    place.mkdir(parents=True)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    weights = np.array([[1], [2], [0], [-1]], np.float32)
    content = model(nodes, [value("x", ["n", 4])], [value("y", ["n", 1])], w=weights)
    (place / "model.onnx").write_bytes(content)
    data = tmp_path / "data"
    database = prepared_database(data)
    model_id = add_model(database)
    body = {"instances": [[5.0, 5.0, 5.0, 5.0]]}
    async with create_app(Settings(models=tmp_path / "models", data=data)) as app:
        call = AsgiCaller(app)
        refused = await call("POST", "/v1/models/m:explain", body)
        assert refused.status == 400
        assert "parameters.background" in refused.json()["error"]
        rows = np.random.default_rng(0).normal(5, 0.1, (500, 4))
        block = Block(tuple(f"x[{at}]" for at in range(4)), "input", "number", rows)
        profile = make_profile([block], "training")
        await database.write(lambda connection: put_profile(connection, model_id, 1, profile))
        found = (await call("POST", "/v1/models/m:explain", body)).json()["explanations"][0]
    database.close()
    assert "drawn from the version's reference profile" in found["background"]
    assert found["base"] == pytest.approx(10, abs=0.3)
    assert [one["feature"] for one in found["contributions"]] == [f"x[{at}]" for at in range(4)]
    assert found["contributions"][2]["contribution"] == 0
