"""A client and a server with limits: the client keeps to them, and is refused nearly nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiaas_client import Client, RateLimitError
from aiaas_client.protocol.tenants import UNLIMITED
from aiaas_server.app import create_app
from aiaas_server.settings import Settings
from tests.server.http.serving import serving
from tests.tenants import Tenants

ROW = np.ones((1, 4), np.float32)


@pytest.mark.slow
def test_a_pool_that_asks_twice_what_it_may_is_slowed_not_refused(
    tmp_path: Path, make_repository: Any, onnx_models: Any
) -> None:
    root = make_repository({"scale": onnx_models.scale()})
    tenants = Tenants(tmp_path / "data")
    tenants.tenant("acme", UNLIMITED.model_copy(update={"requests_per_second": 50.0, "burst": 50}))
    key = tenants.key("acme")
    app = create_app(Settings(models=root, data=tmp_path / "data", tenants=True))

    def refused(client: Client) -> list[RateLimitError]:
        def one(_: int) -> RateLimitError | None:
            try:
                client.model("scale").infer(x=ROW)
            except RateLimitError as error:
                return error
            return None

        one(0)
        with ThreadPoolExecutor(64) as pool:
            return [error for error in pool.map(one, range(200)) if error is not None]

    with serving(app) as server:
        with Client(server.url, api_key=key, max_retries=0) as client:
            assert len(refused(client)) <= 6
            (known,) = client.rate_limits
            assert known[:4] == (server.url, "requests", 50, 1)
        with Client(server.url, api_key=key, max_retries=0, pace=False) as client:
            errors = refused(client)
    assert len(errors) > 100
    assert {(error.limit, error.remaining) for error in errors} == {("requests_per_second", 0)}
    assert all(error.retry_after is not None and error.retry_after >= 1 for error in errors)
