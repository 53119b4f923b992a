"""Use and prices in a database, as tests of statements and budgets want them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import insert, update

from aiaas_client.protocol.prices import Price, PriceRequest
from aiaas_server.core.author import SERVER
from aiaas_server.state.database import Database
from aiaas_server.state.tenant_tables import TENANTS, USAGE
from aiaas_server.tenancy.months import HOUR, Month
from aiaas_server.tenancy.prices import add_price
from aiaas_server.tenancy.rows import add_tenant

OCTOBER, NOVEMBER, DECEMBER = (Month(2026, number) for number in (10, 11, 12))


class Billing:
    """Writes what others would have written, at the times that a test wants."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def tenant(self, name: str, created: float = float(OCTOBER.begin)) -> None:
        def write(connection: Any) -> None:
            add_tenant(connection, SERVER, name, "basic")
            mine = update(TENANTS).where(TENANTS.c.name == name)
            connection.execute(mine.values(created=created))

        self.database.submit(write).result()

    def use(self, tenant: str, hour: int, amount: int, unit: str = "rows", **members: Any) -> None:
        """Add a row of use; `hour` is its beginning."""
        row = {"key_id": "", "model": "mini", "version": 1, **members}
        row |= {"tenant": tenant, "hour": hour, "unit": unit, "amount": amount}
        self.database.submit(lambda c: c.execute(insert(USAGE).values(row))).result()

    def price(self, month: Month = OCTOBER, hours: int = 0, **members: Any) -> Price:
        """Add a price that counts `hours` behind the beginning of a month."""
        begin = month.begin + hours * HOUR
        given = {"unit": "rows", "amount": "1", "currency": "EUR", "valid_from": begin}
        asked = PriceRequest(**{**given, **members})
        return self.database.submit(
            lambda c: add_price(c, SERVER, asked, float(month.begin))
        ).result()
