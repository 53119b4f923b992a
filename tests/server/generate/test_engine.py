"""The engine over a network of pure arithmetic: joins, leaves, limits, failures, and the end."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from math import inf, nan
from typing import Any

import numpy as np
import pytest

from aiaas_server.core.errors import (
    DeadlineExceeded,
    Draining,
    InferenceFailed,
    InvalidInput,
    ModelUnavailable,
    OutOfMemory,
    QueueFull,
)
from aiaas_server.core.events import NOBODY, Caller, Identity, InferenceRecord
from aiaas_server.core.generation import (
    Answering,
    Ask,
    Chat,
    Format,
    GenerationLimits,
    Piece,
    Sampling,
    Served,
)
from aiaas_server.core.statistics import Statistics
from aiaas_server.generate import answering
from aiaas_server.generate.engine import Engine
from aiaas_server.generate.network import Network
from aiaas_server.generate.pace import Pace
from aiaas_server.generate.settings import GenerationSettings
from tests.fake_network import WIDTH, FakeNetwork, greedy, logits_behind
from tests.waiting import until
from tests.writing import FreeGuesses

LONG = 120.0  # seconds that nothing takes


class Opened:
    """An engine, and what it is part of."""

    def __init__(
        self, network: Network, *, queue: int = 50, pace: Pace | None = None, **card: Any
    ) -> None:
        self.records: list[InferenceRecord] = []
        self.statistics = Statistics()
        served = Served("m", 3, self.statistics, (self.records.append,))
        settings = GenerationSettings(context=network.context, tokenizer="", **card)
        limits = GenerationLimits(network.slots, queue=queue)
        self.engine = Engine(served, settings, network, limits, None, None, None, pace or Pace())

    async def start(self, ask: Ask, caller: Caller = NOBODY) -> Answering:
        deadline = asyncio.get_running_loop().time() + LONG
        return await self.engine.start(ask, deadline, caller)

    async def tokens(self, ask: Ask, caller: Caller = NOBODY) -> tuple[int, ...]:
        return tokens_of(await pieces_of(await self.start(ask, caller)))


class SmallPieces(Pace):
    """As if a step took as long as 16 tokens of a prompt."""

    def piece(self, rows: int, prompts: int = 1) -> int:
        return 16 if rows else 256


@asynccontextmanager
async def opened(network: Network | None = None, **more: Any) -> AsyncIterator[Opened]:
    made = Opened(FakeNetwork() if network is None else network, **more)
    try:
        yield made
    finally:
        made.engine.close()
        assert await asyncio.to_thread(made.engine.wait_closed, LONG)


class Gate:
    """Holds the runs of a network until they are let through."""

    def __init__(self, network: FakeNetwork) -> None:
        self._open = threading.Semaphore(0)
        self.reached = threading.Event()
        network.before_run = self._pass

    def _pass(self) -> None:
        self.reached.set()
        assert self._open.acquire(timeout=LONG)

    def let(self, runs: int = 10**6) -> None:
        self._open.release(runs)


async def pieces_of(answer: Answering) -> list[Piece]:
    return [piece async for piece in answer]


def tokens_of(pieces: list[Piece]) -> tuple[int, ...]:
    return tuple(token for piece in pieces for token in piece.tokens)


async def test_an_answer_is_what_decoding_one_by_one_gives() -> None:
    async with opened() as o:
        answer = await o.start(Ask((1, 2, 3), max_tokens=20))
        pieces = await pieces_of(answer)
        assert tokens_of(pieces) == greedy((1, 2, 3), 20)
        assert [piece.finish for piece in pieces] == [None] * 19 + ["length"]
        assert (answer.prompt_tokens, answer.completion_tokens) == (3, 20)
        assert o.statistics.success_count == 1
        assert o.statistics.pending == 0


async def test_those_that_are_written_together_share_steps() -> None:
    network = FakeNetwork()
    gate = Gate(network)
    async with opened(network) as o:
        answers = [await o.start(Ask((k, 1), max_tokens=9)) for k in range(4)]
        gate.let()
        for k, answer in enumerate(answers):
            assert tokens_of(await pieces_of(answer)) == greedy((k, 1), 9)
    assert max(len(slots) for slots, _ in network.runs) == 4


async def test_the_models_own_end_ends_an_answer_and_is_not_part_of_it() -> None:
    end = greedy((5,), 8)[7]
    written = greedy((5,), 8)
    before = written[: written.index(end)]
    async with opened(end=[end]) as o:
        answer = await o.start(Ask((5,)))
        pieces = await pieces_of(answer)
        assert tokens_of(pieces) == before
        assert pieces[-1].finish == "stop"
        assert answer.completion_tokens == len(before) + 1
        ask = Ask((5,), max_tokens=30, ignore_end=True)
        assert await o.tokens(ask) == greedy((5,), 30)


async def test_an_answer_ends_where_the_context_does() -> None:
    async with opened(FakeNetwork(context=32)) as o:
        answer = await o.start(Ask(tuple(range(20)), max_tokens=10**30))
        pieces = await pieces_of(answer)
        assert len(tokens_of(pieces)) == 12
        assert pieces[-1].finish == "length"


async def test_prompts_as_long_as_the_context_share_it() -> None:
    network = FakeNetwork(context=64)
    gate = Gate(network)
    async with opened(network) as o:
        answers = [await o.start(Ask((k,) * 62)) for k in range(3)]
        gate.let()
        for k, answer in enumerate(answers):
            assert tokens_of(await pieces_of(answer)) == greedy((k,) * 62, 2)


async def test_equal_seeds_write_the_same_whatever_is_around() -> None:
    sampling = Sampling(temperature=1.5, top_p=0.9, seed=7)
    ask = Ask((1, 2), max_tokens=30, sampling=sampling)
    async with opened() as o:
        alone = await o.tokens(ask)
        others = [o.tokens(Ask((k,), max_tokens=20 + k)) for k in range(3)]
        beside = await asyncio.gather(o.tokens(ask), *others)
        assert beside[0] == alone
        assert await o.tokens(Ask((1, 2), 30, Sampling(1.5, top_p=0.9, seed=8))) != alone


async def test_log_probabilities_are_the_models_own() -> None:
    async with opened() as o:
        sampling = Sampling(temperature=0.0, logit_bias={4: 100.0})
        answer = await o.start(Ask((1,), max_tokens=1, logprobs=2, sampling=sampling))
        [piece] = await pieces_of(answer)
    logits = logits_behind((1,)).astype(np.float64)
    logprobs = logits - np.log(np.exp(logits).sum())
    best = np.argsort(-logits)[:2]
    [told] = piece.told
    assert told.chosen.token == 4
    assert told.chosen.logprob == pytest.approx(logprobs[4], abs=1e-5)
    assert [chance.token for chance in told.likeliest] == list(best)


@pytest.mark.parametrize("prompt", [(1,), (1, 2, 3), tuple(range(25))])
async def test_probabilities_behind_the_first_token_are_told(prompt: tuple[int, ...]) -> None:
    async with opened(FakeNetwork(remembers=True)) as o:
        for _ in range(2):  # the second time the cache has the prompt
            answer = await o.start(Ask(prompt, max_tokens=2, probe=(3, 5)))
            assert tokens_of(await pieces_of(answer)) == greedy(prompt, 2)
            logits = np.exp(logits_behind(prompt[:1]).astype(np.float64))
            assert answer.probed == pytest.approx(tuple(logits[[3, 5]] / logits.sum()), rel=1e-4)


async def test_what_the_cache_has_is_told_and_not_run() -> None:
    network = FakeNetwork(remembers=True)
    async with opened(network) as o:
        prompt = tuple(range(20))
        first = await o.start(Ask(prompt, max_tokens=3))
        written = tokens_of(await pieces_of(first))
        again = await o.start(Ask((*prompt, *written, 7), max_tokens=3))
        assert tokens_of(await pieces_of(again)) == greedy((*prompt, *written, 7), 3)
        assert (first.cached_tokens, again.cached_tokens) == (0, 22)
        assert o.engine.counts.tokens_cached == 22


async def test_constants_reach_the_network_and_are_not_remembered() -> None:
    network = FakeNetwork(remembers=True)
    async with opened(network, constants=["sound"]) as o:
        sound = np.ones(3, np.float32)
        for _ in range(2):
            answer = await o.start(Ask((1, 2), max_tokens=2, constants={"sound": sound}))
            await pieces_of(answer)
            assert answer.cached_tokens == 0
        assert network.constants[0]["sound"] is sound
        with pytest.raises(InvalidInput, match="expected sound, got none"):
            await o.start(Ask((1,)))


async def test_guesses_save_runs_and_change_nothing() -> None:
    """What repeats itself every few tokens is guessed; the text is that of decoding one by one."""
    network = FakeNetwork(period=1)
    async with opened(network, pace=FreeGuesses()) as o:
        assert await o.tokens(Ask((1, 2, 3), max_tokens=200)) == greedy((1, 2, 3), 200, period=1)
        assert o.engine.counts.guessed_right > 100
        assert o.engine.counts.guessed >= o.engine.counts.guessed_right
        assert len(network.runs) < 100
        drawn = Ask((1, 2, 3), 100, Sampling(0.3, seed=1))
        with_guesses = await o.tokens(drawn)
    async with opened(FakeNetwork(period=1)) as o:
        others = (o.tokens(Ask((k,), max_tokens=250)) for k in range(3))
        assert (await asyncio.gather(o.tokens(drawn), *others))[0] == with_guesses


async def test_a_long_prompt_does_not_stall_the_others() -> None:
    """Between two steps of one who writes there is one piece of the other's prompt, a small one."""
    network = FakeNetwork(slots=2)
    gate = Gate(network)
    async with opened(network, pace=SmallPieces()) as o:
        writing = await o.start(Ask((1,), max_tokens=60))
        await asyncio.to_thread(gate.reached.wait, LONG)
        joining = await o.start(Ask(tuple(k % WIDTH for k in range(200)), max_tokens=2))
        gate.let()
        await asyncio.gather(pieces_of(writing), pieces_of(joining))
    sizes = [more for _, more in network.runs]
    filled = [place for place, more in enumerate(sizes) if more > 1]
    assert [sizes[place] for place in filled] == [16] * 12 + [8]
    assert all(b - a == 2 for a, b in pairwise(filled))


