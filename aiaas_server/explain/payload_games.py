"""Games of whole payloads, prepared and read by their task: a text's words, a picture's cells."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from aiaas_client.protocol.explanations import Contribution
from aiaas_client.protocol.predictions import Regression
from aiaas_server.core.errors import InvalidInput, ServerError
from aiaas_server.core.payloads import finished, groups, prepared, shares
from aiaas_server.core.schedule.batching import concat
from aiaas_server.core.task import Params, Prepared, Task
from aiaas_server.explain.aside import Aside
from aiaas_server.explain.numbers import numbers_of
from aiaas_server.explain.occlusion import (
    Grid,
    Pixels,
    Span,
    grid,
    left_over,
    mean_colour,
    most_parts,
    painted,
    spans,
)
from aiaas_server.explain.shapley import Coalitions, Estimate

Array = npt.NDArray[Any]


class Payloads:
    """Whole payloads of a task, each prepared and read by it: the base of texts and pictures.

    Args:
        params: With which every score is told.
        labels: In the order of indices; empty where the task does not tell.
    """

    rows_each = 1

    def __init__(self, aside: Aside, task: Task, params: Params, labels: Sequence[str]) -> None:
        self._aside = aside
        self._task = task
        self._params = params
        self.names: Sequence[str] = tuple(dict.fromkeys(labels))
        self.are_scores = Regression not in task.predictions

    async def _predicted(self, items: Sequence[Prepared | ServerError]) -> Array:
        """`(payloads, answers)`, in the order of `names`."""
        for item in items:
            if isinstance(item, ServerError):
                raise InvalidInput(
                    f"a part of it taken out, it cannot be predicted: {item.message}"
                )
        ready = {at: item for at, item in enumerate(items) if isinstance(item, Prepared)}
        rows: list[dict[str, float]] = [{} for _ in items]
        most = self._aside.model.signature.max_batch_size
        for members in groups(ready, most):
            some = [ready[at] for at in members]
            joined = concat([item.tensors for item in some])
            outputs = await self._run(joined, some)
            answers = finished(self._task, some, shares(some, outputs), self._params)
            for at, answer in zip(members, answers, strict=True):
                if isinstance(answer, ServerError):
                    raise answer
                rows[at] = numbers_of(answer)
        if not self.names:
            self.names = tuple(sorted(rows[0]))
        return np.array([[row.get(name, 0.0) for name in self.names] for row in rows])

    async def _run(self, joined: Mapping[str, Array], some: Sequence[Prepared]) -> dict[str, Array]:
        if self._aside.model.signature.max_batch_size:
            return await self._aside.run(joined, some[0].outputs)
        alone = {name: array[None] for name, array in joined.items()}
        made = await self._aside.run(alone, some[0].outputs)
        return {name: array[0] for name, array in made.items()}

    async def _prepared(
        self, payloads: Callable[[], Sequence[Any]]
    ) -> list[Prepared | ServerError]:
        """Made in a thread, which may take longer than others should wait."""
        return await asyncio.to_thread(lambda: prepared(self._task, payloads(), self._params, None))


class Words(Payloads):
    """A text, whose words are left out."""

    def __init__(
        self, aside: Aside, task: Task, params: Params, labels: Sequence[str], text: str
    ) -> None:
        super().__init__(aside, task, params, labels)
        self._text = text
        self._parts: list[Span] = []
        self.background = "the text without its words"

    @property
    def features(self) -> int:
        """Its words, or stretches of them."""
        return len(self._parts)

    async def ends(self) -> Array:
        (whole,) = await self._prepared(lambda: [self._text])
        if isinstance(whole, ServerError):
            raise whole
        return np.concatenate(
            [await self._predicted([self._blank()]), await self._predicted([whole])]
        )

    def divide(self, coalitions: int) -> None:
        self._parts = spans(self._text, most_parts(coalitions))

    async def answers(self, coalitions: Coalitions) -> Array:
        def made() -> list[Prepared | ServerError]:
            texts = [left_over(self._text, self._parts, one) for one in coalitions]
            return [
                prepared(self._task, [text], self._params, None)[0] if text else self._blank()
                for text in texts
            ]

        return await self._predicted(await asyncio.to_thread(made))

    def _blank(self) -> Prepared:
        blank: Callable[[], Prepared] | None = getattr(self._task, "blank", None)
        if blank is not None:
            return blank()
        return self._task.preprocess(".", self._params)  # a task of others: the least there is

    def told(self, found: Estimate) -> list[Contribution]:
        return [
            Contribution(
                feature=self._text[part.start : part.end],
                contribution=added,
                error=error,
                start=part.start,
                end=part.end,
            )
            for part, added, error in zip(
                self._parts, found.values.tolist(), found.errors.tolist(), strict=True
            )
        ]


class Cells(Payloads):
    """A picture, whose cells are painted with its mean colour."""

    def __init__(
        self, aside: Aside, task: Task, params: Params, labels: Sequence[str], pixels: Pixels
    ) -> None:
        super().__init__(aside, task, params, labels)
        self._pixels = pixels
        self._grid = Grid(0, 0, [])
        colour = ", ".join(map(str, mean_colour(pixels).tolist()))
        self.background = f"the picture's mean colour, rgb({colour})"

    @property
    def size(self) -> list[int]:
        """Width and height."""
        return [self._pixels.shape[1], self._pixels.shape[0]]

    @property
    def features(self) -> int:
        """Its cells."""
        return len(self._grid.boxes)

    async def ends(self) -> Array:
        blank = np.empty_like(self._pixels)
        blank[:] = mean_colour(self._pixels)
        (whole,) = await self._prepared(lambda: [self._pixels])
        if isinstance(whole, ServerError):
            raise whole
        none = await self._predicted(await self._prepared(lambda: [blank]))
        return np.concatenate([none, await self._predicted([whole])])

    def divide(self, coalitions: int) -> None:
        width, height = self.size
        self._grid = grid(width, height, coalitions)

    async def answers(self, coalitions: Coalitions) -> Array:
        items = await self._prepared(
            lambda: [painted(self._pixels, self._grid, one) for one in coalitions]
        )
        return await self._predicted(items)

    def told(self, found: Estimate) -> list[Contribution]:
        places = [divmod(at, self._grid.columns) for at in range(self.features)]
        return [
            Contribution(feature=f"{row},{column}", contribution=added, error=error, box=list(box))
            for (row, column), box, added, error in zip(
                places, self._grid.boxes, found.values.tolist(), found.errors.tolist(), strict=True
            )
        ]
