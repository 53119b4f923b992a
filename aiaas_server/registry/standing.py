"""What keeps a version: who points at it, and how its place is given to another."""

from __future__ import annotations

from aiaas_client.protocol.management import Serving
from aiaas_client.protocol.names import PRODUCTION


def reasons(serving: Serving, latest: int | None) -> dict[int, str]:
    """By version, why it may not go; only those that have a reason.

    Args:
        latest: The greatest verified version: it serves where nothing else is said.
    """
    found: dict[int, str] = {}
    if latest is not None and serves_latest(serving):
        found[latest] = "it is the latest and answers calls that name no version"
    for number in serving.pins:
        found[number] = "it is pinned"
    if serving.shadow is not None:
        found[serving.shadow.version] = "it is the shadow"
    for text, share in serving.split.items():
        found[int(text)] = f"{share:.0%} of the calls go to it"
    for name, number in serving.aliases.items():
        found[number] = f"the alias '{name}' points at it"
    if serving.rollout is not None:
        found[serving.rollout.version] = "it is being rolled out"
        if serving.rollout.stable is not None:
            found[serving.rollout.stable] = "another version is rolled out beside it"
    return found


def serves_latest(serving: Serving) -> bool:
    """Whether calls that name no version get the latest one."""
    return not serving.split and PRODUCTION not in serving.aliases and serving.rollout is None


def without(serving: Serving, number: int, replacement: int, latest_then: int | None) -> Serving:
    """Who serves once `replacement` has the place of version `number`.

    Shadows and pins are not handed on; a rollout in which it takes part is over.

    Args:
        latest_then: The latest version once `number` is gone.
    """
    aliases = {k: replacement if v == number else v for k, v in serving.aliases.items()}
    split = dict(serving.split)
    share = split.pop(str(number), 0.0)
    if share:
        split[str(replacement)] = split.get(str(replacement), 0.0) + share
    if set(split) == {str(replacement)}:
        split = {}
        aliases[PRODUCTION] = replacement
    rollout = serving.rollout
    if rollout is not None and number in (rollout.version, rollout.stable):
        if rollout.stable == number:
            aliases[rollout.alias] = replacement
        rollout = None
    shadow = serving.shadow
    if shadow is not None and shadow.version == number:
        shadow = None
    changed = serving.model_copy(
        update={
            "aliases": aliases,
            "split": split,
            "rollout": rollout,
            "shadow": shadow,
            "pins": [pin for pin in serving.pins if pin != number],
        }
    )
    if serves_latest(changed) and latest_then != replacement:
        return changed.model_copy(update={"aliases": aliases | {PRODUCTION: replacement}})
    return changed
