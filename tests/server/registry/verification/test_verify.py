"""The throw-away process itself: what it may do, how it ends, and that nothing of it is left."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from aiaas_server.core.errors import Rejected
from aiaas_server.registry.verification.verdict import Verified
from aiaas_server.registry.verification.verify import Verifier, verify
from tests.server.registry.verification import hostile
from tests.waiting import until, wait_until

GIB = 1 << 30
PATIENT = 300.0  # seconds: of a process that is to end by something else


@pytest.fixture(autouse=True)
async def nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """No process, no file, no descriptor of a verification outlives it."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    me = psutil.Process()
    await asyncio.to_thread(int)  # the loop's threads are there
    before, others = me.num_fds(), me.children(recursive=True)
    yield
    assert [one for one in me.children(recursive=True) if one not in others] == []
    assert list(place.iterdir()) == []
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    await until(lambda: me.num_fds() <= before)


def bundle(directory: Path, made: Any) -> Path:
    directory.mkdir(exist_ok=True)
    content = made if isinstance(made, bytes) else hostile.serialized(made)
    (directory / "model.onnx").write_bytes(content)
    return directory


async def refusal(where: Path, *, timeout: float = PATIENT, memory: int = GIB) -> str:
    with pytest.raises(Rejected) as caught:
        await verify(where, timeout=timeout, memory_bytes=memory)
    message = caught.value.message
    assert str(where.parent) not in message
    assert len(message) < 512
    return message


async def test_a_sound_bundle_is_verified(tmp_path: Path) -> None:
    found = await verify(bundle(tmp_path / "m", hostile.plus()), timeout=PATIENT, memory_bytes=GIB)
    assert [spec.name for spec in found.outputs] == ["y"]
    assert found.report.load_seconds > 0


async def test_a_refusal_comes_back_in_its_own_words(tmp_path: Path) -> None:
    told = await refusal(bundle(tmp_path / "m", hostile.doubling(30)))
    assert told == "expected at most 50000 nodes after functions are expanded, got more"


async def test_a_directory_that_is_not_there_is_a_refusal(tmp_path: Path) -> None:
    assert await refusal(tmp_path / "m") == "the bundle has no file 'model.onnx'"


class Running:
    """A verification under way of a model that never ends."""

    def __init__(self, where: Path, timeout: float = PATIENT) -> None:
        self.task: asyncio.Task[Verified] = asyncio.create_task(
            verify(where, timeout=timeout, memory_bytes=GIB)
        )

    async def process(self) -> psutil.Process:
        """Its process, once that has put limits on itself."""
        await until(lambda: any(_confined(psutil.Process())), PATIENT)
        (found,) = _confined(psutil.Process())
        return found


def _confined(parent: psutil.Process) -> list[psutil.Process]:
    """Its processes that verify; whoever shares the test process may have started others."""
    return [process for process in parent.children() if _is_confined(process)]


def _is_confined(process: psutil.Process) -> bool:
    try:
        limits = Path(f"/proc/{process.pid}/limits").read_text("ascii")
    except OSError:
        return False
    # The memory limit is the last, when everything is imported.
    return re.search(r"Max address space +[0-9]+", limits) is not None


@pytest.fixture
async def endless(tmp_path: Path) -> AsyncIterator[Running]:
    running = Running(bundle(tmp_path / "m", hostile.endless()))
    yield running
    running.task.cancel()
    await asyncio.gather(running.task, return_exceptions=True)


@pytest.mark.slow
async def test_the_process_is_confined(endless: Running) -> None:
    process = await endless.process()
    limits = dict(
        re.findall(
            r"^(Max [a-z ]+?)  +(\S+)",
            Path(f"/proc/{process.pid}/limits").read_text("ascii"),
            re.MULTILINE,
        )
    )
    assert limits["Max core file size"] == "0"
    assert limits["Max file size"] == "0"
    assert limits["Max open files"] == "64"
    assert int(limits["Max cpu time"]) == 2 * PATIENT
    assert GIB < int(limits["Max address space"]) < 4 * GIB
    status = Path(f"/proc/{process.pid}/status").read_text("ascii")
    assert "NoNewPrivs:\t1" in status
    assert process.nice() >= 10
    assert os.getsid(process.pid) == process.pid
    assert not {"infer", "onnx"} & set(process.cmdline()[1:4])


@pytest.mark.slow
async def test_a_caller_who_gives_up_ends_the_process(endless: Running) -> None:
    process = await endless.process()
    endless.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await endless.task
    assert not process.is_running()


@pytest.mark.slow
async def test_a_process_that_crashes_is_a_refusal(endless: Running) -> None:
    process = await endless.process()
    os.kill(process.pid, signal.SIGSEGV)
    with pytest.raises(Rejected, match="SIGSEGV"):
        await endless.task


@pytest.mark.slow
async def test_a_model_that_never_ends_is_ended(tmp_path: Path) -> None:
    told = await refusal(bundle(tmp_path / "m", hostile.endless()), timeout=30.0)
    assert told == (
        "the model was not verified within 30 s: it took longer while it was run on made-up input"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "made", [hostile.huge(25 * 10**9), hostile.huge(10**9), hostile.grows()],
    ids=["100 GB", "4 GB", "twice with every turn"],
)  # fmt: skip
async def test_a_model_that_takes_all_memory_is_refused(tmp_path: Path, made: Any) -> None:
    told = await refusal(bundle(tmp_path / "m", made))
    assert f"needs more than the {GIB} bytes of memory it may take" in told


@pytest.mark.slow
async def test_where_addresses_cannot_be_limited_memory_is_watched(tmp_path: Path) -> None:
    where = bundle(tmp_path / "m", hostile.huge(10**9))
    with pytest.raises(Rejected, match=f"more than the {GIB} bytes"):
        await verify(where, timeout=PATIENT, memory_bytes=GIB, providers=("auto",))


@pytest.mark.slow
async def test_bundles_are_verified_one_after_the_other(tmp_path: Path) -> None:
    verifier = Verifier(timeout=PATIENT, memory_bytes=GIB)
    first, second = (
        asyncio.create_task(verifier.verify(bundle(tmp_path / name, hostile.endless())))
        for name in ("a", "b")
    )
    mine = psutil.Process()
    others = mine.children()
    await until(lambda: len(_confined(mine)) > 0, PATIENT)
    assert len(mine.children()) - len(others) <= 1
    before = _confined(mine)
    first.cancel()
    await until(lambda: any(one not in before for one in _confined(mine)), PATIENT)
    assert len(_confined(mine)) == 1
    second.cancel()
    await asyncio.gather(first, second, return_exceptions=True)


_SERVER = """
import asyncio, sys
from pathlib import Path
from aiaas_server.registry.verification.verify import verify
asyncio.run(verify(Path(sys.argv[1]), timeout=300, memory_bytes=1 << 30))
"""


def _server(where: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", _SERVER, str(where)], env=environment)


@pytest.mark.slow
async def test_a_process_ends_with_its_server(tmp_path: Path) -> None:
    where = bundle(tmp_path / "m", hostile.endless())
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(Path.cwd())}
    server = await asyncio.to_thread(_server, where, environment)
    try:
        seen = psutil.Process(server.pid)
        wait_until(lambda: any(map(_is_confined, seen.children())), timeout=PATIENT)
        (process,) = seen.children()
    finally:
        server.kill()
        server.wait()
    wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
    (left,) = tmp_path.glob(".*")  # unlocked: the cleaning of the next server's start takes it
    handle = os.open(left, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(handle)
    shutil.rmtree(left)
