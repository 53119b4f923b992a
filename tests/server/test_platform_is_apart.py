"""A server of a directory is what it was: nothing of state, registry or monitor is loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

APART = (
    "aiaas_server.platform",
    "aiaas_server.platform_routes",
    "aiaas_server.state",
    "aiaas_server.registry",
    "aiaas_server.monitor",
    "aiaas_server.http.manage",
    "aiaas_client.protocol.management",
    "sqlalchemy",
    "alembic",
    "obstore",
    "psycopg",
)
SERVE = """
import asyncio, sys
from pathlib import Path
from aiaas_server.serve import serve
from aiaas_server.app import create_app
from aiaas_server.settings import Settings

async def main():
    async with create_app(Settings(models=Path(sys.argv[1]))) as app:
        assert app.pool.ready_versions("m") == [1]

asyncio.run(main())
print(*sys.modules)
"""


def test_a_directory_is_served_without_what_a_registry_needs(
    onnx_models: SimpleNamespace, tmp_path: Path
) -> None:
    (tmp_path / "m.onnx").write_bytes(onnx_models.identity())
    command = [sys.executable, "-c", SERVE, str(tmp_path)]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "aiaas_server.core.pool.pool" in loaded
    assert [name for name in loaded if name.startswith(APART)] == []
