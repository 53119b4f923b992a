"""A body over a limit is 413 and says which limit it was."""

from __future__ import annotations

import gzip
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.task_bundles import write_repository

JSON = {"content-type": "application/json"}
LIMITS: dict[str, tuple[str, str, Any, dict[str, str]]] = {
    "predict": ("/predict", "max_json_bytes", b" " * 501, JSON),
    "v1 predict": ("/v1/models/moods:predict", "max_json_bytes", b" " * 501, JSON),
    "embeddings": ("/v1/embeddings", "max_json_bytes", b" " * 501, JSON),
    "speech": ("/v1/audio/speech", "max_json_bytes", b" " * 501, JSON),
    "a recording": (
        "/v1/audio/transcriptions",
        "max_audio_bytes",
        b"--b" + b"x" * 800,
        {"content-type": "multipart/form-data; boundary=b"},
    ),
    "generate": ("/v2/models/table/generate", "max_json_bytes", b" " * 501, JSON),
    "a raw body": ("/predict", "max_body_bytes", b"x" * 901, {"content-type": "text/plain"}),
    "infer": ("/v2/models/table/infer", "max_body_bytes", b"x" * 901, {}),
    "infer in pieces": ("/v2/models/table/infer", "max_body_bytes", (b"x" * 600, b"x" * 600), {}),
    "inflated": (
        "/v2/models/table/infer",
        "max_body_bytes",
        gzip.compress(b"x" * 901),
        {"content-encoding": "gzip"},
    ),
    "a control route": ("/v2/repository/index", "max_control_bytes", b" " * 301, JSON),
    "a load": ("/v2/repository/models/table/load", "max_upload_bytes", b" " * 1001, JSON),
}


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "chunked"])
@pytest.mark.parametrize(("path", "setting", "body", "headers"), LIMITS.values(), ids=LIMITS.keys())
async def test_the_limit_that_was_hit_is_told(
    open_app: Any,
    tmp_path: Path,
    onnx_models: SimpleNamespace,
    path: str,
    setting: str,
    body: Any,
    headers: dict[str, str],
    announced: bool,
) -> None:
    sizes = {
        "max_json_bytes": 500,
        "max_body_bytes": 900,
        "max_audio_bytes": 700,
        "max_control_bytes": 300,
        "max_upload_bytes": 1000,
    }
    call = await open_app(write_repository(tmp_path / "models", onnx_models), **sizes)
    if announced:
        size = len(body) if isinstance(body, bytes) else sum(map(len, body))
        headers = headers | {"content-length": str(size)}
    answer = await call("POST", path, body, headers)
    assert answer.status == 413, answer.body
    assert setting in answer.body.decode()
    assert f"at most {sizes[setting]} bytes" in answer.body.decode()
