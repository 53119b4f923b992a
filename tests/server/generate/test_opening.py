"""The tiny model through everything below the routes: real graph, tokenizer, sampling, formats."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiaas_server.core.describe.bundle import Bundles
from aiaas_server.core.errors import Draining, InvalidInput, LoadFailed
from aiaas_server.core.generation import (
    Answering,
    Ask,
    Chat,
    Format,
    GenerationLimits,
    Piece,
    Sampling,
    TextDelta,
    ToolDelta,
    generator_of,
)
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.core.session import Session
from aiaas_server.core.task import LoopingTask, Params
from aiaas_server.generate import open_generator
from aiaas_server.generate.engine import Engine
from aiaas_server.generate.network import Network
from aiaas_server.generate.networks import open_network
from aiaas_server.generate.settings import GenerationSettings
from aiaas_server.repository.repository import Repository
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.settings import Settings
from tests import tiny_llm
from tests.server.generate import forms
from tests.waiting import until
from tests.writing import FreeGuesses, TinyWriter

PROMPT = "the quick brown fox"
NOTHING: Mapping[int, float] = {}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyWriter]:
    made = TinyWriter(tmp_path_factory.mktemp("tiny"))
    yield made
    made.close()


async def pieces_of(answer: Answering) -> list[Piece]:
    return [piece async for piece in answer]


async def written(tiny: TinyWriter, ask: Ask) -> tuple[str, tuple[int, ...]]:
    pieces = await pieces_of(await tiny.engine.start(ask, inf))
    text = "".join(piece.text for piece in pieces)
    return text, tuple(token for piece in pieces for token in piece.tokens)


class OneByOne:
    """Decodes with a network of its own, one token at a time, and nothing beside it."""

    def __init__(self, session: Session) -> None:
        limits = GenerationLimits(slots=1, prefix_bytes=0)
        settings = GenerationSettings(context=tiny_llm.CONFIG.context)
        self._network: Network = open_network(session, open_session, settings, limits)

    def tokens(
        self, prompt: tuple[int, ...], count: int, biases: Mapping[int, float] = NOTHING
    ) -> list[int]:
        found: list[int] = []
        self._network.open(0, prompt, {})
        logits = self._network.extend(0, prompt, 1)
        while len(found) < count:
            chances = logits[0].copy()
            for token, bias in biases.items():
                chances[token] += bias
            found.append(int(chances.argmax()))
            logits = self._network.step([0], [found[-1]])
        self._network.close(0, remember=0)
        return found


async def test_it_writes_text_that_its_tokens_spell(tiny: TinyWriter) -> None:
    tokens = await tiny.engine.encode(PROMPT)
    text, found = await written(tiny, Ask(tokens, max_tokens=40, ignore_end=True))
    assert list(found) == OneByOne(tiny.session).tokens(tokens, 40)
    assert text == tiny.engine.decode(found)


async def test_a_step_has_been_run_when_it_is_open(tiny: TinyWriter) -> None:
    assert tiny.engine.context == tiny_llm.CONFIG.context
    assert tiny.engine.vocabulary == tiny_llm.CONFIG.vocabulary
    assert tiny.engine.reads_text
    assert tiny.engine.defaults == Sampling()


async def test_a_stop_text_ends_an_answer_and_is_no_part_of_it(tiny: TinyWriter) -> None:
    tokens = await tiny.engine.encode(PROMPT)
    whole, _ = await written(tiny, Ask(tokens, max_tokens=60, ignore_end=True))
    stop = whole[20:23]
    answer = await tiny.engine.start(Ask(tokens, 60, stop=(stop,), ignore_end=True), inf)
    pieces = await pieces_of(answer)
    assert "".join(piece.text for piece in pieces) == whole[: whole.index(stop)]
    assert pieces[-1].finish == "stop"


async def test_an_answer_is_held_to_its_schema(tiny: TinyWriter) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "maximum": 99}, "ok": {"type": "boolean"}},
        "required": ["n", "ok"],
        "additionalProperties": False,
    }
    tokens = await tiny.engine.encode(PROMPT)
    asks = [
        Ask(
            tokens,
            max_tokens=100,
            sampling=Sampling(seed=seed),
            format=None if seed % 3 == 2 else Format("json_schema", schema),
        )
        for seed in range(9)
    ]
    answers = await asyncio.gather(*(tiny.engine.start(ask, inf) for ask in asks))
    for ask, answer in zip(asks, answers, strict=True):
        pieces = await pieces_of(answer)
        text = "".join(piece.text for piece in pieces)
        if ask.format is None:
            continue
        if pieces[-1].finish == "stop":
            document = json.loads(text)
            assert document.keys() == {"n", "ok"}
            assert isinstance(document["ok"], bool)
        else:
            assert pieces[-1].finish == "length"
    with pytest.raises(InvalidInput, match="regex"):
        await tiny.engine.start(Ask(tokens, format=Format("regex", "(")), inf)


async def test_a_format_does_not_depend_on_guesses(tmp_path: Path) -> None:
    """The same text from a model that guesses ahead and one that does not."""
    ask_format = Format("regex", "(ab|cd|the quick ){1,30}!")
    texts = []
    for speculate in (True, False):
        tiny = TinyWriter(tmp_path / str(speculate), GenerationLimits(speculate=speculate))
        try:
            tokens = await tiny.engine.encode("abcdabcdabcd")
            for seed in range(3):
                ask = Ask(tokens, 60, Sampling(0.7, seed=seed), format=ask_format)
                texts.append((await written(tiny, ask))[0])
        finally:
            await asyncio.to_thread(tiny.close)
    assert texts[:3] == texts[3:]


async def test_what_began_alike_is_found_again(tiny: TinyWriter) -> None:
    tokens = (await tiny.engine.encode("it begins alike " * 12))[:130]
    first = await tiny.engine.start(Ask(tokens, max_tokens=4, ignore_end=True), inf)
    await pieces_of(first)
    again = await tiny.engine.start(Ask((*tokens, 9, 9), max_tokens=8, ignore_end=True), inf)
    found = [token for piece in await pieces_of(again) for token in piece.tokens]
    assert again.cached_tokens >= 96
    assert found == OneByOne(tiny.session).tokens((*tokens, 9, 9), 8)


EXPORTS: dict[str, dict[str, Any]] = {
    "shared": {},
    "separate": {"kept": "separate"},
    "merged": {"files": {"model.onnx": forms.branched()}},
    "two files": {
        "files": {"model.onnx": forms.beginning(), "later.onnx": forms.going_on()},
        "with_past": "later.onnx",
    },
}
"""As exporters make the tiny model."""
TOKEN_BYTES = 2 * 2 * 2 * 16 * 4  # layers, keys and values, heads, width, float32
FEW = {7: 32.0, 90: 32.0, 200: 32.0}
"""Biases by which a model says a few tokens only, so that it repeats itself and can be guessed."""


@pytest.mark.parametrize("export", EXPORTS)
async def test_random_mixes_write_what_decoding_one_by_one_writes(
    tmp_path: Path, export: str
) -> None:
    await hold_against_one_by_one(tmp_path, export, range(10))


@pytest.mark.slow
@pytest.mark.parametrize("export", EXPORTS)
async def test_many_random_mixes_write_what_decoding_one_by_one_writes(
    tmp_path: Path, export: str
) -> None:
    await hold_against_one_by_one(tmp_path, export, range(1000, 1050))


async def hold_against_one_by_one(directory: Path, export: str, seeds: range) -> None:
    """Several mixes, in which all happens that can."""
    plain = OneByOne(open_session(tiny_llm.model_bytes("separate")))
    happened: Counter[str] = Counter()
    for seed in seeds:
        happened += await play(directory / str(seed), export, random.Random(seed), plain)
    assert happened.keys() >= {"preemptions", "guessed right", "cached", "left", "shared steps"}


async def play(
    directory: Path, export: str, chance: random.Random, plain: OneByOne
) -> Counter[str]:
    """One mix: lengths, joins, cancels, little memory, prefixes and guesses, as they come."""
    tight = chance.random() < 0.5  # so that what was admitted does not fit when it has grown
    limits = GenerationLimits(
        slots=5 if tight else chance.choice([1, 2, 4]),
        cache_bytes=(260 if tight else chance.choice([420, 1 << 15])) * TOKEN_BYTES,
        prefix_bytes=chance.choice([0, 1 << 20]),
        speculate=chance.random() < 0.7,
    )
    tiny = TinyWriter(directory, limits, pace=FreeGuesses(), **EXPORTS[export])
    beginnings = [tuple(chance.choices(range(384), k=70)) for _ in range(2)]
    left = 0

    async def one(prompt: tuple[int, ...], count: int, few: bool, leaves: int | None) -> None:
        nonlocal left
        biases = FEW if few else {}
        sampling = Sampling(temperature=0.0, logit_bias=biases)
        answer = await tiny.engine.start(Ask(prompt, count, sampling, ignore_end=True), inf)
        found: list[int] = []
        async for piece in answer:
            found += piece.tokens
            if leaves is not None and len(found) >= leaves:
                answer.cancel()
                left += 1
                break
        expected = plain.tokens(prompt, count, biases)
        assert found == expected[: len(found)]
        assert leaves is not None or len(found) == count

    try:
        tasks = []
        for _ in range(8):
            head = chance.choice(beginnings)[: chance.choice([1, 1, 40] if tight else [1, 40, 70])]
            prompt = (*head, *chance.choices(range(384), k=chance.randint(0, 20)))
            leaves = chance.randint(1, 10) if chance.random() < 0.25 else None
            ask = one(prompt, chance.randint(40 if tight else 1, 80), chance.random() < 0.5, leaves)
            tasks.append(asyncio.create_task(ask))
            for _ in range(chance.choice([0, 0, 3, 30])):
                await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        await until(lambda: tiny.engine.counts.running == 0)
        counts = tiny.engine.counts
        return Counter(
            {
                "preemptions": counts.preemptions,
                "guessed right": counts.guessed_right,
                "cached": counts.tokens_cached,
                "left": left,
                "shared steps": sum(record.batch_rows > 1 for record in tiny.records),
            }
        )
    finally:
        await asyncio.to_thread(tiny.close)


async def test_a_conversation_is_written_by_the_template(tiny: TinyWriter) -> None:
    assert tiny.engine.reads_chats
    prompt = await tiny.engine.prompt(Chat([{"role": "user", "content": "hello"}]))
    begin, end = tiny_llm.BEGIN, tiny_llm.END
    expected = f"{begin}user\nhello{end}\n{begin}assistant\n"
    assert prompt.tokens == await tiny.engine.encode(expected)
    text, _ = await written(tiny, Ask(prompt.tokens, max_tokens=8, stop=prompt.stop))
    reader = prompt.reader()
    deltas = [*reader.feed(text), *reader.finish()]
    assert "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)) == text


async def test_a_call_that_is_demanded_is_what_comes(tmp_path: Path) -> None:
    tiny = TinyWriter(tmp_path, tools="hermes")
    parameters = {
        "type": "object",
        "properties": {"city": {"enum": ["Rome", "Oslo"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
    chat = Chat(
        [{"role": "user", "content": "weather?"}],
        tools=[{"name": "weather", "parameters": parameters}],
        tool_choice="weather",
    )
    try:
        prompt = await tiny.engine.prompt(chat)
        for seed in range(3):
            ask = Ask(prompt.tokens, 100, Sampling(seed=seed), prompt.stop, prompt.format)
            text, _ = await written(tiny, ask)
            reader = prompt.reader()
            deltas = [*reader.feed(text), *reader.finish()]
            calls = [delta for delta in deltas if isinstance(delta, ToolDelta)]
            assert [call.name for call in calls if call.name] == ["weather"]
            arguments = json.loads("".join(call.arguments for call in calls))
            assert arguments["city"] in ("Rome", "Oslo")
    finally:
        await asyncio.to_thread(tiny.close)


async def test_a_model_without_a_template_reads_no_conversations(tmp_path: Path) -> None:
    tiny = TinyWriter(tmp_path / "missing", without=("chat_template.jinja",))
    try:
        assert not tiny.engine.reads_chats
        with pytest.raises(InvalidInput, match="no template"):
            await tiny.engine.prompt(Chat([{"role": "user", "content": "hello"}]))
    finally:
        await asyncio.to_thread(tiny.close)
    with pytest.raises(LoadFailed, match="asset 'mine.jinja' is missing"):
        TinyWriter(tmp_path / "named", template="mine.jinja")


async def test_what_begins_and_ends_texts_is_known_to_templates(tmp_path: Path) -> None:
    template = b"{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"
    tiny = TinyWriter(tmp_path, files={"chat_template.jinja": template}, begin=[1], end=[2, 0])
    try:
        prompt = await tiny.engine.prompt(Chat([{"role": "user", "content": "hello"}]))
        assert (prompt.tokens[0], prompt.tokens[-1]) == (1, 2)
    finally:
        await asyncio.to_thread(tiny.close)


def test_a_template_that_is_none_is_told_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match=r"chat_template\.jinja: line 1"):
        TinyWriter(tmp_path, files={"chat_template.jinja": b"{% if %}"})


# Loading


@pytest.mark.parametrize(
    ("card", "told"),
    [
        pytest.param({"contxt": 5}, "generation: .*contxt", id="unknown"),
        pytest.param({"end": [384]}, "generation: end: expected tokens below 384", id="end"),
        pytest.param({"context": 0}, "generation: .*context", id="context"),
        pytest.param({"context": 10**9}, "generation: .*context", id="context that fills memory"),
        pytest.param({"with_past": "../b.onnx"}, "with_past': expected a plain", id="with_past"),
        pytest.param({"tokenizer": "none.json"}, "asset 'none.json' is missing", id="tokenizer"),
        pytest.param({"defaults": {"temperature": -1}}, "defaults.temperature", id="defaults"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(
    tmp_path: Path, card: dict[str, Any], told: str
) -> None:
    with pytest.raises(LoadFailed, match=told):
        TinyWriter(tmp_path, **card)


def test_memory_that_holds_no_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="no room"):
        TinyWriter(tmp_path, GenerationLimits(cache_bytes=64))


async def test_a_model_without_a_tokenizer_takes_and_gives_tokens(tmp_path: Path) -> None:
    tiny = TinyWriter(tmp_path, without=("tokenizer.json", "chat_template.jinja"), tokenizer="")
    try:
        assert not tiny.engine.reads_text
        assert not tiny.engine.reads_chats
        text, tokens = await written(tiny, Ask((5, 6, 7), max_tokens=10, ignore_end=True))
        assert text == ""
        assert list(tokens) == OneByOne(tiny.session).tokens((5, 6, 7), 10)
    finally:
        await asyncio.to_thread(tiny.close)


async def test_tokens_that_begin_every_text(tmp_path: Path) -> None:
    tiny = TinyWriter(tmp_path, begin=[1, 0], defaults={"temperature": 0.2, "top_p": 0.9})
    try:
        assert (await tiny.engine.encode(PROMPT))[:2] == (1, 0)
        long = PROMPT * 1000
        assert len(await tiny.engine.encode(long)) > 1000
        assert tiny.engine.defaults == Sampling(0.2, top_p=0.9)
    finally:
        await asyncio.to_thread(tiny.close)


class _NoTask:
    """Stands for the task of a card, where only the generator is wanted."""

    input = "text"
    predictions = ()
    params = Params

    async def predict(self, payload: Any, params: Any, run: Any) -> Any:
        raise InvalidInput("it is not asked")


@pytest.mark.parametrize("export", EXPORTS)
async def test_a_pool_opens_it_writes_with_it_and_unloads_it(tmp_path: Path, export: str) -> None:
    """Each export out of a repository, where a second graph lies beside the first one."""
    made = dict(EXPORTS[export])
    files = made.pop("files", {})
    directory = tiny_llm.write_model(tmp_path, **made)
    for name, content in files.items():
        (directory / name).write_bytes(content)
    plain = OneByOne(open_session(tiny_llm.model_bytes("separate")))
    repository = Repository(tmp_path)
    task: LoopingTask = _NoTask()  # type: ignore[assignment]
    bundles = Bundles(repository.read_beside, lambda *_: task, open_generator)
    pool = ModelPool(repository, open_session, Settings(models=tmp_path), bundles=bundles)
    await pool.start()
    try:
        model = pool.find("tiny")
        assert model is not None
        generator = generator_of(model)
        tokens = await generator.encode(PROMPT)
        answer = await generator.start(Ask(tokens, max_tokens=5, ignore_end=True), inf)
        found = [token for piece in await pieces_of(answer) for token in piece.tokens]
        assert found == plain.tokens(tokens, 5)
        assert model.statistics.success_count == 1
    finally:
        await pool.close()
    with pytest.raises(Draining):
        await generator.start(Ask(tokens), inf)


async def test_an_answer_stays_with_the_version_it_began_on(tmp_path: Path) -> None:
    """A reload while it is written: it ends as it would have, and then the old one goes."""
    tiny_llm.write_model(tmp_path)
    repository = Repository(tmp_path)
    task: LoopingTask = _NoTask()  # type: ignore[assignment]
    bundles = Bundles(repository.read_beside, lambda *_: task, open_generator)
    pool = ModelPool(repository, open_session, Settings(models=tmp_path), bundles=bundles)
    await pool.start()
    try:
        model = pool.resolve("tiny")
        old = generator_of(model)
        model.in_use += 1
        answer = await old.start(Ask((3, 4, 5), max_tokens=500, ignore_end=True), inf)
        await pool.load("tiny", force=True)
        assert generator_of(pool.resolve("tiny")) is not old
        assert sum(len(piece.tokens) for piece in await pieces_of(answer)) == 500
        model.in_use -= 1
        assert isinstance(old, Engine)
        assert await asyncio.to_thread(old.wait_closed, 300.0)
    finally:
        await pool.close()


async def test_a_joining_prompt_is_run_in_pieces_between_steps(tiny: TinyWriter) -> None:
    """Those who write get a token after each piece, whatever it took."""
    writing = await tiny.engine.start(Ask((9, 8), max_tokens=300, ignore_end=True), inf)
    first = await anext(writing)
    prompt = tuple(np.random.default_rng(3).integers(3, 384, 200).tolist())
    joining = await tiny.engine.start(Ask(prompt, max_tokens=5, ignore_end=True), inf)
    rest, found = await asyncio.gather(pieces_of(writing), pieces_of(joining))
    assert len(first.tokens) + sum(len(piece.tokens) for piece in rest) == 300
    plain = OneByOne(tiny.session)
    assert [t for piece in found for t in piece.tokens] == plain.tokens(prompt, 5)
    assert all(one.finish is None for one, _ in pairwise(rest))


UNCLOSED = """
import atexit, asyncio, sys, tempfile
from pathlib import Path

def look():
    print("still writes" if writer.engine._writer.thread.is_alive() else "ended")

atexit.register(look)

from aiaas_server.core.generation import Ask
from tests.writing import TinyWriter

writer = TinyWriter(Path(tempfile.mkdtemp()))

async def begin():
    answer = await writer.engine.start(Ask((5, 6), ignore_end=True), float("inf"))
    await anext(aiter(answer))

asyncio.run(begin())
"""


def test_a_process_may_end_while_an_answer_is_written() -> None:
    """A thread that is inside the runtime then has the process aborted."""
    ended = subprocess.run(
        [sys.executable, "-c", UNCLOSED], capture_output=True, text=True, timeout=300
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "ended\n", "")
