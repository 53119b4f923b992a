"""What `aiaas_client` exports, and what importing it costs."""

from __future__ import annotations

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


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        aiaas_client.Nothing  # noqa: B018


def test_the_package_says_that_it_is_typed() -> None:
    assert files("aiaas_client").joinpath("py.typed").is_file()


def test_the_version_sent_to_servers_is_the_distributions() -> None:
    assert user_agent() == f"aiaas-client/{version('aiaas-client')}"


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
