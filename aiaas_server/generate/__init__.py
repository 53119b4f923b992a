"""Text, token by token: a scheduler over slots, their keys and values, sampling, and output.

`open_generator` is `core.generation.OpenGenerator`; what it needs is imported with the first model
that writes.
"""

from __future__ import annotations

from collections.abc import Callable

from aiaas_server.core.describe.card import Assets, Card
from aiaas_server.core.generation import GenerationLimits, Generator, Served
from aiaas_server.core.session import Session


def open_generator(
    card: Card,
    assets: Assets,
    session: Session,
    served: Served,
    open_graph: Callable[[str], Session],
    limits: GenerationLimits,
) -> Generator:
    """Open the generator of one version; see `core.generation.OpenGenerator`."""
    from aiaas_server.generate.opening import open_generator as opened

    return opened(card, assets, session, served, open_graph, limits)
