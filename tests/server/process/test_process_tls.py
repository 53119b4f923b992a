"""TLS: 1.2 and newer, the same answers, nothing for those who never finish the handshake."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import trustme

from aiaas_client import AsyncClient, Client


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Who vouches for the servers."""
    return trustme.CA()


@pytest.fixture(scope="module")
def server(
    start_shared: Any,
    authority: trustme.CA,
    onnx_models: SimpleNamespace,
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    """A TLS server that is quick to give up."""
    folder = tmp_path_factory.mktemp("secured")
    return start_shared(*options_of(folder, authority, onnx_models), header_timeout="0.5")


def options_of(folder: Path, authority: trustme.CA, onnx_models: SimpleNamespace) -> list[Any]:
    """The options of a TLS server with one tiny model; its files are in `folder`."""
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    chain, key = folder / "chain.pem", folder / "key.pem"
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(chain, append=True)
    certificate.private_key_pem.write_to_path(key)
    models = folder / "models"
    (models / "tiny" / "1").mkdir(parents=True)
    (models / "tiny" / "1" / "model.onnx").write_bytes(onnx_models.identity())
    return ["--models", models, "--certfile", chain, "--keyfile", key]


@pytest.fixture
def context(authority: trustme.CA) -> ssl.SSLContext:
    """What trusts the server."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
def secured(server: Any, context: ssl.SSLContext) -> tuple[Any, ssl.SSLContext]:
    """The server, and a context that trusts it."""
    return server, context


def ask(sock: ssl.SSLSocket) -> bytes:
    sock.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    data = b""
    while piece := sock.recv(4096):
        data += piece
    return data


def test_with_a_client_authority_only_clients_that_it_certified_get_in(
    start_aiaas: Any, make_repository: Any, onnx_models: SimpleNamespace, tmp_path: Path
) -> None:
    ours, others = trustme.CA(), trustme.CA()
    pair, authority = tmp_path / "server.pem", tmp_path / "clients.pem"
    ours.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(pair)
    ours.cert_pem.write_to_path(authority)
    models = make_repository({"tiny": onnx_models.identity()})
    tls = ("--certfile", pair, "--keyfile", pair, "--client-ca", authority)
    server = start_aiaas("--models", models, *tls)

    def asked(certified_by: trustme.CA | None) -> bytes:
        context = ssl.create_default_context()
        ours.configure_trust(context)
        if certified_by is not None:
            certified_by.issue_cert("client@example.org").configure_cert(context)
        try:
            with (
                server.connect() as plain,
                context.wrap_socket(plain, server_hostname="localhost") as sock,
            ):
                return ask(sock)
        except (ssl.SSLError, ConnectionError):
            return b""  # TLS 1.3 tells at the first read

    assert asked(ours).startswith(b"HTTP/1.1 200 OK\r\n")
    assert asked(others) == b""
    assert asked(None) == b""


@pytest.mark.slow
def test_the_command_line_trusts_an_authority_and_shows_a_certificate(
    start_aiaas: Any, run_aiaas: Any, models: Path, tmp_path: Path
) -> None:
    authority, server_pem, both = trustme.CA(), tmp_path / "server.pem", tmp_path / "both.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(server_pem)
    ca, cert, key = tmp_path / "ca.pem", tmp_path / "cert.pem", tmp_path / "key.pem"
    authority.cert_pem.write_to_path(ca)
    own = authority.issue_cert("client@example.org")
    own.cert_chain_pems[0].write_to_path(cert)
    own.private_key_pem.write_to_path(key)
    own.private_key_and_cert_chain_pem.write_to_path(both)
    tls = ("--certfile", server_pem, "--keyfile", server_pem, "--client-ca", ca)
    server = start_aiaas("--models", models, *tls)
    url = ("--url", f"https://localhost:{server.port}")
    trust, pair = ("--ca-file", str(ca)), ("--cert-file", str(cert), "--key-file", str(key))
    for shown in (pair, ("--cert-file", str(both))):
        done = run_aiaas("models", *url, *trust, *shown)
        assert (done.returncode, done.stderr) == (0, "")
        assert "tiny" in done.stdout
    for options, code, told in (
        (pair, 3, "verify"),
        (trust, 3, "https://localhost:"),
        ((*trust, "--cert-file", str(tmp_path / "none")), 2, "none: No such file"),
        ((*trust, "--cert-file", str(cert)), 2, f"--cert-file {cert}: "),
        ((*trust, "--key-file", str(key)), 2, "--key-file: expected --cert-file with it"),
        (("--ca-file", str(key)), 2, f"--ca-file {key}: NO_CERTIFICATE"),
    ):
        done = run_aiaas("models", *url, *options)
        assert done.returncode == code, done.stderr
        assert told in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_spoken(
    secured: tuple[Any, ssl.SSLContext], version: ssl.TLSVersion
) -> None:
    server, context = secured
    context.minimum_version = context.maximum_version = version
    with server.connect() as plain, context.wrap_socket(plain, server_hostname="localhost") as sock:
        assert ask(sock).startswith(b"HTTP/1.1 200 OK\r\n")
    assert "serving on https://127.0.0.1" in server.lines[0]


def test_tls_1_1_is_refused(secured: tuple[Any, ssl.SSLContext]) -> None:
    server, context = secured
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with server.connect() as plain, pytest.raises((ssl.SSLError, ConnectionError)):
        context.wrap_socket(plain, server_hostname="localhost")


def test_plain_http_to_the_tls_port_and_unfinished_handshakes_harm_nobody(
    secured: tuple[Any, ssl.SSLContext],
) -> None:
    server, context = secured
    silent, plain = server.connect(), server.connect()
    plain.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    for sock in (plain, silent):
        with contextlib.suppress(ConnectionResetError):
            assert not sock.recv(1 << 16).startswith(b"HTTP")
        sock.close()
    with (
        socket.create_connection(("127.0.0.1", server.port), 10) as again,
        context.wrap_socket(again, server_hostname="localhost") as tls,
    ):
        assert ask(tls).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_stop_ends_tls_connections_too(
    start_aiaas: Any,
    authority: trustme.CA,
    context: ssl.SSLContext,
    onnx_models: SimpleNamespace,
    tmp_path: Path,
) -> None:
    server = start_aiaas(*options_of(tmp_path, authority, onnx_models), header_timeout="0.5")
    with server.connect() as plain, context.wrap_socket(plain, server_hostname="localhost") as sock:
        sock.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert sock.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n")
        server.signal()
        assert server.exit_code(15) == 0


@pytest.mark.parametrize("asynchronous", [False, True])
def test_large_tensors_travel_whole(
    secured: tuple[Any, ssl.SSLContext], asynchronous: bool
) -> None:
    server, context = secured
    url = f"https://127.0.0.1:{server.port}"
    tensors = [np.arange(size, dtype=np.float32)[None] for size in (100_000, 3_000_001, 40_000)]

    async def ask_all() -> list[Any]:
        async with AsyncClient(url, verify=context) as client:
            model = client.model("tiny")
            return [(await model.infer(x=tensor))["y"] for tensor in tensors]

    if asynchronous:
        got = asyncio.run(ask_all())
    else:
        with Client(url, verify=context) as client:
            got = [client.model("tiny").infer(x=tensor)["y"] for tensor in tensors]
    for array, tensor in zip(got, tensors, strict=True):
        assert np.array_equal(array, tensor)
