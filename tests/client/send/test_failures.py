"""What an error says: who was asked, what to do, the caller's own frames, no stranger's tricks."""

from __future__ import annotations

import ssl
import threading
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiaas_client import (
    AiaasError,
    APIConnectionError,
    APIStatusError,
    AsyncClient,
    Client,
    ConfigurationError,
    NotFoundError,
    OptionTypeError,
    ProtocolError,
    RetryPolicy,
)
from aiaas_client._api import oip as calls
from aiaas_client._api.failures import KEPT_TEXT
from aiaas_client._api.inference import infer
from aiaas_client.protocol.inference import InferRequest, RequestedOutput

ONCE = RetryPolicy(max_retries=0)
EVIL = "a\x1b[31mred\x00\u202egnp\nforged line\ud800"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"error": EVIL}, id="ours"),
        pytest.param({"error": {"message": EVIL}}, id="OpenAI's"),
        pytest.param({"detail": EVIL}, id="FastAPI's"),
        pytest.param({"error": EVIL, "code": EVIL}, id="a code"),
        pytest.param(EVIL.encode("utf-8", "replace"), id="plain"),
    ],
)
def test_a_servers_text_steers_no_terminal(
    kind: str, call_through: Any, wire: Any, steps: Any, body: Any
) -> None:
    server = wire(default=steps.answer(400, body))
    with call_through(kind, server.url) as caller, pytest.raises(APIStatusError) as caught:
        caller.send(calls.server_metadata())
    for text in (str(caught.value), caught.value.code, repr(caught.value)):
        assert text.isprintable()
    assert r"\x1b[31mred" in str(caught.value)


@pytest.mark.parametrize("body", [{"error": "x" * 2**20}, b"x" * 2**20, [1] * 2**18])
def test_a_servers_text_floods_no_log(wire: Any, steps: Any, body: Any) -> None:
    server = wire(default=steps.answer(400, body))
    with Client(server.url) as client, pytest.raises(APIStatusError) as caught:
        client.metadata()
    assert len(str(caught.value)) < KEPT_TEXT + 100


def test_no_error_of_ours_steers_a_terminal() -> None:
    error = AiaasError("first\nsecond \x1b[31m \u202e")
    assert str(error) == "first\nsecond \\x1b[31m \\u202e"
    assert error.args == (error.message,)
    assert len(str(AiaasError("x" * 2**20))) < 5000


def test_names_that_a_server_made_up_are_escaped_too(wire: Any, steps: Any) -> None:
    outputs = [{"name": "\x1b[2J", "datatype": "FP32", "shape": [1], "data": [1.0]}]
    server = wire(default=steps.answer(body={"model_name": "m", "outputs": outputs}))
    request = InferRequest({"x": np.ones(1, np.float32)}, [RequestedOutput("y")])
    with Client(server.url) as client, pytest.raises(ProtocolError, match="expected outputs") as c:
        client._sender.send(infer("m", None, request))
    assert "\x1b" not in str(c.value)


def test_an_answer_without_an_output_of_the_model_is_no_answer(wire: Any, steps: Any) -> None:
    tensor = {"datatype": "FP32", "shape": [-1]}
    described = {
        "name": "m",
        "inputs": [{"name": "x", **tensor}],
        "outputs": [{"name": "y", **tensor}, {"name": "z", **tensor}],
    }
    given = {"name": "y", "datatype": "FP32", "shape": [1], "data": [1.0]}

    def respond(connection: Any, received: Any) -> bool:
        told = described if received.method == "GET" else {"model_name": "m", "outputs": [given]}
        return bool(steps.answer(body=told)(connection, received))

    with Client(wire(default=respond).url) as client:
        with pytest.raises(ProtocolError, match="expected output 'z', got \\['y'\\]"):
            client.model("m").infer(x=[1.0])
        assert client.model("m").infer(x=[1.0], outputs="y")["y"].tolist() == [1.0]


@pytest.mark.parametrize(
    ("status", "body"), [(404, b"<html>nginx</html>"), (404, b""), (502, b"x"), (405, b"")]
)
def test_a_wrong_address_is_told_with_what_was_asked(
    kind: str, call_through: Any, wire: Any, steps: Any, status: int, body: bytes
) -> None:
    url = wire(default=steps.answer(status, body)).url + "/wrong"
    with call_through(kind, url, retry=ONCE) as caller, pytest.raises(APIStatusError) as caught:
        caller.send(calls.server_metadata())
    assert f"GET {url}/v2" in str(caught.value)


def test_a_page_in_place_of_a_document_is_told_with_what_was_asked(
    kind: str, call_through: Any, wire: Any, steps: Any
) -> None:
    server = wire(default=steps.answer(body=b"<html>welcome</html>"))
    with call_through(kind, server.url) as caller, pytest.raises(ProtocolError) as caught:
        caller.send(calls.server_metadata())
    assert f"(answer to GET {server.url}/v2)" in str(caught.value)


@pytest.fixture
def secure(tmp_path: Path, wire: Any) -> Any:
    """A TLS server with a certificate that nobody trusts."""
    trustme = pytest.importorskip("trustme", reason="needs trustme")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost", "127.0.0.1").configure_cert(context)
    server = wire()
    server.speak_tls(context)
    return server


@pytest.mark.parametrize(
    ("said", "sure"), [(b"HTTP/1.1 400 Bad Request\r\n\r\n", True), (b"", False)]
)
def test_tls_on_a_plain_port_says_what_to_try(
    flavour: str, call_through: Any, wire: Any, said: bytes, sure: bool
) -> None:
    server = wire()

    def refuse(connection: Any, number: int) -> None:
        connection.recv(4096)
        connection.sendall(said)
        connection.close()

    server._serve = refuse
    advice = "this port does not speak TLS: try" if sure else "if this port does not speak TLS, try"
    with (
        call_through(flavour, server.url.replace("http:", "https:"), retry=ONCE) as caller,
        pytest.raises(APIConnectionError, match=f"; {advice} {server.url}$") as caught,
    ):
        caller.send(calls.server_metadata())
    assert caught.value.phase == "connect"


