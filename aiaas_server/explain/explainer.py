"""`explained`: why a version predicts what it does, instance by instance, as far as time goes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from aiaas_client.protocol.explanations import ExplainParameters, ExplanationDocument
from aiaas_server.core.errors import DeadlineExceeded, InvalidInput, ServerError
from aiaas_server.core.events import CALLER, Caller
from aiaas_server.core.model import LoadedModel
from aiaas_server.explain.choice import Played, Sources, games_of
from aiaas_server.explain.games import Game
from aiaas_server.explain.numbers import chosen
from aiaas_server.explain.payload_games import Cells, Words
from aiaas_server.explain.shapley import Estimate, NotEnough, Work, shapley

Array = npt.NDArray[Any]

_SAFE: Final = 0.8  # of the rows that the time seems to be enough for


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
    make = await games_of(model, asked, sources)
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
    """Rows that nobody sent: no tap is shown them, and drift is not told of them; who asked is
    told what they cost."""
    who, visit = caller.identity, caller.visit
    return Caller(caller.request_id, identity=who, shadow=True, visit=visit, errand=True)


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
