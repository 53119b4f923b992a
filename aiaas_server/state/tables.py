"""All tables. A migration in `migrations/versions` makes each of them; a test compares the two.

Times are seconds since 1970, UTC; digests are SHA-256 in hexadecimal; documents are JSON. What
belongs to a tenant says so, and no query leaves it out.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

METADATA: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite numbers rows by itself only where the key is an INTEGER.
SERIAL: Final = BigInteger().with_variant(Integer, "sqlite")
DIGEST: Final = String(64)

MODELS: Final = Table(
    "models",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("name", String(255), nullable=False),
    Column("description", Text, nullable=False, default=""),
    Column("policy", JSON, nullable=False),  # retention, default configuration, monitoring
    Column("serving", JSON, nullable=False),  # aliases, split, shadow, pins, rollout
    Column("revision", Integer, nullable=False, default=1),  # what an ETag is made of
    Column("next_version", Integer, nullable=False, default=1),
    Column("created", Float, nullable=False),
    Column("created_by", String(128), nullable=False),
    UniqueConstraint("tenant", "name"),
)

VERSIONS: Final = Table(
    "versions",
    METADATA,
    Column("model_id", ForeignKey("models.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("digest", DIGEST, nullable=False),  # of the sorted list of its files' digests
    Column("state", String(16), nullable=False),  # verified corrupt erased
    Column("reason", Text, nullable=False, default=""),
    Column("size", BigInteger, nullable=False),
    Column("files", JSON, nullable=False),  # [{name, size, sha256}]
    Column("card", JSON, nullable=True),
    Column("signature", JSON, nullable=False),
    Column("report", JSON, nullable=False),
    Column("metrics", JSON, nullable=False),
    Column("lineage", JSON, nullable=False),
    Column("note", Text, nullable=False, default=""),
    Column("created", Float, nullable=False),
    Column("created_by", String(128), nullable=False),
    Index(None, "model_id", "digest"),
)

ARTEFACTS: Final = Table(
    "artefacts",
    METADATA,
    Column("tenant", String(64), primary_key=True),
    Column("digest", DIGEST, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("leaving", Boolean, nullable=False, default=False),  # its bytes are being removed
    Column("created", Float, nullable=False),
    Index(None, "digest"),
)

ARTEFACT_USES: Final = Table(
    "artefact_uses",
    METADATA,
    Column("tenant", String(64), primary_key=True),
    Column("digest", DIGEST, primary_key=True),
    Column("user", String(80), primary_key=True),  # "<model id>/<number>" or "draft/<id>"
    Index(None, "user"),
)

DRAFTS: Final = Table(
    "drafts",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("model", String(255), nullable=False),
    Column("digest", DIGEST, nullable=False),
    Column("request", JSON, nullable=False),  # protocol.management.DraftRequest
    Column("created", Float, nullable=False),
    Column("created_by", String(128), nullable=False),
    Index(None, "tenant", "model", "digest"),
)

HISTORY: Final = Table(
    "history",
    METADATA,
    Column("seq", SERIAL, primary_key=True, autoincrement=True),
    Column("tenant", String(64), nullable=False),
    Column("model_id", String(32), nullable=False),
    Column("model", String(255), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("version", Integer, nullable=True),
    Column("before", JSON, nullable=True),
    Column("after", JSON, nullable=True),
    Column("position", BigInteger, nullable=True),  # of a change of who serves; see `rollback`
    Column("reason", Text, nullable=False, default=""),
    Column("at", Float, nullable=False),
    Column("by", String(128), nullable=False),
    Column("request_id", String(128), nullable=False, default=""),
    Index(None, "model_id", "seq"),
    Index(None, "tenant", "seq"),
    sqlite_autoincrement=True,  # no number is ever used twice
)

CHANGES: Final = Table(
    "changes",
    METADATA,
    Column("seq", SERIAL, primary_key=True, autoincrement=True),
    Column("tenant", String(64), nullable=False),
    Column("kind", String(32), nullable=False),  # model, version, traffic, rollout, drift, ...
    Column("object", String(255), nullable=False),
    Column("data", JSON, nullable=False),
    Column("at", Float, nullable=False),
    sqlite_autoincrement=True,
)

IDEMPOTENCY: Final = Table(
    "idempotency",
    METADATA,
    Column("tenant", String(64), primary_key=True),
    Column("key", String(128), primary_key=True),
    Column("request", DIGEST, nullable=False),  # of method, path and body
    Column("status", Integer, nullable=False),
    Column("answer", LargeBinary, nullable=False),
    Column("at", Float, nullable=False),
    Index(None, "at"),
)

PROFILES: Final = Table(
    "profiles",
    METADATA,
    Column("model_id", ForeignKey("models.id", ondelete="CASCADE"), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("source", String(16), nullable=False),  # golden training traffic
    Column("rows", BigInteger, nullable=False),
    Column("profile", JSON, nullable=False),
    Column("created", Float, nullable=False),
)

WINDOWS: Final = Table(
    "windows",
    METADATA,
    Column("model_id", ForeignKey("models.id", ondelete="CASCADE"), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("kind", String(16), primary_key=True),  # traffic drift shadow
    Column("start", BigInteger, primary_key=True),
    Column("node", String(64), primary_key=True),  # one process; windows of nodes add up
    Column("seconds", Integer, nullable=False),
    Column("counts", JSON, nullable=False),
    Index(None, "start"),
)

PREDICTIONS: Final = Table(
    "predictions",
    METADATA,
    Column("tenant", String(64), primary_key=True),
    Column("request_id", String(128), primary_key=True),
    Column("model_id", ForeignKey("models.id", ondelete="CASCADE"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("predicted", JSON, nullable=False),  # one label or number a row, never a tensor
    Column("at", Float, nullable=False),
    Index(None, "model_id", "at"),
)

FEEDBACK: Final = Table(
    "feedback",
    METADATA,
    Column("tenant", String(64), primary_key=True),
    Column("request_id", String(128), primary_key=True),
    Column("row", Integer, primary_key=True),
    Column("model_id", ForeignKey("models.id", ondelete="CASCADE"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("label", JSON, nullable=False),
    Column("predicted", JSON, nullable=True),
    Column("correct", Boolean, nullable=True),  # of numbers: None, the error counts
    Column("error", Float, nullable=True),
    Column("at", Float, nullable=False),
    Column("by", String(128), nullable=False),
    Index(None, "model_id", "version", "at"),
)

DATASETS: Final = Table(
    "datasets",
    METADATA,
    Column("tenant", String(64), primary_key=True),
    Column("name", String(255), primary_key=True),
    Column("number", Integer, primary_key=True),  # never used again: an erased one leaves its row
    Column("state", String(16), nullable=False),  # ready erased
    Column("digest", DIGEST, nullable=False),  # of its Parquet file
    Column("size", BigInteger, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("columns", JSON, nullable=False),  # [protocol.datasets.Column]
    Column("format", String(16), nullable=False),
    Column("note", Text, nullable=False, default=""),
    Column("description", Text, nullable=False, default=""),
    Column("lineage", JSON, nullable=False),
    Column("created", Float, nullable=False),
    Column("created_by", String(128), nullable=False),
    Index(None, "tenant", "digest"),
)

DATASET_DRAFTS: Final = Table(
    "dataset_drafts",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("name", String(255), nullable=False),
    Column("digest", DIGEST, nullable=False),  # of the list of its files
    Column("request", JSON, nullable=False),  # protocol.datasets.DatasetRequest
    Column("created", Float, nullable=False),
    Column("created_by", String(128), nullable=False),
    Index(None, "tenant", "name", "digest"),
)

JOBS: Final = Table(
    "jobs",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("subject", String(255), nullable=False),  # the model or data set that it is about
    Column("spec", JSON, nullable=False),  # protocol.jobs.JobSpec, references resolved
    Column("note", Text, nullable=False, default=""),
    Column("state", String(16), nullable=False),  # protocol.jobs.JobState
    Column("attempt", Integer, nullable=False, default=0),
    Column("attempts", Integer, nullable=False),
    Column("timeout", Float, nullable=True),
    Column("cancelling", Boolean, nullable=False, default=False),
    Column("holder", String(64), nullable=False, default=""),  # who runs it, while it is leased
    Column("lease", Float, nullable=False, default=0.0),  # until when, by the database's clock
    Column("checkpoint", JSON, nullable=True),  # {sha256, size, step}
    Column("progress", JSON, nullable=False),  # protocol.jobs.Progress
    Column("result", JSON, nullable=True),  # protocol.jobs.JobResult
    Column("error", JSON, nullable=True),  # protocol.jobs.JobError
    Column("log", JSON, nullable=False),  # the last lines
    Column("created", Float, nullable=False),
    Column("created_by", String(128), nullable=False),
    Column("started", Float, nullable=True),
    Column("ended", Float, nullable=True),
    Index(None, "tenant", "created"),
    Index(None, "state", "created"),
)

JOB_EVENTS: Final = Table(
    "job_events",
    METADATA,
    Column("seq", SERIAL, primary_key=True, autoincrement=True),
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("at", Float, nullable=False),
    Column("kind", String(16), nullable=False),  # state progress log
    Column("data", JSON, nullable=False),
    Index(None, "job_id", "seq"),
    sqlite_autoincrement=True,
)

FILES: Final = Table(
    "files",
    METADATA,
    Column("id", String(64), primary_key=True),  # file-…, as OpenAI's clients expect
    Column("tenant", String(64), nullable=False),
    Column("name", String(255), nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("digest", DIGEST, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("created", Float, nullable=False),
    Column("created_by", String(128), nullable=False),
    Index(None, "tenant", "created"),
)
