"""Many calls at once on an event loop: `python examples/async_client.py`.

The server batches what arrives while it is busy, so concurrent single calls cost little more than
one big one.
"""

from __future__ import annotations

import asyncio

import numpy as np
from serving import serve
from zoo import digits, repository

from aiaas_client import APIStatusError, AsyncClient


async def main(url: str) -> None:
    _, held_out = digits.load()
    async with AsyncClient(url) as client:
        model = client.model("digits")
        calls = [model.infer_one(image=image) for image in held_out.images[:200]]
        results = await asyncio.gather(*calls)
        read = np.array([result["logits"].argmax() for result in results])
        (told,) = await model.statistics()
        print(f"{(read == held_out.labels[:200]).mean():.1%} of {len(read)} digits right")
        print(f"the server ran {told.execution_count} batches for {told.inference_count} rows")
        try:
            await client.model("no-such-model").infer(x=[1.0])
        except APIStatusError as error:
            print(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    with serve(repository.prepare()) as server:
        asyncio.run(main(server.url))
