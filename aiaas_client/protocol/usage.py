"""Usage: how much of each unit was used, by whom, with which model, when.

Every amount is a whole number. What a unit counts, and what it does not:

* `requests`: calls that were run. Those that got an error are not counted, nor those that were
  refused. One that its caller left, or whose deadline passed, while it ran is counted, once with
  the attempt of the same request id that was answered.
* `cache_hits`: calls that the response cache answered. Their bytes are counted, nothing else.
* `rows`: items of those requests.
* `compute_us`: microseconds of execution. Of a batch that several share, each has its part by rows.
  Runs of an explanation are counted here, and nowhere else.
* `bytes_in`, `bytes_out`: of tensors; payloads count as the tensors that were made of them.
* `tokens_in`, `tokens_out`: of prompts and of what was generated.
* `stored_byte_seconds`: of versions, data sets and files, each content once.
* `job_us`: microseconds that jobs ran, whatever came of them. What a job infers is job time.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

from aiaas_client.protocol.documents import Told

Unit = Literal[
    "requests",
    "cache_hits",
    "rows",
    "compute_us",
    "bytes_in",
    "bytes_out",
    "tokens_in",
    "tokens_out",
    "stored_byte_seconds",
    "job_us",
]
UNITS: Final[tuple[Unit, ...]] = get_args(Unit)

By = Literal["tenant", "key", "model", "version", "unit", "hour", "day", "month"]
BY: Final[tuple[By, ...]] = get_args(By)
TIMES: Final = ("hour", "day", "month")
"""Of `BY`, at most one of them at a time."""


class UsageRow(Told):
    """An amount of one unit, and what it is of; a member that was not asked for is null.

    Attributes:
        key: The id of the key; "" where none was asked for.
        model: As its owner calls it; "" of what is no model's.
        version: 0 of what is no version's.
        time: When the hour, day or month begins, seconds since 1970; days and months are of UTC.
        unit: What is counted.
        amount: How much.
    """

    tenant: str | None = None
    key: str | None = None
    model: str | None = None
    version: int | None = None
    time: int | None = None
    unit: str = ""
    amount: int = 0


class UsagePage(Told):
    """A part of the rows; `next` is what `after` takes for the following one."""

    items: tuple[UsageRow, ...] = ()
    next: str | None = None
