"""The workers of one real server share a chain, which is whole after a kill too."""

from __future__ import annotations

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from aiaas_server.tenancy.audit_offline import verify_directory
from tests.server.process.conftest import Command, start_aiaas

__all__ = ["start_aiaas"]

ACTS = 60


def act(server: Command, number: int) -> int:
    """One that fails, on a connection of its own, which any of the workers may take."""
    connection = server.http()
    try:
        connection.request("DELETE", f"/api/v1/models/m{number}")
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


@pytest.mark.slow
def test_workers_write_one_chain_and_a_kill_leaves_it_whole(
    start_aiaas: Any, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    server = start_aiaas("--data", data, "--workers", "2")
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(lambda n: act(server, n), range(ACTS))) == {404}
    status, body = server.get("/api/v1/audit?limit=1000&result=failed")
    assert status == 200
    objects = {one["object"] for one in json.loads(body)["items"]}
    assert objects == {f"m{number}" for number in range(ACTS)}
    assert verify_directory(data).intact, "while the server runs"
    server.signal(signal.SIGKILL)
    server.exit_code()
    found = verify_directory(data)
    assert found.intact, found
    assert (found.entries, found.last, found.unfinished) == (2 * ACTS, 2 * ACTS, ())
    again = start_aiaas("--data", data)
    assert act(again, 0) == 404
    again.signal()
    assert again.exit_code() == 0
    found = verify_directory(data)
    assert found.intact, found
    assert found.entries == 2 * ACTS + 2
