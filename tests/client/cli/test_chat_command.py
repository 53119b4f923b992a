"""`aiaas chat`, `generate` and `transcribe`: what they print, and how they go on and end."""

from __future__ import annotations

import itertools
import json
import os
import pty
import re
import select
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from aiaas_client._cli.commands import register
from aiaas_client.testing import FakeError, FakeServer

Aiaas = Callable[..., Any]


def answer(messages: Any, max_tokens: int = 0) -> Any:
    said = messages[-1]["content"]
    if said == "long":
        raise FakeError(400, "the prompt has 9 tokens, the context 8")
    return [f"{len(messages)} ", f"messages, {max_tokens or 'any'} ", f"tokens: {said}"]


def ears(audio: bytes, response_format: str) -> Any:
    if response_format == "verbose_json":
        return {"text": "Hello.", "segments": [{"id": 0, "start": 0.0, "end": 1.5}]}
    return {"srt": "1\n00:00:00,000 --> 00:00:01,500\nHello.\n\n", "vtt": "WEBVTT\n\n"}[
        response_format
    ]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as one:
        one.add_writer("parrot", answer)
        one.add_writer("tail", lambda prompt: [prompt, " and", " so\x1b[2J on"])
        one.add_hearer("whisper-tiny-en", ears)
        yield one


@pytest.fixture
def aiaas(server: FakeServer) -> Aiaas:
    app = typer.Typer()
    register(app)

    def run(*arguments: str, stdin: bytes | None = None) -> Any:
        return CliRunner().invoke(app, [*arguments, "--url", server.url], input=stdin)

    return run


def test_a_conversation_comes_by_a_pipe(aiaas: Aiaas, server: FakeServer) -> None:
    lines = b"one\n\ntwo\n/reset\nthree\n/exit\nfour\n"
    done = aiaas("chat", "parrot", "--system", "be short", "--max-tokens", "7", stdin=lines)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        "2 messages, 7 tokens: one",
        "4 messages, 7 tokens: two",
        "2 messages, 7 tokens: three",
    ]
    first, second, third = [json.loads(request.body) for request in server.requests]
    assert [one["role"] for one in second["messages"]] == ["system", "user", "assistant", "user"]
    assert second["messages"][2]["content"] == "2 messages, 7 tokens: one"
    assert third["messages"][0] == first["messages"][0]


def test_by_a_pipe_an_error_ends_it(aiaas: Aiaas) -> None:
    done = aiaas("chat", "parrot", stdin=b"one\nlong\ntwo\n")
    assert done.exit_code == 1
    assert "9 tokens, the context 8" in done.stderr
    assert "two" not in done.stdout
    done = aiaas("chat", "nobody", stdin=b"one\n")
    assert (done.exit_code, "'nobody'" in done.stderr) == (1, True)
    assert done.stdout == ""  # a refusal is no answer, not even an empty line


def test_a_model_that_is_not_there_is_answered_with_those_that_are(
    aiaas: Aiaas, server: FakeServer
) -> None:
    server.add("digits", lambda inputs: inputs)
    done = aiaas("generate", "nobody", "one")
    assert "'nobody' is not found (HTTP 404); there is digits" in done.stderr, done.stderr
    server.add("faces", lambda inputs: inputs)
    assert "; there are digits, faces" in aiaas("generate", "nobody", "one").stderr
    assert "; did you mean 'digits'?" in aiaas("generate", "digit", "one").stderr


def test_calls_of_tools_are_shown(aiaas: Aiaas, server: FakeServer) -> None:
    call = {"name": "look", "arguments": {"at": "it"}}
    server.add_writer("tools", lambda messages: {"tool_calls": [call]})
    assert aiaas("chat", "tools", stdin=b"hi\n").stdout.strip() == 'look({"at": "it"})'


def test_a_text_is_gone_on_with(aiaas: Aiaas) -> None:
    done = aiaas("generate", "tail", "one")
    assert done.exit_code == 0, done.output
    assert done.stdout == "one and so\\x1b[2J on\n"  # no model steers a terminal
    assert aiaas("generate", "tail", "-", stdin="zwölf".encode()).stdout.startswith("zwölf and")
    document = json.loads(aiaas("generate", "tail", "one", "--json").stdout)
    assert document["choices"][0]["text"].startswith("one and")
    assert aiaas("generate", "tail", "-", stdin=b"\xff\xfe\xfd").exit_code == 2