def test_plain_http_on_a_tls_port_says_what_to_try(
    flavour: str, call_through: Any, secure: Any
) -> None:
    plain = secure.url.replace("https:", "http:")
    with (
        call_through(flavour, plain, retry=ONCE) as caller,
        pytest.raises((APIConnectionError, ProtocolError), match=f"speaks TLS.* try {secure.url}"),
    ):
        caller.send(calls.server_metadata())


def test_a_certificate_that_nobody_trusts_says_what_to_do(
    flavour: str, call_through: Any, secure: Any
) -> None:
    with (
        call_through(flavour, secure.url, retry=ONCE) as caller,
        pytest.raises(APIConnectionError, match=r"verify='/path/to/ca\.pem'"),
    ):
        caller.send(calls.server_metadata())


@pytest.mark.parametrize("retries", [0, 2])
def test_a_traceback_shows_the_callers_frames(
    flavour: str, call_through: Any, dead_url: str, fake_clock: Any, retries: int
) -> None:
    policy = fake_clock.policy(max_retries=retries)
    with (
        call_through(flavour, dead_url, retry=policy) as caller,
        pytest.raises(APIConnectionError) as caught,
    ):
        caller.send(calls.server_metadata())
    assert caught.value.__cause__ is not None
    shown = "".join(traceback.format_exception(caught.value))
    for library in ("tenacity", "httpcore", "aiohttp/client", "urllib3/", "http/client", "anyio"):
        assert f"/{library}" not in shown
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert frames[0].filename == __file__
    assert sum("aiaas_client" in frame.filename for frame in frames) <= 1


def test_frames_of_the_callers_middleware_stay(wire: Any) -> None:
    def refuse(request: Any, send: Any) -> Any:
        raise ConfigurationError("not from here")

    client = Client(wire().url, middleware=[refuse])
    with client, pytest.raises(ConfigurationError) as caught:
        client.health()
    assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "refuse"


def test_an_error_of_the_caller_keeps_its_frames(dead_url: str) -> None:
    def fail() -> None:
        raise KeyError("theirs")

    with Client(dead_url, retry=ONCE) as client, pytest.raises(APIConnectionError) as caught:
        try:
            fail()
        except KeyError:
            client.health()
    theirs = caught.value.__context__
    while theirs is not None and not isinstance(theirs, KeyError):
        theirs = theirs.__cause__ or theirs.__context__
    assert theirs is None or traceback.extract_tb(theirs.__traceback__)[-1].name == "fail"


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_what_is_no_trust_store_is_told_before_any_call(kind: Any, tmp_path: Any) -> None:
    (tmp_path / "text").write_text("no certificate")
    for path, told in (
        ("nowhere.pem", "verify: no file or directory '"),
        ("text", "verify: expected a file of certificates in PEM, got '"),
    ):
        for given in (tmp_path / path, str(tmp_path / path)):
            with pytest.raises(ConfigurationError) as caught:
                kind("https://127.0.0.1:1", verify=given)
            assert str(caught.value).startswith(f"{told}{tmp_path / path}'")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("base_url", 8000),
        ("base_url", [8000]),
        ("api_key", 5),
        ("timeout", "5"),
        ("deadline", "soon"),
        ("deadline", True),
        ("retry", 3),
        ("max_retries", "3"),
        ("max_retries", 1.5),
        ("headers", 3),
        ("headers", {"X": 1}),
        ("headers", {1: "x"}),
        ("limits", 10),
        ("max_answer_bytes", "1GB"),
        ("verify", 3.5),
        ("breaker", "no"),
        ("hedge_after", "soon"),
        ("middleware", [3]),
        ("middleware", 3),
        ("http_client", object()),
    ],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_an_option_of_a_wrong_type_is_named(kind: Any, option: str, value: Any) -> None:
    arguments = {"base_url": "http://127.0.0.1:1", option: value}
    with pytest.raises(OptionTypeError, match=option.removesuffix("s")) as caught:
        kind(**arguments)
    assert isinstance(caught.value, AiaasError)
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": "x"},
        {"timeout": -1},
        {"deadline": "x"},
        {"max_retries": -1},
        {"headers": {"A": b"x"}},
    ],
)
def test_options_of_one_call_are_checked_too(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options)).removesuffix("s")):
        Client("http://127.0.0.1:1").with_options(**options)


def test_a_header_that_cannot_be_sent_is_named_and_its_value_is_not_shown() -> None:
    with pytest.raises(ConfigurationError, match="X-Key") as caught:
        Client("http://127.0.0.1:1", headers={"X-Key": "geheim€"})
    shown = "".join(traceback.format_exception(caught.value)).replace('geheim€"})', "")
    assert "geheim" not in shown


def test_a_call_from_another_thread_shows_that_threads_frames(dead_url: str) -> None:
    caught: list[BaseException] = []

    def work() -> None:
        try:
            Client(dead_url, retry=ONCE).health()
        except AiaasError as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert traceback.extract_tb(caught[0].__traceback__)[0].name == "work"


def test_what_is_not_there_is_still_not_found(wire: Any, steps: Any) -> None:
    client = Client(wire(default=steps.answer(404, b"nothing")).url)
    wanted = r"nothing, answer to GET http.*/v2 \(HTTP 404\)"
    with client, pytest.raises(NotFoundError, match=wanted):
        client.metadata()
