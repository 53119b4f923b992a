"""The verdict comes from a process that a model may have taken over: only its form counts."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from aiaas_server.core.errors import Rejected, StateUnavailable
from aiaas_server.registry.verification.hearing import Hearing

VERIFIED = {"report": {}, "inputs": [], "outputs": []}


def heard(*lines: Any) -> Hearing:
    hearing = Hearing()
    for line in lines:
        hearing.add(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")
    return hearing


def refusal(hearing: Hearing, code: int = 0) -> str:
    with pytest.raises(Rejected) as caught:
        hearing.outcome(code, 1000)
    return caught.value.message


def test_a_verdict_may_come_in_pieces() -> None:
    text = json.dumps({"verified": VERIFIED}).encode() + b"\n"
    found = heard({"phase": "load"}, text[:10], text[10:]).outcome(0, 1000)
    assert found.inputs == []


@pytest.mark.parametrize(
    "line",
    [
        b"hello\n",
        b"\n",
        b"\xff\xfe\n",
        b'{"verified": 1}\n',
        b'{"verified": {}}\n',
        b'{"phase": "done"}\n',
        b'{"evil": 1}\n',
        b"[" * 10_000 + b"\n",
    ],
)
def test_what_nobody_can_read_is_a_refusal(line: bytes) -> None:
    with pytest.raises(Rejected, match="nobody can read"):
        heard(line)


def test_what_never_ends_is_a_refusal() -> None:
    hearing = Hearing()
    with pytest.raises(Rejected, match="more than it may"):
        for _ in range(1000):
            hearing.add(b"x" * 65536)


def test_a_verdict_of_a_process_that_then_crashed_does_not_count() -> None:
    lines = {"phase": "run"}, {"verified": VERIFIED}
    assert "SIGSEGV" in refusal(heard(*lines), -signal.SIGSEGV)
    assert "status 1" in refusal(heard(*lines), 1)


def test_half_a_verdict_does_not_count() -> None:
    text = json.dumps({"verified": VERIFIED}).encode()
    assert "status 0" in refusal(heard({"phase": "run"}, text))


def test_a_reason_becomes_one_printable_line() -> None:
    told = refusal(heard({"rejected": "a\nb\x1b[31m" + "c" * 10_000}))
    assert told.startswith("a b[31mc")
    assert len(told) < 512


def test_the_end_of_a_process_tells_where_it_was() -> None:
    assert "SIGSEGV) while it was loaded" in refusal(heard({"phase": "load"}), -signal.SIGSEGV)
    assert "processor time while it was run" in refusal(heard({"phase": "run"}), -signal.SIGXCPU)
    assert "status 3 while its file was read" in refusal(heard({"phase": "read"}), 3)
    assert "signal 99" in refusal(heard({"phase": "read"}), -99)


def test_a_failure_of_the_process_itself_tells_no_more_than_its_kind() -> None:
    told = refusal(heard({"phase": "check"}, {"failed": "KeyError: '/srv/secret'"}))
    assert told == "the model could not be verified: KeyError while ONNX's checker looked at it"


def test_a_process_that_grew_too_large_is_told_so() -> None:
    hearing = heard({"phase": "run"})
    hearing.too_large = True
    assert "1000 bytes of memory it may take while it was run" in refusal(hearing, -9)


@pytest.mark.parametrize(
    ("lines", "code"),
    [([], 1), ([], -9), ([{"failed": "ModuleNotFoundError: No module named 'onnx'"}], 0)],
)
def test_a_process_that_never_looked_at_the_model_says_nothing_of_it(
    lines: list[Any], code: int, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(StateUnavailable, match="cannot be verified now"):
        heard(*lines).outcome(code, 1000)
    assert "does not work" in caplog.text


def test_who_was_too_slow_depends_on_where_it_was() -> None:
    assert isinstance(heard().too_late(60.0), StateUnavailable)
    slow = heard({"phase": "golden"}).too_late(60.0)
    assert isinstance(slow, Rejected)
    assert slow.message == (
        "the model was not verified within 60 s: it took longer while its golden set was run"
    )
