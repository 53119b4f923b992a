"""Score a file of rows into another: `python examples/scoring.py`.

Both files are memory maps. What is in memory at a time are a few requests, however long the files
are, and the scores stand in the order of the rows.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from serving import serve
from zoo import digits, repository

from aiaas_client import Client

ROWS = 20_000


def main(url: str, folder: Path) -> None:
    _, held_out = digits.load()
    rows = np.lib.format.open_memmap(folder / "rows.npy", "w+", np.float32, (ROWS, 784))
    rows[:] = np.resize(held_out.images, rows.shape)
    logits = np.lib.format.open_memmap(folder / "logits.npy", "w+", np.float32, (ROWS, 10))
    with Client(url) as client:
        result = client.model("digits").infer_array(image=rows, out={"logits": logits})
    right = np.resize(held_out.labels, ROWS) == logits.argmax(axis=1)
    print(f"{ROWS} rows in {result.attempts} requests: {right.mean():.1%} right")


if __name__ == "__main__":
    with serve(repository.prepare()) as server, tempfile.TemporaryDirectory() as folder:
        main(server.url, Path(folder))
