"""`aiaas`, and `python -m aiaas_server`."""

from __future__ import annotations

import signal
import sys

from aiaas_server.interrupts import leaving_at_once

FOR_ALL = frozenset({"typer", "rich"})  # what the commands that only call a server need, too
WITH_SERVER = frozenset({"serve", "check"})
NEEDED = frozenset(  # the modules of that extra
    {"typer", "rich", "starlette", "uvicorn", "uvloop", "httptools", "onnxruntime", "orjson"}
    | {"google"}  # of protobuf
)


def main() -> None:
    """Run the command line; a missing part is told by the command that installs it."""
    try:
        with leaving_at_once():
            from aiaas_server.core.pool.memory import share_one_heap

            share_one_heap()  # before the imports below start the first thread
            from aiaas_server.cli import app
        app()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in NEEDED:
            raise
        print(f"aiaas: {missing} is not installed; run: {install(missing)}", file=sys.stderr)
        sys.exit(1)


def install(missing: str) -> str:
    """The command that installs the smallest extra with what the command line asks for."""
    small = missing in FOR_ALL and WITH_SERVER.isdisjoint(sys.argv[1:2])
    return f'pip install "aiaas-client[{"cli" if small else "server"}]"'


if __name__ == "__main__":
    main()
