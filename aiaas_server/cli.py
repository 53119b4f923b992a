"""The command `aiaas`: `serve` and `version` here, the client's commands and the zoo's."""

from __future__ import annotations

import os
import re
import stat
import sys
from importlib.metadata import version as distribution_version
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn, get_args, get_origin

import typer
from pydantic import ValidationError
from typer import Option

from aiaas_client._cli.commands import register
from aiaas_client.protocol.texts import decode_text
from aiaas_server.core.describe.config import ModelConfig
from aiaas_server.core.errors import ServerError
from aiaas_server.core.session import Session
from aiaas_server.interrupts import leaving_at_once
from aiaas_server.settings import PREFIX, Settings, unknown_variables
from aiaas_server.vault_commands import register as register_vault
from aiaas_server.zoo.commands import register as register_zoo

app = typer.Typer(
    name="aiaas",
    help="Serve ONNX models, and call them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

LISTEN, MODELS, SAFETY, LIMITS, LOGS = "Where to listen", "Models", "Keys and TLS", "Limits", "Logs"
TENANTS = "Tenants, encryption, sandbox"


class ServeOption(NamedTuple):
    """One option of `aiaas serve`: a field of `Settings`, which also reads and checks its text."""

    field: str
    panel: str
    help: str
    flag: str = ""
    """Empty where it is the field's name."""

    @property
    def name(self) -> str:
        """As it is typed."""
        return self.flag or "--" + self.field.replace("_", "-")

    @property
    def is_size(self) -> bool:
        """Whether it counts bytes, and so may be written with a unit."""
        return self.field.endswith("_bytes")

    def parameter(self) -> Parameter:
        """For typer; the help names the variable, because `Settings` is what reads it."""
        annotation = Settings.model_fields[self.field].annotation
        kinds = {annotation, get_origin(annotation), *get_args(annotation)}
        kind: Any = bool if bool in kinds else list[str] if kinds & {tuple, dict} else str
        word = next((known.__name__ for known in (int, float, Path) if known in kinds), "text")
        option = Option(
            self.name,
            help=f"{self.help} ({PREFIX}{self.field.upper()})",
            rich_help_panel=self.panel,
            show_default=False,
            metavar=None if kind is bool else "<size>" if self.is_size else f"<{word.lower()}>",
        )
        return Parameter(
            self.field,
            Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[kind | None, option],
        )


OPTIONS = (
    ServeOption("models", MODELS, "Repository in Triton's layout, .onnx files, or one file."),
    ServeOption("data", MODELS, "Directory of the registry: deploy, split, roll back; with state."),
    ServeOption("jobs", MODELS, "Jobs to run at a time: training, scoring, …. Default: 0."),
    ServeOption("artefacts_url", MODELS, "s3://bucket/prefix in place of a directory in --data."),
    ServeOption(
        "load_models", MODELS, "Load only this model at start; repeat for more. Default: all.",
        flag="--load-model",
    ),
    ServeOption(
        "default_models", MODELS,
        "text=sentiment: who answers /predict where no model is named; repeat for more.",
        flag="--default-model",
    ),
    ServeOption("watch", MODELS, "Pick up new and removed versions."),
    ServeOption(
        "providers", MODELS,
        "auto, cpu, cuda, tensorrt or onnxruntime's own name; repeat in order.",
        flag="--provider",
    ),
    ServeOption("intra_op_threads", MODELS, "Threads inside one run; 0: by cores."),
    ServeOption(
        "memory_budget_bytes", MODELS,
        "Room for loaded models, 8GB; they load when called, the least used make room.",
        flag="--memory-budget",
    ),
    ServeOption("host", LISTEN, "Address. Default: 127.0.0.1."),
    ServeOption("port", LISTEN, "Port; 0 takes a free one. Default: 8000."),
    ServeOption("uds", LISTEN, "Unix socket instead of a port."),
    ServeOption("metrics_port", LISTEN, "Port of /metrics; 0: off. Default: 8002."),
    ServeOption("metrics_host", LISTEN, "Address of that port. Default: as --host."),
    ServeOption("workers", LISTEN, "Processes that act as one."),
    ServeOption(
        "shared_memory", LISTEN, "Let clients on this machine pass tensors through shared memory."
    ),
    ServeOption("certfile", SAFETY, "TLS certificate chain, PEM."),
    ServeOption("keyfile", SAFETY, "Private key of it, PEM."),
    ServeOption("client_ca", SAFETY, "Who may certify clients, PEM; all must be."),
    ServeOption("insecure", SAFETY, "Serve other machines without a key or TLS."),
    ServeOption("tenants", TENANTS, "Ask for keys, of many tenants in --data: aiaas keys init."),
    ServeOption("secret_file", TENANTS, "What keys are hashed with. Default: secret in --data."),
    ServeOption(
        "master_key_file", TENANTS, "Encrypts what is kept: `aiaas master-key new` makes one."
    ),
    ServeOption(
        "memory_dir", TENANTS, "In memory, for what is encrypted while it is used. In /dev/shm."
    ),
    ServeOption(
        "sandbox", TENANTS,
        "Whose models run in processes of their own: none, tenants or all. Default: tenants.",
    ),
    ServeOption(
        "allow_weak_sandbox", TENANTS, "Do so where the system cannot take system calls away, too."
    ),
    ServeOption("max_body_bytes", LIMITS, "Largest inference request. 64MiB."),
    ServeOption("max_connections", LIMITS, "Connections open. 1000."),
    ServeOption("max_connections_per_address", LIMITS, "Of one client address; 0: no limit. 50."),
    ServeOption(
        "proxies", LIMITS, "Proxy in front, address or network: not one client; repeat for more.",
        flag="--proxy",
    ),
    ServeOption("queue_size", LIMITS, "Requests waiting for one model. 100."),
    ServeOption("drain_timeout", LIMITS, "Seconds to finish when stopped. 25."),
    ServeOption("json_logs", LOGS, "One JSON object a line."),
    ServeOption("access_log", LOGS, "One line a request; costs CPU."),
    ServeOption("log_level", LOGS, "debug, info, warning or error."),
)  # fmt: skip


class SecretFile(NamedTuple):
    """An option that names a file with a secret, since arguments are seen by all of a machine."""

    field: str
    panel: str
    help: str
    what: str

    @property
    def name(self) -> str:
        """As it is typed."""
        return "--" + self.field.replace("_", "-") + "-file"

    def parameter(self) -> Parameter:
        """For typer; the help names the variable that can hold the secret instead."""
        option = Option(
            self.name,
            help=f"{self.help} ({PREFIX}{self.field.upper()}: {self.what} itself)",
            rich_help_panel=self.panel,
            show_default=False,
        )
        return Parameter(
            f"{self.field}_file",
            Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[Path | None, option],
        )


SECRETS = (
    SecretFile("api_key", SAFETY, "File with the key every call must carry.", "the key"),
    SecretFile("database_url", MODELS, "File with postgresql://… in place of state.db.", "the URL"),
)


def _show_version(asked: bool) -> None:
    if asked:
        version()
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Serve ONNX models, and call them."""


def serve(**given: Any) -> None:
    """Serve models over HTTP until stopped with Ctrl+C or SIGTERM.

    Every setting can also be given by its environment variable; options stand above them.
    """
    notes = unknown_variables()
    for secret in SECRETS:
        path = given.pop(f"{secret.field}_file")
        if path is not None:
            given[secret.field], told = read_secret(path, secret)
            notes += told
    settings = make_settings({name: _text(value) for name, value in given.items()})
    with leaving_at_once():
        from aiaas_server.process import exit_with  # onnxruntime and uvicorn only now
        from aiaas_server.serve import serve as run

    exit_with(run(settings, notes))


# typer reads a signature; this one is the table.
serve.__signature__ = Signature(  # type: ignore[attr-defined]
    [option.parameter() for option in (*OPTIONS, *SECRETS)]
)
app.command()(serve)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(distribution_version("aiaas-client"))


def keys_init(
    data: Annotated[
        Path | None,
        Option("--data", help=f"The directory that the server is given. ({PREFIX}DATA)"),
    ] = None,
    database_url_file: Annotated[
        Path | None,
        Option(
            "--database-url-file",
            help=f"File with postgresql://… in place of state.db. ({PREFIX}DATABASE_URL)",
        ),
    ] = None,
    secret_file: Annotated[
        Path | None,
        Option(
            "--secret-file",
            help=f"What keys are hashed with, as the server has it. ({PREFIX}SECRET_FILE)",
        ),
    ] = None,
    another: Annotated[
        bool,
        Option(
            "--another", help="Also where there is an operator's key, such as one that is lost."
        ),
    ] = False,
    lost_secret: Annotated[
        bool,
        Option(
            "--lost-secret",
            help="The server's secret is lost: the one that is here now takes its place. All keys "
            "end with it, and entries of the audit so far can no longer be verified.",
        ),
    ] = False,
) -> None:
    """Make the operator's first key and print it, this once; a running server knows it in seconds.

    It works on the database itself, so that whoever may read and write that may run it. With it,
    `aiaas keys create` makes all others.
    """
    given: dict[str, Any] = {"data": data, "secret_file": secret_file, "tenants": True}
    if database_url_file is not None:
        given["database_url"], notes = read_secret(database_url_file, SECRETS[1])
        for note in notes:
            print(f"aiaas: {note}", file=sys.stderr)
    if data is None and f"{PREFIX}DATA" not in os.environ:
        fail(f"--data: expected the directory that the server is given ({PREFIX}DATA)")
    settings = make_settings(given)
    typer.echo(_first_key(settings, another=another, lost_secret=lost_secret))
    print(
        "aiaas: this is the operator's key, shown this once; keep it where secrets are kept. Then: "
        f"aiaas serve --data {settings.data} --tenants, and AIAAS_API_KEY for clients",
        file=sys.stderr,
    )


def _first_key(settings: Settings, *, another: bool, lost_secret: bool) -> str:
    """Make it; what cannot be done ends the program in one line."""
    from aiaas_server.state.prepare import DataRefused, prepare  # a database only where wanted

    try:
        ready = prepare(settings)
        from aiaas_server.tenancy.first_key import make_first_key

        return make_first_key(ready, another=another, lost_secret=lost_secret)
    except DataRefused as error:
        fail(str(error))
    except ServerError as error:
        print(f"aiaas: {error.message}", file=sys.stderr)
        raise typer.Exit(1) from None


def make_settings(given: dict[str, Any]) -> Settings:
    """Settings from options and the environment; a wrong one ends the program in one line."""
    try:
        return Settings.from_environment(**given)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0]) if first["loc"] else ""
        message = re.sub(r"^Value error, ", "", first["msg"])
        fail(f"{_where(field, given.get(field) is not None)}: {message}" if field else message)


def _text(value: Any) -> Any:
    """An option as `Settings` reads it from a variable; None where it is not given."""
    return (",".join(value) or None) if isinstance(value, list | tuple) else value


def _where(field: str, as_option: bool) -> str:
    """Where a setting was given, as a person typed it."""
    names = {option.field: option.name for option in (*OPTIONS, *SECRETS)}
    return names[field] if as_option and field in names else PREFIX + field.upper()


def read_secret(path: Path, secret: SecretFile) -> tuple[str, list[str]]:
    """Read a secret, and what to tell about its file.

    A file that everybody may read ends the program with what to do; a group may, as it does where
    secrets are mounted, and that is told.
    """
    where = f"{secret.name} {path}"
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        text = decode_text(path.read_bytes()).strip().encode("ascii").decode()
    except OSError as error:
        fail(f"{where}: {error.strerror}")
    except UnicodeError:
        fail(f"{where}: expected ASCII text")
    if mode & 0o007:
        fail(
            f"{where}: others may use it; run: chmod 600 {path}, or mount the secret with mode 0440"
        )
    if not text or any(character.isspace() for character in text):
        fail(f"{where}: expected {secret.what.replace('the', 'one')} without spaces")
    told = [f"{where}: its group may use it too"] if mode & 0o070 else []
    return text, told


def fail(message: str) -> NoReturn:
    """Tell a mistake in one line and end with exit code 2."""
    print(f"aiaas: {message}", file=sys.stderr)
    raise typer.Exit(2)


def _open_session(model: Path | bytes, config: ModelConfig) -> Session:
    """Open a graph as a server does; the runtime is loaded by who needs it."""
    from aiaas_server.runtimes.onnx import open_session

    return open_session(model, config)


register(app)
_keys = next((one for one in app.registered_groups if one.name == "keys"), None)
assert _keys is not None, "the client's commands have them"
assert _keys.typer_instance is not None, "it was made of one"
_keys.typer_instance.command("init")(keys_init)
register_zoo(app, _open_session)
register_vault(app, make_settings)
