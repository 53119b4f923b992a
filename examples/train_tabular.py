"""Train a model of records, check its export, bundle it with a card, and read its confusion matrix.

    python examples/train_tabular.py --out models/tumours --plot confusion.png
    aiaas predict tumours rows.csv

Benign and malignant breast tumours told by ten measurements of their cells (scikit-learn's
`load_breast_cancer`, 569 rows). Every third row is held out; what is told is told of those, through
the bundle as a server would run it. An example of the method, not a medical device. Needs the
extras `server` and `train`, for the plot also `demo`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from aiaas_client import Classification, Client

LABELS = ("malignant", "benign")  # scikit-learn's classes 0 and 1
COLUMNS = 10  # the means; the other twenty are errors and extremes of the same
TOLERANCE = 1e-5


def train(table: Any, labels: Any) -> Any:
    """A scaled logistic regression."""
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(table, labels)


def export(model: Any, table: Any) -> bytes:
    """The model as ONNX, checked: the same labels, and probabilities within 1e-5, on every row.

    Raises:
        RuntimeError: The export answers otherwise.
    """
    inputs: Any = [("features", FloatTensorType([None, table.shape[1]]))]
    options = {id(model): {"zipmap": False}}
    made: Any = to_onnx(model, initial_types=inputs, options=options, target_opset=17)
    content: bytes = made.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    rows = table.to_numpy(np.float32)
    labels, probabilities = session.run(["label", "probabilities"], {"features": rows})
    expected = model.predict_proba(table)
    if (labels != model.predict(table)).any() or np.abs(probabilities - expected).max() > TOLERANCE:
        raise RuntimeError("the export does not answer as the model does")
    return content


def card(columns: list[str], accuracy: float, tested: int) -> dict[str, Any]:
    """The card beside the model."""
    return {
        "format_version": 1,
        "name": "tumours",
        "task": "tabular-classification",
        "description": "Benign or malignant, by ten measurements of cell nuclei. An example only.",
        "licence": "data: UCI Breast Cancer Wisconsin (Diagnostic), CC BY 4.0",
        "labels": list(LABELS),
        "preprocessing": {"columns": [{"name": name} for name in columns]},
        "postprocessing": {"output": "probabilities"},
        "metrics": {"accuracy": round(accuracy, 4), "held_out_rows": tested},
        "lineage": {
            "data": "sklearn.datasets.load_breast_cancer",
            "command": "examples/train_tabular.py",
        },
    }


def build(out: Path) -> Any:
    """Train, export, write `out/1/`, and give the confusion matrix of the held-out rows."""
    data: Any = load_breast_cancer(return_X_y=True, as_frame=True)
    table, labels = data
    table = table.iloc[:, :COLUMNS]
    is_test = np.arange(len(table)) % 3 == 0
    model = train(table[~is_test], labels[~is_test])
    accuracy = float(model.score(table[is_test], labels[is_test]))
    place = out / "1"
    place.mkdir(parents=True, exist_ok=True)
    (place / "model.onnx").write_bytes(export(model, table))
    text = json.dumps(card(list(table.columns), accuracy, int(is_test.sum())), indent=2)
    (place / "model.json").write_text(text + "\n", "utf-8")
    with Client.local(out.parent, load_models=(out.name,)) as client:
        found = client.task(Classification, out.name).predict_frame(table[is_test])
    truth = [LABELS[index] for index in labels[is_test]]
    matrix = confusion_matrix(truth, found["predicted_label"], labels=list(LABELS))
    served = float(np.trace(matrix) / matrix.sum())
    print(
        f"held-out accuracy {accuracy:.3f}, through the bundle {served:.3f}, on {len(truth)} rows"
    )
    return matrix


def show(matrix: Any) -> None:
    """Print the matrix: a row for what is, a column for what was said."""
    table = Table("is \\ said", *LABELS, box=None)
    for label, row in zip(LABELS, matrix.tolist(), strict=True):
        table.add_row(label, *map(str, row))
    Console().print(table)


def plot(matrix: Any, path: Path) -> None:
    """Draw the matrix."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.imshow(matrix, cmap="Blues")
    axes.set(xlabel="said", ylabel="is", xticks=range(len(LABELS)))
    axes.set_yticks(range(len(LABELS)), LABELS)
    axes.set_xticklabels(LABELS)
    for (row, column), count in np.ndenumerate(matrix):
        colour = "white" if count > matrix.max() / 2 else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=colour)
    figure.savefig(path, dpi=120)
    print(f"wrote {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train and bundle a model of records.")
    parser.add_argument("--out", type=Path, default=Path("models/tumours"))
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    confusion = build(arguments.out)
    show(confusion)
    if arguments.plot is not None:
        plot(confusion, arguments.plot)
