"""The client's commands: `aiaas models`, `aiaas infer`, `aiaas stubs`, `aiaas predict`.

They end with 0 when the call worked, 1 when the server refused or failed, 2 when the command or its
inputs are wrong, 3 when no server could be reached in time.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from aiaas_client import _stubs
from aiaas_client._client import Client
from aiaas_client._errors import (
    AiaasError,
    APIConnectionError,
    APITimeoutError,
    CircuitOpenError,
    ConfigurationError,
    InputError,
    NotSupportedError,
)
from aiaas_client._model import Model
from aiaas_client._result import InferResult
from aiaas_client.protocol.messages import ModelMetadata, RepositoryEntry, TensorMetadata
from aiaas_client.protocol.tensors import Array, datatype_of

FAILED, WRONG_USE, UNREACHABLE = 1, 2, 3
DEFAULT_URL = "http://127.0.0.1:8000"

Url = Annotated[
    str,
    typer.Option("--url", envvar="AIAAS_BASE_URL", help="Where the server is."),
]
KeyVariable = Annotated[
    str,
    typer.Option("--api-key-env", help="Name of the environment variable that holds the key."),
]
Timeout = Annotated[float, typer.Option("--timeout", min=0.001, help="Seconds for the whole call.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


class UseError(Exception):
    """The command line, or a file it names, is not right."""


def register(app: typer.Typer) -> None:
    """Add the client's commands to a typer application."""
    app.command("models")(models)
    app.command("infer")(infer)
    app.command("stubs")(stubs)
    from aiaas_client._commands_predict import predict

    app.command("predict")(predict)


def models(
    url: Url = DEFAULT_URL,
    api_key_env: KeyVariable = "AIAAS_API_KEY",
    timeout: Timeout = 60.0,
    as_json: AsJson = False,
) -> None:
    """List the models of a server and their state."""
    with client_of(url, api_key_env, timeout) as client:
        entries = client.models.list()
    if as_json:
        print_json([entry.model_dump() for entry in entries])
    else:
        Console().print(_models_table(entries))


def infer(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            help="x=1,2,3 or x='[[1, 2]]' or x=@array.npy or x=@values.json or text=@notes.txt"
        ),
    ] = None,
    version: Annotated[str | None, typer.Option("--version", help="Model version.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the outputs to this .npz file.")
    ] = None,
    url: Url = DEFAULT_URL,
    api_key_env: KeyVariable = "AIAAS_API_KEY",
    timeout: Timeout = 60.0,
    as_json: AsJson = False,
) -> None:
    """Run a model once on values from the command line or from files."""
    with client_of(url, api_key_env, timeout) as client:
        handle = client.model(model, version)
        result = handle.infer(_read_inputs(inputs or [], _specs(handle)))
        if output is not None:
            _write_npz(output, result)
    if as_json:
        print_json(_as_document(result))
    else:
        Console().print(_result_table(result))


def stubs(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    version: Annotated[str | None, typer.Option("--version", help="Model version.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write here instead of printing.")
    ] = None,
    url: Url = DEFAULT_URL,
    api_key_env: KeyVariable = "AIAAS_API_KEY",
    timeout: Timeout = 60.0,
) -> None:
    """Write a typed Python wrapper of a model, made from its metadata."""
    with client_of(url, api_key_env, timeout) as client:
        metadata = client.model(model, version).metadata()
        source = _stubs.generate(metadata.model_copy(update={"name": model}))
        if output is None:
            typer.echo(source, nl=False)
        else:
            output.write_text(source, encoding="utf-8")


@contextmanager
def client_of(
    url: str, api_key_env: str, timeout: float, *, local: Path | None = None
) -> Iterator[Client]:
    """A client for one command; errors become one line on stderr and an exit code.

    Args:
        local: Run the models of this repository in this process instead of calling a server.
    """
    try:
        with _open(url, api_key_env, timeout, local) as client:
            yield client
    except (UseError, InputError, ConfigurationError) as error:
        raise _exit(str(error), WRONG_USE) from None
    except OSError as error:  # the SDK's connection and timeout errors are OSErrors, too
        code = UNREACHABLE if isinstance(error, AiaasError) else WRONG_USE
        raise _exit(str(error), code) from None
    except AiaasError as error:
        lost = isinstance(error, APIConnectionError | APITimeoutError | CircuitOpenError)
        raise _exit(str(error), UNREACHABLE if lost else FAILED) from None


def _open(url: str, api_key_env: str, timeout: float, local: Path | None) -> Client:
    if local is not None:
        return Client.local(local).with_options(deadline=timeout)
    return Client(url, api_key=os.environ.get(api_key_env), deadline=timeout)


def _exit(text: str, code: int) -> typer.Exit:
    typer.echo(f"aiaas: {text}", err=True)
    return typer.Exit(code)


def _specs(handle: Model) -> Mapping[str, TensorMetadata]:
    try:
        metadata: ModelMetadata = handle.metadata()
    except NotSupportedError:
        return {}
    return {spec.name: spec for spec in metadata.inputs}


