"""Several base URLs: least in flight, ejection after three failures, probes, hedging."""

from __future__ import annotations

from typing import Any

import pytest

from aiaas_client import APIConnectionError, BadRequestError, CircuitOpenError, RetryPolicy
from aiaas_client._api import oip as calls
from aiaas_client._send.endpoints import BreakerPolicy, Endpoints

BROKEN = APIConnectionError("broken")


class Time:
    """A clock that stands still."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_endpoint_with_the_least_in_flight_is_chosen() -> None:
    endpoints = Endpoints(["a", "b", "c"], None, Time())
    taken = [endpoints.take() for _ in range(3)]
    assert {one.url for one in taken} == {"a", "b", "c"}
    endpoints.release(taken[1], None)
    assert endpoints.take().url == taken[1].url


def test_idle_endpoints_take_turns() -> None:
    endpoints = Endpoints(["a", "b"], None, Time())
    order = []
    for _ in range(4):
        one = endpoints.take()
        order.append(one.url)
        endpoints.release(one, None)
    assert order == ["a", "b", "a", "b"]


def fail(endpoints: Endpoints, url: str, times: int) -> None:
    for _ in range(times):
        others = {"a", "b"} - {url}
        one = endpoints.take(avoid=others)
        assert one.url == url
        endpoints.release(one, BROKEN)


def served(endpoints: Endpoints, count: int) -> set[str]:
    chosen = set()
    for _ in range(count):
        one = endpoints.take()
        chosen.add(one.url)
        endpoints.release(one, None)
    return chosen


@pytest.mark.parametrize(("failures", "left"), [(2, {"a", "b"}), (3, {"b"})])
def test_three_failures_in_a_row_eject(failures: int, left: set[str]) -> None:
    endpoints = Endpoints(["a", "b"], None, Time())
    fail(endpoints, "a", failures)
    assert served(endpoints, 6) == left


def test_a_success_in_between_starts_the_count_again() -> None:
    endpoints = Endpoints(["a", "b"], None, Time())
    fail(endpoints, "a", 2)
    endpoints.release(endpoints.take(avoid={"b"}), None)
    fail(endpoints, "a", 2)
    assert served(endpoints, 6) == {"a", "b"}


def test_one_probe_at_a_time_decides_on_the_return() -> None:
    time = Time()
    endpoints = Endpoints(["a", "b"], None, time)
    fail(endpoints, "a", 3)
    time.now = 5.0
    probe = endpoints.take()
    assert probe.url == "a"
    assert [endpoints.take().url for _ in range(3)] == ["b", "b", "b"]
    endpoints.release(probe, None)
    assert endpoints.take().url == "a"


def test_a_failed_probe_doubles_the_wait() -> None:
    time = Time()
    endpoints = Endpoints(["a", "b"], None, time)
    fail(endpoints, "a", 3)
    time.now = 5.0
    endpoints.release(endpoints.take(), BROKEN)
    time.now = 14.9
    assert served(endpoints, 3) == {"b"}
    time.now = 15.0
    assert endpoints.take().url == "a"


def test_when_all_are_ejected_calls_still_go_somewhere() -> None:
    endpoints = Endpoints(["a", "b"], None, Time())
    fail(endpoints, "a", 3)
    fail(endpoints, "b", 3)
    assert endpoints.take().url in {"a", "b"}


def test_an_open_circuit_leaves_the_others(kind: str) -> None:
    time = Time()
    endpoints = Endpoints(["a", "b"], BreakerPolicy(min_calls=2), time)
    fail(endpoints, "a", 2)
    assert served(endpoints, 4) == {"b"}
    fail(endpoints, "b", 4)
    with pytest.raises(CircuitOpenError, match="a, b"):
        endpoints.take()


def test_a_dead_endpoint_is_passed_over_for_a_living_one(
    flavour: str, call_through: Any, wire: Any, dead_url: str, fake_clock: Any
) -> None:
    server = wire()
    with call_through(flavour, [dead_url, server.url], retry=fake_clock.policy()) as caller:
        for _ in range(10):
            assert caller.send(calls.server_metadata()).name == "wire"
    assert len(fake_clock.slept) == 3  # three failures, then it is left alone


def test_a_slow_endpoint_is_hedged_by_another(
    kind: str, call_through: Any, wire: Any, steps: Any
) -> None:
    slow, fast = wire(default=steps.fall_silent), wire()
    with call_through(kind, [slow.url, fast.url], hedge_after=0.02) as caller:
        assert caller.send(calls.server_metadata()).name == "wire"
        slow.wait_closed()  # the loser was cut off
    assert len(slow.received) == len(fast.received) == 1


def test_a_quick_answer_is_not_hedged(kind: str, call_through: Any, wire: Any) -> None:
    first, second = wire(), wire()
    with call_through(kind, [first.url, second.url], hedge_after=30.0) as caller:
        caller.send(calls.server_metadata())
    assert len(first.received) + len(second.received) == 1


def test_a_failed_racer_leaves_the_race_to_the_other(
    kind: str, call_through: Any, wire: Any, steps: Any, fake_clock: Any
) -> None:
    slow = wire(default=steps.drip(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", 0.005))
    broken = wire(default=steps.answer(500, {"error": "no"}))
    urls = [slow.url, broken.url]
    with call_through(kind, urls, hedge_after=0.02, retry=fake_clock.policy()) as caller:
        assert caller.send(calls.server_metadata()).name == ""
    assert len(broken.received) == 1


def test_a_race_that_both_lose_tells_what_a_server_answered(
    kind: str, call_through: Any, wire: Any, steps: Any
) -> None:
    refusing = wire(default=steps.answer(400, {"error": "no such thing"}, Connection="close"))

    def outlast(connection: Any, received: Any) -> bool:
        refusing.wait_for(1)
        refusing.wait_closed()  # its answer was read
        return False

    leaving = wire(default=outlast)
    options = {"hedge_after": 0.02, "retry": RetryPolicy(max_retries=0)}
    with (
        call_through(kind, [leaving.url, refusing.url], **options) as caller,
        pytest.raises(BadRequestError, match="no such thing"),
    ):
        caller.send(calls.server_metadata())
    assert len(leaving.received) == len(refusing.received) == 1


def test_what_is_not_safe_to_repeat_is_not_hedged(
    kind: str, call_through: Any, wire: Any, steps: Any
) -> None:
    slow = wire(default=steps.drip(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 0.005))
    other = wire()
    with call_through(kind, [slow.url, other.url], hedge_after=0.001) as caller:
        caller.send(calls.load("m"))
    assert other.received == []
