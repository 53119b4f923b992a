"""Changes of a model in words."""

from __future__ import annotations

from typing import Any

import pytest

from aiaas_client._cli.changes import serving_changes
from aiaas_client.protocol.management import Guard, Rollout, Serving, Shadow


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        pytest.param(
            Serving(aliases={"production": 1, "old": 1}),
            Serving(aliases={"production": 2}),
            ["old 1 -> none", "production 1 -> 2"],
            id="aliases",
        ),
        pytest.param(
            Serving(), Serving(split={"1": 0.9, "2": 0.1}), ["split 1 90 %, 2 10 %"], id="split"
        ),
        pytest.param(Serving(split={"1": 1.0}), Serving(), ["split ended"], id="unsplit"),
        pytest.param(
            Serving(),
            Serving(shadow=Shadow(version=3, share=0.5), pins=[1, 2], sticky=False),
            ["shadow 3 50 %", "pinned 1, 2", "not sticky"],
            id="shadow",
        ),
        pytest.param(
            Serving(),
            Serving(rollout=Rollout(version=2, step=1, guard=Guard(steps=[0.1, 1.0]))),
            ["rollout 2, step 2 of 2"],
            id="rollout",
        ),
    ],
)
def test_a_change_of_who_serves_is_told_in_words(
    before: Serving, after: Serving, told: list[str]
) -> None:
    assert list(serving_changes(before.model_dump(), after.model_dump())) == told


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        pytest.param(None, None, [], id="nothing"),
        pytest.param(
            {"description": "", "policy": {"keep_last": None}},
            {"description": "", "policy": {"keep_last": 3}},
            ['policy {"keep_last": 3}'],
            id="policy",
        ),
    ],
)
def test_other_changes_are_told_too(
    before: dict[str, Any] | None, after: dict[str, Any] | None, told: list[str]
) -> None:
    assert list(serving_changes(before, after)) == told
