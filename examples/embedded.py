"""The same calls without a server: `python examples/embedded.py`.

`Client.local` runs the models in this process; only the line that makes the client differs.
"""

from __future__ import annotations

import numpy as np
from zoo import digits, repository

from aiaas_client import Client


def main() -> None:
    _, held_out = digits.load()
    with Client.local(repository.prepare()) as client:
        for entry in client.models.list():
            print(f"{entry.name} version {entry.version}: {entry.state}")
        results = client.model("digits").infer_many(held_out.images)
        read = np.array([result["logits"].argmax() for result in results])
    print(f"{np.mean(read == held_out.labels):.1%} of {len(read)} digits right")


if __name__ == "__main__":
    main()
