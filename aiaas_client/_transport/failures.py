"""The one place where exceptions of the HTTP libraries become the SDK's own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from aiaas_client import _errors as errors
from aiaas_client._transport.wire import WireExchange, WireRequest, current

TIMER_SLACK = 0.005  # seconds by which a socket's timer may end before the clock says so
_TIMEOUT_PHASES = {
    "ConnectTimeout": "connect",
    "ReadTimeout": "read",
    "WriteTimeout": "write",
    "PoolTimeout": "pool",
}
HTTP_LIBRARIES = frozenset({"httpx", "httpx2", "httpcore", "httpcore2", "aiohttp", "urllib3"})
_TRANSLATED = HTTP_LIBRARIES | {"aiaas_client"}  # what of ours is no `AiaasError`
_NO_ANSWER = "Server disconnected without sending a response"
_BROKE_OFF = "peer closed connection without sending complete message body"

# What a TLS library says of a peer that speaks plain HTTP, and of a certificate nobody vouches for.
_NOT_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH")
_UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"
# What a handshake ends with at a peer that only hangs up, by the names of four libraries.
_HUNG_UP = frozenset(
    {"SSLError", "ConnectionResetError", "ConnectionAbortedError", "BrokenPipeError"}
    | {"BrokenResourceError", "EndOfStream", "ServerDisconnectedError"}
)
_TLS_ALERT = ("\\x15\\x03", "\x15\x03")  # the first bytes of a TLS server's refusal


@contextlib.contextmanager
def serving(request: WireRequest, exchange: WireExchange) -> Iterator[None]:
    """One step of a stream: the sockets obey its deadline, and errors become ours."""
    token = current.set(exchange)
    try:
        yield
    except Exception as error:
        if is_foreign(error):
            raise translate(error, request, exchange) from error
        raise
    finally:
        current.reset(token)


def translate(error: Exception, request: WireRequest, exchange: WireExchange) -> errors.AiaasError:
    """Give our error for one of an HTTP library's, by the name it has in all four of them."""
    names = {cls.__name__ for cls in type(error).__mro__ if cls.__module__ != "builtins"}
    for name, phase in _TIMEOUT_PHASES.items():
        if name in names:
            return timed_out(phase, request)
    reason = str(error) or type(error).__name__
    where = f"{request.base_url}: {reason}"
    if names & {"ConnectError", "ProxyError", "UnsupportedProtocol"}:
        return cannot_connect(reason, request, error)
    if "LocalProtocolError" in names:
        return errors.ConfigurationError(f"request cannot be sent to {where}")
    broke = _NO_ANSWER in reason or _BROKE_OFF in reason
    if "ProtocolError" in names and not broke:
        return not_http(reason, request)
    died_idle = not exchange.connected and not exchange.received
    unheard = exchange.connected and not exchange.received
    return broken(reason, request, died_idle=died_idle, unheard=unheard)


def cannot_connect(
    reason: str, request: WireRequest, error: BaseException
) -> errors.APIConnectionError:
    """No connection, TLS included; `error` and its causes tell what it failed of."""
    advice, tls = "", request.base_url.startswith("https:")
    if _UNTRUSTED in reason:
        advice = (
            "; the certificate is not one that this machine trusts: name its authority, or a "
            "self-signed certificate itself, with verify='/path/to/ca.pem'"
        )
    elif tls and any(sign in reason.upper().replace(" ", "_") for sign in _NOT_TLS):
        advice = f"; this port does not speak TLS: try {_other_scheme(request.base_url)}"
    elif tls and _hung_up(error):
        advice = f"; if this port does not speak TLS, try {_other_scheme(request.base_url)}"
    return errors.APIConnectionError(
        f"cannot connect to {request.base_url}: {reason}{advice}", phase="connect"
    )


def not_http(reason: str, request: WireRequest) -> errors.ProtocolError:
    """An answer in another protocol."""
    advice = ""
    if request.base_url.startswith("http:") and any(sign in reason for sign in _TLS_ALERT):
        advice = f"; this port speaks TLS: try {_other_scheme(request.base_url)}"
    return errors.ProtocolError(f"not an HTTP answer from {request.base_url}: {reason}{advice}")


def broken(
    reason: str, request: WireRequest, *, died_idle: bool, unheard: bool
) -> errors.APIConnectionError:
    """The connection ended early; `unheard`: before the first byte of an answer."""
    advice = ""
    if unheard and request.base_url.startswith("http:"):
        advice = f"; if this port speaks TLS, try {_other_scheme(request.base_url)}"
    return errors.APIConnectionError(
        f"connection broke: {request.base_url}: {reason}{advice}",
        phase="idle" if died_idle else "exchange",
    )


def _hung_up(error: BaseException | None) -> bool:
    for _ in range(10):
        if error is None:
            break
        if any(cls.__name__ in _HUNG_UP for cls in type(error).__mro__):
            return True
        error = error.__cause__ or error.__context__
    return False


def _other_scheme(url: str) -> str:
    scheme, _, rest = url.partition(":")
    return f"{'http' if scheme == 'https' else 'https'}:{rest}"


def timed_out(phase: str, request: WireRequest) -> errors.AiaasError:
    if time.monotonic() >= request.deadline - TIMER_SLACK:
        return errors.DeadlineExceededError(
            f"{request.base_url}: no answer within the deadline", phase=phase
        )
    seconds = getattr(request.timeouts, phase)
    if phase == "pool":
        return errors.PoolTimeoutError(
            f"{request.base_url}: no free connection within {seconds:g} s", phase=phase
        )
    return errors.APITimeoutError(
        f"{request.base_url}: {phase} took longer than {seconds:g} s", phase=phase
    )


def is_foreign(error: Exception) -> bool:
    if isinstance(error, errors.AiaasError):
        return False
    module = type(error).__module__.partition(".")[0]
    return module in _TRANSLATED or isinstance(error, OSError)
