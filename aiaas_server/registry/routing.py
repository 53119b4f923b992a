"""`Choices`: which version a call gets that names none, or that names an alias.

One small immutable `Route` a model, replaced as a whole: a call looks it up and never waits. A
name without a route costs a look into a dictionary.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate
from random import getrandbits
from typing import Final, NamedTuple
from zlib import crc32

from aiaas_client.protocol.management import Serving
from aiaas_client.protocol.names import LATEST
from aiaas_server.core.events import Caller

_WHOLE: Final = 1 << 32  # what is drawn is a whole number below this
_LAST: Final = _WHOLE - 1
_MIXER: Final = 0x9E3779B1  # odd; spreads CRCs of texts that differ in few places


class Route(NamedTuple):
    """Who gets which version of one model.

    Attributes:
        alone: The version of all calls that name none; None where they are divided, or where
            there is none.
        cuts: Where the parts of a division end, ascending, but for the last.
        versions: Of these parts.
        sticky: Whether a caller stays on its version.
        seed: Of the model, so that a caller's parts in two of them have nothing in common.
        aliases: The names of versions.
    """

    alone: int | None
    cuts: tuple[int, ...] = ()
    versions: tuple[int, ...] = ()
    sticky: bool = True
    seed: int = 0
    aliases: Mapping[str, int] = {}

    @property
    def chosen(self) -> frozenset[int]:
        """The versions that calls get which name none."""
        return frozenset(self.versions if self.alone is None else (self.alone,))


def route_of(name: str, serving: Serving, latest: int | None) -> Route:
    """The route that the document of a model asks for.

    Args:
        latest: The greatest verified version.
    """
    aliases = dict(serving.aliases)
    if latest is not None:
        aliases[LATEST] = latest
    return divided(name, serving.shares(latest), sticky=serving.sticky, aliases=aliases)


def divided(
    name: str,
    given: Mapping[int, float],
    *,
    sticky: bool = True,
    aliases: Mapping[str, int] | None = None,
) -> Route:
    """A route by shares, which need not add up to 1.

    A rollout's new version comes first, so that who gets it keeps it while its share grows.
    """
    aliases = aliases or {}
    parts = {version: share for version, share in given.items() if share > 0.0}
    if len(parts) < 2:
        return Route(next(iter(parts), None), sticky=sticky, aliases=aliases)
    total = sum(parts.values())
    *ends, _ = accumulate(parts.values())
    cuts = tuple(round(end / total * _WHOLE) for end in ends)
    return Route(None, cuts, tuple(parts), sticky, crc32(name.encode()), aliases)


class Choices:
    """The routes of all models; read from any thread, replaced on the event loop."""

    def __init__(self) -> None:
        self._routes: dict[str, Route] = {}

    def choose(self, name: str, caller: Caller) -> int | None:
        """The version for a call that names none: `core.model.Choose`."""
        route = self._routes.get(name)
        if route is None:
            return None
        if not route.cuts:
            return route.alone
        key = caller.request_id
        if route.sticky:
            key = caller.sticky or caller.identity.key_id or key
        if key:  # the same number in every process
            drawn = crc32(key.encode(), route.seed) * _MIXER & _LAST
        else:  # nobody in particular
            drawn = getrandbits(32)
        return route.versions[bisect_right(route.cuts, drawn)]

    def aliased(self, name: str, alias: str) -> int | None:
        """The version that an alias means: `core.model.Aliases`."""
        route = self._routes.get(name)
        return None if route is None else route.aliases.get(alias)

    def get(self, name: str) -> Route | None:
        """The route in force."""
        return self._routes.get(name)

    def put(self, name: str, route: Route) -> None:
        """From now on calls follow `route`."""
        self._routes[name] = route

    def drop(self, name: str) -> None:
        """Calls get the newest version that is loaded, as without a registry."""
        self._routes.pop(name, None)
