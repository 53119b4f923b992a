"""A change of a model in words: what the document after it has that the one before has not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from aiaas_client.protocol.management import Serving

LONGEST = 60  # characters of a value


def serving_changes(
    before: Mapping[str, Any] | None, after: Mapping[str, Any] | None
) -> Iterator[str]:
    """One line for each thing that changed: `production 1 -> 2`, `split 1 90 %, 2 10 %`."""
    if after is None:
        return
    old, new = Serving.model_validate(before or {}), Serving.model_validate(after)
    for alias in sorted({*old.aliases, *new.aliases}):
        was, now = old.aliases.get(alias), new.aliases.get(alias)
        if was != now:
            yield f"{alias} {_number(was)} -> {_number(now)}"
    for what, was_told, now_told in (
        ("split", _split(old), _split(new)),
        ("shadow", _shadow(old), _shadow(new)),
        ("rollout", _rollout(old), _rollout(new)),
        ("pinned", _pins(old), _pins(new)),
    ):
        if was_told != now_told:
            yield f"{what} {now_told or 'ended'}"
    if old.sticky != new.sticky:
        yield "sticky" if new.sticky else "not sticky"
    for key in sorted(after.keys() - Serving.model_fields.keys()):  # of a description or a policy
        if after[key] != (before or {}).get(key):
            text = json.dumps(after[key], ensure_ascii=False, default=str)
            yield f"{key} {text if len(text) <= LONGEST else text[: LONGEST - 3] + '...'}"


def share_text(share: float) -> str:
    """`90 %`; nothing of nothing."""
    return f"{share * 100:.4g} %" if share else ""


def _number(version: int | None) -> str:
    return "none" if version is None else str(version)


def _split(serving: Serving) -> str:
    return ", ".join(f"{one} {share_text(share)}" for one, share in serving.split.items())


def _shadow(serving: Serving) -> str:
    shadow = serving.shadow
    return "" if shadow is None else f"{shadow.version} {share_text(shadow.share)}"


def _rollout(serving: Serving) -> str:
    rollout = serving.rollout
    if rollout is None:
        return ""
    return f"{rollout.version}, step {rollout.step + 1} of {len(rollout.guard.steps)}"


def _pins(serving: Serving) -> str:
    return ", ".join(map(str, serving.pins))
