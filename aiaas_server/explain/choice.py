"""Which game explains a payload of a model, and against which background it is played."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy.typing as npt

from aiaas_client.protocol.explanations import ExplainParameters
from aiaas_client.protocol.predictions import ImageClassification
from aiaas_server.core.errors import InvalidInput
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.payloads import read_params
from aiaas_server.core.task import ColumnTask, Task, is_looping
from aiaas_server.explain.aside import Aside
from aiaas_server.explain.background import MOST_ROWS, TELL, Binned, Golden, read_golden, some_of
from aiaas_server.explain.games import Columns, Game, Row
from aiaas_server.explain.numbers import EXPLAINABLE
from aiaas_server.explain.payload_games import Cells, Words
from aiaas_server.explain.rows import AnyRows, Plain, Records, check_features, of_golden, stacked

Array = npt.NDArray[Any]

ROWS_OF_COLUMNS: Final = 500_000
"""Rows for each instance of columns, where the caller does not say."""
ROWS_OF_PAYLOADS: Final = 2048
"""The same of texts and pictures, which are prepared one by one."""
ROWS_AT_ONCE: Final = 4096
"""Asked for at a time; they are run in pieces."""
PAYLOADS_AT_ONCE: Final = 64
_TOP_K: Final = 1000  # labels that a prediction of a picture tells at most


class Sources(NamedTuple):
    """Where what is needed besides comes from.

    Attributes:
        golden: The bytes of the version's golden set; blocking; raises FileNotFoundError.
        reference: The features of its reference profile; None where it has none.
        pixels: A picture's file as `(height, width, 3)` uint8; blocking.
    """

    golden: Callable[[], bytes]
    reference: Callable[[], Awaitable[Sequence[Binned] | None]]
    pixels: Callable[[Any], Any]


class Played(NamedTuple):
    """A game and what runs it.

    Attributes:
        rows: That it gets where the caller does not say.
        at_once: Rows asked for at a time.
    """

    game: Game
    aside: Aside
    rows: int
    at_once: int


MakeGame = Callable[[Any], Awaitable[Played]]


async def games_of(model: LoadedModel, asked: ExplainParameters, sources: Sources) -> MakeGame:
    """What makes the game of a payload of this model.

    Raises:
        InvalidInput: It cannot be explained, or a row of the background is none.
    """
    task = model.task
    if task is None:
        return await _of_columns(model, Plain(model), asked, sources)
    kinds = set(task.predictions) & set(EXPLAINABLE)
    if is_looping(task) or not kinds:
        raise _refused(model)
    assert not is_looping(task), "as was seen"
    plain: Task = task  # type: ignore[assignment]
    if isinstance(task, ColumnTask):
        return await _of_columns(model, Records(model, plain), asked, sources)
    if task.input not in ("text", "image"):
        raise _refused(model)
    if asked.background is not None:
        what = "text" if task.input == "text" else "picture"
        raise InvalidInput(
            f"parameters.background: a {what} is compared with itself, parts of it taken out; "
            "only records and rows of numbers have a background"
        )
    labels: Sequence[str] = getattr(task, "labels", ())
    many = {"top_k": min(len(labels), _TOP_K)} if labels and ImageClassification in kinds else {}
    params = read_params(task, many)

    async def words(payload: Any) -> Played:
        aside = Aside(model)
        game = Words(aside, plain, params, labels, payload)
        return Played(game, aside, ROWS_OF_PAYLOADS, PAYLOADS_AT_ONCE)

    async def cells(payload: Any) -> Played:
        aside = Aside(model)
        pixels = await asyncio.to_thread(sources.pixels, payload)
        game = Cells(aside, plain, params, labels, pixels)
        return Played(game, aside, ROWS_OF_PAYLOADS, PAYLOADS_AT_ONCE)

    return words if task.input == "text" else cells


def _refused(model: LoadedModel) -> InvalidInput:
    task = "" if model.card is None else model.card.task
    return InvalidInput(
        f"model '{model.name}' of task '{task}' cannot be explained; what can: classification and "
        "regression of records, texts and pictures, and models of one numeric input without a card"
    )


async def _of_columns(
    model: LoadedModel, rows: AnyRows, asked: ExplainParameters, sources: Sources
) -> MakeGame:
    given: list[Row] | None = None
    if asked.background is not None:
        given = _background_of(rows, asked.background, "parameters.background")
    golden = None if given else await asyncio.to_thread(_golden, sources.golden)

    async def columns(payload: Any) -> Played:
        row = rows.row(payload)
        check_features(len(row.features))
        if given is not None:
            background, told = stacked(given), "{} instances of the call"
        else:
            background, told = await _kept_background(rows, row, golden, asked.seed, sources)
        most = _affordable(len(row.features), asked.samples or ROWS_OF_COLUMNS)
        kept = some_of(len(next(iter(background.values()))), most, asked.seed)
        background = {name: array[kept] for name, array in background.items()}
        _check_widths(row, background)
        aside = Aside(model)
        game = Columns(aside, row, background, told.format(len(kept)), rows.reading)
        return Played(game, aside, ROWS_OF_COLUMNS, ROWS_AT_ONCE)

    return columns


async def _kept_background(
    rows: AnyRows, row: Row, golden: Golden | None, seed: int, sources: Sources
) -> tuple[dict[str, Array], str]:
    """What the version itself has to compare a row with, and the words that tell it."""
    if golden is not None and golden.instances:
        some = _background_of(rows, golden.instances, "golden set")
        return stacked(some), "{} instances of the version's golden set"
    found = None if golden is None else of_golden(row, golden)
    if found is not None:
        return found, "{} rows of the version's golden set"
    return await _of_reference(rows, row, seed, sources), (
        "{} rows drawn from the version's reference profile, "
        "each column independently of the others"
    )


def _golden(read: Callable[[], bytes]) -> Golden | None:
    try:
        return read_golden(read())
    except OSError:
        return None


def _background_of(rows: AnyRows, instances: Sequence[Any], where: str) -> list[Row]:
    found = []
    for index, instance in enumerate(instances):
        try:
            found.append(rows.row(instance))
        except InvalidInput as error:
            error.message = f"{where}: instance {index}: {error.message}"
            raise
    return found


async def _of_reference(rows: AnyRows, row: Row, seed: int, sources: Sources) -> dict[str, Array]:
    features = await sources.reference()
    if features is None:
        raise InvalidInput(f"there is nothing to compare with: {TELL}")
    return rows.drawn_like(row, features, MOST_ROWS, seed)


def _affordable(features: int, rows: int) -> int:
    """Rows of a background that leave enough for one permutation and its reverse, or fewer."""
    return max(min(MOST_ROWS, rows // (2 * features + 1)), 1)


def _check_widths(row: Row, background: dict[str, Array]) -> None:
    for name, cells in row.cells.items():
        came = background[name].shape[1]
        if came != len(cells):
            raise InvalidInput(f"background: expected rows of {len(cells)} numbers, got {came}")