async def test_when_memory_runs_out_the_youngest_is_worked_out_anew() -> None:
    network = FakeNetwork(memory=160)
    gate = Gate(network)
    async with opened(network) as o:
        asks = [Ask((k, k, k), max_tokens=50) for k in range(4)]
        answers = [await o.start(ask) for ask in asks]
        gate.let()
        for answer, ask in zip(answers, asks, strict=True):
            assert tokens_of(await pieces_of(answer)) == greedy(ask.tokens, 50)
        assert o.engine.counts.preemptions > 0


async def test_the_memory_that_is_told_grows_with_an_answer() -> None:
    network = FakeNetwork()
    told: list[float] = []
    async with opened(network) as o:
        network.before_run = lambda: told.append(o.engine.counts.network["kv_bytes"])
        await o.tokens(Ask((1, 2, 3), max_tokens=20))
    assert told[0] == 0
    assert told[1] == 3
    assert told[-1] > 15


async def test_one_that_has_all_memory_and_not_enough_fails_alone() -> None:
    async with opened(FakeNetwork(memory=50)) as o:
        with pytest.raises(OutOfMemory, match="expected up to 50 tokens"):
            await o.tokens(Ask((1, 2), max_tokens=100))
        assert await o.tokens(Ask((1, 2), max_tokens=40)) == greedy((1, 2), 40)


