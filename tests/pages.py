"""The documents as programs, and how they are run; the standard library alone.

    python tests/pages.py docs/quickstart.md      in an empty directory

What is fenced as `python` or `console` runs, from the top of a page to its end; other fences show.
The Python of a page is one program. In `console`, a line after `$ ` is a command and what stands
below it must be in its output, `...` for any text. `aiaas serve` runs until the page starts another
server or ends. The line with `pip install` makes the environment and is not run here.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ADDRESS = "127.0.0.1:8000"  # where the documents have their server
FENCE = re.compile(r"^```(python|console)\n(.*?)^```", re.DOTALL | re.MULTILINE)
START = 300  # seconds until a server must be ready, and for one command


class Block(NamedTuple):
    """A part of a page that runs: its language, its text, and the line it begins at."""

    language: str
    text: str
    line: int


class Command(NamedTuple):
    """A line for the shell, and what is shown of its output."""

    line: str
    shown: str


def blocks(page: Path) -> list[Block]:
    """What runs, in order."""
    text = page.read_text("utf-8")
    return [
        Block(found[1], found[2], text.count("\n", 0, found.start()) + 2)
        for found in FENCE.finditer(text)
    ]


def commands(block: Block) -> Iterator[Command]:
    """The commands of a `console` block. A quotation or a backslash goes on in the next line."""
    if block.language != "console":
        return
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        line, *rest = part.splitlines()
        while rest and (line.endswith("\\") or _is_open(line)):
            line = f"{line}\n{rest.pop(0)}"
        yield Command(line, "\n".join(rest).strip())


def _is_open(line: str) -> bool:
    try:
        shlex.split(line, comments=True)
    except ValueError:
        return True
    return False


def requirements(page: Path) -> list[str]:
    """What the page says to install: `["aiaas-client[server]", "pandas"]`; empty if nothing."""
    for block in blocks(page):
        for command in commands(block):
            if command.line.startswith("pip install "):
                return shlex.split(command.line, comments=True)[2:]
    return []


def run_python(block: Block, page: Path, address: str, names: dict[str, object]) -> None:
    """Run one block with the names that those before it have made."""
    text = "\n" * (block.line - 1) + block.text.replace(ADDRESS, address)
    exec(compile(text, str(page), "exec"), names)


class Shell:
    """Runs commands here, and keeps the server that one of them starts."""

    def __init__(self, port: int) -> None:
        self.address = f"127.0.0.1:{port}"
        self._server: subprocess.Popen[bytes] | None = None
        self._env = {k: v for k, v in os.environ.items() if not k.startswith("AIAAS_SERVER_")} | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "AIAAS_SERVER_PORT": str(port),
            "AIAAS_SERVER_METRICS_PORT": "0",
        }

    def run(self, command: Command) -> None:
        """Run a command and compare what it prints.

        Raises:
            AssertionError: it failed, or did not print what the page shows.
        """
        line = command.line.replace(ADDRESS, self.address)
        if line.startswith("pip install "):
            return
        if line.startswith("aiaas serve"):
            self._serve(line)
            return
        done = subprocess.run(
            ["bash", "-c", line],
            env=self._env | self._url(line),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START,
            check=False,
        )
        print(f"$ {line}\n{done.stdout}{done.stderr}", flush=True)
        assert done.returncode == 0, f"{line}: exit code {done.returncode}\n{done.stderr}"
        expected = ".*".join(re.escape(part) for part in command.shown.split("..."))
        assert re.search(expected, done.stdout, re.DOTALL), f"{line}: not shown\n{command.shown}"

    def _url(self, line: str) -> dict[str, str]:
        # `aiaas predict` runs here unless a server is named.
        return {} if "aiaas predict" in line else {"AIAAS_BASE_URL": f"http://{self.address}"}

    def _serve(self, line: str) -> None:
        self.stop()
        print(f"$ {line}", flush=True)
        self._server = subprocess.Popen(["bash", "-c", f"exec {line}"], env=self._env)
        socket_path = re.search(r"--uds (\S+)", line)
        until = time.monotonic() + START
        while not (Path(socket_path[1]).exists() if socket_path else self._is_ready()):
            assert self._server.poll() is None, f"{line}: ended"
            assert time.monotonic() < until, f"{line}: not ready in time"
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}/v2/health/ready", timeout=5) as got:
                return bool(got.status == 200)
        except OSError:
            return False

    def stop(self) -> None:
        """End the server, if there is one.

        Raises:
            AssertionError: it did not end cleanly.
        """
        if self._server is not None:
            self._server.terminate()
            code = self._server.wait(60)
            self._server = None
            assert code == 0, f"the server ended with exit code {code}"


def main(page: Path) -> None:
    """Run a page in the current directory."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        shell = Shell(probe.getsockname()[1])
    names: dict[str, object] = {"__name__": "page"}
    try:
        for block in blocks(page):
            print(f"--- {page.name}, line {block.line}", flush=True)
            if block.language == "python":
                run_python(block, page, shell.address, names)
            for command in commands(block):
                shell.run(command)
    finally:
        shell.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
