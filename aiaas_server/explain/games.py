"""What is explained, as a game: the model's answers to coalitions of features. Here of columns.

Whatever is no member of a coalition is a row of the background; `payload_games` has those in which
it is left out, or painted over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from aiaas_client.protocol.explanations import Contribution
from aiaas_server.explain.aside import Aside
from aiaas_server.explain.shapley import Coalitions, Estimate, averaged, masked

Array = npt.NDArray[Any]


class Game(Protocol):
    """What `explainer` plays.

    Attributes:
        names: Of the answers, in order; found with the first ones where the task has none.
        are_scores: The best answer is what is predicted; else the first.
        background: What it compares with, for people.
        rows_each: Rows that a coalition costs.
    """

    names: Sequence[str]
    are_scores: bool
    background: str
    rows_each: int

    @property
    def features(self) -> int:
        """How many there are, once `divide` was called."""
        ...

    async def ends(self) -> Array:
        """The answers `(2, answers)` where all is absent, and where all is there."""
        ...

    def divide(self, coalitions: int) -> None:
        """Make parts of it, for so many coalitions that may be asked for."""
        ...

    async def answers(self, coalitions: Coalitions) -> Array:
        """`(coalitions, answers)`."""
        ...

    def told(self, found: Estimate) -> list[Contribution]:
        """What each feature adds."""
        ...


class Row(NamedTuple):
    """An instance as cells of tensors.

    Attributes:
        features: By name what stands in it.
        cells: By input `(cells,)`.
        owners: By input `(cells,)`: the feature of each cell.
        shapes: By input the shape of a row, as the model takes it.
    """

    features: Mapping[str, Any]
    cells: Mapping[str, Array]
    owners: Mapping[str, Array]
    shapes: Mapping[str, tuple[int, ...]]


class Reading(NamedTuple):
    """How answers are read.

    Attributes:
        outputs: That are asked for.
        names: Of the answers.
        numbers: Gives `(rows, answers)` of outputs.
        are_scores: As of `Game`.
    """

    outputs: Sequence[str]
    names: Sequence[str]
    numbers: Callable[[Mapping[str, Array]], Array]
    are_scores: bool


class Columns:
    """One row of columns, compared with rows of a background.

    Args:
        rows: By input `(rows, cells)`.
        background: What they are, for people.
    """

    def __init__(
        self, aside: Aside, row: Row, rows: Mapping[str, Array], background: str, reading: Reading
    ) -> None:
        self._aside = aside
        self._row = row
        self._rows = rows
        self._reading = reading
        self.names = reading.names
        self.are_scores = reading.are_scores
        self.background = background
        self.rows_each = len(next(iter(rows.values())))

    @property
    def features(self) -> int:
        """The columns."""
        return len(self._row.features)

    def divide(self, coalitions: int) -> None:
        """Columns are what they are."""

    async def ends(self) -> Array:
        both = np.array([[False] * self.features, [True] * self.features])
        base = await self.answers(both[:1])
        whole = await self._numbers({name: cells[None] for name, cells in self._row.cells.items()})
        return np.concatenate([base, whole])

    async def answers(self, coalitions: Coalitions) -> Array:
        row = self._row
        rows = masked(row.cells, self._rows, row.owners, coalitions)
        return averaged(await self._numbers(rows), self.rows_each)

    async def _numbers(self, rows: Mapping[str, Array]) -> Array:
        """`(rows, answers)`, float64."""
        shapes = self._row.shapes
        shaped = {name: array.reshape(-1, *shapes[name]) for name, array in rows.items()}
        outputs = await self._aside.run(shaped, self._reading.outputs)
        return np.asarray(self._reading.numbers(outputs), np.float64)[:, : len(self.names)]

    def told(self, found: Estimate) -> list[Contribution]:
        return [
            Contribution(feature=name, value=value, contribution=added, error=error)
            for (name, value), added, error in zip(
                self._row.features.items(),
                found.values.tolist(),
                found.errors.tolist(),
                strict=True,
            )
        ]
