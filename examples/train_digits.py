"""Train the 784-32-10 network on digits and write it as a bundle with its card.

    python examples/train_digits.py --out models/digits
    aiaas predict digits picture.png

Every fifth of scikit-learn's 1,797 digits is held out. Their accuracy is told twice: of the arrays,
and of the same digits sent as PNG pictures through the bundle as a server would run it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from zoo import digits

from aiaas_client import Classification, Client
from aiaas_server.zoo.packages import fetch


def card(accuracy: float, tested: int) -> dict[str, Any]:
    """The card beside the model."""
    return {
        "format_version": 1,
        "name": "digits",
        "task": "digits",
        "description": "One handwritten digit, white on black or black on white.",
        "licence": "data: UCI Optical Recognition of Handwritten Digits, CC BY 4.0",
        "preprocessing": {"scale": 255, "mean": 0, "std": 1, "polarity": "auto"},
        "postprocessing": {"output": "logits", "activation": "softmax"},
        "metrics": {"accuracy": round(accuracy, 4), "held_out_pictures": tested},
        "lineage": {"data": digits.DATA.member, "sha256": digits.DATA.sha256},
    }


def accuracy_of(weights: list[digits.Floats], test: digits.Digits) -> float:
    """Share of right answers, by numpy."""
    w1, b1, w2, b2 = weights
    logits = np.maximum(test.images @ w1 + b1, 0) @ w2 + b2
    return float((logits.argmax(1) == test.labels).mean())


def pictures(test: digits.Digits) -> list[npt.NDArray[np.uint8]]:
    """The held-out digits as pictures of 28 x 28 pixels."""
    return list(np.round(test.images.reshape(-1, 28, 28) * 255).astype(np.uint8))


def build(out: Path) -> float:
    """Train, measure, write `out/1/`; gives the accuracy through the bundle."""
    list(fetch(digits.FILES))
    training, test = digits.load()
    weights = digits.train(training)
    plain = accuracy_of(weights, test)
    place = out / "1"
    place.mkdir(parents=True, exist_ok=True)
    (place / "model.onnx").write_bytes(digits.to_onnx(weights))
    text = json.dumps(card(plain, len(test.labels)), indent=2)
    (place / "model.json").write_text(text + "\n", "utf-8")
    with Client.local(out.parent, load_models=(out.name,)) as client:
        found = list(client.task(Classification, out.name).predict_many(pictures(test)))
    said = np.array([int(one.label) for one in found])
    served = float((said == test.labels).mean())
    print(f"held-out accuracy {plain:.3f}, as pictures through the bundle {served:.3f}")
    return served


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train and bundle a model of digits.")
    parser.add_argument("--out", type=Path, default=Path("models/digits"))
    build(parser.parse_args().out)
