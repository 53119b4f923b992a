"""`aiaas`, and `python -m aiaas_server`."""

from __future__ import annotations

import sys

EXTRA = 'pip install "aiaas-client[server]"'
NEEDED = frozenset(  # the modules of that extra
    {"typer", "rich", "starlette", "uvicorn", "uvloop", "httptools", "onnxruntime", "orjson"}
    | {"google"}  # of protobuf
)


def main() -> None:
    """Run the command line; a missing part is told by the command that installs it."""
    try:
        from aiaas_server.cli import app

        app()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in NEEDED:
            raise
        print(f"aiaas: {missing} is not installed; run: {EXTRA}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
