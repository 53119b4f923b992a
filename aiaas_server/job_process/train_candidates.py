"""What a search tries: combinations, random draws, and the rounds of halving. All pure."""

from __future__ import annotations

import math
from itertools import product
from typing import Any, Final

import numpy as np

from aiaas_client.protocol.jobs import Search
from aiaas_server.core.errors import InvalidInput

_MOST_TRIALS: Final = 1000
_LEAST_ROWS: Final = 20  # of the first round of halving, a fold


def candidates(search: Search, seed: int) -> list[dict[str, Any]]:
    """What is tried: every combination, or random ones.

    Raises:
        InvalidInput: Nothing to try, or more than can be.
    """
    if not search.params:
        raise InvalidInput("search: 'params' names no parameter to try values of")
    every = all(isinstance(values, list) for values in search.params.values())
    for name, values in search.params.items():
        _check_values(name, values, search.method)
    if every and (search.method == "grid" or _product(search) <= search.trials):
        if (count := _product(search)) > _MOST_TRIALS:
            raise InvalidInput(
                f"search: {count} combinations; at most {_MOST_TRIALS} are tried. "
                "Method 'random' tries some of them"
            )
        names = list(search.params)
        return [dict(zip(names, one, strict=True)) for one in product(*search.params.values())]
    return _drawn(search, np.random.default_rng(seed))


def _product(search: Search) -> int:
    return math.prod(len(values) for values in search.params.values())


def _drawn(search: Search, random: np.random.Generator) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    # Values that are listed may all have been drawn already: then there is no more to try.
    for _ in range(search.trials * 20):
        one = {name: _draw(values, random) for name, values in search.params.items()}
        if one not in found:
            found.append(one)
        if len(found) == search.trials:
            break
    return found


def _draw(values: Any, random: np.random.Generator) -> Any:
    if isinstance(values, list):
        return values[int(random.integers(len(values)))]
    low, high = values["low"], values["high"]
    if values.get("log"):
        drawn = math.exp(random.uniform(math.log(low), math.log(high)))
    elif isinstance(low, int) and isinstance(high, int):
        return int(random.integers(low, high, endpoint=True))
    else:
        drawn = float(random.uniform(low, high))
    if isinstance(low, int) and isinstance(high, int):
        return min(max(round(drawn), low), high)
    return min(max(drawn, low), high)


def _check_values(name: str, values: Any, method: str) -> None:
    if isinstance(values, list):
        if not values:
            raise InvalidInput(f"search: parameter '{name}' has no values to try")
        return
    wanted = 'a list of values, or of \'random\' and \'halving\' {"low": …, "high": …, "log": …}'
    is_range = isinstance(values, dict) and {"low", "high"} <= values.keys() <= {
        "low",
        "high",
        "log",
    }
    if not is_range or method == "grid":
        raise InvalidInput(f"search: parameter '{name}': expected {wanted}, got {values!r:.80}")
    low, high = values["low"], values["high"]
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (low, high))
    if not numbers or not low < high or (values.get("log") and low <= 0):
        raise InvalidInput(
            f"search: parameter '{name}': expected numbers with low < high"
            f"{', above 0 for log' if values.get('log') else ''}, got {low!r:.40} and {high!r:.40}"
        )


def halvings(trials: int, rows: int, folds: int) -> list[tuple[int, int]]:
    """Candidates and rows of each round: half as many candidates on twice as many rows, the last
    on all of them.
    """
    rounds = max(math.ceil(math.log2(trials)), 1) if trials > 1 else 0
    least = min(_LEAST_ROWS * folds, rows)
    found = []
    for at in range(rounds + 1):
        used = max(rows >> (rounds - at), least)
        found.append((math.ceil(trials / 2**at), used))
    return found
