"""A file of OpenAI calls: one line out for one in, errors apart, and on from a checkpoint."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiaas_server.job_process import pace
from aiaas_server.jobs.orders import LaidCheckpoint, Order, Product
from tests import task_bundles
from tests.server.job_process import cards
from tests.server.job_process.at_hand import made, made_here, refused_here

TEXTS = ["good tea", "bad", "film", "good film"]


def line(custom: Any, **body: Any) -> str:
    """A call as OpenAI's clients write it."""
    return json.dumps(
        {"custom_id": custom, "method": "POST", "url": "/v1/embeddings", "body": body}
    )


def order(tmp_path: Path, lines: list[str], **more: Any) -> Order:
    """To answer these lines by a version of vectors, `m@3`, or one of moods, `n@1`."""
    files = {"tokenizer.json": task_bundles.tokenizer()}
    parts = task_bundles.PARTS
    if not (tmp_path / "vectors").exists():
        table = task_bundles.table_model(task_bundles.MEANINGS, parts, pooled=False)
        task_bundles.write_bundle(tmp_path, "vectors", task_bundles.VECTOR_CARD, table, files)
        moods = task_bundles.table_model(task_bundles.MOODS, parts, pooled=True)
        task_bundles.write_bundle(tmp_path, "moods", task_bundles.MOOD_CARD, moods, files)
    (tmp_path / "calls").write_text("\n".join(lines) + "\n", "utf-8")
    spec = {
        "kind": "batch",
        "file": "file-1",
        "endpoint": "/v1/embeddings",
        "models": ["m@3", "n@1"],
        "called": {"m@production": "m@3"},
    }
    versions = {
        "m@3": cards.version(tmp_path / "vectors" / "1", "m@3"),
        "n@1": cards.version(tmp_path / "moods" / "1", "n@1"),
    }
    laid = {"file-1": str(tmp_path / "calls")}
    return Order(job="j", spec=spec, files=laid, versions=versions, **more)


def read(product: Product, name: str, directory: Path) -> list[dict[str, Any]]:
    """The lines of a file that was made."""
    text = (directory / product.files[name]).read_text("utf-8")
    return [json.loads(one) for one in text.splitlines()]


def test_every_line_is_answered_once(tmp_path: Path) -> None:
    """Vectors in OpenAI's form; each thing that is wrong with a line is told for that line."""
    other = line("url", model="m", input="tea").replace("/v1/embeddings", "/v1/completions")
    lines = [
        line("a", model="m", input="good tea", encoding_format="float"),
        line("b", model="m@production", input=["bad", "tea"]),
        line("c", model="m", input="tea", encoding_format="base64"),
        line("empty", model="m", input=["tea", " "]),
        line("none", model="nobody", input="tea"),
        line("task", model="n", input="tea"),
        line("a", model="m", input="tea"),
        "{broken",
        line("", model="m", input="tea"),
        other,
        line("input", model="m"),
        "   ",
        line("last", model="m@3", input="film"),
    ]
    found = made(order(tmp_path, lines), tmp_path)
    good = read(found, "output.jsonl", tmp_path)
    bad = read(found, "errors.jsonl", tmp_path)
    assert found.metrics == {"total": 12, "completed": 4, "failed": 8}
    assert [one["custom_id"] for one in good] == ["a", "b", "c", "last"]
    body = good[0]["response"]["body"]
    assert good[0]["response"]["status_code"] == 200
    assert body["data"][0]["embedding"] == pytest.approx([0.5**0.5, 0.5**0.5])
    assert body["model"] == "m"
    assert body["usage"]["total_tokens"] == 2
    assert [one["index"] for one in good[1]["response"]["body"]["data"]] == [0, 1]
    packed = good[2]["response"]["body"]["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(packed), "<f4").tolist() == [0.0, 1.0]
    told = [(one["custom_id"], _what(one)) for one in bad]
    assert told == [
        ("empty", 400),
        ("none", 404),
        ("task", 400),
        ("a", "duplicate_custom_id"),
        (None, "invalid_json_line"),
        (None, "missing_custom_id"),
        ("url", "mismatched_url"),
        ("input", 400),
    ]
    message = bad[0]["response"]["body"]["error"]["message"]
    assert message.startswith("input[1]: text is empty")
    assert len({one["id"] for one in good + bad}) == 12


def _what(one: dict[str, Any]) -> Any:
    return one["error"]["code"] if one["response"] is None else one["response"]["status_code"]


def test_it_goes_on_from_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both files are those of an attempt that nobody disturbed."""
    lines = [
        line(f"{at}", model="m", input=" " if at % 50 == 7 else TEXTS[at % 4]) for at in range(300)
    ]
    monkeypatch.setattr(pace, "_SOON", 0.0)
    whole = made_here(order(tmp_path, lines), tmp_path)
    kept = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert kept[0] == 64
    again = tmp_path / "again"
    again.mkdir()
    checkpoint = LaidCheckpoint(step=64, path=str(tmp_path / "checkpoints" / "64"))
    second = made_here(order(tmp_path, lines, checkpoint=checkpoint, attempt=2), again)
    assert second.metrics == whole.metrics == {"total": 300, "completed": 294, "failed": 6}
    for name in whole.files:
        assert read(second, name, again) == read(whole, name, tmp_path)


def test_a_file_without_lines_is_refused(tmp_path: Path) -> None:
    """There is nothing to answer."""
    assert "the file has no line" in refused_here(order(tmp_path, ["", " "]), tmp_path).message