def _read_inputs(
    arguments: Sequence[str], specs: Mapping[str, TensorMetadata]
) -> dict[str, object]:
    inputs: dict[str, object] = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals or not name:
            raise UseError(f"expected NAME=VALUE or NAME=@FILE, got {argument!r}")
        if name in inputs:
            raise UseError(f"input {name!r} was given twice")
        inputs[name] = _value(name, text, specs.get(name))
    return inputs


def _value(name: str, text: str, spec: TensorMetadata | None) -> object:
    if not text.startswith("@"):
        return _shaped(_parsed(text, spec), spec)
    path = Path(text[1:])
    if not path.is_file():
        raise UseError(f"input {name!r}: no file {str(path)!r}")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        known = ", ".join(_READERS)
        raise UseError(f"input {name!r}: expected a file of {known}, got {path.name!r}")
    try:
        return _with_batch(reader(path), spec)
    except ValueError as error:
        raise UseError(f"input {name!r}: {path.name}: {error}") from None


def _read_npy(path: Path) -> object:
    return np.load(path, allow_pickle=False)


def _read_json(path: Path) -> object:
    return json.loads(path.read_text(encoding="utf-8"))


def _read_text(path: Path) -> object:
    return [path.read_text(encoding="utf-8")]


_READERS: Mapping[str, Callable[[Path], object]] = {
    ".npy": _read_npy,
    ".json": _read_json,
    ".txt": _read_text,
}


def _parsed(text: str, spec: TensorMetadata | None) -> object:
    """A value from the command line: JSON, numbers between commas, or text."""
    if spec is not None and spec.datatype == "BYTES" and not text.startswith(("[", '"')):
        return [text]
    for candidate in (text, f"[{text}]"):
        try:
            return json.loads(candidate)
        except ValueError:
            continue
    return [text]


def _shaped(value: object, spec: TensorMetadata | None) -> object:
    """Numbers written without brackets, in the declared shape if they fit it."""
    if spec is None:
        return value
    try:
        array = np.array(value, dtype=object if spec.datatype == "BYTES" else None)
        if array.ndim == len(spec.shape):
            return value
        first = next((axis for axis, size in enumerate(spec.shape) if size == -1), None)
        shape = [
            1 if size == -1 and axis != first else size for axis, size in enumerate(spec.shape)
        ]
        return array.reshape(shape).tolist()
    except ValueError:  # the handle tells what is wrong with it
        return value


def _with_batch(value: object, spec: TensorMetadata | None) -> object:
    """A file that holds one item gets the batch dimension."""
    rank = value.ndim if isinstance(value, np.ndarray) else _depth(value)
    if spec is None or rank != len(spec.shape) - 1 or spec.shape[0] not in (-1, 1):
        return value
    return value[np.newaxis] if isinstance(value, np.ndarray) else [value]


def _depth(value: object) -> int:
    return 1 + _depth(value[0]) if isinstance(value, list) and value else int(value == [])


def _write_npz(path: Path, result: InferResult) -> None:
    arrays = {name: _storable(name, array) for name, array in result.items()}
    with zipfile.ZipFile(path, "w") as archive:  # `np.savez` cannot take every output name
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def _storable(name: str, array: Array) -> Array:
    if array.dtype == object:
        fixed = array.astype("S") if array.size else array.astype("S1")
        if fixed.tolist() != array.tolist():
            raise UseError(
                f"output {name!r}: texts that end in zero bytes have no .npz form; use --json"
            )
        return fixed
    return array if array.dtype.kind != "V" else array.astype(np.float32)  # BF16, exactly


def _as_document(result: InferResult) -> dict[str, Any]:
    return {
        "model_name": result.model_name,
        "model_version": result.model_version,
        "request_id": result.request_id,
        "seconds": round(result.timing.total, 6),
        "outputs": {
            name: {
                "datatype": datatype_of(array),
                "shape": list(array.shape),
                "data": _plain(array),
            }
            for name, array in result.items()
        },
    }


def _plain(array: Array) -> Any:
    if array.dtype != object:
        return array.tolist()
    texts = [element.decode("utf-8", "backslashreplace") for element in array.reshape(-1)]
    return np.array(texts, dtype=object).reshape(array.shape).tolist()


def print_json(value: Any) -> None:
    """Print a document for programs."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _models_table(entries: Sequence[RepositoryEntry]) -> Table:
    table = Table("model", "version", "state", "reason", box=None)
    for entry in entries:
        cells = (entry.name, entry.version, entry.state or "not loaded", entry.reason)
        table.add_row(*(escape(cell) for cell in cells))
    return table


def _result_table(result: InferResult) -> Table:
    title = f"{result.model_name} {result.model_version}, {result.timing.total * 1000:.1f} ms"
    table = Table("output", "datatype", "shape", "values", box=None, title=escape(title))
    for name, array in result.items():
        shape = " x ".join(map(str, array.shape)) or "scalar"
        values = np.array2string(
            np.asarray(_plain(array)), threshold=16, edgeitems=4, precision=5, max_line_width=70
        )
        table.add_row(escape(name), datatype_of(array), shape, escape(values))
    return table
