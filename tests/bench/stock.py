"""Our application on uvicorn's own HTTP protocol: `python stock.py MODELS PORT`."""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn

from aiaas_server.app import create_app
from aiaas_server.settings import Settings

if __name__ == "__main__":
    uvicorn.run(
        create_app(Settings(models=Path(sys.argv[1]))),
        host="127.0.0.1",
        port=int(sys.argv[2]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )
