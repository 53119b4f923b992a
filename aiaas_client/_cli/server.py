"""Which server a command calls: the options that all of them share, and the client made of them."""

from __future__ import annotations

import functools
import inspect
import os
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from aiaas_client._client import Client
from aiaas_client._config import API_KEY_VARIABLE

DEFAULT_URL = "http://127.0.0.1:8000"
UNIX = "unix:"


class UseError(Exception):
    """The command line, or a file it names, is not right."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server as the options tell it; each attribute is one."""

    url: Annotated[
        str | None,
        typer.Option(
            "--url",
            envvar="AIAAS_BASE_URL",
            help="Where the server is: http://, https://, or unix:PATH of its socket.",
            show_default=DEFAULT_URL,
        ),
    ] = None
    api_key_env: Annotated[
        str,
        typer.Option("--api-key-env", help="Name of the environment variable that holds the key."),
    ] = API_KEY_VARIABLE
    ca_file: Annotated[
        Path | None,
        typer.Option("--ca-file", help="Whom to trust as an authority of servers: a PEM file."),
    ] = None
    cert_file: Annotated[
        Path | None,
        typer.Option("--cert-file", help="Certificate to show to the server, PEM."),
    ] = None
    key_file: Annotated[
        Path | None,
        typer.Option("--key-file", help="Private key of it, PEM, unless it is in the same file."),
    ] = None
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.001, help="Seconds for the whole call.")
    ] = 60.0

    @contextmanager
    def client(self) -> Iterator[Client]:
        """A client of it.

        Raises:
            UseError, ConfigurationError: An option is not right.
        """
        url, key = self.url or DEFAULT_URL, self._key()
        if not url.startswith(UNIX):
            with Client(url, api_key=key, deadline=self.timeout, verify=self._trust()) as client:
                yield client
            return
        if self.ca_file or self.cert_file or self.key_file:
            raise UseError("--ca-file, --cert-file, --key-file: there is no TLS on a Unix socket")
        path = url.removeprefix(UNIX)
        if not Path(path).is_socket():
            raise UseError(f"--url: no Unix socket {path!r}")
        import httpx2  # as whoever uses the SDK over a socket does; the others need not wait for it

        with (
            httpx2.Client(transport=httpx2.HTTPTransport(uds=path)) as http,
            Client("http://localhost", api_key=key, deadline=self.timeout, http_client=http) as one,
        ):
            yield one

    def _key(self) -> str | None:
        """The key; a variable that was named is to hold one."""
        key = os.environ.get(self.api_key_env)
        if not key and self.api_key_env != API_KEY_VARIABLE:
            raise UseError(
                f"--api-key-env: expected the name of a variable that holds the key, and "
                f"{self.api_key_env!r} is {'not set' if key is None else 'empty'}"
            )
        return key

    def _trust(self) -> bool | ssl.SSLContext:
        """What `Client` is to verify with: a context where the options name a file."""
        if self.key_file is not None and self.cert_file is None:
            raise UseError("--key-file: expected --cert-file with it")
        if self.ca_file is None and self.cert_file is None:
            return True
        context: ssl.SSLContext = _read("--ca-file", self.ca_file, _context)
        if self.cert_file is not None:
            load = functools.partial(context.load_cert_chain, keyfile=self.key_file)
            _read("--cert-file", self.cert_file, load)
        return context


def _context(path: Path | None) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=path)


def _read(option: str, path: Path | None, load: Callable[[Any], Any]) -> Any:
    try:
        return load(path)
    except OSError as error:  # ssl.SSLError is one
        reason = getattr(error, "reason", None) or error.strerror
        raise UseError(f"{option} {path}: {reason}") from None


def with_server(command: Callable[..., None]) -> Callable[..., None]:
    """A command for typer of one that takes a `server`: with the options of `Server` instead."""
    signature, hints = inspect.signature(command), get_type_hints(command, include_extras=True)
    if "server" not in signature.parameters:
        return command
    options = get_type_hints(Server, include_extras=True)

    @functools.wraps(command)
    def run(**given: Any) -> None:
        server = Server(**{name: given.pop(name) for name in options})
        command(**given, server=server)

    own = [one.replace(annotation=hints[name]) for name, one in signature.parameters.items()]
    shared = [
        Parameter(
            name, Parameter.KEYWORD_ONLY, default=getattr(Server, name), annotation=annotation
        )
        for name, annotation in options.items()
    ]
    own = [one for one in own if one.name != "server"]
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]  # typer reads it
        parameters=[*own, *shared], return_annotation=None
    )
    run.__annotations__ = {}
    return run