async def test_a_prompt_that_never_fits_is_refused() -> None:
    async with opened(FakeNetwork(memory=50)) as o:
        with pytest.raises(InvalidInput, match="the prompt has 60 tokens: their keys and values"):
            await o.tokens(Ask((1,) * 60))
        assert o.statistics.failures["OTHER"] == 1


async def test_guesses_need_no_more_memory_than_there_is() -> None:
    network = FakeNetwork(memory=103, period=1)
    async with opened(network, pace=FreeGuesses()) as o:
        assert await o.tokens(Ask((1, 2, 3), max_tokens=101)) == greedy((1, 2, 3), 101, period=1)
        assert o.engine.counts.guessed > 0


async def test_no_memory_to_open_another_is_waited_for() -> None:
    network = Reluctant()
    gate = Gate(network)
    async with opened(network) as o:
        answers = [await o.start(Ask((k,), max_tokens=9)) for k in range(3)]
        gate.let()
        for k, answer in enumerate(answers):
            assert tokens_of(await pieces_of(answer)) == greedy((k,), 9)
        assert o.engine.counts.preemptions > 0
        network.error = KeyError("a mistake")
        with pytest.raises(InferenceFailed, match="generation failed: KeyError"):
            await o.tokens(Ask((1,), max_tokens=3))


