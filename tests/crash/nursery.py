"""Starts servers by forking a process that has imported them: what a start takes is then its own.

A process of this kind reads orders from its standard input, one JSON document a line, and answers
each with one. It imports modules and starts no thread of ours, so that a fork of it is what
`python -m aiaas_server` is once that has imported the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class Nursery:
    """The process that is forked, and a way to talk to it."""

    def __init__(self) -> None:
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._turn = threading.Lock()

    def fork(self, arguments: Sequence[str], environment: Mapping[str, str], output: Path) -> int:
        """Start `aiaas ARGUMENTS`; gives its process id, which is that of its group too."""
        order = {"arguments": list(arguments), "environment": dict(environment)}
        started: int = self._ask({**order, "output": str(output)})
        return started

    def wait(self, process: int) -> int:
        """Wait for a process that was started here; gives its exit code, negative for a signal."""
        code: int = self._ask({"wait": process})
        return code

    def has_ended(self, process: int) -> bool:
        """Whether it has; that is then all that is left to ask."""
        return bool(self._ask({"poll": process}))

    def close(self) -> None:
        """End it; what it started has ended before."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def _ask(self, order: Mapping[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._turn:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())


def main() -> None:
    """Read orders to the end."""
    from aiaas_server.core.pool.memory import share_one_heap

    share_one_heap()
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            answer: Any = os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1])
        elif "poll" in order:
            answer = os.waitid(os.P_PID, order["poll"], os.WEXITED | os.WNOWAIT | os.WNOHANG)
            answer = answer is not None
        else:
            answer = _fork(order)
        print(json.dumps(answer), flush=True)


def _fork(order: Mapping[str, Any]) -> int:
    process = os.fork()
    if process == 0:
        os.setsid()
        sink = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        source = os.open(os.devnull, os.O_RDONLY)
        for given, wanted in ((source, 0), (sink, 1), (sink, 2)):
            os.dup2(given, wanted)
        os.environ.update(order["environment"])
        sys.argv = ["aiaas", *order["arguments"]]
        from aiaas_server.__main__ import main as serve

        code: Any = 0
        try:
            serve()
        except SystemExit as end:
            code = end.code
        # onnxruntime would join a thread that its import began, and that no fork has.
        os._exit(code if isinstance(code, int) else 1)
    return process


if __name__ == "__main__":
    main()
