"""Retries: what is repeated, how long is waited, and what ends a call."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiaas_client import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    Clock,
    DeadlineExceededError,
    ModelCrashedError,
    RateLimitError,
    RetryPolicy,
    ServiceUnavailableError,
)
from aiaas_client._api import oip as calls
from aiaas_client._send.core import RetryBudget
from aiaas_client._send.endpoints import BreakerPolicy
from aiaas_client._send.retry import parse_retry_after

NOW = 1_800_000_000.0


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
def test_what_may_pass_is_tried_three_times_in_all(
    flavour: str, call_through: Any, wire: Any, steps: Any, fake_clock: Any, status: int
) -> None:
    server = wire(default=steps.answer(status, {"error": "not now"}))
    with (
        call_through(flavour, server.url, retry=fake_clock.policy()) as caller,
        pytest.raises(APIStatusError) as caught,
    ):
        caller.send(calls.server_metadata())
    assert len(server.received) == 3
    assert caught.value.attempts == 3
    assert caught.value.status_code == status
    assert fake_clock.slept == [0.1, 0.2]


@pytest.mark.parametrize(
    "status", [302, 400, 401, 403, 404, 405, 409, 413, 415, 422, 431, 500, 501]
)
def test_what_cannot_pass_is_tried_once(
    kind: str, call_through: Any, wire: Any, steps: Any, fake_clock: Any, status: int
) -> None:
    server = wire(default=steps.answer(status, {"error": "no"}, Location="http://127.0.0.1:9/"))
    with (
        call_through(kind, server.url, retry=fake_clock.policy()) as caller,
        pytest.raises(APIStatusError, match=rf"HTTP {status}"),
    ):
        caller.send(calls.server_metadata())
    assert len(server.received) == 1


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [(500, "model_crashed", ModelCrashedError), (422, "inference_failed", APIStatusError)],
)
def test_a_model_that_dies_of_a_call_is_not_sent_it_again(
    kind: str,
    call_through: Any,
    wire: Any,
    steps: Any,
    fake_clock: Any,
    status: int,
    code: str,
    error: type[APIStatusError],
) -> None:
    """Three of them would be its quarantine."""
    told = {"error": "the model's process ended", "code": code, "retryable": False}
    server = wire(default=steps.answer(status, told))
    with (
        call_through(kind, server.url, retry=fake_clock.policy()) as caller,
        pytest.raises(error, match="process ended") as caught,
    ):
        caller.send(calls.server_metadata())
    assert caught.value.status_code == status
    assert len(server.received) == 1


def test_the_server_has_the_last_word_on_retrying(
    kind: str, call_through: Any, wire: Any, steps: Any, fake_clock: Any
) -> None:
    server = wire(default=steps.answer(503, {"error": "never", "retryable": False}))
    with (
        call_through(kind, server.url, retry=fake_clock.policy()) as caller,
        pytest.raises(ServiceUnavailableError),
    ):
        caller.send(calls.server_metadata())
    assert len(server.received) == 1


def test_a_call_that_succeeds_later_says_how_often_it_was_tried(
    flavour: str, call_through: Any, wire: Any, steps: Any, fake_clock: Any
) -> None:
    from aiaas_client._send.raw import raw

    server = wire(steps.answer(503, {"error": "busy"}), steps.hang_up)
    with call_through(flavour, server.url, retry=fake_clock.policy()) as caller:
        answer = caller.send(raw(calls.server_metadata()))
    assert answer.parse().name == "wire"
    assert answer.attempts == len(server.received) == 3
    assert len({received.headers["x-request-id"] for received in server.received}) == 1


def test_the_servers_delay_is_a_floor(
    kind: str, call_through: Any, wire: Any, steps: Any, fake_clock: Any
) -> None:
    server = wire(
        steps.answer(429, {"error": "slow down"}, Retry_After="3"),
        steps.answer(503, {"error": "busy"}, retry_after_ms="1500", Retry_After="9"),
    )
    with call_through(kind, server.url, retry=fake_clock.policy()) as caller:
        caller.send(calls.server_metadata())
    assert fake_clock.slept == [3.0, 1.5]


def test_a_delay_beyond_the_deadline_ends_the_call_at_once(
    kind: str, call_through: Any, wire: Any, steps: Any, fake_clock: Any
) -> None:
    server = wire(default=steps.answer(429, {"error": "slow down"}, Retry_After="61"))
    with (
        call_through(kind, server.url, retry=fake_clock.policy()) as caller,
        pytest.raises(RateLimitError) as caught,
    ):
        caller.send(calls.server_metadata())
    assert caught.value.retry_after == 61
    assert fake_clock.slept == []
    assert len(server.received) == 1


def test_the_server_is_told_what_is_left_of_the_deadline(
    kind: str, call_through: Any, wire: Any, steps: Any, fake_clock: Any
) -> None:
    server = wire(steps.answer(503, {"error": "busy"}, Retry_After="8"))
    with call_through(kind, server.url, retry=fake_clock.policy(), deadline=10.0) as caller:
        caller.send(calls.server_metadata())
    first, second = (int(r.headers["x-request-timeout-ms"]) for r in server.received)
    assert 8_000 < first <= 10_000
    assert second <= 2_000


def test_a_long_deadline_is_told_as_the_longest_a_server_takes(
    kind: str, call_through: Any, wire: Any
) -> None:
    server = wire()
    with call_through(kind, server.url, deadline=86_400.0) as caller:
        caller.send(calls.server_metadata())
    assert server.received[0].headers["x-request-timeout-ms"] == "300000"


def test_a_read_timeout_is_not_repeated_on_the_same_endpoint(
    kind: str, call_through: Any, wire: Any, steps: Any, fake_clock: Any
) -> None:
    server = wire(default=steps.fall_silent)
    with (
        call_through(kind, server.url, retry=fake_clock.policy(), timeout=0.05) as caller,
        pytest.raises(APITimeoutError),
    ):
        caller.send(calls.server_metadata())
    assert len(server.received) == 1


def test_a_read_timeout_is_repeated_on_another_endpoint(
    kind: str, call_through: Any, wire: Any, steps: Any, fake_clock: Any
) -> None:
    slow, good = wire(default=steps.fall_silent), wire()
    urls = [slow.url, good.url]
    with call_through(kind, urls, retry=fake_clock.policy(), timeout=0.2) as caller:
        assert caller.send(calls.server_metadata()).name == "wire"
    assert len(slow.received) == len(good.received) == 1


def test_a_dead_idle_connection_costs_one_free_retry(
    flavour: str, call_through: Any, wire: Any, steps: Any
) -> None:
    server = wire(steps.answer(), steps.hang_up)
    policy = RetryPolicy(max_retries=0, budget_reserve=0, budget_ratio=0)
    with call_through(flavour, server.url, retry=policy) as caller:
        caller.send(calls.server_metadata())
        caller.send(calls.server_metadata())
    assert [received.connection for received in server.received] == [1, 1, 2]


def test_a_fresh_connection_that_dies_costs_a_real_retry(
    kind: str, call_through: Any, wire: Any, steps: Any
) -> None:
    server = wire(default=steps.reset)
    with (
        call_through(kind, server.url, retry=RetryPolicy(max_retries=0)) as caller,
        pytest.raises(APIConnectionError) as caught,
    ):
        caller.send(calls.server_metadata())
    assert caught.value.phase == "exchange"
    assert len(server.received) == 1


@pytest.mark.parametrize(
    ("step", "requests"),
    [
        pytest.param(lambda s: s.answer(503, {"error": "x"}), 3, id="refused"),
        pytest.param(lambda s: s.answer(502, {"error": "x"}), 1, id="lost behind a proxy"),
        pytest.param(lambda s: s.answer(504, {"error": "x"}), 1, id="late"),
        pytest.param(lambda s: s.hang_up, 1, id="broken"),
    ],
)
def test_loading_is_not_repeated_once_it_may_have_run(
    kind: str,
    call_through: Any,
    wire: Any,
    steps: Any,
    fake_clock: Any,
    step: Callable[[Any], Any],
    requests: int,
) -> None:
    server = wire(default=step(steps))
    with (
        call_through(kind, server.url, retry=fake_clock.policy()) as caller,
        pytest.raises((APIStatusError, APIConnectionError)),
    ):
        caller.send(calls.load("m"))
    assert len(server.received) == requests


def test_a_budget_stops_a_storm_of_retries(
    kind: str, call_through: Any, wire: Any, steps: Any, fake_clock: Any
) -> None:
    server = wire(default=steps.answer(503, {"error": "busy"}))
    with call_through(kind, server.url, retry=fake_clock.policy(), breaker=None) as caller:
        for _ in range(100):
            with pytest.raises(ServiceUnavailableError):
                caller.send(calls.server_metadata())
    assert 100 + 15 <= len(server.received) <= 100 + 10 + 10


def test_sleeps_count_towards_the_deadline(
    kind: str, call_through: Any, wire: Any, steps: Any, fake_clock: Any
) -> None:
    server = wire(default=steps.answer(503, {"error": "busy"}, Retry_After="4"))
    policy = fake_clock.policy(max_retries=50)
    with (
        call_through(kind, server.url, retry=policy, deadline=10.0) as caller,
        pytest.raises(ServiceUnavailableError) as caught,
    ):
        caller.send(calls.server_metadata())
    assert fake_clock.slept == [4.0, 4.0]
    assert 8 <= caught.value.elapsed < 10


def test_a_spent_deadline_sends_nothing(wire: Any) -> None:
    from aiaas_client import Client

    server = wire()
    ticks = iter([0.0, 100.0])
    clock = Clock(monotonic=lambda: next(ticks, 100.0))
    with (
        Client(server.url, retry=RetryPolicy(clock=clock), breaker=None) as client,
        pytest.raises(DeadlineExceededError),
    ):
        client.health()
    assert server.received == []


@given(retry=st.integers(0, 10_000), chance=st.floats(0, 1))
def test_backoff_stays_within_its_bounds(retry: int, chance: float) -> None:
    policy = RetryPolicy(clock=Clock(random=lambda: chance))
    assert 0 <= policy.backoff(retry) <= min(2.0, 0.1 * 2 ** min(retry, 20))


@given(calls=st.integers(0, 2_000))
def test_the_budget_never_exceeds_a_tenth_of_the_calls_and_ten(calls: int) -> None:
    budget = RetryBudget(RetryPolicy())
    for _ in range(calls):
        budget.earn()
    spent = 0
    while budget.spend():
        spent += 1
    assert spent <= calls * 0.1 + 10 + 1e-6


@given(st.floats(0, 1e9))
def test_seconds_are_read_as_they_stand(seconds: float) -> None:
    assert parse_retry_after({"retry-after": repr(seconds)}, NOW) == seconds


@given(st.integers(-100_000, 100_000))
def test_a_date_is_read_as_the_time_until_then(seconds: int) -> None:
    moment = datetime.fromtimestamp(NOW, UTC) + timedelta(seconds=seconds)
    told = {"retry-after": format_datetime(moment, usegmt=True)}
    assert parse_retry_after(told, NOW) == max(seconds, 0)


@given(st.text(max_size=60))
def test_no_text_at_all_breaks_the_reading(text: str) -> None:
    value = parse_retry_after({"retry-after": text, "retry-after-ms": text}, NOW)
    assert value is None or 0 <= value < float("inf")


@pytest.mark.parametrize(
    "nonsense", ["", "soon", "-1", "nan", "inf", "1e999", "Mon, 99 Foo 2026", "0x10", "1;2"]
)
def test_nonsense_is_ignored(nonsense: str) -> None:
    assert parse_retry_after({"retry-after": nonsense}, NOW) is None


def test_milliseconds_come_first() -> None:
    assert parse_retry_after({"retry-after-ms": "250", "retry-after": "9"}, NOW) == 0.25
    assert parse_retry_after({"retry-after-ms": "x", "retry-after": "9"}, NOW) == 9


def test_three_attempts_are_three_even_when_a_connection_had_died(
    flavour: str, call_through: Any, wire: Any, steps: Any, fake_clock: Any
) -> None:
    server = wire(steps.answer(), steps.hang_up, default=steps.answer(503, {"error": "busy"}))
    with call_through(flavour, server.url, retry=fake_clock.policy()) as caller:
        caller.send(calls.server_metadata())
        with pytest.raises(ServiceUnavailableError) as caught:
            caller.send(calls.server_metadata())
    assert caught.value.attempts == 3
    assert len(server.received) == 1 + 3


def test_retries_can_be_turned_off_where_the_client_is_made(
    kind: str, call_through: Any, wire: Any, steps: Any
) -> None:
    server = wire(default=steps.answer(503, {"error": "busy"}))
    with (
        call_through(kind, server.url, max_retries=0) as caller,
        pytest.raises(ServiceUnavailableError),
    ):
        caller.send(calls.server_metadata())
    assert len(server.received) == 1


def test_retries_can_go_on_up_to_the_deadline(
    kind: str, call_through: Any, wire: Any, steps: Any, fake_clock: Any
) -> None:
    server = wire(*[steps.answer(503, {"error": "restarting"})] * 30)
    policy = fake_clock.policy(until_deadline=True, budget_reserve=0)
    with call_through(kind, server.url, retry=policy) as caller:
        assert caller.send(calls.server_metadata()).name == "wire"
    assert len(server.received) == 31
    server.script.extend([steps.answer(503, {"error": "restarting"})] * 30)
    with (
        call_through(kind, server.url, retry=policy, deadline=20.0) as caller,
        pytest.raises(ServiceUnavailableError) as caught,
    ):
        caller.send(calls.server_metadata())
    assert 15 < caught.value.elapsed <= 20


def test_a_call_that_waits_for_a_restart_waits_for_an_open_circuit_too(
    kind: str, call_through: Any, wire: Any, steps: Any, fake_clock: Any
) -> None:
    server = wire(*[steps.answer(500, {"error": "broken"})] * 2)
    policy = fake_clock.policy(until_deadline=True)
    breaker = BreakerPolicy(min_calls=2)
    with call_through(kind, server.url, retry=policy, breaker=breaker) as caller:
        for _ in range(2):
            with pytest.raises(APIStatusError):
                caller.send(calls.server_metadata())
        assert caller.send(calls.server_metadata()).name == "wire"
    assert sum(fake_clock.slept) >= breaker.open_for * 0.9


def test_a_full_server_is_waited_for_and_not_held_against(
    flavour: str, call_through: Any, wire: Any, steps: Any, fake_clock: Any
) -> None:
    told = {"error": "too many connections", "code": "too_many_connections", "retryable": True}
    server = wire(*[steps.answer(503, told, Connection="close")] * 25)
    policy = fake_clock.policy(budget_reserve=0, budget_ratio=0)
    with call_through(flavour, server.url, retry=policy) as caller:
        assert caller.send(calls.server_metadata()).name == "wire"
        (endpoint,) = caller.client._sender._shared.endpoints._endpoints
        assert (endpoint.failures, endpoint.breaker.opened_at) == (0, None)
    assert len(server.received) == 26


def test_an_only_server_that_starts_is_waited_for_and_its_circuit_stays_closed(
    kind: str, call_through: Any, dead_url: str, fake_clock: Any
) -> None:
    with call_through(kind, dead_url, retry=fake_clock.policy()) as caller:
        for _ in range(30):
            with pytest.raises(APIConnectionError, match="cannot connect"):
                caller.send(calls.server_metadata())


def test_what_is_tried_again_is_logged_without_what_was_said(
    kind: str, call_through: Any, wire: Any, steps: Any, fake_clock: Any, caplog: Any
) -> None:
    secret = "s3cret"
    server = wire(steps.answer(503, {"error": secret}))
    caplog.set_level("DEBUG", "aiaas_client")
    with call_through(
        kind, server.url, retry=fake_clock.policy(), api_key=secret, headers={"X-A": secret}
    ) as caller:
        caller.send(calls.server_metadata())
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert ("INFO", "attempt 1 failed (ServiceUnavailableError 503), the next in 0.100 s") in told
    assert any(level == "DEBUG" and f"GET {server.url}/v2: 200" in text for level, text in told)
    assert secret not in caplog.text
    assert {record.name for record in caplog.records if "aiaas" in record.name} == {"aiaas_client"}


def test_a_full_server_leaves_a_call_to_another(
    kind: str, call_through: Any, wire: Any, steps: Any, fake_clock: Any
) -> None:
    told = {"error": "too many connections", "code": "too_many_connections", "retryable": True}
    full, free = wire(default=steps.answer(503, told)), wire()
    with call_through(kind, [full.url, free.url], retry=fake_clock.policy()) as caller:
        assert caller.send(calls.server_metadata()).name == "wire"
    assert len(full.received) == len(free.received) == 1


def test_hedges_leave_half_of_the_reserve_to_what_has_failed() -> None:
    budget = RetryBudget(RetryPolicy(budget_reserve=10))
    hedges = sum(budget.spend_on_hedge() for _ in range(20))
    retries = sum(budget.spend() for _ in range(20))
    assert (hedges, retries) == (5, 5)