class Reluctant(FakeNetwork):
    """Opens no slot beside another, whatever it said of the room."""

    error: Exception | None = None

    def open(self, slot: Any, tokens: Any, constants: Any, whose: str = "") -> int:
        if self.error is not None:
            raise self.error
        if self.held:
            raise OutOfMemory("no room beside another")
        return super().open(slot, tokens, constants, whose)


# Leaving


async def test_one_that_is_cancelled_frees_its_slot_within_a_step() -> None:
    network = FakeNetwork(slots=1)
    gate = Gate(network)
    async with opened(network) as o:
        endless = await o.start(Ask((1,), ignore_end=True))
        await asyncio.to_thread(gate.reached.wait, LONG)
        behind = await o.start(Ask((2,), max_tokens=3))
        endless.cancel()
        endless.cancel()
        gate.let()
        assert tokens_of(await pieces_of(behind)) == greedy((2,), 3)
        assert await pieces_of(endless) == []
        assert network.runs[0][0] == (0,)
        assert len(network.runs) == 4  # one of the one that left
        assert o.statistics.failures["CANCELED"] == 1
        assert o.statistics.pending == 0
    endless.cancel()


async def test_one_that_waits_may_be_cancelled() -> None:
    network = FakeNetwork(slots=1)
    gate = Gate(network)
    async with opened(network) as o:
        first = await o.start(Ask((1,), max_tokens=2))
        waits = await o.start(Ask((2,)))
        last = await o.start(Ask((3,), max_tokens=2))
        waits.cancel()
        gate.let()
        assert tokens_of(await pieces_of(first)) == greedy((1,), 2)
        assert tokens_of(await pieces_of(last)) == greedy((3,), 2)
        await until(lambda: not network.held)


async def test_the_deadline_ends_an_answer_that_is_written() -> None:
    network = FakeNetwork(slots=1)
    gate = Gate(network)
    async with opened(network) as o:
        deadline = asyncio.get_running_loop().time() + 0.05
        with pytest.raises(DeadlineExceeded, match="model 'm'"):
            await pieces_of(
                await o.engine.start(Ask((1,)), deadline)
            )  # although the run in progress has not ended
        gate.let()
        assert await o.tokens(Ask((2,), max_tokens=2)) == greedy((2,), 2)
        with pytest.raises(DeadlineExceeded):
            await o.engine.start(Ask((1,)), 0.0)
        assert o.statistics.failures["REJECTED"] == 2


async def test_one_that_nobody_reads_is_cancelled() -> None:
    network = FakeNetwork(context=2000)
    async with opened(network) as o:
        unread = await o.start(Ask((1,), max_tokens=1500))
        await until(lambda: o.statistics.pending == 0)
        with pytest.raises(DeadlineExceeded, match=f"nobody read the last {answering.UNREAD}"):
            await pieces_of(unread)
        await until(lambda: not network.held)
        assert unread.completion_tokens < 1500


