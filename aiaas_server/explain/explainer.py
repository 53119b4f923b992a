"""`explained`: why a version predicts what it does, instance by instance, as far as time goes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from aiaas_client.protocol.explanations import ExplainParameters, ExplanationDocument
from aiaas_client.protocol.predictions import ImageClassification
from aiaas_server.core.errors import DeadlineExceeded, InvalidInput, ServerError
from aiaas_server.core.events import CALLER, Caller
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.payloads import read_params
from aiaas_server.core.task import ColumnTask, Task, is_looping
from aiaas_server.explain.aside import Aside
from aiaas_server.explain.background import MOST_ROWS, TELL, Binned, read_golden, some_of
from aiaas_server.explain.games import Columns, Game, Row
from aiaas_server.explain.numbers import EXPLAINABLE, chosen
from aiaas_server.explain.payload_games import Cells, Words
from aiaas_server.explain.rows import AnyRows, Plain, Records, check_features, of_golden, stacked
from aiaas_server.explain.shapley import Estimate, NotEnough, Work, shapley

Array = npt.NDArray[Any]

ROWS_OF_COLUMNS: Final = 500_000
"""Rows for each instance of columns, where the caller does not say."""
ROWS_OF_PAYLOADS: Final = 2048
"""The same of texts and pictures, which are prepared one by one."""
ROWS_AT_ONCE: Final = 4096
"""Asked for at a time; they are run in pieces."""
PAYLOADS_AT_ONCE: Final = 64
_TOP_K: Final = 1000  # labels that a prediction of a picture tells at most
_SAFE: Final = 0.8  # of the rows that the time seems to be enough for


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


async def explained(
    model: LoadedModel,
    payloads: Sequence[Any],
    asked: ExplainParameters,
    sources: Sources,
    stop: float,
) -> list[ExplanationDocument]:
    """An explanation for each payload, in order.

    Args:
        stop: On the loop's clock: what is known by then is told. Each payload has an equal share
            of the time that is left.
    Raises:
        InvalidInput: The model, a payload or a parameter; names the instance.
        DeadlineExceeded: There was no time for even the least.
        ServerError: The model failed.
    """
    make = await _games(model, asked, sources)
    found = []
    token = CALLER.set(_nobody(CALLER.get()))
    try:
        for index, payload in enumerate(payloads):
            now = asyncio.get_running_loop().time()
            share = (stop - now) / (len(payloads) - index)
            try:
                found.append(await played_out(await make(payload), asked, now + share))
            except ServerError as error:
                if len(payloads) > 1:
                    error.message = f"instance {index}: {error.message}"
                raise
    finally:
        CALLER.reset(token)
    return found


def _nobody(caller: Caller) -> Caller:
    """Rows that nobody sent: no tap is shown them, and drift is not told of them."""
    return Caller(caller.request_id, identity=caller.identity, shadow=True)


# Which game


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


_Make = Callable[[Any], Awaitable[Played]]


async def _games(model: LoadedModel, asked: ExplainParameters, sources: Sources) -> _Make:
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
) -> _Make:
    given: list[Row] | None = None
    if asked.background is not None:
        given = _background_of(rows, asked.background, "parameters.background")
    golden = None if given else await asyncio.to_thread(_golden, sources.golden)

    async def columns(payload: Any) -> Played:
        row = rows.row(payload)
        check_features(len(row.features))
        background: dict[str, Array] | None = None
        told = ""
        if given is not None:
            background, told = stacked(given), "{} instances of the call"
        elif golden is not None and golden.instances:
            some = _background_of(rows, golden.instances, "golden set")
            background, told = stacked(some), "{} instances of the version's golden set"
        elif golden is not None:
            background, told = of_golden(row, golden), "{} rows of the version's golden set"
        if background is None:
            background = await _of_reference(rows, row, asked.seed, sources)
            told = (
                "{} rows drawn from the version's reference profile, "
                "each column independently of the others"
            )
        most = _affordable(len(row.features), asked.samples or ROWS_OF_COLUMNS)
        kept = some_of(len(next(iter(background.values()))), most, asked.seed)
        background = {name: array[kept] for name, array in background.items()}
        _check_widths(row, background)
        aside = Aside(model)
        game = Columns(aside, row, background, told.format(len(kept)), rows.reading)
        return Played(game, aside, ROWS_OF_COLUMNS, ROWS_AT_ONCE)

    return columns


def _golden(read: Callable[[], bytes]) -> Any:
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


# The explanation


async def played_out(played: Played, asked: ExplainParameters, stop: float) -> ExplanationDocument:
    """The explanation of one game, as far as it goes until `stop`.

    Raises:
        InvalidInput: An output that there is not, fewer samples than the least, or a prediction
            that is no number.
        DeadlineExceeded: It was stopped before anything could be told.
    """
    game, aside = played.game, played.aside
    loop = asyncio.get_running_loop()
    began = loop.time()
    ends = await _within(stop, game.ends)
    if ends is None:
        raise _too_late(2)
    default = int(np.nanargmax(ends[1])) if game.are_scores and not np.isnan(ends[1]).all() else 0
    at = chosen(asked.output, game.names, default)
    base, prediction = map(float, ends[:, at])
    if not np.isfinite([base, prediction]).all():
        raise InvalidInput(f"the prediction is {prediction}, compared with {base}: no numbers")
    most = max((asked.samples or played.rows) - aside.rows, 0) // game.rows_each
    pace = max((loop.time() - began) / max(aside.rows, 1), 1e-9)  # seconds a row
    in_time = int(max(stop - loop.time(), 0.0) * _SAFE / pace / game.rows_each)
    game.divide(most)
    cut = False
    if isinstance(game, Words | Cells) and in_time < most:
        whole = game.features
        game.divide(in_time)
        cut = game.features < whole  # a short text loses nothing
    work = shapley(
        game.features,
        base,
        prediction,
        most=most,
        seed=asked.seed,
        batch=max(played.at_once // game.rows_each, 1),
    )
    found = await _driven(work, game, at, stop)
    return ExplanationDocument(
        method=found.method,
        output=game.names[at],
        prediction=prediction,
        base=base,
        contributions=game.told(found),
        samples=aside.rows,
        seed=asked.seed,
        complete=found.complete and not cut,
        background=game.background,
        size=game.size if isinstance(game, Cells) else None,
    )


async def _driven(work: Work, game: Game, at: int, stop: float) -> Estimate:
    """Play to the end, or as far as it goes until `stop`."""
    stopped = False
    try:
        coalitions = next(work)
        while True:
            answers = await _within(stop, partial(game.answers, coalitions))
            stopped = answers is None
            coalitions = work.send(None if answers is None else answers[:, at])
    except StopIteration as done:
        found: Estimate = done.value
        return found
    except NotEnough as error:
        if stopped:
            raise _too_late((error.asked + 2) * game.rows_each) from None
        raise InvalidInput(
            f"parameters.samples: expected at least {(error.asked + 2) * game.rows_each} "
            f"to explain {game.features} features"
        ) from None


async def _within(stop: float, work: Callable[[], Awaitable[Array]]) -> Array | None:
    try:
        async with asyncio.timeout_at(stop):
            return await work()
    except TimeoutError:
        return None


def _too_late(rows: int) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"the deadline passed before an explanation could be told: at least {rows} rows have to be "
        "run at the lowest priority; ask with a longer deadline, or for fewer features"
    )
