"""The reference that a golden set makes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from aiaas_server.core.events import NOBODY
from aiaas_server.core.schedule.requests import Outcome
from aiaas_server.core.signature import Signature, TensorSpec
from aiaas_server.verifier.witness import Witness


def test_requests_of_all_lengths_are_the_reference() -> None:
    """Texts of other lengths come in requests of other shapes."""
    signature = Signature(
        "m",
        [TensorSpec("ids", "INT64", (-1, -1))],
        [TensorSpec("scores", "FP32", (-1, 2))],
        max_batch_size=8,
    )
    model = cast("Any", SimpleNamespace(signature=signature, card=None, labels={}))
    witness = Witness(model)
    for length in (8, 16, 24):
        for _ in range(10):
            inputs = {"ids": np.ones((1, length), np.int64)}
            scores = np.array([[0.25, 0.75]], np.float32)
            witness(inputs, Outcome({"scores": scores}, 0, 0, 0, 0, 1), NOBODY)
    document = witness.profile()
    assert document is not None
    assert document["rows"] == 30
    lengths = next(one for one in document["features"] if one["name"] == "ids.length")
    assert (lengths["values"], lengths["counts"]) == ((8.0, 16.0, 24.0), (10, 10, 10, 0, 0))
