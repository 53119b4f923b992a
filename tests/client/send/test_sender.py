"""The seam: what is called, and what handles need to send it; users see none of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from aiaas_client import AsyncClient, Client
from aiaas_client._api import oip as calls
from aiaas_client._api.call import Call, Headers, Response, StreamCall
from aiaas_client._config import ServerFacts
from aiaas_client._send.loop import LoopSender
from aiaas_client._send.sender import AsyncSender, Sender, Stream
from aiaas_client._send.threads import ThreadSender

T = TypeVar("T")


class Canned:
    """Answers every call with the same bytes; no client, no transport."""

    def __init__(self, body: bytes) -> None:
        self.facts = ServerFacts()
        self._response = Response(200, Headers(), bytearray(body))

    def send(self, call: Call[T], /) -> T:
        return call.parse(self._response)

    def stream(self, call: StreamCall[T], /) -> Stream[T]:
        return Stream(iter(()))  # type: ignore[arg-type]  # nothing is streamed here

    def with_options(self, **options: Any) -> Canned:
        return self


def test_a_call_needs_a_sender_and_nothing_else() -> None:
    sender: Any = Canned(b'{"name": "canned"}')
    assert sender.send(calls.server_metadata()).name == "canned"


def test_the_seam_is_four_names_that_clients_do_not_show() -> None:
    made = ((Client, ThreadSender, Sender), (AsyncClient, LoopSender, AsyncSender))
    for client, sender, seam in made:
        asked = {name for name in vars(seam) if not name.startswith("_")}
        assert asked == {"facts", "send", "stream", "with_options"}
        assert asked <= set(dir(sender))
        assert asked & set(dir(client)) == {"with_options"}


if TYPE_CHECKING:
    sync: Sender = Client()._sender
    asynchronous: AsyncSender = AsyncClient()._sender
