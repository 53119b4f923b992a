"""The tables of tenants: who they are, what they use, what it costs, and what was done.

As in `tables`, whose schema they are part of. Amounts are whole numbers of a small unit; money is
decimal text, never a float.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
)

from aiaas_server.state.tables import DIGEST, SERIAL
from aiaas_server.state.tables import METADATA as METADATA  # with these tables in it

PLANS: Final = Table(
    "plans",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("limits", JSON, nullable=False),  # protocol.tenants.Limits
    Column("description", Text, nullable=False, default=""),
    Column("created", Float, nullable=False),
    Column("created_by", String(128), nullable=False),
)

TENANTS: Final = Table(
    "tenants",
    METADATA,
    Column("name", String(64), primary_key=True),  # never used again
    Column("state", String(16), nullable=False),  # active suspended erased
    Column("plan", String(64), nullable=False),
    Column("description", Text, nullable=False, default=""),
    Column("created", Float, nullable=False),
    Column("created_by", String(128), nullable=False),
)

KEYS: Final = Table(
    "keys",
    METADATA,
    Column("id", String(12), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("name", String(255), nullable=False),
    Column("hash", DIGEST, nullable=False),  # HMAC of the secret, hexadecimal
    Column("scopes", JSON, nullable=False),
    Column("limits", JSON, nullable=True),
    Column("created", Float, nullable=False),
    Column("created_by", String(128), nullable=False),
    Column("expires", Float, nullable=True),
    Column("last_used", Float, nullable=True),
    Column("revoked", Float, nullable=True),
    Column("replaced_by", String(12), nullable=False, default=""),
    Index(None, "tenant", "created"),
)

SERVER_SECRET: Final = Table(
    "server_secret",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),  # 1: there is one row
    Column("fingerprint", DIGEST, nullable=False),  # derived; tells nothing of the secret
    Column("created", Float, nullable=False),
)

QUOTA_LEASES: Final = Table(
    "quota_leases",
    METADATA,
    Column("subject", String(80), primary_key=True),  # a tenant, or "key/<id>"
    Column("node", String(64), primary_key=True),  # one process
    Column("demand", Float, nullable=False),  # what it has seen of late, of each second
    Column("share", Float, nullable=False),  # its part of the limit, 0 to 1
    Column("until", Float, nullable=False),  # by the database's clock
)

USAGE: Final = Table(
    "usage",
    METADATA,
    Column("tenant", String(64), primary_key=True),
    Column("hour", BigInteger, primary_key=True),  # its beginning, seconds since 1970
    Column("key_id", String(12), primary_key=True),  # "" where no key was asked for
    Column("model", String(255), primary_key=True),  # "" of what is no model's
    Column("version", Integer, primary_key=True),
    Column("unit", String(32), primary_key=True),  # protocol.usage.Unit
    Column("amount", BigInteger, nullable=False),
    Index(None, "hour"),
)

USAGE_BATCHES: Final = Table(
    "usage_batches",
    METADATA,
    Column("node", String(64), primary_key=True),  # one journal
    Column("seq", BigInteger, primary_key=True),
    Column("at", Float, nullable=False),
)

USAGE_ATTEMPTS: Final = Table(
    "usage_attempts",
    METADATA,
    Column("id", SERIAL, primary_key=True, autoincrement=True),
    Column("tenant", String(64), nullable=False),
    Column("key_id", String(12), nullable=False),
    Column("request_id", String(128), nullable=False),
    Column("began", Float, nullable=False),
    Column("at", Float, nullable=False),  # when its caller left
    Column("amounts", JSON, nullable=False),  # {model, version, hour, units: {unit: amount}}
    Index(None, "at"),
    sqlite_autoincrement=True,
)

PRICES: Final = Table(
    "prices",
    METADATA,
    Column("id", SERIAL, primary_key=True, autoincrement=True),
    Column("unit", String(32), nullable=False),  # protocol.usage.Unit, or "month"
    Column("tenant", String(64), nullable=False, default=""),  # "" is all
    Column("model", String(255), nullable=False, default="*"),  # a pattern with *
    Column("amount", Text, nullable=False),  # decimal, for so many units:
    Column("per", BigInteger, nullable=False),
    Column("free", BigInteger, nullable=False, default=0),  # units a month that cost nothing
    Column("currency", String(3), nullable=False),
    Column("valid_from", Float, nullable=False),
    Column("valid_until", Float, nullable=True),  # where somebody has ended it
    Column("created", Float, nullable=False),
    Column("created_by", String(128), nullable=False),
    sqlite_autoincrement=True,
)

STATEMENTS: Final = Table(
    "statements",
    METADATA,
    Column("tenant", String(64), primary_key=True),
    Column("month", String(7), primary_key=True),  # 2026-11
    Column("document", JSON, nullable=False),  # protocol.prices.Statement, as it was closed
    Column("closed", Float, nullable=False),
)

CORRECTIONS: Final = Table(
    "corrections",
    METADATA,
    Column("id", SERIAL, primary_key=True, autoincrement=True),
    Column("tenant", String(64), nullable=False),
    Column("about", String(7), nullable=False),  # the month that was wrong
    Column("month", String(7), nullable=False),  # on whose statement it is
    Column("amount", Text, nullable=False),  # decimal
    Column("reason", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("created_by", String(128), nullable=False),
    Index(None, "tenant", "month"),
    sqlite_autoincrement=True,
)

BUDGET_NOTICES: Final = Table(
    "budget_notices",
    METADATA,
    Column("tenant", String(64), primary_key=True),
    Column("month", String(7), primary_key=True),
    Column("percent", Integer, primary_key=True),  # 80 or 100
    Column("at", Float, nullable=False),
)

AUDIT: Final = Table(
    "audit",
    METADATA,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),  # without a gap
    Column("tenant", String(64), nullable=False),
    Column("at", Float, nullable=False),
    Column("actor", String(128), nullable=False),
    Column("act", String(128), nullable=False),
    Column("entry", Text, nullable=False),  # canonical JSON, what is hashed
    Column("hash", DIGEST, nullable=False),  # of the hash before it and the entry
    Column("signature", DIGEST, nullable=False),  # HMAC of the entry
    Index(None, "tenant", "seq"),
    Index(None, "at"),
)

AUDIT_HEADS: Final = Table(
    "audit_heads",
    METADATA,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", String(8), nullable=False),  # head, or archive: what is up to it was taken out
    Column("hash", DIGEST, nullable=False),
    Column("at", Float, nullable=False),
    Column("signature", DIGEST, nullable=False),  # HMAC of the others
)

DATA_KEYS: Final = Table(
    "data_keys",
    METADATA,
    Column("tenant", String(64), primary_key=True),
    Column("digest", DIGEST, primary_key=True),
    Column("wrapped", LargeBinary, nullable=False),  # the key of the artefact, by a master key
    Column("master", String(16), nullable=False),  # which one
    Column("created", Float, nullable=False),
    Index(None, "master"),
)

ERASURES: Final = Table(
    "erasures",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("state", String(16), nullable=False),  # running done
    Column("certificate", JSON, nullable=True),
    Column("created", Float, nullable=False),
    Column("created_by", String(128), nullable=False),
)
