"""Calls over the socket pair: answered, refused, lost, and never larger than a frame."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aiaas_server.core.errors import InvalidInput, LoadFailed, QueueFull, ServerError
from aiaas_server.workers.link import MAX_FRAME, Link, LinkLost, error_as_json, error_from

Body = dict[str, Any]


async def silent(call: str, body: Body) -> Body:
    """Nobody calls this side."""
    raise AssertionError(call)


@asynccontextmanager
async def pair(on_call: Any) -> AsyncIterator[Link]:
    """A link to a side that answers with `on_call`."""
    ours, theirs = socket.socketpair()
    near, far = await Link.open(ours, silent), await Link.open(theirs, on_call)
    serving = [asyncio.create_task(link.serve()) for link in (near, far)]
    try:
        yield near
    finally:
        near.close()
        await asyncio.gather(*serving)


async def test_answers_reach_who_asked_whatever_their_order() -> None:
    released = asyncio.Event()

    async def answer(call: str, body: Body) -> Body:
        if call == "slow":
            await released.wait()
        else:
            released.set()
        return {"to": call, **body}

    async with pair(answer) as link:
        slow = asyncio.create_task(link.ask("slow", {"n": 1}))
        assert await link.ask("quick", {"text": "é价"}) == {"to": "quick", "text": "é价"}
        assert await slow == {"to": "slow", "n": 1}


@pytest.mark.parametrize(
    "error",
    [LoadFailed("bad file"), QueueFull("full", retry_after=2.5), ServerError("odd")],
    ids=lambda error: type(error).__name__,
)
async def test_a_domain_error_is_raised_on_the_side_that_asked(error: ServerError) -> None:
    async def refuse(call: str, body: Body) -> Body:
        raise error

    async with pair(refuse) as link:
        with pytest.raises(type(error), match=error.message) as raised:
            await link.ask("x")
        assert raised.value.retry_after == error.retry_after
    assert type(error_from(error_as_json(error))) is type(error)


async def test_an_unexpected_error_is_logged_and_told_without_detail(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(call: str, body: Body) -> Body:
        raise KeyError("a detail")

    async with pair(fail) as link:
        with pytest.raises(ServerError, match="internal error"):
            await link.ask("x")
    assert "a detail" in caplog.text


async def test_who_waits_is_told_when_the_other_side_ends() -> None:
    ours, theirs = socket.socketpair()
    link = await Link.open(ours, silent)
    serving = asyncio.create_task(link.serve())
    asking = asyncio.create_task(link.ask("x"))
    await asyncio.sleep(0)
    theirs.close()
    with pytest.raises(LinkLost):
        await asking
    await serving
    with pytest.raises(LinkLost):
        await link.ask("y")
    link.tell("z")  # nobody is there, and nothing happens


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param((MAX_FRAME + 1).to_bytes(4), id="too large"),
        pytest.param(b"\0\0", id="cut in its length"),
        pytest.param((10).to_bytes(4) + b"{}", id="cut in its text"),
        pytest.param((4).to_bytes(4) + b"{]}}", id="no json"),
        pytest.param((2).to_bytes(4) + b"[]", id="no object"),
        pytest.param((2).to_bytes(4) + b"{}", id="no call"),
    ],
)
async def test_what_is_no_frame_ends_the_link(
    sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    ours, theirs = socket.socketpair()
    link = await Link.open(ours, silent)
    with theirs:
        theirs.sendall(sent)
        theirs.shutdown(socket.SHUT_WR)
        await asyncio.wait_for(link.serve(), 120)


async def test_a_call_larger_than_a_frame_is_refused_before_it_is_sent() -> None:
    async def answer(call: str, body: Body) -> Body:
        return body

    async with pair(answer) as link:
        with pytest.raises(InvalidInput, match="bytes between workers"):
            await link.ask("x", {"text": "x" * MAX_FRAME})
        assert await link.ask("x", {"still": "there"}) == {"still": "there"}
