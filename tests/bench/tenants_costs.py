"""What tenants cost a request: a loop over the functions that do it, with what they get.

A loop has warm caches, so that these figures are lower bounds; the whole request is measured
beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Final

import pieces
from table import Row, value_at_most

from aiaas_client.protocol.tenants import Limits
from aiaas_server.core.events import Caller, Identity, InferenceRecord, Units
from aiaas_server.core.schedule.shares import Shares
from aiaas_server.http.auth import KeyCheck
from aiaas_server.tenancy.budget import Budget
from aiaas_server.tenancy.identities import Directory, Identities, KnownKey
from aiaas_server.tenancy.meter import Meter
from aiaas_server.tenancy.quota import Quotas
from aiaas_server.tenancy.secrets import hashed, new_key

GROUP: Final = "tenants, a request of 784-32-10"
PATH: Final = "/v2/models/digits/infer"
ADDRESS: Final = "127.0.0.1"
MICRO: Final = 1e6
MANY: Final = 512
"""Records, until they are added up: what is put off costs, too."""


def rows() -> Iterator[Row]:
    """Each of them, and all together."""
    found = [(piece, piece.seconds() * MICRO) for piece in costs()]
    for piece, cost in found:
        yield Row(GROUP, f"{piece.name} (its calls)", cost, "µs", goal=piece.goal)
    whole = sum(cost for _, cost in found)
    yield Row(GROUP, "all of these (their calls)", whole, "µs", goal=value_at_most(5))


def costs() -> Iterator[pieces.Piece]:
    """What a request of a tenant with a limit of each kind goes through."""
    table, key = _known_keys()
    check = KeyCheck(table.find)
    headers = {b"host": b"127.0.0.1", b"authorization": b"Bearer " + key}
    yield pieces.Piece(
        "whose a key is, of 1,000 tenants",
        lambda: check.check(headers, b"", ADDRESS),
        goal=value_at_most(3),
    )
    asker = Identity("acme", "a-key")
    limits = Limits(
        requests_per_second=1e9, burst=1_000_000_000, in_flight=1000, monthly_spend=Decimal(10**9)
    )
    directory = Directory({"a-key": KnownKey(asker, b"", None, None)}, {"acme": limits})
    quotas = Quotas()
    quotas.follow(directory)
    yield pieces.Piece(
        "limits: enter and leave",
        lambda: quotas.enter(asker, PATH).leave(),
        goal=value_at_most(1.5),
    )
    records = [_record(asker, number) for number in range(MANY)]
    meter, shares = Meter(), Shares()
    yield pieces.Piece("usage counted, and added up", _each(meter, records, meter.take), times=MANY)
    yield pieces.Piece("limits: rows charged", _each(quotas.charge, records), goal=None, times=MANY)
    yield pieces.Piece("served time charged", _each(shares, records), goal=None, times=MANY)
    budget = Budget(None)  # type: ignore[arg-type]  # nothing is read here
    budget.follow_directory(directory)

    def spent() -> None:
        for record in records:
            budget(asker, PATH)
            budget.observe(record)

    yield pieces.Piece("budget: asked, charged, and added up", spent, times=MANY)


def _each(
    observe: Callable[[InferenceRecord], object],
    records: list[InferenceRecord],
    afterwards: Callable[[], object] = lambda: None,
) -> Callable[[], object]:
    def observed() -> None:
        for record in records:
            observe(record)
        afterwards()

    return observed


def _known_keys() -> tuple[Identities, bytes]:
    """A table of keys as a server with tenants has it in memory, and one of the keys."""
    pepper, drawn = b"p" * 32, [new_key() for _ in range(1000)]
    known = {
        key.id: KnownKey(
            Identity(f"tenant-{index}", key.id), hashed(pepper, key.text.encode()), 4e9, None
        )
        for index, key in enumerate(drawn)
    }
    identities = Identities(None, None, pepper)  # type: ignore[arg-type]  # nothing is read here
    identities.directory = Directory(known, {})
    return identities, drawn[500].text.encode()


def _record(asker: Identity, number: int) -> InferenceRecord:
    """Of a request that was run alone and answered."""
    caller = Caller(f"0123456789abcdef-{number}", identity=asker)
    units = Units(1, bytes_in=3136, bytes_out=40)
    return InferenceRecord(
        "digits", 1, units, 1, 1e-5, 3e-5, 5e-5, None, caller=caller, own_ns=30_000
    )
