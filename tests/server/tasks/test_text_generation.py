"""The task of models that write: a text goes in, the whole answer comes out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from aiaas_client.protocol.predictions import GeneratedText, read_prediction
from aiaas_server.app import create_app
from aiaas_server.core.describe.card import Assets, Card
from aiaas_server.core.errors import InvalidInput, LoadFailed
from aiaas_server.core.generation import Ask, Chance, Piece, Sampling, Told
from aiaas_server.core.signature import Signature
from aiaas_server.settings import Settings
from aiaas_server.tasks import Tasks
from tests import tiny_llm
from tests.server.http.serving import AsgiCaller
from tests.task_bundles import write_bundle
from tests.writing_run import WritingRun, Written

CARD = {"task": "text-generation", "generation": {"context": 64}}
DEFAULTS = Sampling(temperature=0.7, top_p=0.9)


class Reads:
    """The part of a generator that the task uses beside `start`: a token is a character."""

    defaults = DEFAULTS

    async def encode(self, text: str) -> tuple[int, ...]:
        return tuple(map(ord, text))


def told(token: int, logprob: float) -> tuple[Told, ...]:
    return (Told(Chance(token, b"", logprob), ()),)


def opened(card: dict[str, Any] = CARD) -> Any:
    signature = Signature("m", (), ())
    return Tasks().open(Card.model_validate(card), Assets({}.__getitem__, {}), signature, {})


def answered(
    pieces: Sequence[Piece], payload: Any = "hi", **params: Any
) -> tuple[GeneratedText, Ask, Written]:
    """The prediction, what was asked for it, and the answer it was read from."""
    asked: list[Ask] = []
    written = Written(iter(pieces))

    def write(ask: Ask) -> Written:
        asked.append(ask)
        return written

    task = opened()
    run = WritingRun({}, {"": write}, generator=Reads())
    checked = task.params.model_validate(params)
    found = asyncio.run(task.predict(payload, checked, run))
    return found, asked[0], written


PIECES = (
    Piece("Gr", (1,), told(1, -0.5)),
    Piece("", (2,), told(2, -1.5)),
    Piece("üße", (3, 4), told(3, -0.5) + told(4, -0.5), "length"),
)


def test_the_pieces_are_one_text() -> None:
    found, _, written = answered(PIECES)
    assert found.text == "Grüße"
    assert found.tokens == 4
    assert found.finish_reason == "length"
    assert found.score == pytest.approx(np.exp(-0.75))
    assert written.cancelled, "nothing is left behind"


def test_the_card_s_defaults_hold_where_the_caller_says_nothing() -> None:
    _, ask, _ = answered(PIECES)
    assert ask.tokens == (ord("h"), ord("i"))
    assert ask.sampling == DEFAULTS
    assert (ask.max_tokens, ask.stop) == (None, ())
    _, ask, _ = answered(
        PIECES, max_tokens=5, temperature=0, top_k=3, seed=-1, stop=["\n", "END"], min_p=0.1
    )
    assert ask.sampling == Sampling(temperature=0, top_p=0.9, top_k=3, min_p=0.1, seed=-1)
    assert (ask.max_tokens, ask.stop) == (5, ("\n", "END"))
    assert answered(PIECES, stop="x")[1].stop == ("x",)


@pytest.mark.parametrize(
    "params",
    [
        pytest.param({"max_tokens": 0}, id="no tokens"),
        pytest.param({"max_tokens": 10**9}, id="too many tokens"),
        pytest.param({"temperature": -1}, id="cold"),
        pytest.param({"temperature": float("nan")}, id="no number"),
        pytest.param({"top_p": 0}, id="nothing left"),
        pytest.param({"top_p": 1.1}, id="more than all"),
        pytest.param({"repetition_penalty": 0}, id="divides by nothing"),
        pytest.param({"stop": ""}, id="empty stop"),
        pytest.param({"stop": ["a"] * 17}, id="many stops"),
        pytest.param({"seed": 2**63}, id="seed"),
        pytest.param({"beams": 2}, id="unknown"),
    ],
)
def test_params_out_of_their_range_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        opened().params.model_validate(params)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        pytest.param("", "is empty", id="empty"),
        pytest.param(7, "got a number", id="number"),
        pytest.param("\ud800", "half", id="half a character"),
    ],
)
def test_what_is_no_text_is_refused(payload: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        answered(PIECES, payload)


def test_an_answer_that_breaks_off_is_let_go_of() -> None:
    class Breaks(Written):
        async def __anext__(self) -> Piece:
            raise InvalidInput("it broke off")

    nothing: Iterator[Piece] = iter(())
    written = Breaks(nothing)
    task = opened()
    run = WritingRun({}, {"": lambda ask: written}, generator=Reads())
    with pytest.raises(InvalidInput, match="it broke off"):
        asyncio.run(task.predict("hi", task.params(), run))
    assert written.cancelled


def test_a_card_must_say_how_it_writes() -> None:
    with pytest.raises(LoadFailed, match="'text-generation' needs the part 'generation'"):
        opened({"task": "text-generation"})


def test_the_client_reads_what_the_task_answers() -> None:
    found, _, _ = answered(PIECES)
    assert read_prediction("text-generation", found.model_dump()) == found


@pytest.mark.asyncio
async def test_a_served_model_writes_for_predict_and_inside_a_pipeline(tmp_path: Path) -> None:
    """The engine's own answer, whichever way the task is reached."""
    tiny_llm.write_model(tmp_path)
    steps = {"task": "pipeline", "steps": [{"model": "tiny", "params": {"max_tokens": 6}}]}
    write_bundle(tmp_path, "line", steps, None)
    async with create_app(Settings(models=tmp_path)) as app:
        call = AsgiCaller(app)
        ask = {"instances": ["the quick", "a model"], "params": {"max_tokens": 6, "temperature": 0}}
        answer = await call("POST", "/v1/models/tiny:predict", ask)
        assert answer.status == 200, answer.body
        first, second = answer.json()["predictions"]
        assert first["tokens"] <= 6
        assert first["text"] != second["text"]
        assert {first["finish_reason"], second["finish_reason"]} <= {"stop", "length"}
        assert 0 < first["score"] <= 1
        again = await call("POST", "/v1/models/tiny:predict", ask)
        assert again.json() == answer.json()
        piped = await call("POST", "/v1/models/line:predict", {"instances": ["the quick"]})
        assert piped.status == 200, piped.body
        assert piped.json()["predictions"][0]["tokens"] <= 6
        long = await call("POST", "/v1/models/tiny:predict", {"instances": ["fox " * 2000]})
        assert str(tiny_llm.CONFIG.context) in json.dumps(long.json()), "the context is told"
