"""Ten thousand answers later the engine takes no more memory than after the first thousand."""

from __future__ import annotations

import asyncio
import gc
import random
from math import inf
from pathlib import Path

import pytest

from aiaas_server.core.generation import Ask, Format, GenerationLimits, Sampling
from tests.server.generate.test_rows import linux, resident
from tests.waiting import until
from tests.writing import TinyWriter

MIB = 1 << 20
DIGITS = Format("regex", "[0-9]{2,4}")


@linux
@pytest.mark.slow
async def test_memory_is_flat_over_ten_thousand_answers(tmp_path: Path) -> None:
    """Drawn and greedy ones, with stops and formats; some are left early, some begin alike."""
    tiny = TinyWriter(tmp_path, GenerationLimits(slots=8, queue=64, prefix_bytes=MIB))
    chance = random.Random(0)
    heads = [tuple(chance.choices(range(384), k=40)) for _ in range(20)]
    try:

        async def one(number: int) -> None:
            head = chance.choice(heads) if number % 3 else ()
            ask = Ask(
                (*head, *chance.choices(range(384), k=5)),
                chance.randint(1, 6),
                Sampling(temperature=number % 2, seed=number, repetition_penalty=1.1),
                ("never said",) if number % 5 else (),
                DIGITS if number % 10 == 0 else None,
                logprobs=2 if number % 7 == 0 else None,
            )
            answer = await tiny.engine.start(ask, inf)
            async for _ in answer:
                if number % 11 == 0:
                    answer.cancel()

        async def thousand(first: int) -> int:
            for begin in range(first, first + 1000, 40):
                await asyncio.gather(*(one(number) for number in range(begin, begin + 40)))
            await until(lambda: tiny.engine.counts.running == 0)
            tiny.records.clear()
            gc.collect()
            return resident()

        warm = await thousand(0)
        sizes = [await thousand(1000 * part) for part in range(1, 10)]
        assert tiny.statistics.pending == 0
        assert tiny.statistics.success_count > 9000
        assert min(sizes[-3:]) - warm < 5 * MIB, [(size - warm) / MIB for size in sizes]
    finally:
        await asyncio.to_thread(tiny.close)
