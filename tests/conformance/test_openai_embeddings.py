"""The official OpenAI client, unmodified, against the embeddings and models routes."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import openai
import pytest

from aiaas_server.app import create_app
from aiaas_server.settings import Settings
from tests.server.http.serving import serving
from tests.task_bundles import write_repository


@pytest.fixture(scope="module")
def client(
    tmp_path_factory: pytest.TempPathFactory, onnx_models: SimpleNamespace
) -> Iterator[openai.OpenAI]:
    repository: Path = write_repository(tmp_path_factory.mktemp("models"), onnx_models)
    with (
        serving(create_app(Settings(models=repository))) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


def test_vectors_come_as_the_client_asks_by_itself(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="vectors", input=["good tea", "bad"])
    assert [one.index for one in answer.data] == [0, 1]
    assert answer.data[0].embedding == pytest.approx([0.5**0.5, 0.5**0.5])
    assert answer.data[1].embedding == [-1.0, 0.0]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 3


def test_base64_is_the_same_numbers(client: openai.OpenAI) -> None:
    floats = client.embeddings.create(model="vectors", input="good tea", encoding_format="float")
    packed = client.embeddings.create(model="vectors", input="good tea", encoding_format="base64")
    text = packed.data[0].embedding
    assert isinstance(text, str)
    numbers = np.frombuffer(base64.b64decode(text), "<f4")
    assert numbers.tolist() == pytest.approx(floats.data[0].embedding)


@pytest.mark.parametrize(
    ("given", "count"),
    [
        pytest.param([2, 5], 1, id="one list of tokens"),
        pytest.param([[2, 5], [3]], 2, id="lists of tokens"),
        pytest.param("good tea", 1, id="text"),
    ],
)
def test_inputs_of_every_kind(client: openai.OpenAI, given: object, count: int) -> None:
    answer = client.embeddings.create(model="vectors", input=given)
    assert len(answer.data) == count
    assert answer.data[0].embedding == pytest.approx([0.5**0.5, 0.5**0.5])


@pytest.mark.parametrize(
    ("model", "given", "error", "told"),
    [
        pytest.param("none", "a", openai.NotFoundError, "'none' is not found", id="model"),
        pytest.param("moods", "a", openai.BadRequestError, "makes no embeddings", id="task"),
        pytest.param("vectors", "", openai.BadRequestError, "text is empty", id="empty"),
        pytest.param("vectors", [], openai.BadRequestError, "'input': expected", id="no inputs"),
        pytest.param("vectors", ["a", ""], openai.BadRequestError, "input[1]", id="one empty"),
        pytest.param("vectors", [99], openai.BadRequestError, "token ids from 0 to 5", id="token"),
    ],
)
def test_bad_calls_raise_the_clients_own_errors(
    client: openai.OpenAI, model: str, given: object, error: type[openai.APIStatusError], told: str
) -> None:
    with pytest.raises(error) as raised:
        client.embeddings.create(model=model, input=given)
    assert told in raised.value.message


def test_an_unknown_model_has_the_code_that_programs_look_for(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve("none")
    assert raised.value.code == "model_not_found"


def test_dimensions_are_refused_where_the_model_was_not_trained_for_it(
    client: openai.OpenAI,
) -> None:
    with pytest.raises(openai.BadRequestError, match="cannot be shortened"):
        client.embeddings.create(model="vectors", input="good", dimensions=1)


def test_models_are_listed_and_retrieved(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert "vectors" in names
    assert client.models.retrieve("vectors").object == "model"