async def test_a_slow_reader_gets_everything() -> None:
    async with opened() as o:
        answer = await o.start(Ask((1,), max_tokens=200))
        await until(lambda: o.statistics.pending == 0)
        assert tokens_of(await pieces_of(answer)) == greedy((1,), 200)


# Who waits, and for how long


async def test_no_more_wait_than_there_is_room_for() -> None:
    network = FakeNetwork(slots=1)
    gate = Gate(network)
    async with opened(network, queue=2) as o:
        answers = [await o.start(Ask((k,), max_tokens=2)) for k in range(3)]
        with pytest.raises(QueueFull, match="model 'm' writes and queues 3 answers"):
            await o.start(Ask((9,)))
        gate.let()
        for answer in answers:
            await pieces_of(answer)
        assert await o.tokens(Ask((9,), max_tokens=1)) == greedy((9,), 1)


async def test_a_caller_with_many_requests_does_not_hold_up_another() -> None:
    network = FakeNetwork(slots=1)
    gate = Gate(network)
    many, one = caller("many"), caller("one")
    async with opened(network) as o:
        ended: list[str] = []

        async def read(answer: Answering, name: str) -> None:
            await pieces_of(answer)
            ended.append(name)

        asks = [await o.start(Ask((k,), max_tokens=4), many) for k in range(6)]
        last = await o.start(Ask((7,), max_tokens=4), one)
        reading = [asyncio.create_task(read(answer, "many")) for answer in asks]
        reading.append(asyncio.create_task(read(last, "one")))
        gate.let()
        await asyncio.gather(*reading)
        assert ended.index("one") <= 1


def caller(tenant: str) -> Caller:
    return Caller(identity=Identity(tenant, key_id="k"))


# Failing


async def test_a_run_that_fails_takes_only_those_along_that_were_in_it() -> None:
    network = FakeNetwork()
    fails = threading.Event()

    def before_run() -> None:
        if fails.is_set():
            fails.clear()
            raise InferenceFailed("the kernel broke")

    network.before_run = before_run
    async with opened(network) as o:
        fails.set()
        with pytest.raises(InferenceFailed, match="the kernel broke"):
            await o.tokens(Ask((1,), max_tokens=5))
        assert await o.tokens(Ask((1,), max_tokens=5)) == greedy((1,), 5)
        assert o.statistics.failures["BACKEND"] == 1
        assert [record.failure for record in o.records] == ["BACKEND", None]


async def test_an_error_of_another_kind_is_told_without_its_words() -> None:
    network = FakeNetwork()

    def before_run() -> None:
        raise KeyError("secret")

    network.before_run = before_run
    async with opened(network) as o:
        with pytest.raises(InferenceFailed, match="generation failed: KeyError"):
            await o.tokens(Ask((1,)))


async def test_logits_that_are_no_numbers_fail_that_answer_alone() -> None:
    network = Poisoned()
    async with opened(network) as o:
        good, bad = await asyncio.gather(
            o.tokens(Ask((1, 2), max_tokens=9)),
            o.tokens(Ask((28, 28), max_tokens=9)),
            return_exceptions=True,
        )
        assert good == greedy((1, 2), 9)
        assert isinstance(bad, InferenceFailed)


class Poisoned(FakeNetwork):
    """Prompts that begin with 28 give logits that are no numbers."""

    def step(self, slots: Any, tokens: Any, stop: Any = None) -> Any:
        logits = super().step(slots, tokens, stop)
        for row, slot in enumerate(slots):
            if self.held[slot][0] == 28:
                logits[row] = nan
        return logits

    def extend(self, slot: Any, tokens: Any, keep: int, stop: Any = None) -> Any:
        logits = super().extend(slot, tokens, keep, stop)
        return np.full_like(logits, nan) if self.held[slot][0] == 28 else logits


