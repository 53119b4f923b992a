"""What `aiaas_client` exports, and what importing it costs."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from importlib.metadata import version
from importlib.resources import files

import pytest

import aiaas_client
from aiaas_client._config import user_agent


def test_every_exported_name_exists_and_is_listed() -> None:
    for name in aiaas_client.__all__:
        assert getattr(aiaas_client, name).__name__ == name
    assert set(aiaas_client.__all__) <= set(dir(aiaas_client))
    assert list(aiaas_client.__all__) == sorted(aiaas_client.__all__)


def test_every_error_is_exported() -> None:
    from aiaas_client import _errors

    kinds = {
        name
        for name, one in vars(_errors).items()
        if isinstance(one, type) and issubclass(one, _errors.AiaasError)
    }
    assert kinds <= set(aiaas_client.__all__)


def named_by(owner: type) -> set[str]:
    """The classes that errors about arguments of the methods of `owner` name."""
    members = [inspect.getattr_static(owner, name) for name in dir(owner) if name[0] != "_"]
    functions = [one for one in (*members, owner.__init__) if inspect.isfunction(one)]
    return {one.__qualname__.rpartition(".")[0] for one in functions}


def test_errors_about_arguments_name_public_classes() -> None:
    names = ("Client", "Model", "TaskModel", "TextEmbeddingModel", "Batcher")
    for name in [*names, *(f"Async{name}" for name in names)]:
        assert named_by(getattr(aiaas_client, name)) == {name}
    client = aiaas_client.Client("http://a")
    assert named_by(type(client.models)) == {"Models"}
    for call, told in (
        (lambda: aiaas_client.AsyncClient(key="k"), "AsyncClient.__init__() got an unexpected"),
        (lambda: client.with_options(tries=1), "Client.with_options() got an unexpected"),
        (lambda: client.model("m").infer_many([], size=1), "Model.infer_many() got an unexpected"),
        (lambda: client.models.load(), "Models.load() missing 1 required"),
    ):
        with pytest.raises(TypeError, match=re.escape(told)):
            call()


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        aiaas_client.Nothing  # noqa: B018


def test_the_package_says_that_it_is_typed() -> None:
    assert files("aiaas_client").joinpath("py.typed").is_file()


def test_the_version_sent_to_servers_is_the_distributions() -> None:
    assert user_agent() == f"aiaas-client/{version('aiaas-client')}"
    assert aiaas_client.__version__ == version("aiaas-client")


def fresh(code: str) -> str:
    """Run `code` in a new interpreter and give what it prints."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_importing_loads_neither_a_runtime_nor_an_http_library() -> None:
    heavy = {"onnxruntime", "httpx", "httpx2", "httpcore2", "numpy", "tenacity", "pydantic"}
    loaded = fresh("import aiaas_client, sys; print(*sys.modules)").split()
    assert not heavy & set(loaded)


def test_making_a_client_loads_neither_a_runtime_nor_the_server() -> None:
    code = "from aiaas_client import Client; import sys; Client('http://a'); print(*sys.modules)"
    loaded = set(fresh(code).split())
    heavy = {"pydantic", "pydantic_core", "asyncio", "ssl", "httpcore2", "httpx2", "tenacity"}
    assert not {"onnxruntime", "starlette", "aiaas_server", "httpx", "rich", *heavy} & loaded


def test_a_first_call_loads_no_runtime_and_no_server() -> None:
    code = (
        "from aiaas_client import Client, APIConnectionError\n"
        "import sys\n"
        "try: Client('http://127.0.0.1:1').health()\n"
        "except APIConnectionError: print(*sys.modules)\n"
    )
    loaded = set(fresh(code).split())
    assert "httpcore2" in loaded
    assert not {"onnxruntime", "starlette", "aiaas_server", "httpx", "typer"} & loaded
