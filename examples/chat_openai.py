"""OpenAI's own client, whose base URL alone is changed: `python examples/chat_openai.py`.

An answer as it is written, a function that the model has called, an answer that is an object, and
a response. Against the server that `AIAAS_BASE_URL` names, or one that is started here.
Needs the extra `demo` and the package `openai`.
"""

from __future__ import annotations

import json
import os

import openai
from openai.types.chat import (
    ChatCompletionMessageFunctionToolCall,
    ChatCompletionMessageParam,
    ChatCompletionToolUnionParam,
)
from pydantic import BaseModel, Field
from serving import serve
from zoo import repository

MODEL = os.environ.get("AIAAS_MODEL", "smollm2-135m")
WEATHER: ChatCompletionToolUnionParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city, now.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 30}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


class Person(BaseModel):
    """What an answer is held to; a small model may fill texts to their longest."""

    name: str = Field(max_length=30)
    age: int = Field(ge=0, le=150)


def main(url: str) -> None:
    key = os.environ.get("AIAAS_API_KEY", "none")  # OpenAI's client wants one, the server may not
    with openai.OpenAI(base_url=f"{url.rstrip('/')}/v1", api_key=key, timeout=300.0) as client:
        stream_an_answer(client)
        call_a_function(client)
        read_an_object(client)
        write_a_response(client)


def stream_an_answer(client: openai.OpenAI) -> None:
    """Print an answer as it is written, and what it took."""
    chunks = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in chunks:
        for choice in chunk.choices:
            print(choice.delta.content or "", end="", flush=True)
        if chunk.usage is not None:
            print(f"  ({chunk.usage.completion_tokens} tokens)")


def call_a_function(client: openai.OpenAI) -> None:
    """Have the model ask for the weather, look out, and have it tell."""
    messages: list[ChatCompletionMessageParam] = [
        {"role": "user", "content": "What is the weather in Paris?"}
    ]
    asked = client.chat.completions.create(
        model=MODEL,
        messages=messages,
        tools=[WEATHER],
        tool_choice="required",  # "auto" needs a model that was trained to call
        temperature=0,
    )
    calls = asked.choices[0].message.tool_calls
    assert calls, "tool_choice is required"
    call = calls[0]
    assert isinstance(call, ChatCompletionMessageFunctionToolCall), "the tool is a function"
    city = json.loads(call.function.arguments)["city"]
    print(f"{call.function.name}: {city}")
    messages += [
        {
            "role": "assistant",
            "tool_calls": [
                {
                    "type": "function",
                    "id": call.id,
                    "function": {
                        "name": call.function.name,
                        "arguments": call.function.arguments,
                    },
                }
            ],
        },
        {"role": "tool", "tool_call_id": call.id, "content": "18 degrees, light rain"},
    ]
    told = client.chat.completions.create(
        model=MODEL, messages=messages, temperature=0, max_tokens=60
    )
    print(f"told: {told.choices[0].message.content}")


def read_an_object(client: openai.OpenAI) -> None:
    """Have an answer that is an object of a class."""
    question = "Ada is 36 years old. Who is she? Answer as JSON with name and age."
    answer = client.chat.completions.parse(
        model=MODEL,
        messages=[{"role": "user", "content": question}],
        response_format=Person,
        temperature=0,
        max_tokens=80,
    )
    print(repr(answer.choices[0].message.parsed))


def write_a_response(client: openai.OpenAI) -> None:
    """The same model by the newer route."""
    response = client.responses.create(
        model=MODEL, input="What is the capital of France?", temperature=0, store=False
    )
    print(f"{response.status}: {response.output_text}")


if __name__ == "__main__":
    if address := os.environ.get("AIAAS_BASE_URL"):
        main(address)
    else:
        models = repository.writers(repository.DEMO, MODEL)
        with serve(models, "--load-model", MODEL, start_timeout=300.0) as server:
            main(server.url)