async def test_when_the_thread_dies_all_are_told(caplog: pytest.LogCaptureFixture) -> None:
    network = FakeNetwork(slots=1)
    gate = Gate(network)
    async with opened(network) as o:
        running, waiting = await o.start(Ask((1,))), await o.start(Ask((2,)))
        await asyncio.to_thread(gate.reached.wait, LONG)
        network.close = None  # type: ignore[assignment]  # a mistake in the thread
        joined = await o.start(Ask((3,)))
        running.cancel()
        gate.let()
        for answer in (waiting, joined):
            with pytest.raises(InferenceFailed, match="writing ended: TypeError"):
                await pieces_of(answer)
        assert network.released.wait(LONG)
        with pytest.raises((ModelUnavailable, InferenceFailed)):
            await o.start(Ask((4,)))
        assert o.statistics.pending == 0
        assert "the thread that writes has ended" in caplog.text


# The end


async def test_unloading_ends_what_is_written_and_lets_go_of_the_memory() -> None:
    network = FakeNetwork(slots=1)
    gate = Gate(network)
    o = Opened(network)
    running, waiting = await o.start(Ask((1,))), await o.start(Ask((2,)))
    await asyncio.to_thread(gate.reached.wait, LONG)
    o.engine.close()
    o.engine.close()
    for answer in (running, waiting):
        with pytest.raises(ModelUnavailable, match="unloaded"):
            await pieces_of(answer)  # the run in progress has not ended yet
    with pytest.raises(ModelUnavailable):
        await o.start(Ask((3,)))
    gate.let()
    assert await asyncio.to_thread(o.engine.wait_closed, LONG)
    assert network.released.is_set()
    assert o.statistics.pending == 0


async def test_a_server_that_stops_says_so() -> None:
    async with opened() as o:
        answers = [await o.start(Ask((k,), ignore_end=True)) for k in range(6)]
        o.engine.refuse(Draining("the server is stopping"))
        for answer in answers:
            with pytest.raises(Draining):
                await pieces_of(answer)
        with pytest.raises(Draining):
            await o.start(Ask((1,)))


def test_a_loop_that_is_gone_leaves_nothing_behind() -> None:
    network = FakeNetwork(context=100_000)
    o = Opened(network)

    async def leave() -> None:
        await o.start(Ask((1,), ignore_end=True))

    asyncio.run(leave())

    async def again() -> None:
        await until(lambda: not network.held)
        assert await o.tokens(Ask((1,), max_tokens=4)) == greedy((1,), 4)

    asyncio.run(again())
    o.engine.close()
    assert o.engine.wait_closed(LONG)


# What is told


async def test_the_prompt_of_several_answers_counts_once() -> None:
    async with opened() as o:
        ask = Ask((1, 2, 3), max_tokens=4)
        for one in (ask, replace(ask, is_again=True), replace(ask, is_again=True)):
            answer = await o.start(one)
            await pieces_of(answer)
            assert answer.prompt_tokens == 3
        units = [(record.units.tokens_in, record.units.tokens_out) for record in o.records]
        assert units == [(3, 4), (0, 4), (0, 4)]
        assert o.engine.counts.tokens_in == 3


