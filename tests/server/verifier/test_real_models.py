"""Real models pass their verification, with their cards, tokenizers, pictures and pipelines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aiaas_server.registry.verification.verify import verify
from aiaas_server.zoo.pull import pull

pytestmark = pytest.mark.slow

MODELS = {
    "digits-cnn": None,
    "efficientnet-lite0": None,
    "magika": None,
    "minilm": {"instances": ["a text", "another one"], "predictions": [{}, {}]},
    "silero-vad": None,
}


@pytest.mark.parametrize("name", MODELS)
async def test_a_model_of_the_zoo_is_verified(name: str, tmp_path: Path) -> None:
    pull(name, tmp_path)
    directory = tmp_path / name / "1"
    golden = MODELS[name]
    if golden is not None:
        (directory / "golden.json").write_text(json.dumps(golden), "utf-8")
    found = await verify(directory, timeout=300, memory_bytes=2 << 30, name=name)
    assert found.card is not None
    assert found.report.nodes > 0
    assert found.report.load_seconds > 0
    assert found.report.memory_bytes < 1 << 30
    assert bool(found.report.golden) == (golden is not None)
