"""What a newcomer gets wrong, and the error that says so: always the SDK's own, by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from aiaas_client import (
    AiaasError,
    Client,
    ConfigurationError,
    DeadlineExceededError,
    InputError,
    MissingFileError,
    NotFoundError,
)
from aiaas_client.testing import FakeServer
from aiaas_server.cli import app


def test_texts_to_compare_are_a_list() -> None:
    with Client("http://127.0.0.1:9") as client, pytest.raises(InputError, match="got one str"):
        client.text_embedding("m").similarity("ab")


def test_documents_to_rank_are_a_list() -> None:
    with (
        Client("http://127.0.0.1:9") as client,
        pytest.raises(InputError, match="documents: .*str"),
    ):
        client.text_embedding("m").rank("a query", "abc")


def test_arrays_as_they_are_are_arrays() -> None:
    inputs: Any = {"a": [[1, 2]]}
    with Client("http://127.0.0.1:9") as client, pytest.raises(InputError, match="input 'a'.*list"):
        client.infer("m", inputs)


def test_a_local_client_of_nothing_is_told_by_the_sdk(tmp_path) -> None:
    with pytest.raises(MissingFileError, match="modles"):
        Client.local(tmp_path / "modles")
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="neither a directory nor an .onnx file"):
        Client.local(tmp_path / "model.json")


@pytest.mark.parametrize(
    "options", [{"memory_budget_bytes": "8QB"}, {"instances": -3}, {"no_such_setting": 1}]
)
def test_a_wrong_setting_of_a_local_client_is_named(tmp_path, options: dict[str, Any]) -> None:
    with pytest.raises(AiaasError, match=next(iter(options))) as caught:
        Client.local(tmp_path, **options)
    assert "pydantic" not in str(caught.value)


def test_check_of_what_is_no_model_is_one_sentence(tmp_path) -> None:
    (tmp_path / "model.json").write_text("{}")
    result = CliRunner().invoke(app, ["check", str(tmp_path / "model.json")])
    assert result.exit_code == 2
    assert "neither a directory nor an .onnx file" in " ".join(result.output.split())


def test_rows_are_many_and_a_text_is_one(onnx_models, make_repository) -> None:
    with Client.local(make_repository({"m": onnx_models.scale()})) as client:
        rows = np.ones((2, 4), np.float32)
        assert len(list(client.model("m").infer_many(rows))) == 2
        with pytest.raises(InputError, match="items: expected many, got one str"):
            list(client.model("m").infer_many("ab"))


@pytest.mark.parametrize("method", ["ready", "health"])
def test_an_address_below_the_server_is_no_server_that_is_not_ready(method: str) -> None:
    with FakeServer() as server, Client(f"{server.url}/v2") as client:
        with pytest.raises(NotFoundError, match=f"answer to GET {server.url}/v2/v2/health"):
            getattr(client, method)()
        with pytest.raises(DeadlineExceededError, match=f"{server.url}/v2/v2/health/ready"):
            client.wait_ready(timeout=0.2)
