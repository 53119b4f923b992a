"""What a run has in common with the one before it on the same channel: most often all but values.

Requests to a model are of the same few shapes, so that where tensors lie is worked out, and held
against the rules, once; both sides remember the last run only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.signature import TensorSpec
from aiaas_server.runtimes.isolated.areas import Area
from aiaas_server.runtimes.isolated.frames import TEXT, Place

_BOOL: Final = np.dtype(bool)


class Laid(NamedTuple):
    """Tensors as they were written into an area, and the frame that says where.

    Attributes:
        area: Where; one that is gone is not remembered any longer than this.
        like: What is the same again: positions, datatypes and shapes of all of them.
        views: Where to write their elements.
        tail: The frame behind its header.
    """

    area: Area
    like: object
    views: list[Array]
    tail: bytes

    def is_again(self, area: Area | None, like: object) -> bool:
        """Whether other tensors may be written just there."""
        return self.area is area and self.like == like

    def write(self, arrays: Sequence[Array]) -> None:
        """Put the elements of others in their places."""
        for view, array in zip(self.views, arrays, strict=True):
            view[...] = array


def laid(area: Area, like: object, places: Sequence[Place], tail: bytes) -> Laid | None:
    """To be remembered of tensors; None where their places differ from run to run, as of text."""
    views = views_of(area, places)
    return None if views is None else Laid(area, like, views, tail)


class Heard(NamedTuple):
    """An answer that kept to all rules; the same bytes again do, too.

    Attributes:
        outputs, specs: What was asked for, of what there is.
        views: The tensors where they lie, to be copied.
    """

    area: Area
    tail: bytes
    outputs: Sequence[int]
    specs: Sequence[TensorSpec]
    views: list[Array]

    def is_again(
        self,
        area: Area | None,
        tail: bytes,
        outputs: Sequence[int],
        specs: Sequence[TensorSpec],
    ) -> bool:
        """Whether an answer says what this one said, to the same question."""
        return (
            self.area is area
            and self.tail == tail
            and self.outputs == outputs
            and self.specs is specs
        )


def views_of(area: Area, places: Sequence[Place]) -> list[Array] | None:
    """Tensors at places that were checked; None where one is more than the elements that lie there.

    That is text, and truth values, of which each byte is looked at.
    """
    if any(place.datatype == TEXT or not place.size for place in places):
        return None
    views = [area.view(place) for place in places]
    return None if any(view.dtype == _BOOL for view in views) else views
