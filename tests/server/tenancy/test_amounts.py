"""What limits are held against is what is metered: unit by unit, the same of each record."""

from __future__ import annotations

import pytest

from aiaas_server.core.events import Caller, Identity, InferenceRecord, Units
from aiaas_server.tenancy.amounts import amounts_of
from aiaas_server.tenancy.meter import Meter

UNITS = Units(3, 5, 7, 11, 13)


@pytest.mark.parametrize("shadow", [False, True])
@pytest.mark.parametrize("ending", ["answered", "cached", "abandoned", "failed"])
def test_a_record_counts_as_the_meter_counts_it(ending: str, shadow: bool) -> None:
    caller = Caller(identity=Identity("acme", "k1"), shadow=shadow)  # without an id: no retry
    failure = None if ending in ("answered", "cached") else "CANCELED"
    record = InferenceRecord(
        "acme/mini", 1, UNITS, 3, 0.0, 0.001, 0.001, failure, caller,
        ending=ending, own_ns=2_000_000,  # type: ignore[arg-type]
    )  # fmt: skip
    meter = Meter()
    meter(record)
    metered = {used.unit: amount for used, amount in meter.take().amounts.items()}
    assert {unit: amount for unit, amount in amounts_of(record) if amount} == metered
