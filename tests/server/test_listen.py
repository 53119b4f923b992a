"""Listening and accepting: who is let in, and what happens when descriptors run out."""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
from pydantic import SecretStr

from aiaas_server.listen import (
    Acceptor,
    StartError,
    address_of,
    bind_metrics,
    bind_tcp,
    check_exposure,
    most_connections,
    resolves_to_loopback,
)
from aiaas_server.settings import Settings

KEY = SecretStr("k")
TLS = {"certfile": Path("c"), "keyfile": Path("k")}


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
    ],
)
def test_loopback_is_known(host: str, expected: bool) -> None:
    assert resolves_to_loopback(host) is expected


@pytest.mark.parametrize(
    ("given", "words"),
    [
        pytest.param({}, "", id="default"),
        pytest.param({"host": "0.0.0.0"}, "--api-key-file .* --certfile", id="open"),
        pytest.param({"host": "0.0.0.0", "api_key": KEY}, "--certfile", id="key-without-tls"),
        pytest.param({"host": "0.0.0.0", **TLS}, "--api-key-file", id="tls-without-key"),
        pytest.param({"host": "0.0.0.0", "api_key": KEY, **TLS}, "", id="key-and-tls"),
        pytest.param({"host": "0.0.0.0", "insecure": True}, "", id="insecure"),
        pytest.param({"metrics_host": "0.0.0.0"}, "0.0.0.0", id="metrics-open"),
        pytest.param({"metrics_host": "0.0.0.0", "metrics_port": 0}, "", id="metrics-off"),
        pytest.param(
            {"host": "0.0.0.0", "uds": Path("s"), "metrics_port": 0}, "", id="unix-socket"
        ),
    ],
)
def test_others_are_served_only_with_key_and_tls(given: dict[str, Any], words: str) -> None:
    settings = Settings(**given)
    if not words:
        check_exposure(settings)
        return
    with pytest.raises(StartError, match=words):
        check_exposure(settings)


def test_a_busy_default_metrics_port_is_left_alone_and_a_chosen_one_is_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with bind_tcp("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match="--metrics-port"):
            bind_metrics(Settings(metrics_port=port))
    assert bind_metrics(Settings(metrics_port=0)) is None
    first = bind_metrics(Settings())
    with caplog.at_level(logging.WARNING, "aiaas_server"):
        assert bind_metrics(Settings()) is None
    assert "no metrics port" in caplog.text
    if first is not None:
        first.close()


def test_addresses_are_written_as_they_are_typed(tmp_path: Path) -> None:
    with bind_tcp("127.0.0.1", 0) as four:
        assert address_of(four, "http") == f"http://127.0.0.1:{four.getsockname()[1]}"
    with bind_tcp("::1", 0) as six:
        assert address_of(six, "https") == f"https://[::1]:{six.getsockname()[1]}"


def test_the_connection_limit_leaves_a_reserve_of_descriptors() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        assert most_connections(10) == 10
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        assert most_connections(soft + 1) == soft - 100
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


class Short(socket.socket):
    """A listening socket whose process has no descriptors left for a while."""

    failures = 2

    def accept(self) -> tuple[socket.socket, Any]:
        """Fail twice, then accept."""
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


async def test_accepting_pauses_when_descriptors_run_out_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sock = Short()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    sock.setblocking(False)
    protocol = asyncio.StreamReaderProtocol
    loop = asyncio.get_running_loop()
    acceptor = Acceptor(
        sock, lambda: protocol(asyncio.StreamReader(), accepted), has_room=lambda more: True
    )
    answered = loop.create_future()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()
        answered.set_result(None)

    with caplog.at_level(logging.ERROR, "aiaas_server"):
        reader, writer = await asyncio.open_connection(*sock.getsockname())
        assert await asyncio.wait_for(reader.read(), 120) == b"hello"
    writer.close()
    await writer.wait_closed()
    acceptor.close()
    assert sock.failures == 0
    assert caplog.text.count("cannot accept connections") == 1


async def test_connections_without_room_are_closed_before_anything_is_spent_on_them() -> None:
    sock = bind_tcp("127.0.0.1", 0)
    address = sock.getsockname()
    made: list[Any] = []

    def protocol() -> asyncio.Protocol:
        made.append(None)
        return asyncio.Protocol()

    acceptor = Acceptor(sock, protocol, has_room=lambda more: False)
    reader, writer = await asyncio.open_connection(*address)
    assert await asyncio.wait_for(reader.read(), 120) == b""
    writer.close()
    await writer.wait_closed()
    acceptor.close()
    assert made == []


async def test_handshakes_of_one_address_leave_room_for_others(tmp_path: Path) -> None:
    pair = tmp_path / "pair.pem"
    trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(pair)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair)
    with bind_tcp("127.0.0.1", 0) as sock:
        acceptor = Acceptor(
            sock,
            asyncio.Protocol,
            has_room=lambda more: True,
            context=context,
            handshake_timeout=30.0,
            counted_as=lambda client: client,
            handshakes_per_address=2,
        )
        waiting = [await asyncio.open_connection(*sock.getsockname()) for _ in range(2)]
        reader, crowded = await asyncio.open_connection(*sock.getsockname())
        assert await asyncio.wait_for(reader.read(), 120) == b""  # cut off at once
        for _, writer in (*waiting, (reader, crowded)):
            writer.close()
        while acceptor._handshakes:
            await asyncio.wait(acceptor._handshakes)
        assert not acceptor._of_address  # and nobody is remembered
        acceptor.close()
