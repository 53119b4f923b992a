"""The official OpenAI client, unmodified, against files and batches: jobs of a real server."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai.types import Batch

from aiaas_server.app import create_app
from aiaas_server.settings import Settings
from tests import task_bundles
from tests.server.http.serving import serving
from tests.server.registry.bringing import Bringer

pytestmark = pytest.mark.slow
ENDED = ("completed", "failed", "expired", "cancelled")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a server with a version of `vectors`, that runs one job at a time."""
    data = tmp_path_factory.mktemp("server") / "data"
    bringer = Bringer(data)
    table = task_bundles.table_model(task_bundles.MEANINGS, task_bundles.PARTS, pooled=False)
    card = json.dumps(task_bundles.VECTOR_CARD).encode()
    files = {
        "model.onnx": table,
        "model.json": card,
        "tokenizer.json": task_bundles.tokenizer(),
    }
    bringer.bring("vectors", files, card=task_bundles.VECTOR_CARD)
    bringer.close()
    models = data.parent / "models"
    models.mkdir()
    settings = Settings(
        data=data, models=models, jobs=1, disk_reserve_bytes=0, max_upload_bytes=1 << 20
    )
    with serving(create_app(settings)) as server:
        yield server.url


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def calls(count: int, model: str = "vectors") -> bytes:
    """A file of calls; every tenth one calls nobody."""
    lines = [
        {
            "custom_id": f"call-{at}",
            "method": "POST",
            "url": "/v1/embeddings",
            "body": {"model": "nobody" if at % 10 == 3 else model, "input": "good tea"},
        }
        for at in range(count)
    ]
    return "".join(f"{json.dumps(line)}\n" for line in lines).encode()


def create(client: openai.OpenAI, file: str, **more: Any) -> Batch:
    return client.batches.create(
        input_file_id=file, endpoint="/v1/embeddings", completion_window="24h", **more
    )


def ended(client: openai.OpenAI, batch: Batch) -> Batch:
    """It, once it has ended."""
    until = time.monotonic() + 120
    while batch.status not in ENDED:
        assert time.monotonic() < until, batch
        time.sleep(0.2)
        batch = client.batches.retrieve(batch.id)
    return batch


def test_a_file_of_calls_becomes_a_file_of_answers(client: openai.OpenAI, tmp_path: Path) -> None:
    """Uploaded, answered, fetched; each line has one answer, in one of two files."""
    path = tmp_path / "calls.jsonl"
    path.write_bytes(calls(200))
    file = client.files.create(file=path, purpose="batch")
    assert (file.filename, file.bytes, file.purpose) == (
        "calls.jsonl",
        path.stat().st_size,
        "batch",
    )
    assert client.files.content(file.id).read() == path.read_bytes()
    batch = ended(client, create(client, file.id, metadata={"of": "me"}))
    assert batch.status == "completed", batch.errors
    assert batch.metadata == {"of": "me"}
    assert batch.request_counts is not None
    assert batch.request_counts.model_dump() == {"total": 200, "completed": 180, "failed": 20}
    assert batch.output_file_id is not None
    assert batch.error_file_id is not None
    good = [json.loads(x) for x in client.files.content(batch.output_file_id).text.splitlines()]
    bad = [json.loads(x) for x in client.files.content(batch.error_file_id).text.splitlines()]
    assert sorted(one["custom_id"] for one in good + bad) == sorted(f"call-{i}" for i in range(200))
    live = client.embeddings.create(model="vectors", input="good tea", encoding_format="float")
    assert good[0]["response"]["body"]["data"][0]["embedding"] == live.data[0].embedding
    assert {one["response"]["status_code"] for one in bad} == {404}
    assert client.files.retrieve(batch.output_file_id).purpose == "batch_output"
    assert next(one.id for one in client.batches.list()) == batch.id
    assert file.id in [one.id for one in client.files.list()]
    with pytest.raises(openai.ConflictError, match="goes with it"):
        client.files.delete(batch.output_file_id)
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def test_a_cancelled_batch_ends(client: openai.OpenAI) -> None:
    """At whatever moment; a file is kept as long as a batch needs it."""
    file = client.files.create(file=("calls.jsonl", calls(2000)), purpose="batch")
    first, second = create(client, file.id), create(client, file.id)
    with pytest.raises(openai.ConflictError, match="is needed by batch_"):
        client.files.delete(file.id)
    assert client.batches.cancel(second.id).status == "cancelled"
    assert client.batches.cancel(first.id).status in ("cancelling", "cancelled")
    assert ended(client, first).status == "cancelled"
    assert client.files.delete(file.id).deleted


def test_what_cannot_be_is_refused(client: openai.OpenAI, url: str) -> None:
    """In OpenAI's own form, naming what was expected."""
    with pytest.raises(openai.BadRequestError, match="purpose: expected 'batch'"):
        client.files.create(file=("x", b"{}"), purpose="fine-tune")
    with pytest.raises(openai.APIStatusError, match="max_upload_bytes") as raised:
        client.files.create(file=("x", bytes(2 << 20)), purpose="batch")
    assert raised.value.status_code == 413
    with pytest.raises(openai.NotFoundError, match="no file 'file-1'"):
        create(client, "file-1")
    empty = client.files.create(file=("x", b"\n"), purpose="batch")
    with pytest.raises(openai.BadRequestError, match="no line"):
        create(client, empty.id)
    with pytest.raises(openai.BadRequestError, match="endpoint"):
        client.batches.create(
            input_file_id=empty.id, endpoint="/v1/responses", completion_window="24h"
        )
    with pytest.raises(openai.NotFoundError, match="no batch 'batch_x'"):
        client.batches.retrieve("batch_x")
    with pytest.raises(openai.NotFoundError):
        client.files.content("file-" + "0" * 32 + "-output")
    answer = httpx2.post(f"{url}/v1/files", files={"other": b"x"}, data={"purpose": "batch"})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "file: expected a file in the form"
    answer = httpx2.post(f"{url}/v1/files", content=b"{}")
    assert answer.status_code == 415
