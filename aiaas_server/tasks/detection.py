"""What a caller may set with a detection, whichever way the boxes are found."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from aiaas_server.core.task import Params
from aiaas_server.tasks.task import Share


class DetectionParams(Params):
    """`threshold`: the least score of a box; `top_k`: the most boxes; by default the card's."""

    threshold: Share | None = None
    top_k: Annotated[int, Field(ge=1, le=1000)] | None = None
