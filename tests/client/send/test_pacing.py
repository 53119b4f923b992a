"""Callers ask at the rate that a server allows, and are held up by nothing else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from aiaas_client import AsyncClient, Client, OptionTypeError, RateLimitError
from aiaas_client._api.call import Headers
from aiaas_client._send.pacing import Pace, Paces, Told, read_limits
from aiaas_client.testing import FakeServer, tensor

POLICY = '"requests";q=100;w=2'


def headers(limit: str | None, policy: str | None = POLICY) -> Headers:
    raw = [(b"RateLimit", limit), (b"RateLimit-Policy", policy)]
    return Headers([(name, value.encode("latin-1")) for name, value in raw if value is not None])


READ: list[tuple[str | None, str | None, Told | None]] = [
    ('"requests";r=57;t=1', POLICY, Told("requests", 57, 1, 100, 2)),
    ("requests; r=57; t=1", "requests; q=100; w=2; qu=requests", Told("requests", 57, 1, 100, 2)),
    ('"a";r=9, "b";r=3;t=4', '"a";q=10;w=1, "b";q=5;w=60;pk=:x:', Told("b", 3, 4, 5, 60)),
    ('"a";r=9', '"b";q=5;w=60', Told("a", 9)),
    ('"a";r=0;t=7', None, Told("a", 0, 7)),
    ('"a";r=5', '"a";q=0;w=1', Told("a", 5)),
    ('"a";r=5', '"a";q=10', Told("a", 5)),
    (None, POLICY, None),
    ("", POLICY, None),
    ("limit=100, remaining=5, reset=7", POLICY, None),
    ('"a";r=-1', POLICY, None),
    ('"a";r=1e9', POLICY, None),
    ('"a";r=', POLICY, None),
    ('"a";t=1', POLICY, None),
    ("\xff\x00;;;,,;r=", "\xff", None),
    ('"a";r=' + "9" * 30, POLICY, None),
    ('"a";r=1,' * 5000, POLICY, None),
]


@pytest.mark.parametrize(("limit", "policy", "told"), READ, ids=range(len(READ)))
def test_headers_are_read_and_nonsense_is_not_heeded(
    limit: str | None, policy: str | None, told: Told | None
) -> None:
    assert read_limits(headers(limit, policy)) == told


def told_of(remaining: int, quota: int | None = 100, window: int | None = 2, **more: Any) -> Told:
    return Told(more.get("name", "requests"), remaining, more.get("reset", 1), quota, window)


def paced(remaining: int, others: int = 0, **more: Any) -> Pace:
    made = Pace()
    made.hear(told_of(remaining, **more), 0.0, 0.0, others)
    return made


def waits(pace: Pace, count: int, now: float = 0.0) -> list[float]:
    return [pace.take(now, 1e9) for _ in range(count)]


def test_what_is_left_may_be_used_at_once_and_then_each_has_a_turn() -> None:
    found = waits(paced(25), 30)  # 5 are spared
    assert found[:20] == [0.0] * 20
    assert found[20:] == pytest.approx([0.02 * n for n in range(1, 11)])


def test_time_brings_some_back() -> None:
    pace = paced(5)
    assert waits(pace, 1) == pytest.approx([0.02])
    assert waits(pace, 10, now=1.0) == [0.0] * 10
    assert waits(pace, 200, now=100.0)[:95] == [0.0] * 95


def test_those_under_way_when_it_is_heard_first_are_counted() -> None:
    assert waits(paced(35, others=20), 11) == pytest.approx([0.0] * 10 + [0.02])


def test_others_who_use_the_same_limit_are_noticed() -> None:
    pace = paced(99)
    waits(pace, 10)
    pace.hear(told_of(5), 0.1, 0.0, 0)
    assert waits(pace, 1, now=0.1) == pytest.approx([0.02])


def test_an_answer_that_took_long_says_what_was_left_then() -> None:
    pace = paced(99)
    pace.hear(told_of(5), 0.0, 1.0, 0)
    assert waits(pace, 51)[:50] == [0.0] * 50


def test_who_cannot_wait_takes_no_turn() -> None:
    pace = paced(5)
    assert pace.take(0.0, 0.01) == 0.0
    assert waits(pace, 1) == pytest.approx([0.02])


@pytest.mark.parametrize(
    ("told", "wait"),
    [
        (Told("requests", 0, 3), 3.0),
        (Told("requests", 2, 3), 0.0),
        (Told("rows", 0, 3, 100, 1), 3.0),
        (Told("rows", 0, 0, 100, 1), 0.0),
        (Told("in_flight", 0, 1, 32), 0.0),
    ],
    ids=["no policy", "some are left", "rows", "rows, at once", "places"],
)
def test_other_limits_are_waited_for_as_told(told: Told, wait: float) -> None:
    pace = Pace()
    pace.hear(told, 0.0, 0.0, 0)
    assert pace.take(0.0, 1e9) == wait
    assert pace.take(4.0, 1e9) == 0.0


def test_what_nobody_tells_again_is_forgotten() -> None:
    paces = Paces()
    paces.hear("http://a", b"key", headers('"requests";r=0;t=1'), 0.0, 0.0, 0)
    assert paces.take("http://a", b"key", 0.0, 1e9) > 0
    assert paces.take("http://b", b"key", 0.0, 1e9) == 0
    assert paces.take("http://a", b"other", 0.0, 1e9) == 0
    (view,) = paces.view(b"key", 0.0)
    assert view[:5] == ("http://a", "requests", 100, 2, 0)
    assert paces.take("http://a", b"key", 100.0, 1e9) == 0
    assert not paces.known


# Clients


@pytest.fixture
def server() -> Any:
    with FakeServer() as made:
        made.add(
            "double",
            lambda x: {"y": x * 2},
            inputs=[tensor("x", "FP32", [-1, 2])],
            outputs=[tensor("y", "FP32", [-1, 2])],
        )
        yield made


def asked(client: Client, count: int, workers: int = 64) -> int:
    """Ask so many times from so many threads; how many were refused."""
    model = client.model("double")

    def one(_: int) -> bool:
        try:
            model.infer(x=[[1.0, 2.0]])
        except RateLimitError:
            return True
        return False

    with ThreadPoolExecutor(workers) as pool:
        return sum(pool.map(one, range(count)))


@pytest.mark.slow
def test_a_pool_of_threads_runs_at_the_rate_of_the_limit(server: FakeServer) -> None:
    limit = server.limit(50)
    with Client(server.url, max_retries=0) as client:
        client.model("double").infer(x=[[1.0, 2.0]])
        assert asked(client, 250) <= 5
    assert limit.refused <= 5
    limit = server.limit(50)
    with Client(server.url, max_retries=0, pace=False) as client:
        assert asked(client, 250) > 100
        assert client.rate_limits == []


@pytest.mark.slow
async def test_tasks_run_at_the_rate_of_the_limit(server: FakeServer) -> None:
    limit = server.limit(50)
    async with AsyncClient(server.url, max_retries=0) as client:
        model = client.model("double")
        await model.infer(x=[[1.0, 2.0]])
        await asyncio.gather(*(model.infer(x=[[1.0, 2.0]]) for _ in range(150)))
        (known,) = client.rate_limits
        assert (known.endpoint, known.name, known.quota, known.window) == (
            server.url, "requests", 50, 1,
        )  # fmt: skip
    assert limit.refused <= 3


def test_without_limits_nobody_waits(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> float:
        raise AssertionError("asked for a turn")

    monkeypatch.setattr(Paces, "take", never)
    monkeypatch.setattr(Paces, "hear", never)
    with Client(server.url) as client:
        assert asked(client, 5, workers=2) == 0
        assert client.rate_limits == []


def test_a_turn_that_does_not_come_in_time_is_the_servers_to_refuse(server: FakeServer) -> None:
    server.limit(1, window=1000)
    with Client(server.url) as client:
        client.model("double").infer(x=[[1.0, 2.0]])
        with pytest.raises(RateLimitError, match="1 may be asked in 1000 s") as refused:
            client.with_options(deadline=0.5).model("double").infer(x=[[1.0, 2.0]])
    error = refused.value
    assert (error.limit, error.remaining, error.retry_after) == ("requests_per_second", 0, 1.0)


def test_streams_wait_too(server: FakeServer) -> None:
    server.add_generator("story", lambda prompt: iter([{"text": prompt}]))
    limit = server.limit(20, path="/")
    with Client(server.url, max_retries=0) as client:
        told = [
            [event["text"] for event in client.model("story").generate_stream(prompt="once")]
            for _ in range(30)
        ]
    assert told == [["once"]] * 30
    assert limit.refused == 0


def test_hedges_wait_too(server: FakeServer) -> None:
    limit = server.limit(20)
    with FakeServer() as other:
        other.add("double", lambda x: {"y": x * 2}, inputs=[tensor("x", "FP32", [-1, 2])],
                  outputs=[tensor("y", "FP32", [-1, 2])])  # fmt: skip
        theirs = other.limit(20)
        with Client([server.url, other.url], hedge_after=0.001) as client:
            for _ in range(2):
                client.model("double").infer(x=[[1.0, 2.0]])
            assert asked(client, 60, workers=4) == 0
    assert limit.refused + theirs.refused <= 2


def test_a_key_has_its_own_pace(server: FakeServer) -> None:
    server.limit(1, window=1000)
    with Client(server.url, api_key="one", max_retries=0, deadline=1e6) as client:
        client.model("double").infer(x=[[1.0, 2.0]])
        assert len(client.rate_limits) == 1
        other = client.with_options(headers={"Authorization": "Bearer two"})
        assert other.rate_limits == []


@pytest.mark.parametrize("make", [Client, AsyncClient])
def test_the_option_is_true_or_false(make: Callable[..., Any]) -> None:
    with pytest.raises(OptionTypeError, match="pace"):
        make("http://a", pace=1)


def test_threads_may_share_a_pace() -> None:
    pace = paced(5)
    found: list[float] = []
    threads = [threading.Thread(target=lambda: found.extend(waits(pace, 50))) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(found) == pytest.approx([0.02 * n for n in range(1, 401)])
