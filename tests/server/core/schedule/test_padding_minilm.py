"""Padding on a real model: sentences of 5 to 120 tokens from 32 clients."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
from zoo import minilm

from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.repository.repository import Repository
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.settings import Settings
from aiaas_server.zoo.packages import fetch

pytestmark = pytest.mark.slow

WORDS = [
    "the",
    "river",
    "runs",
    "past",
    "an",
    "old",
    "mill",
    "where",
    "two",
    "brothers",
    "once",
    "made",
    "paper",
    "for",
    "the",
    "town",
]
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
PADDED = {"pad": {name: {"axis": 1} for name in INPUTS}, "slice": {"last_hidden_state": 1}}


def sentences(count):
    chance = np.random.default_rng(0)
    return [" ".join(chance.choice(WORDS, chance.integers(3, 118))) for _ in range(count)]


async def test_sentences_of_mixed_length_share_batches_and_keep_their_vectors(make_repository):
    """8-bit activations are scaled over a whole batch, so that neighbours show in the digits."""
    list(fetch(minilm.FILES))
    config = {"max_batch_size": 16, "dynamic_batching": {}}
    config["parameters"] = {"batching": {"string_value": json.dumps(PADDED)}}
    model = minilm.MODEL.path.read_bytes()
    root = make_repository({"minilm": model}, configs={"minilm": json.dumps(config)})
    pool = ModelPool(Repository(root), open_session, Settings())
    await pool.start()
    served = pool.resolve("minilm")
    tokenizer = minilm.tokenizer()
    requests = [minilm.encode(tokenizer, [text]) for text in sentences(96)]
    left = iter(enumerate(requests))
    vectors = {}

    async def client():
        for index, request in left:
            outcome = await served.infer(request)
            hidden = outcome.outputs["last_hidden_state"]
            assert hidden.shape[:2] == request["input_ids"].shape
            vectors[index] = minilm.pool(hidden, request["attention_mask"])[0]

    await asyncio.gather(*[client() for _ in range(32)])
    assert served.statistics.execution_count < len(requests)
    for index, request in enumerate(requests):
        (alone,) = served.session.run(request, ["last_hidden_state"])
        expected = minilm.pool(alone, request["attention_mask"])[0]
        assert float(expected @ vectors[index]) > 0.99
    await pool.close()
