"""Whatever the process of a model writes to the server, the server goes on, and so do others."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from aiaas_server.core.errors import (
    DeadlineExceeded,
    InferenceFailed,
    InvalidInput,
    LoadFailed,
    ModelCrashed,
    OutOfMemory,
    OutputTooLarge,
    ServerError,
)
from aiaas_server.core.session import StopToken
from tests.server.runtimes.isolated.conftest import HERE, Open, X
from tests.server.runtimes.isolated.standing_in import LOADS, RUNS
from tests.waiting import wait_until

ENTRY = f"{HERE}.standing_in"
HARMLESS = [
    "needs-all-memory", "another-shape", "fails-with-a-path", "fails-as-the-callers", "killed",
    "answers-twice", "changes-what-it-answered", "floods-stderr", "answers-ahead", "says-nothing",
    "half-a-frame-then-nothing", "no-elements-yet-huge", "honest-twice",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(LOADS))
def test_a_process_that_opens_nothing_is_a_model_that_is_refused(
    opened: Open, beside: Callable[[], None], name: str
) -> None:
    hangs = name in ("load-nothing", "load-closes")
    with pytest.raises(LoadFailed) as refused:
        opened(b"", name, entry=ENTRY, load=2.0 if hangs else 60.0)
    assert 0 < len(refused.value.message) < 400
    beside()


@pytest.mark.parametrize("name", sorted(RUNS.keys() - set(HARMLESS)))
def test_an_answer_that_breaks_the_rules_ends_the_process_and_one_request(
    opened: Open, beside: Callable[[], None], name: str
) -> None:
    session = opened(b"", name, entry=ENTRY)
    with pytest.raises(ModelCrashed, match="the model's process ended"):
        session.run({"x": X}, ["y"])
    assert session.isolation.deaths == 1
    beside()


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("needs-all-memory", OutputTooLarge, "got 18446744073709551615"),
        ("another-shape", InferenceFailed, r"expected shape \(-1, 4\), got \(4, 1\)"),
        ("no-elements-yet-huge", InferenceFailed, "expected shape"),
        ("fails-with-a-path", InferenceFailed, r"^see <path>$"),
        ("fails-as-the-callers", InvalidInput, "bad . input"),
        ("killed", OutOfMemory, "out of memory"),
    ],
)
def test_a_failure_is_told_as_what_it_is(
    opened: Open, name: str, error: type[ServerError], said: str
) -> None:
    session = opened(b"", name, entry=ENTRY)
    with pytest.raises(error, match=said):
        session.run({"x": X}, ["y"])


@pytest.mark.parametrize("name", ["answers-twice", "answers-ahead"])
def test_an_answer_to_no_request_is_given_to_nobody(opened: Open, name: str) -> None:
    session = opened(b"", name, entry=ENTRY)
    session.run({"x": X}, ["y"])
    try:
        session.run({"x": X}, ["y"])
    except ModelCrashed:
        assert session.isolation.deaths == 1


def test_who_kept_to_the_rules_is_held_to_them_again(opened: Open) -> None:
    session = opened(b"", "honest-twice", entry=ENTRY)
    for _ in range(2):
        assert session.run({"x": X}, ["y"])[0].tolist() == X.tolist()
    with pytest.raises(ModelCrashed, match="the model's process ended"):
        session.run({"x": X}, ["y"])


def test_what_is_written_after_an_answer_changes_nothing(opened: Open) -> None:
    session = opened(b"", "changes-what-it-answered", entry=ENTRY)
    (y,) = session.run({"x": X}, ["y"])
    before = y.copy()
    for _ in range(1000):
        assert np.array_equal(y, before, equal_nan=True)
    assert y.base is None


def test_what_it_prints_goes_nowhere(opened: Open) -> None:
    session = opened(b"", "floods-stderr", entry=ENTRY)
    assert session.run({"x": X}, ["y"])[0].shape == (1, 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["says-nothing", "half-a-frame-then-nothing"])
def test_who_does_not_stop_when_asked_is_stopped(
    opened: Open, beside: Callable[[], None], name: str
) -> None:
    session = opened(b"", name, entry=ENTRY)
    stop = StopToken()
    errors: list[Any] = []

    def run() -> None:
        try:
            session.run({"x": X}, ["y"], stop)
        except ServerError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    beside()
    stop.stop()
    beside()
    thread.join(60)
    assert [type(error) for error in errors] == [DeadlineExceeded]
    assert session.isolation.deaths == 1
    wait_until(lambda: session.isolation.restarts == 1)


def test_there_are_more_than_forty_of_them() -> None:
    assert len(LOADS) + len(RUNS) > 40