def test_a_reader_that_has_enough_ends_it_quietly(server: FakeServer) -> None:
    server.add_writer("talker", lambda prompt: ("more " for _ in itertools.repeat(None)))
    command = [
        sys.executable,
        "-m",
        "aiaas_server",
        "generate",
        "talker",
        "go",
        "--url",
        server.url,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(4) == b"more"
        process.stdout.close()
        assert (process.stderr.read(), process.wait(120)) == (b"", 1)


def test_a_recording_is_written_down(aiaas: Aiaas, tmp_path: Path) -> None:
    talk = tmp_path / "talk.wav"
    talk.write_bytes(b"RIFF")
    assert aiaas("transcribe", str(talk)).stdout == "Hello.\n"
    assert aiaas("transcribe", "-", stdin=b"RIFF").stdout == "Hello.\n"
    assert aiaas("transcribe", str(talk), "--srt").stdout.startswith("1\n00:00:00,000 --> ")
    assert aiaas("transcribe", str(talk), "--vtt").stdout == "WEBVTT\n"
    document = json.loads(aiaas("transcribe", str(talk), "--json").stdout)
    assert document["segments"][0]["end"] == 1.5
    for arguments in ((str(talk), "--srt", "--json"), (str(tmp_path / "no.wav"),)):
        assert aiaas("transcribe", *arguments).exit_code == 2
    assert aiaas("transcribe", str(talk), "--model", "deaf").exit_code == 1


class Terminal:
    """A command in a terminal of its own, typed into."""

    def __init__(self, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        settings = termios.tcgetattr(theirs)
        settings[3] |= termios.NOFLSH  # else Ctrl-C may drop what is said in answer to it
        termios.tcsetattr(theirs, termios.TCSANOW, settings)
        command = [sys.executable, "-m", "aiaas_server", *arguments]
        self.process = subprocess.Popen(
            command, preexec_fn=lambda: os.login_tty(theirs), env={**os.environ, "TERM": "dumb"}
        )
        os.close(theirs)
        self.seen = ""
        self._unread = ""

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def interrupt(self, text: str) -> None:
        """Press Ctrl-C where a line is read, until `text` comes.

        Python looks for signals before it waits for a key: one that comes in between is heard of
        with the next key.
        """
        for _ in range(24):
            self.type("\x03")
            while text not in self._unread and select.select([self._ours], [], [], 5)[0]:
                self._read()
            if text in self._unread:
                break
        self.wait_for(text)

    def wait_for(self, text: str) -> None:
        """Read until `text` comes, beyond what was read before."""
        while text not in self._unread:
            assert select.select([self._ours], [], [], 120)[0], f"no {text!r} in {self.seen!r}"
            self._read()
        self._unread = self._unread.partition(text)[2]

    def _read(self) -> None:
        piece = os.read(self._ours, 4096).decode("utf-8", "replace")
        self.seen += piece
        self._unread += piece

    def close(self) -> int:
        """Wait for its end, and give its exit code."""
        try:
            return self.process.wait(120)
        finally:
            self.process.kill()
            self.process.wait()
            os.close(self._ours)


def endless(messages: Any) -> Iterator[str]:
    """Never stops after "go"; after anything else it tells what it remembers."""
    if messages[-1]["content"] != "go":
        yield f"after {messages[-2]['content'][:9]}"
        return
    while True:
        yield "more "


@pytest.mark.skipif(not hasattr(os, "login_tty"), reason="needs a terminal of Unix")
def test_control_c_stops_the_answer_and_not_the_program(server: FakeServer) -> None:
    server.add_writer("talker", endless)
    terminal = Terminal("chat", "talker", "--url", server.url)
    try:
        terminal.wait_for("> ")
        terminal.type("go\r")
        terminal.wait_for("more more")
        terminal.type("\x03")
        terminal.wait_for("stopped")
        terminal.wait_for("> ")
        terminal.interrupt("/exit")  # where nothing is written it says how to leave
        terminal.wait_for("> ")
        terminal.type("now\r")
        terminal.wait_for("after more more")
        terminal.wait_for("> ")
        terminal.type("\x04")
    except OSError:
        pytest.fail(f"it ended early: {terminal.seen}")
    finally:
        code = terminal.close()
    assert code == 0


@pytest.mark.skipif(not hasattr(os, "login_tty"), reason="needs a terminal of Unix")
def test_by_hand_a_refusal_is_told_and_forgotten(server: FakeServer) -> None:
    terminal = Terminal("chat", "parrot", "--url", server.url)
    try:
        terminal.wait_for("> ")
        terminal.type("long\r")
        terminal.wait_for("the context 8")
        terminal.wait_for("> ")
        terminal.type("short\r")
        terminal.wait_for("1 messages, any tokens: short")
        terminal.wait_for("> ")
        terminal.type("/rest\r")
        terminal.wait_for("/rest is no command: /reset forgets")
        terminal.wait_for("> ")
        terminal.type(" /rest\r")
        terminal.wait_for("3 messages, any tokens:  /rest")
        terminal.wait_for("> ")
        terminal.type("/exit\r")
    except OSError:
        pytest.fail(f"it ended early: {terminal.seen}")
    finally:
        code = terminal.close()
    assert code == 0
    assert not re.search("Traceback", terminal.seen)


@pytest.mark.skipif(not hasattr(os, "login_tty"), reason="needs a terminal of Unix")
@pytest.mark.parametrize("is_there", [True, False], ids=["no model", "no server"])
def test_by_hand_what_is_not_there_is_told_before_one_types(
    server: FakeServer, is_there: bool
) -> None:
    url = server.url
    if not is_there:
        server.close()
    terminal = Terminal("chat", "nobody", "--url", url)
    try:
        terminal.wait_for("'nobody' is not found" if is_there else "cannot connect to")
    finally:
        code = terminal.close()
    assert code == (1 if is_there else 3)
    assert "> " not in terminal.seen


@pytest.mark.skipif(not hasattr(os, "login_tty"), reason="needs a terminal of Unix")
def test_by_hand_an_answer_that_its_time_cuts_off_is_remembered(server: FakeServer) -> None:
    server.add_writer("talker", endless)
    terminal = Terminal("chat", "talker", "--timeout", "2", "--url", server.url)
    try:
        terminal.wait_for("> ")
        terminal.type("go\r")
        terminal.wait_for("more more")
        terminal.wait_for("--timeout SECONDS gives it longer")
        terminal.wait_for("> ")
        terminal.type("now\r")
        terminal.wait_for("after more more")
        terminal.type("/exit\r")
    except OSError:
        pytest.fail(f"it ended early: {terminal.seen}")
    finally:
        code = terminal.close()
    assert code == 0