async def test_one_record_tells_of_each_answer() -> None:
    async with opened() as o:
        who = Caller(request_id="r1")
        await o.tokens(Ask((1, 2, 3), max_tokens=7), who)
        cancelled = await o.start(Ask((1, 2), ignore_end=True), who)
        cancelled.cancel()
        with pytest.raises(InvalidInput):
            await o.start(Ask(()), who)
        units = [record.units for record in o.records]
        assert [(u.rows, u.tokens_in) for u in units] == [(1, 3), (1, 2), (0, 0)]
        assert units[0].tokens_out == 7
        assert [r.failure for r in o.records] == [None, "CANCELED", "OTHER"]
        assert all((r.model, r.version, r.caller) == ("m", 3, who) for r in o.records)
        first = o.records[0]
        assert 0 < first.compute_seconds <= first.total_seconds
        counts = o.engine.counts
        assert counts.tokens_in == 5
        assert counts.tokens_out >= 7
        assert counts.requests.counts[0] + counts.requests.total > 0
        assert sum(counts.first_token.counts) >= 1


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        pytest.param(Ask(()), "the prompt is empty", id="empty"),
        pytest.param(
            Ask(tuple([1] * 256)), "has 256 tokens; the model's context holds 256", id="x"
        ),
        pytest.param(Ask((1, WIDTH)), f"the prompt: expected tokens below {WIDTH}", id="token"),
        pytest.param(Ask((-1,)), "the prompt: expected tokens below", id="negative"),
        pytest.param(Ask((1,), probe=(99,)), "'probe': expected tokens below", id="probe"),
        pytest.param(
            Ask((1,), max_tokens=0), "'max_tokens': expected at least 1, got 0", id="none"
        ),
        pytest.param(Ask((1,), logprobs=21), "'logprobs': expected 0 to 20, got 21", id="many"),
        pytest.param(Ask((1,), sampling=Sampling(nan)), "temperature", id="nan"),
        pytest.param(Ask((1,), sampling=Sampling(inf)), "temperature", id="infinite"),
        pytest.param(Ask((1,), sampling=Sampling(top_k=-1)), "top_k", id="top_k"),
        pytest.param(Ask((1,), sampling=Sampling(logit_bias={99: 1.0})), "logit_bias", id="bias"),
        pytest.param(Ask((1,), stop=("x",)), "no tokenizer", id="stop"),
        pytest.param(Ask((1,), format=Format("json_object")), "no tokenizer", id="format"),
        pytest.param(
            Ask((1,), constants={"a": np.ones(1)}), "expected none, got a", id="constants"
        ),
    ],
)
async def test_what_cannot_be_written_is_refused(ask: Ask, told: str) -> None:
    async with opened() as o:
        with pytest.raises(InvalidInput, match=told):
            await o.start(ask)
        assert o.statistics.failures["OTHER"] == 1
        with pytest.raises(InvalidInput, match="no tokenizer"):
            await o.engine.encode("text")
        with pytest.raises(InvalidInput, match="no template"):
            await o.engine.prompt(Chat([{"role": "user", "content": "hi"}]))


@pytest.mark.parametrize("seed", range(12))
async def test_random_mixes_write_what_decoding_one_by_one_writes(seed: int) -> None:
    """Lengths, joins, cancels, preemptions, prefixes and guesses, as they come."""
    chance = random.Random(seed)
    period = chance.choice([1, 2, 10**6])
    network = FakeNetwork(
        slots=chance.randint(1, 5),
        memory=chance.choice([120, 300, 10**6]),
        period=period,
        remembers=chance.random() < 0.5,
    )
    async with opened(network, queue=100, pace=FreeGuesses()) as o:

        async def one(ask: Ask, leaves: int | None) -> None:
            answer = await o.start(ask, caller(chance.choice("abc")))
            written: list[int] = []
            async for piece in answer:
                written += piece.tokens
                if leaves is not None and len(written) >= leaves:
                    answer.cancel()
                    break
            expected = greedy(ask.tokens, ask.max_tokens or 0, period)
            assert tuple(written) == expected[: len(written)]
            assert leaves is not None or len(written) == len(expected)

        tasks = []
        for _ in range(20):
            prompt = tuple(chance.choices(range(3), k=chance.randint(1, 60)))
            leaves = chance.randint(1, 20) if chance.random() < 0.3 else None
            tasks.append(asyncio.create_task(one(Ask(prompt, chance.randint(1, 40)), leaves)))
            for _ in range(chance.choice([0, 0, 5, 50])):
                await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        await until(lambda: not network.held)
        assert o.statistics.pending == 0


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = [t.name for t in threading.enumerate() if t not in before and "generate" in t.name]
    assert not left
