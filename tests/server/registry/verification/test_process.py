"""The process that waits for a bundle: used once, replaced when it is gone, ended when nothing
comes."""

from __future__ import annotations

from pathlib import Path

import psutil

from aiaas_server.registry.verification.process import Spare, Started, kill
from aiaas_server.registry.verification.verify import Verifier
from tests.server.registry.verification import hostile
from tests.waiting import until


async def _ready(spare: Spare) -> Started:
    spare.prepare()
    assert spare._starting is not None
    return await spare._starting


async def test_it_is_handed_out_once() -> None:
    spare = Spare()
    ready = await _ready(spare)
    spare.prepare()  # there is one
    taken, other = await spare.take(), await spare.take()
    assert taken.process.pid == ready.process.pid != other.process.pid
    for one in (taken, other):
        await one.end()
        assert not one.place.path.exists()
    await spare.close()


async def test_one_that_was_killed_is_replaced() -> None:
    spare = Spare()
    ready = await _ready(spare)
    kill(ready.process)
    await ready.process.wait()
    taken = await spare.take()
    assert taken.process.pid != ready.process.pid
    await taken.end()
    await spare.close()


async def test_it_is_ended_where_nothing_comes() -> None:
    spare = Spare(seconds=0.05)
    ready = await _ready(spare)
    await until(lambda: not psutil.pid_exists(ready.process.pid))
    await spare.close()
    assert not ready.place.path.exists()


async def test_closing_ends_one_that_is_being_started() -> None:
    spare = Spare()
    spare.prepare()
    starting = spare._starting
    assert starting is not None
    await spare.close()
    assert (await starting).process.returncode is not None


async def test_a_verifier_uses_the_one_that_waits(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(hostile.serialized(hostile.plus()))
    verifier = Verifier(timeout=60.0, memory_bytes=1 << 30)
    verifier.expect()
    starting = verifier._spare._starting
    assert starting is not None
    found = await verifier.verify(tmp_path)
    assert (await starting).process.returncode == 0
    assert found.report.nodes > 0
    await verifier.close()
