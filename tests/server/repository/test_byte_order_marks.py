"""What a Windows editor saves is read: cards, configurations, labels, assets and tokenizers."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from aiaas_client import Client
from tests.task_bundles import MOOD_CARD, MOODS, PARTS, table_model, tokenizer


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_every_text_file_of_a_repository_may_begin_with_a_mark(
    tmp_path: Path, onnx_models: SimpleNamespace, encoding: str
) -> None:
    plain, card = tmp_path / "plain" / "1", tmp_path / "card" / "1"
    plain.mkdir(parents=True)
    card.mkdir(parents=True)
    (plain / "model.onnx").write_bytes(onnx_models.identity("FP32", ["batch", 2]))
    config = 'max_batch_size: 4 output [ { name: "y" label_filename: "labels.txt" } ]'
    (plain.parent / "config.pbtxt").write_bytes(config.encode(encoding))
    (plain.parent / "labels.txt").write_bytes("cat\r\ndog\r\n".encode(encoding))
    (card / "model.onnx").write_bytes(table_model(MOODS, PARTS, pooled=True))
    text = json.dumps({**MOOD_CARD, "labels": "moods.txt"})
    (card / "model.json").write_bytes(text.encode(encoding))
    (card / "moods.txt").write_bytes("negative\r\npositive\r\n".encode(encoding))
    (card / "tokenizer.json").write_bytes(tokenizer().decode().encode(encoding))
    with Client.local(tmp_path) as client:
        best = client.model("plain").infer(x=np.float32([[0.9, 0.1]]), classification=1)["y"]
        assert best.tolist() == [[b"0.900000:0:cat"]]
        assert client.model("card").predict("good").label == "positive"
