"""Pictures of a column, decoded and resized as the server's tasks do it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from aiaas_server.core.errors import InvalidInput
from aiaas_server.jobs.table import Table
from aiaas_server.tasks.images import Pixels, decode_image
from aiaas_server.tasks.pixels import ImageInput, fit


def only_column(table: Table, kinds: tuple[str, ...], what: str) -> str:
    """The one column that is learned from.

    Raises:
        InvalidInput: There are none, or several.
    """
    found = [name for name, kind in table.fields if kind in kinds]
    if len(found) != 1 or len(table.fields) != 1:
        raise InvalidInput(
            f"one column of {what} is learned from, got {', '.join(table.names) or 'none'}; "
            "choose it by 'features'"
        )
    return found[0]


def pictures(table: Table, name: str, settings: ImageInput) -> Pixels:
    """`(rows, 3, height, width)` uint8, as `settings.size` says.

    Raises:
        InvalidInput: A picture is missing or damaged; the row is named.
    """
    assert settings.size is not None, "a recipe says how large"
    rows, columns = settings.size
    found = np.empty((table.rows, 3, rows, columns), np.uint8)
    for row, content in enumerate(table[name]):
        found[row] = _fitted(content, name, row, settings).transpose(2, 0, 1)
    return found


def _fitted(content: object, name: str, row: int, settings: ImageInput) -> npt.NDArray[np.uint8]:
    assert settings.size is not None, "a recipe says how large"
    try:
        pixels = decode_image(content, max_pixels=settings.max_pixels)
    except InvalidInput as error:
        raise InvalidInput(f"column '{name}', row {row}: {error.message}") from None
    return fit(pixels, settings.size, settings)[0]
