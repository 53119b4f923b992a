"""Score a stream of rows, some of them bad: `python examples/bulk.py`.

Rows come from a generator and go out in chunks, several at a time. A row that does not fit comes
back as an error in its place, and the others are not lost.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from serving import serve
from zoo import digits, repository

from aiaas_client import AiaasError, Client


def rows() -> Iterator[npt.NDArray[np.float32]]:
    """Held-out digits, every hundredth with a pixel missing."""
    _, held_out = digits.load()
    for i, image in enumerate(held_out.images):
        yield image[:-1] if i % 100 == 99 else image


def main(url: str) -> None:
    counts = np.zeros(10, np.int64)
    with Client(url) as client:
        for item in client.model("digits").infer_many(rows(), on_error="return"):
            if isinstance(item, AiaasError):
                print(f"skipped: {item}")
            else:
                counts[item["logits"].argmax()] += 1
    for digit, count in enumerate(counts):
        print(f"{digit}: {'#' * int(count)} {count}")


if __name__ == "__main__":
    with serve(repository.prepare()) as server:
        main(server.url)
