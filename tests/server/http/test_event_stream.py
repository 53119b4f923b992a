"""Streams of events on the server's own connections: writes, slow readers, the end of a server."""

from __future__ import annotations

import asyncio
import json
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from aiaas_server.core.generation import Piece
from tests.server.http.edge_caller import EdgeCaller, Pipe, whole_answer, wire_form
from tests.server.http.scripted_generator import ScriptedGenerator, pieces, scripted_app
from tests.server.http.serving import serving
from tests.server.http.streams import Served, documents
from tests.waiting import until, wait_until

CHAT = "/v1/chat/completions"
ASKED = {"model": "writer", "messages": [{"role": "user", "content": "hi"}], "stream": True}


class Writes(Pipe):
    """Keeps each write by itself."""

    def __init__(self, address: str) -> None:
        super().__init__(address)
        self.each: list[bytes] = []

    def write(self, data: Any) -> None:
        self.each.append(bytes(data))
        super().write(data)


def send(served: Served) -> tuple[EdgeCaller, Any, Writes]:
    """Open a connection, and ask for a stream on it."""
    caller = EdgeCaller(served.app)
    pipe = Writes("127.0.0.1")
    connection = caller.protocol(caller._config, caller.state, {}, asyncio.get_running_loop())
    pipe.set_protocol(connection)
    connection.connection_made(pipe)
    pipe.send(b"".join(wire_form("POST", CHAT, json.dumps(ASKED).encode(), {})))
    return caller, connection, pipe


async def test_each_event_is_one_write_and_the_head_leaves_with_the_first(scripted: Any) -> None:
    served = await scripted(pieces("Hel", "lo"))
    _, _, pipe = send(served)
    answer = await whole_answer(pipe)
    pipe.close()
    assert documents(answer.body)[-1] == "[DONE]"
    head, *rest = pipe.each
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert head.count(b"data: ") == 1
    *events, end = rest
    assert [text.count(b"data: ") for text in events] == [1] * 4
    assert end == b"0\r\n\r\n"


async def test_nothing_is_taken_from_the_model_while_nobody_reads(scripted: Any) -> None:
    gate = asyncio.Event()
    served = await scripted([Piece("a", (1,)), gate, *pieces("b", "c", "d")])
    _, connection, pipe = send(served)
    await until(lambda: pipe.written.count(b"data: ") == 2)
    connection.pause_writing()
    gate.set()
    (answering,) = served.generator.answers
    await until(lambda: answering.completion_tokens == 2)
    for _ in range(20):
        await asyncio.sleep(0)
    assert answering.completion_tokens == 2
    connection.resume_writing()
    answer = await whole_answer(pipe)
    assert answering.completion_tokens == 4
    assert documents(answer.body)[-1] == "[DONE]"
    pipe.close()


@pytest.mark.parametrize("paused", [False, True], ids=["reading", "not reading"])
async def test_a_connection_that_is_lost_ends_the_answer(scripted: Any, paused: bool) -> None:
    gate = asyncio.Event()
    served = await scripted([Piece("a", (1,)), gate, *pieces("b", "c")])
    _, connection, pipe = send(served)
    await until(lambda: pipe.written.count(b"data: ") == 2)
    if paused:
        connection.pause_writing()
        gate.set()
        await until(lambda: served.generator.answers[0].completion_tokens == 2)
    assert served.in_use == 1
    pipe.close()
    await until(lambda: served.in_use == 0)
    assert served.generator.answers[0].left


async def test_what_is_cut_when_the_server_stops_ends_its_answer(scripted: Any) -> None:
    served = await scripted([Piece("a", (1,)), asyncio.Event()])
    caller, connection, pipe = send(served)
    await until(lambda: pipe.written.count(b"data: ") == 2)
    connection.shutdown()
    assert connection.busy
    assert not pipe.is_closing()  # it is waited for
    assert connection.cut()
    await until(lambda: not caller.state.tasks)
    assert pipe.is_closing()
    assert served.generator.answers[0].left
    assert served.in_use == 0


@pytest.mark.parametrize("edge", [True, False], ids=["own", "uvicorn"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_client_that_leaves_a_real_server_ends_its_answer(
    tmp_path: Path, edge: bool, stream: bool
) -> None:
    generator = ScriptedGenerator([Piece("a", (1,)), asyncio.Event()])
    app = scripted_app(tmp_path / "models", generator)
    with serving(app, edge=edge) as server:
        connection = HTTPConnection("127.0.0.1", server.port, timeout=300)
        connection.request("POST", CHAT, json.dumps(ASKED | {"stream": stream}))
        if stream:
            with connection.getresponse() as answer:
                assert answer.readline().startswith(b"data: {")
        wait_until(lambda: len(generator.answers) == 1)
        connection.close()
        wait_until(lambda: generator.answers[0].left)
        (model,) = [one for one in app.pool.models() if one.name == "writer"]
        wait_until(lambda: model.in_use == 0)
