"""An answer as a stream of events: `python examples/streaming.py`.

A model of tensors answers with one event; one that generates answers with many, and is read in the
same way. Leaving the block early closes the connection, and the server stops working for it.
"""

from __future__ import annotations

import asyncio

from serving import serve
from zoo import digits, repository

from aiaas_client import AsyncClient, Client


def main(url: str) -> None:
    _, held_out = digits.load()
    with Client(url) as client:
        with client.model("digits").generate_stream(image=held_out.images[0]) as events:
            for event in events:
                print(f"event of {event['model_name']}: {sorted(event)}")
        told = client.request("GET", "/v2").json()  # what has no method of its own
        print(f"{told['name']} speaks {', '.join(told['extensions'][:3])}, ...")
    asyncio.run(on_a_loop(url, held_out.images[0].tolist()))


async def on_a_loop(url: str, image: list[float]) -> None:
    async with (
        AsyncClient(url) as client,
        client.model("digits").generate_stream(image=image) as events,
    ):
        async for event in events:
            scores = event["logits"]
            print(f"the digit is a {scores.index(max(scores))}")


if __name__ == "__main__":
    with serve(repository.prepare()) as server:
        main(server.url)
