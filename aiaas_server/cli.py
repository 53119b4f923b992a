"""The command `aiaas`: `serve` and `version` here, the client's commands and the zoo's."""

from __future__ import annotations

import re
import stat
import sys
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from typer import Option

from aiaas_client._commands import register
from aiaas_server.settings import PREFIX, Settings
from aiaas_server.zoo.commands import register as register_zoo

app = typer.Typer(
    name="aiaas",
    help="Serve ONNX models, and call them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

PROVIDERS = {"auto", "cpu", "cuda", "tensorrt"}
LISTEN, MODELS, SAFETY, LIMITS, LOGS = "Where to listen", "Models", "Keys and TLS", "Limits", "Logs"


def _option(*names: str, panel: str, help: str, name: str | None = None) -> Any:
    """One option; its variable is in the help because `Settings` is what reads it."""
    field = name or names[0].removeprefix("--").replace("-", "_")
    text = f"{help} ({PREFIX}{field.upper()})"
    return Option(*names, help=text, rich_help_panel=panel, show_default=False)


@app.callback()
def _main() -> None:
    """Serve ONNX models, and call them."""


@app.command()
def serve(
    models: Annotated[
        Path | None,
        _option(
            "--models",
            panel=MODELS,
            help="Repository in Triton's layout, directory of .onnx files, or one file.",
        ),
    ] = None,
    load_model: Annotated[
        list[str] | None,
        _option(
            "--load-model",
            panel=MODELS,
            help="Load only this model at start; repeat for more. Default: all.",
            name="load_models",
        ),
    ] = None,
    default_model: Annotated[
        list[str] | None,
        _option(
            "--default-model",
            panel=MODELS,
            help="text=sentiment: who answers /predict where no model is named; repeat for more.",
            name="default_models",
        ),
    ] = None,
    watch: Annotated[
        bool | None,
        _option("--watch", panel=MODELS, help="Pick up new and removed versions."),
    ] = None,
    provider: Annotated[
        list[str] | None,
        _option(
            "--provider",
            panel=MODELS,
            help="auto, cpu, cuda, tensorrt or onnxruntime's own name; repeat in order.",
            name="providers",
        ),
    ] = None,
    intra_op_threads: Annotated[
        int | None,
        _option("--intra-op-threads", panel=MODELS, help="Threads inside one run; 0: by cores."),
    ] = None,
    memory_budget: Annotated[
        int | None,
        _option(
            "--memory-budget",
            panel=MODELS,
            help="Bytes for loaded models; they load when called, the least used make room.",
            name="memory_budget_bytes",
        ),
    ] = None,
    host: Annotated[
        str | None, _option("--host", panel=LISTEN, help="Address. Default: 127.0.0.1.")
    ] = None,
    port: Annotated[
        int | None,
        _option("--port", panel=LISTEN, help="Port; 0 takes a free one. Default: 8000."),
    ] = None,
    uds: Annotated[
        Path | None, _option("--uds", panel=LISTEN, help="Unix socket instead of a port.")
    ] = None,
    metrics_port: Annotated[
        int | None,
        _option("--metrics-port", panel=LISTEN, help="Port of /metrics; 0: off. Default: 8002."),
    ] = None,
    metrics_host: Annotated[
        str | None,
        _option("--metrics-host", panel=LISTEN, help="Address of that port. Default: as --host."),
    ] = None,
    workers: Annotated[
        int | None,
        _option("--workers", panel=LISTEN, help="Processes that act as one."),
    ] = None,
    shared_memory: Annotated[
        bool | None,
        _option(
            "--shared-memory",
            panel=LISTEN,
            help="Let clients on this machine pass tensors through shared memory.",
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        Option(
            "--api-key-file",
            help=f"File with the key every call must carry. ({PREFIX}API_KEY: the key itself)",
            rich_help_panel=SAFETY,
            show_default=False,
        ),
    ] = None,
    certfile: Annotated[
        Path | None, _option("--certfile", panel=SAFETY, help="TLS certificate chain, PEM.")
    ] = None,
    keyfile: Annotated[
        Path | None, _option("--keyfile", panel=SAFETY, help="Private key of it, PEM.")
    ] = None,
    client_ca: Annotated[
        Path | None,
        _option("--client-ca", panel=SAFETY, help="Who may certify clients, PEM; all must be."),
    ] = None,
    insecure: Annotated[
        bool | None,
        _option("--insecure", panel=SAFETY, help="Serve other machines without a key or TLS."),
    ] = None,
    max_body_bytes: Annotated[
        int | None,
        _option("--max-body-bytes", panel=LIMITS, help="Largest inference request. 64 MiB."),
    ] = None,
    max_connections: Annotated[
        int | None, _option("--max-connections", panel=LIMITS, help="Connections open. 1000.")
    ] = None,
    max_connections_per_address: Annotated[
        int | None,
        _option(
            "--max-connections-per-address",
            panel=LIMITS,
            help="Of one client address; 0: no limit. 50.",
        ),
    ] = None,
    queue_size: Annotated[
        int | None,
        _option("--queue-size", panel=LIMITS, help="Requests waiting for one model. 100."),
    ] = None,
    drain_timeout: Annotated[
        float | None,
        _option("--drain-timeout", panel=LIMITS, help="Seconds to finish when stopped. 25."),
    ] = None,
    json_logs: Annotated[
        bool | None, _option("--json-logs", panel=LOGS, help="One JSON object a line.")
    ] = None,
    access_log: Annotated[
        bool | None, _option("--access-log", panel=LOGS, help="One line a request; costs CPU.")
    ] = None,
    log_level: Annotated[
        str | None, _option("--log-level", panel=LOGS, help="debug, info, warning or error.")
    ] = None,
) -> None:
    """Serve models over HTTP until stopped with Ctrl+C or SIGTERM.

    Every setting can also be given by its environment variable; options stand above them.
    """
    given = dict(locals())
    given.update(
        load_models=tuple(given.pop("load_model") or ()) or None,
        providers=tuple(given.pop("provider") or ()) or None,
        memory_budget_bytes=given.pop("memory_budget"),
        default_models=",".join(given.pop("default_model") or ()) or None,
    )
    key_file = given.pop("api_key_file")
    if key_file is not None:
        given["api_key"] = read_key(key_file)
    settings = make_settings(given)
    from aiaas_server.serve import serve as run  # onnxruntime and uvicorn only now

    raise typer.Exit(run(settings))


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(distribution_version("aiaas-client"))


def make_settings(given: dict[str, Any]) -> Settings:
    """Settings from options and the environment; a wrong one ends the program in one line."""
    try:
        return Settings.from_environment(**given)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        option = f"--{field.replace('_', '-')}: " if field else ""
        fail(option + re.sub(r"^Value error, ", "", first["msg"]))


def read_key(path: Path) -> str:
    """Read the API key; a file that others may read ends the program with what to do."""
    try:
        mode = path.stat().st_mode
        text = path.read_text("ascii").strip()
    except OSError as error:
        fail(f"--api-key-file {path}: {error.strerror}")
    except UnicodeDecodeError:
        fail(f"--api-key-file {path}: expected ASCII text")
    if stat.S_IMODE(mode) & 0o077:
        fail(f"--api-key-file {path}: others may read it; run: chmod 600 {path}")
    if not text or any(character.isspace() for character in text):
        fail(f"--api-key-file {path}: expected one key without spaces")
    return text


def fail(message: str) -> NoReturn:
    """Tell a mistake in one line and end with exit code 2."""
    print(f"aiaas: {message}", file=sys.stderr)
    raise typer.Exit(2)


register(app)
register_zoo(app)
