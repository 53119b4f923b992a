"""Text by a language model, from threads and on an event loop: `python examples/generate.py`.

A conversation, a text as it is written, an answer that is an object, many prompts side by side.
Against the server that `AIAAS_BASE_URL` names, or one that is started here.
"""

from __future__ import annotations

import asyncio
import os

from pydantic import BaseModel, Field
from serving import serve
from zoo import repository

from aiaas_client import AsyncClient, Client

MODEL = os.environ.get("AIAAS_MODEL", "smollm2-135m")
SECONDS = 300.0  # a small machine writes slowly
COUNTRIES = ("France", "Italy", "Spain", "Japan", "Kenya", "Peru", "Norway", "Egypt")


class Person(BaseModel):
    """What an answer is held to; a small model may fill texts to their longest."""

    name: str = Field(max_length=30)
    age: int = Field(ge=0, le=150)


def main(url: str) -> None:
    """In threads."""
    with Client(url, deadline=SECONDS) as client:
        answer = client.chat(MODEL, "What is the capital of France?", temperature=0)
        print(f"{answer.text}  ({answer.finish_reason}, {answer.usage.completion_tokens} tokens)")

        with client.generate(
            MODEL, "Once upon a time", max_tokens=30, temperature=0, stream=True
        ) as story:
            print("Once upon a time", end="")
            for piece in story.text_stream:
                print(piece, end="", flush=True)
            print()

        question = "Ada is 36 years old. Who is she? Answer as JSON with name and age."
        found = client.chat(MODEL, question, response_format=Person, temperature=0, max_tokens=80)
        print(repr(found.parsed))

        # Eight at a time: the server writes a word of each in one step.
        prompts = [f"What is the capital of {country}?" for country in COUNTRIES]
        for answer in client.chat.many(MODEL, prompts, temperature=0, max_tokens=12):
            print(f"{answer.index}: {answer.text}")


async def on_a_loop(url: str) -> None:
    """On an event loop: the same names; leaving a stream early ends the writing."""
    async with AsyncClient(url, deadline=SECONDS) as client:
        stream = client.chat(MODEL, "Count to one hundred.", max_tokens=400, stream=True)
        words = 0
        async with stream:
            async for _ in stream.text_stream:
                words += 1
                if words == 10:
                    break
        print(f"left after {words} pieces: {stream.generation.text!r}")


if __name__ == "__main__":
    if address := os.environ.get("AIAAS_BASE_URL"):
        main(address)
        asyncio.run(on_a_loop(address))
    else:
        models = repository.writers(repository.DEMO, MODEL)
        with serve(models, "--load-model", MODEL, start_timeout=300.0) as server:
            main(server.url)
            asyncio.run(on_a_loop(server.url))
