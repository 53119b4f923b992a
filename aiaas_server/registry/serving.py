"""Who gets which version: what each change makes of a model's `Serving`, as pure functions.

A call that names no version follows the rollout, else the split, else `production`, else the
latest verified version. Whatever sets anew who serves ends what stood above it: a promotion ends
a split and a rollout, a split ends a rollout.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from math import fsum, isfinite
from typing import Final

from aiaas_client.protocol.management import Serving, Shadow, TrafficRequest
from aiaas_client.protocol.names import ALIAS, LATEST, PRODUCTION
from aiaas_server.core.errors import Conflict, InvalidInput, NotFound

TOLERANCE: Final = 1e-6
"""By which the shares of a split may miss 1."""

_alias = re.compile(ALIAS).fullmatch
_number = re.compile(r"[1-9][0-9]{0,9}").fullmatch


# What follows from a document


def wanted(serving: Serving, latest: int | None) -> set[int]:
    """The versions that have to be loaded."""
    found = set(mentioned(serving))
    if PRODUCTION not in serving.aliases and latest is not None:
        found.add(latest)
    return found


def mentioned(serving: Serving) -> dict[int, str]:
    """The versions that a document names, each with where it does."""
    found = dict.fromkeys(serving.pins, "pins")
    if serving.shadow is not None:
        found[serving.shadow.version] = "shadow"
    found |= {int(version): "split" for version in serving.split}
    if serving.rollout is not None:
        if serving.rollout.stable is not None:
            found[serving.rollout.stable] = "rollout"
        found[serving.rollout.version] = "rollout"
    return found | {version: f"alias '{alias}'" for alias, version in serving.aliases.items()}


def aliases_of(serving: Serving, version: int) -> list[str]:
    """The names that point at a version, in order."""
    return sorted(alias for alias, target in serving.aliases.items() if target == version)


def in_words(serving: Serving) -> str:
    """A document in one short line, for the log."""
    parts = [f"{alias} {version}" for alias, version in sorted(serving.aliases.items())]
    if serving.split:
        shares = [f"{version} {100 * share:.4g} %" for version, share in serving.split.items()]
        parts.append(f"split {' '.join(shares)}")
    if serving.rollout is not None:
        parts.append(f"rollout {serving.rollout.version}")
    if serving.shadow is not None:
        parts.append(f"shadow {serving.shadow.version}")
    if serving.pins:
        parts.append(f"pins {' '.join(map(str, serving.pins))}")
    return ", ".join(parts) or "the latest version"


# Changes


def promote(serving: Serving, version: int, alias: str = PRODUCTION) -> Serving:
    """Have `alias` point at a version; as `production`, all calls get it that name none.

    Raises:
        InvalidInput: It is no name for an alias.
    """
    check_alias(alias)
    after = _with(serving, aliases=serving.aliases | {alias: version})
    return _with(after, split={}, rollout=None) if alias == PRODUCTION else after


def drop_alias(serving: Serving, alias: str, model: str) -> Serving:
    """Remove an alias.

    Raises:
        NotFound: There is none of that name.
        Conflict: A rollout is under way on it.
    """
    if alias not in serving.aliases:
        raise NotFound(f"model '{model}' has no alias '{alias[:64]}'")
    if serving.rollout is not None and serving.rollout.alias == alias:
        raise Conflict(
            f"alias '{alias}': a rollout of version {serving.rollout.version} is under way on it"
        )
    return _with(serving, aliases={a: v for a, v in serving.aliases.items() if a != alias})


def split(serving: Serving, given: Mapping[str, float], sticky: bool | None = None) -> Serving:
    """Divide the calls that name no version.

    Args:
        given: Version, as text, to its share.
        sticky: Whether callers stay on their version; None leaves that as it is.
    Raises:
        InvalidInput: There is no version, a key is none, or the shares do not add up to 1.
    """
    if not given:
        raise InvalidInput("split: expected at least one version with its share, got none")
    for version, share in given.items():
        if not _number(version):
            raise InvalidInput(f"split: expected version numbers as keys, got '{version[:64]}'")
        if not isfinite(share) or not 0.0 <= share <= 1.0:
            raise InvalidInput(f"split: expected a share from 0 to 1 for {version}, got {share}")
    total = fsum(given.values())
    if abs(total - 1.0) > TOLERANCE:
        raise InvalidInput(f"split: expected shares that add up to 1, got {total:.9g}")
    ordered = {version: float(given[version]) for version in sorted(given, key=int)}
    stays = serving.sticky if sticky is None else sticky
    return _with(serving, split=ordered, sticky=stays, rollout=None)


def unsplit(serving: Serving) -> Serving:
    """No calls are divided any more."""
    return _with(serving, split={})


def mirror(serving: Serving, version: int | None, share: float = 1.0) -> Serving:
    """Give a version copies of the calls; None is no version any more.

    Raises:
        InvalidInput: The share is none.
    """
    if not isfinite(share) or not 0.0 <= share <= 1.0:
        raise InvalidInput(f"shadow: expected a share from 0 to 1, got {share}")
    return _with(serving, shadow=None if version is None else Shadow(version=version, share=share))


def set_pins(serving: Serving, versions: Collection[int]) -> Serving:
    """Keep exactly these versions loaded and stored, whatever points at them."""
    return _with(serving, pins=sorted(set(versions)))


def pin(serving: Serving, version: int) -> Serving:
    """Keep one more."""
    return set_pins(serving, [*serving.pins, version])


def unpin(serving: Serving, version: int) -> Serving:
    """Keep one no longer."""
    return set_pins(serving, [one for one in serving.pins if one != version])


def patched(serving: Serving, asked: TrafficRequest) -> Serving:
    """All changes of a request at once; a member that it leaves out stays, null ends it.

    Raises:
        InvalidInput: One of them is wrong.
    """
    given = asked.model_fields_set
    if "sticky" in given and asked.sticky is not None:
        serving = _with(serving, sticky=asked.sticky)
    if "split" in given:
        serving = split(serving, asked.split) if asked.split else unsplit(serving)
    if "shadow" in given:
        shadow = asked.shadow
        if shadow is None:
            serving = mirror(serving, None)
        else:
            serving = mirror(serving, shadow.version, shadow.share)
    if "pins" in given:
        serving = set_pins(serving, asked.pins or ())
    return serving


# Checks


def check_alias(alias: str) -> None:
    """Raises `InvalidInput` for what cannot be an alias."""
    if alias == LATEST:
        raise InvalidInput(f"alias: '{LATEST}' is always the newest version, by itself")
    if not _alias(alias):
        raise InvalidInput(
            "alias: expected a letter and at most 62 letters, digits, '_' and '-' behind it, "
            f"got '{alias[:64]}'"
        )


def _with(serving: Serving, **changes: object) -> Serving:
    return serving.model_copy(update=changes)
