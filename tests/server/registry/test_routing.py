"""Which version a caller gets: the same in every process, and as often as its share says."""

from __future__ import annotations

from collections import Counter

import pytest

from aiaas_client.protocol.management import Guard, Rollout, Serving
from aiaas_server.core.events import NOBODY, Caller, Identity
from aiaas_server.registry.routing import Choices, divided, route_of

CALLERS = [Caller(request_id=f"0123456789abcdef-{n:x}") for n in range(20_000)]


def choices(given: dict[int, float], *, sticky: bool = True) -> Choices:
    made = Choices()
    made.put("m", divided("m", given, sticky=sticky))
    return made


def test_a_name_without_a_route_has_no_choice() -> None:
    made = choices({1: 1.0})
    assert made.choose("other", NOBODY) is None
    assert made.aliased("other", "latest") is None
    assert made.choose("m", NOBODY) == 1


@pytest.mark.parametrize("given", [{3: 0.95, 4: 0.05}, {1: 0.5, 2: 0.5}, {1: 0.2, 2: 0.3, 3: 0.5}])
def test_callers_are_divided_as_the_shares_say(given: dict[int, float]) -> None:
    made = choices(given)
    seen = Counter(made.choose("m", caller) for caller in CALLERS)
    nobody = Counter(made.choose("m", NOBODY) for _ in CALLERS)
    for version, share in given.items():
        deviation = 5 * (share * (1 - share) / len(CALLERS)) ** 0.5
        assert abs(seen[version] / len(CALLERS) - share) < deviation
        assert abs(nobody[version] / len(CALLERS) - share) < deviation


def test_who_says_to_be_the_same_gets_the_same_version() -> None:
    made = choices({1: 0.5, 2: 0.5})
    for caller in CALLERS[:50]:
        by_header = caller._replace(sticky="someone", identity=Identity(key_id="key"))
        assert made.choose("m", by_header) == made.choose("m", Caller(sticky="someone"))
        by_key = caller._replace(identity=Identity(key_id="key"))
        assert made.choose("m", by_key) == made.choose("m", Caller(identity=Identity(key_id="key")))
    free = choices({1: 0.5, 2: 0.5}, sticky=False)
    seen = {free.choose("m", caller._replace(sticky="someone")) for caller in CALLERS[:50]}
    assert seen == {1, 2}


def test_the_draw_is_the_same_in_every_process() -> None:
    made = choices({1: 0.5, 2: 0.5})
    drawn = [made.choose("m", Caller(sticky=f"user-{n}")) for n in range(12)]
    assert drawn == [2, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 1]


def test_who_gets_the_new_version_keeps_it_while_its_share_grows() -> None:
    chosen: list[set[Caller]] = []
    for step in range(4):
        guard = Guard(steps=[0.05, 0.25, 0.5, 1.0])
        serving = Serving(rollout=Rollout(version=4, stable=3, step=step, guard=guard))
        made = Choices()
        made.put("m", route_of("m", serving, 4))
        chosen.append({caller for caller in CALLERS[:2000] if made.choose("m", caller) == 4})
    assert chosen[0] < chosen[1] < chosen[2] < chosen[3]
    assert len(chosen[3]) == 2000


def test_no_share_is_no_call() -> None:
    made = choices({1: 0.0, 2: 1.0})
    assert {made.choose("m", caller) for caller in CALLERS[:100]} == {2}


def test_latest_is_an_alias_by_itself() -> None:
    route = route_of("m", Serving(aliases={"production": 1, "canary": 2}), 3)
    assert route.aliases == {"production": 1, "canary": 2, "latest": 3}
    assert route.chosen == {1}
    assert route_of("m", Serving(), None).chosen == frozenset()
