"""The circuit breaker, by the numbers: half of 20 calls in 10 s opens it, 5 s later one probe."""

from __future__ import annotations

from typing import Any

import pytest

from aiaas_client import BreakerPolicy, CircuitOpenError, ServiceUnavailableError
from aiaas_client._api import oip as calls
from aiaas_client._send.endpoints import Breaker


def fed(outcomes: str, step: float = 0.1) -> tuple[Breaker, float]:
    """A breaker after calls that were good (`+`) or not (`-`), `step` seconds apart."""
    breaker, now = Breaker(BreakerPolicy()), 1000.0
    for outcome in outcomes:
        breaker.record(outcome == "-", now)
        now += step
    return breaker, now


@pytest.mark.parametrize(
    ("outcomes", "step", "opens"),
    [
        pytest.param("-" * 19, 0.1, False, id="too few calls"),
        pytest.param("-" * 20, 0.1, True, id="all of twenty"),
        pytest.param("+-" * 10, 0.1, True, id="half of twenty"),
        pytest.param("+-" * 9 + "++", 0.1, False, id="less than half"),
        pytest.param("-" * 20, 0.6, False, id="twenty in twelve seconds"),
        pytest.param("+" * 60 + "-" * 40, 0.01, False, id="two fifths"),
    ],
)
def test_it_opens_by_the_rule(outcomes: str, step: float, opens: bool) -> None:
    breaker, now = fed(outcomes, step)
    assert (breaker.wait(now) > 0) == opens


def test_old_failures_are_forgotten() -> None:
    breaker, now = fed("-" * 19)
    breaker.record(True, now + 11)
    assert breaker.wait(now + 11) == 0


def test_one_probe_passes_after_five_seconds_and_closes_the_circuit() -> None:
    breaker, now = fed("-" * 20)
    opened = now - 0.1
    assert breaker.wait(opened + 4.9) == pytest.approx(0.1)
    assert breaker.wait(opened + 5.1) == 0
    breaker.enter()
    assert breaker.wait(opened + 5.2) > 0  # the probe is under way
    breaker.record(False, opened + 5.3)
    assert breaker.wait(opened + 5.3) == 0


def test_a_failed_probe_opens_it_again() -> None:
    breaker, now = fed("-" * 20)
    breaker.enter()
    breaker.record(True, now + 6)
    assert breaker.wait(now + 6) == pytest.approx(5.0)


def test_a_cancelled_probe_lets_another_pass() -> None:
    breaker, now = fed("-" * 20)
    breaker.enter()
    breaker.forget()
    assert breaker.wait(now + 6) == 0


def test_a_call_from_before_does_not_close_it() -> None:
    breaker, now = fed("-" * 20)
    breaker.record(False, now)
    assert breaker.wait(now) > 0


def test_an_open_circuit_sends_nothing_until_the_probe(
    kind: str, call_through: Any, wire: Any, steps: Any, fake_clock: Any
) -> None:
    server = wire(*[steps.answer(503, {"error": "down"}) for _ in range(20)])
    policy = fake_clock.policy(max_retries=0)
    with call_through(kind, server.url, retry=policy) as caller:
        for _ in range(20):
            with pytest.raises(ServiceUnavailableError):
                caller.send(calls.server_metadata())
        with pytest.raises(CircuitOpenError) as caught:
            caller.send(calls.server_metadata())
        assert 0 < (caught.value.retry_after or 0) <= 5
        assert len(server.received) == 20
        fake_clock.sleep(5.1)
        assert caller.send(calls.server_metadata()).name == "wire"
        assert caller.send(calls.server_metadata()).name == "wire"


def test_a_full_queue_does_not_open_the_circuit(
    kind: str, call_through: Any, wire: Any, steps: Any, fake_clock: Any
) -> None:
    refusal = steps.answer(503, {"error": "full", "code": "queue_full"})
    server = wire(default=refusal)
    with call_through(kind, server.url, retry=fake_clock.policy(max_retries=0)) as caller:
        for _ in range(30):
            with pytest.raises(ServiceUnavailableError):
                caller.send(calls.server_metadata())
