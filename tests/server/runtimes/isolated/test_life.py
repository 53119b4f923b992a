"""How the process of a model comes back, gives way to another one, is given up, and goes."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiaas_server.core.errors import (
    DeadlineExceeded,
    LoadFailed,
    ModelCrashed,
    ModelUnavailable,
    OutOfMemory,
    ServerError,
)
from aiaas_server.core.session import StopToken
from tests.graphs import model, value
from tests.server.runtimes.graphs import node
from tests.server.runtimes.isolated.conftest import HERE, Open, X, doubles
from tests.waiting import wait_until


def pid_of(session: Any) -> int:
    pid: int = session._keeper.worker(None).pid
    return pid


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_one_that_died_at_rest_is_replaced_before_anybody_asks(opened: Open) -> None:
    session = opened(doubles())
    first = pid_of(session)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: session.isolation.restarts == 1)
    assert pid_of(session) != first
    assert gone(first)
    assert session.run({"x": X}, ["y"])[0].tolist() == (2 * X).tolist()
    assert session.isolation.quarantined == ""


def test_requests_wait_for_the_next_one(opened: Open) -> None:
    session = opened(doubles(), pause=0.5)
    os.kill(pid_of(session), signal.SIGKILL)
    wait_until(lambda: session.isolation.deaths == 1)
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(session.run({"x": X}, ["y"])[0].tolist()))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == [(2 * X).tolist()] * 4


def test_who_no_longer_waits_is_let_go(opened: Open) -> None:
    session = opened(doubles(), pause=1.5)
    os.kill(pid_of(session), signal.SIGKILL)
    wait_until(lambda: session.isolation.deaths == 1)
    stop = StopToken()
    stop.stop()
    with pytest.raises(ServerError) as refused:
        session.run({"x": X}, ["y"], stop)
    assert isinstance(refused.value, ModelUnavailable | DeadlineExceeded)


def test_nobody_waits_for_one_that_is_far_away(opened: Open) -> None:
    session = opened(doubles(), pause=600.0, longest_pause=600.0)
    os.kill(pid_of(session), signal.SIGKILL)
    wait_until(lambda: session.isolation.deaths == 1)
    with pytest.raises(ModelUnavailable, match="is being started") as refused:
        session.run({"x": X}, ["y"])
    assert refused.value.retry_after


def test_three_deaths_are_the_end(opened: Open) -> None:
    session = opened(b"", "aborts", entry=f"{HERE}.standing_in", pause=0.01)
    other = opened(doubles(), "other")
    for deaths in (1, 2, 3):
        with pytest.raises(ModelCrashed, match="SIGABRT"):
            session.run({"x": X}, ["y"])
        assert session.isolation.deaths == deaths
    with pytest.raises(
        ModelUnavailable, match="quarantined: .* 3 times within 60 s.*SIGABRT"
    ) as no:
        session.run({"x": X}, ["y"])
    assert no.value.retry_after
    assert other.run({"x": X}, ["y"])[0].tolist() == (2 * X).tolist()
    again = opened(doubles(), "aborts")  # loaded anew, or another version
    assert again.isolation.quarantined == ""


def test_one_that_was_killed_by_the_system_found_no_memory(opened: Open) -> None:
    session = opened(b"", "killed", entry=f"{HERE}.standing_in")
    with pytest.raises(OutOfMemory):
        session.run({"x": X}, ["y"])


def test_one_that_has_grown_is_replaced_without_a_failure(opened: Open) -> None:
    session = opened(doubles())
    first = pid_of(session)
    session._keeper.worker(None).memory_bytes = -(1 << 40)  # so that it has grown beyond it
    failures: list[BaseException] = []
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            try:
                assert session.run({"x": X}, ["y"])[0].tolist() == (2 * X).tolist()
            except BaseException as error:
                failures.append(error)
                return

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: session.isolation.recycled >= 1)
    wait_until(lambda: gone(first))
    done.set()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert session.isolation.deaths == 0


def test_what_one_run_took_is_not_kept_for_ever(opened: Open) -> None:
    """An arena keeps the most that any run took, which a small input can make as large as it likes;
    it goes with the process, and nobody notices."""
    weights = np.ones((4, 1 << 17), np.float32)  # 2 MiB: a model that has an arena
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("ReduceMax", ["h"], ["y"])]
    graph = model(nodes, [value("x", ["n", 4])], [value("y", [1, 1])], w=weights)
    session = opened(graph, memory=2 << 30)
    at_first = session._keeper.worker(None).resident()
    large = np.ones((1000, 4), np.float32)  # its intermediate result takes 500 MiB
    session.run({"x": large}, ["y"])
    assert session._keeper.worker(None).resident() > at_first + (400 << 20)

    def replaced() -> bool:
        assert session.run({"x": X}, ["y"])[0].tolist() == [[6.0]]
        return session.isolation.recycled == 1

    wait_until(replaced)
    assert session._keeper.worker(None).resident() < 1.5 * at_first + (256 << 20)
    assert session.isolation.deaths == 0


def test_what_runs_when_it_is_closed_is_told(opened: Open) -> None:
    session = opened(b"", "says-nothing", entry=f"{HERE}.standing_in")
    caught: list[BaseException] = []

    def run() -> None:
        try:
            session.run({"x": X}, ["y"])
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: session._keeper.worker(None)._made == 1)
    session.close()
    thread.join(60)
    assert isinstance(caught[0], ModelCrashed | ModelUnavailable)


@pytest.mark.slow
def test_nothing_is_left_of_two_hundred(opened: Open) -> None:
    """Of 200 loads, half of them of models that are refused or that die."""
    own = os.getpid()

    def left() -> tuple[int, int]:
        children = Path(f"/proc/{own}/task/{own}/children")
        of_threads = sum(
            len((task / "children").read_text().split())
            for task in Path(f"/proc/{own}/task").iterdir()
            if (task / "children").exists()
        )
        assert children.exists()
        return len(list(Path("/proc/self/fd").iterdir())), of_threads

    opened(doubles()).close()
    before = None
    for number in range(200):
        kind = number % 4
        if kind == 0:
            session = opened(doubles())
            session.run({"x": X}, ["y"])
        elif kind == 1:
            with pytest.raises(LoadFailed):
                opened(b"no model")
            continue
        elif kind == 2:
            session = opened(b"", "exits", entry=f"{HERE}.standing_in")
            with pytest.raises(ModelCrashed):
                session.run({"x": X}, ["y"])
        else:
            session = opened(b"", "floods", entry=f"{HERE}.standing_in")
        session.close()
        session.wait_closed(60)
        if number == 7:
            before = left()
    assert left() == before


def test_the_end_of_the_server_is_the_end_of_the_process(tmp_path: Path) -> None:
    import subprocess
    import sys

    program = (
        "import sys\n"
        "from aiaas_server.runtimes.sandbox import open_isolated\n"
        "session = open_isolated(open(sys.argv[1], 'rb').read())\n"
        "print(session._keeper.worker(None).pid, flush=True)\n"
        "input()\n"
    )
    (tmp_path / "m.onnx").write_bytes(doubles())
    command = [sys.executable, "-c", program, str(tmp_path / "m.onnx")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        pid = int(server.stdout.readline())
        assert not gone(pid)
        server.kill()
    wait_until(lambda: gone(pid) or "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text())
