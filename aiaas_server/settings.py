"""Every setting of the server process, validated once.

`Settings.from_environment()` is the only reader of the environment: the variable of a field is
`AIAAS_SERVER_` + its name in capitals. Durations are seconds and sizes bytes, as the names of the
fields that are not plain seconds say; sizes may be written with a unit.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from fractions import Fraction
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

PREFIX = "AIAAS_SERVER_"
KIB = 1024
MIB = 1024 * KIB


def _split(value: Any) -> Any:
    """A comma separated text as a tuple of its non-empty parts."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _pairs(value: object) -> object:
    """`a=b,c=d` as a dictionary."""
    if isinstance(value, str):
        parts = [part.strip() for part in value.split(",") if part.strip()]
        return dict(part.split("=", 1) for part in parts if _is_pair(part))
    return value


def _is_pair(part: str) -> bool:
    if "=" not in part:
        raise ValueError(f"expected name=value, got {part!r}")
    return True


_UNITS = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
_postgres = re.compile(r"postgres(ql(\+psycopg)?)?://[^\s/?]*(/[^\s/]*)?(\?\S*)?").fullmatch
_bucket = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^\s?#]*)?").fullmatch
_size = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", re.ASCII).fullmatch


def _bytes(value: object) -> object:
    """`8GB`, `512MiB` or `1000000` as a number of bytes; other texts as they are."""
    if not isinstance(value, str) or re.fullmatch(r"\s*-?[0-9]+\s*", value):
        return value
    found = _size(value)
    unit = _UNITS.get(found[2].lower()) if found else None
    if found is None or unit is None:
        raise ValueError(f"expected bytes, such as 8GB, 512MiB or 1000000, got {value[:64]!r}")
    size = Fraction(found[1]) * unit
    if size.denominator != 1:
        raise ValueError(f"expected a whole number of bytes, got {value[:64]!r}")
    return int(size)


def _networks(value: object) -> object:
    """Addresses and networks, comma separated, as networks."""
    return tuple(map(_network, _split(value))) if isinstance(value, str) else value


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise ValueError(f"expected an address or a network, such as 10.0.0.0/8: {error}") from None


Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], BeforeValidator(_networks)]
Pairs = Annotated[dict[str, str], BeforeValidator(_pairs)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Bytes = Annotated[int, BeforeValidator(_bytes), Field(gt=0)]
Room = Annotated[int, BeforeValidator(_bytes), Field(ge=0)]
Count = Annotated[int, Field(gt=0)]


class Settings(BaseModel):
    """Frozen configuration of one server process; every default is safe on a laptop."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True
    )

    # Models
    models: Path = Path("models")
    """A repository in Triton's layout, a directory of `.onnx` files, or one `.onnx` file."""
    load_models: Names = ("*",)
    """Models loaded at start; `*` is all of them, empty is none. A model that is named here and
    does not load keeps the server from being ready."""
    control: Literal["none", "explicit"] = "explicit"
    """`explicit`: load and unload calls work. `none`: they are refused."""
    watch: bool = False
    """Pick up new, changed and removed model versions from the repository."""
    watch_interval: Seconds = 2.0
    default_max_batch_size: int = Field(default=64, ge=0)
    """For a model without a configuration whose graph can batch; up to sixteen times as much where
    items are of fixed size and a full batch stays below 4 MiB. The reference takes 4, which caps
    its throughput long before the hardware does; the cost of 64 is bounded, since a batch is only
    what queued meanwhile."""

    batch_cap: bool = True
    """Join no more requests than pays: from the size on whose time an item is within 3 % of the
    least, larger batches only wait longer. Sizes are timed when a model loads and while it serves;
    `batch_curve` in the statistics tells what was found. Without it a batch is all that queued."""

    default_models: Pairs = Field(default_factory=dict)
    """The model that answers where a call names none: by task, `text-classification=sentiment`,
    or by payload, `text=sentiment`; comma separated."""

    response_cache_bytes: Room = 64 * MIB
    """Room for answers of models whose configuration enables `response_cache`."""
    memory_budget_bytes: Room = 0
    """Memory that loaded models may take together, estimated; 0 is no limit. With a limit, models
    are loaded when they are called, and those called least recently make room."""

    # State: the life of a model
    data: Path | None = None
    """A directory for the registry: models that are deployed, their versions and who gets which.
    Without it the server has no state. It holds `state.db`, `artefacts/`, `cache/`, `drafts/`."""
    database_url: SecretStr | None = None
    """`postgresql://user:password@host/name` in place of `state.db`; several servers share it."""
    artefacts_url: str = ""
    """`s3://bucket/prefix` in place of `artefacts/`; the keys are read from `AWS_*` variables."""
    disk_reserve_bytes: Room = 1024 * MIB
    """Free space, or 5 % of the disk where that is more, below which nothing is written any more;
    0 keeps none. What serves goes on, and what makes room is done."""
    max_model_file_bytes: Annotated[Bytes, Field(lt=2**40)] = 8192 * MIB
    """One file of a version that is deployed, such as the weights of a language model."""
    verify_timeout: Seconds = 60.0
    """Time that a new version gets to be checked, loaded and run once, in a process of its own."""
    verify_memory_bytes: Bytes = 2048 * MIB
    """Memory it may take meanwhile, or four times its size where that is more."""
    alert_url: SecretStr | None = None
    """Where alerts are posted, as JSON: a guard that broke, drift, a damaged version, a tenant that
    has spent 80 % of what it may in a month, or all of it."""

    # Tenants
    tenants: bool = False
    """Many tenants, each with keys, limits and models of its own, in the database of `data`; then
    nothing is answered without a key. `aiaas keys init` makes the first one."""
    secret_file: Path | None = None
    """What keys are hashed with and the audit is signed with, 32 bytes or more; all servers of one
    database need the same. By default `secret` in `data`, which is made."""
    tenant_metrics: int = Field(default=0, ge=0)
    """Tenants that metrics tell apart, by a label `tenant`; those beyond are `other`. 0: no
    label."""
    cost_header: bool = False
    """Tell in each answer what it costs, by the price book: `X-Cost: 0.00025 EUR`, exact to twelve
    decimals, free units as nothing. A stream of events tells it in a comment before its last event,
    `: x-cost: 0.00025 EUR`. What is not known when an answer leaves, such as storage, is in the
    statement alone."""

    # Encryption at rest
    master_key_file: Path | None = None
    """Encrypts artefacts, data sets and checkpoints: 32 bytes, or 64 hexadecimal digits; further
    lines are earlier keys."""
    master_key: SecretStr | None = None
    """The same, in place of a file."""
    memory_dir: Path | None = None
    """A directory in memory for what is encrypted elsewhere, while it is used; `/dev/shm` by
    default."""

    # Models in processes of their own
    sandbox: Literal["none", "tenants", "all"] = "tenants"
    """Which deployed models run in processes of their own, with limits: those of tenants other
    than `default`, all, or none."""
    allow_weak_sandbox: bool = False
    """Run them there also where the system cannot take rights away from a process."""
    sandbox_memory_bytes: Bytes = 2048 * MIB
    """Memory that the process of a model may take."""

    # Generation
    generate_slots: Count = 8
    """Answers that one language model writes at a time; further ones wait."""
    generate_cache_bytes: Bytes = 2048 * MIB
    """Keys and values of the tokens of these answers, of one model."""
    generate_prefix_bytes: Room = 256 * MIB
    """Keys and values kept of prompts, for those that begin alike; 0 keeps none."""
    generate_speculate: bool = True
    """Guess tokens that the prompt has, and check several in one step; the text is the same."""
    max_audio_bytes: Bytes = 64 * MIB
    """A recording that is sent to be transcribed."""

    # Jobs
    jobs: int = Field(default=0, ge=0, le=256)
    """Jobs that this server runs at a time, each in a process of its own; 0 runs none, and those
    that are asked for wait for a server that does. With several workers, of all together."""
    job_memory_bytes: Bytes = 4096 * MIB
    """Memory that a job may take."""
    job_threads: int = Field(default=0, ge=0)
    """Processor cores that a job may use; 0 is half of them, at least one."""
    job_timeout: Seconds = 24 * 3600.0
    """Time that a job gets, all attempts together."""
    ray_clusters: Names = ()
    """Ray clusters that training jobs may name beside `ray://local`, as `ray://host:port`. Whoever
    runs one can run code in jobs: list only what is trusted as this server is."""
    max_dataset_bytes: Annotated[Bytes, Field(lt=2**40)] = 4096 * MIB
    """Files of one data set together."""

    # Runtime
    providers: Names = ("auto",)
    """Execution providers in order: `auto` (CUDA if there, then CPU), `cpu`, `cuda`, `tensorrt`,
    or onnxruntime's own spelling. One that is named and missing is an error."""
    intra_op_threads: int = Field(default=0, ge=0)
    """Threads inside one run; 0 chooses by the number of cores."""
    instances: int = Field(default=0, ge=0)
    """Runs of one model at a time where its configuration does not say; 0 chooses by the cores."""

    # Where to listen
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    uds: Path | None = None
    metrics_host: str | None = None
    """Address of the metrics port; that of `host` if not given."""
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    workers: Count = 1
    worker_timeout: Seconds = 300.0
    """Time a worker gets to do what all do, such as loading a model; one that takes longer is
    replaced."""
    certfile: Path | None = None
    keyfile: Path | None = None
    client_ca: Path | None = None
    """Certificates, PEM, of those who may certify clients; whoever has none of theirs is turned
    away in the TLS handshake."""
    insecure: bool = False
    """Listen on an address other than loopback without a key or without TLS."""
    api_key: SecretStr | None = None

    # HTTP limits
    max_request_line_bytes: Bytes = 8 * KIB
    max_header_bytes: Bytes = 16 * KIB
    max_headers: Count = 100
    header_timeout: Seconds = 10.0
    body_timeout: Seconds = 10.0
    """Time to receive a body, plus one second for each `body_bytes_per_second` received."""
    body_bytes_per_second: Bytes = 64 * KIB
    max_body_timeout: Seconds = 300.0
    max_upload_timeout: Seconds = 3600.0
    keep_alive: Seconds = 60.0
    max_connections: Count = 1000
    max_connections_per_address: int = Field(default=50, ge=0)
    """0 is no limit for one address. This machine and `proxies` have none; of an IPv6 address the
    first 64 bits count."""
    proxies: Networks = ()
    """Addresses or networks, comma separated, of proxies in front, whose connections are those of
    many clients."""
    max_body_bytes: Bytes = 64 * MIB
    max_json_bytes: Bytes = 16 * MIB
    """JSON part of an inference request."""
    offload_json_bytes: Bytes = 1 * MIB
    """JSON larger than this is parsed off the event loop."""
    max_control_bytes: Bytes = 1 * MIB
    """Body of any other JSON route."""
    max_upload_bytes: Annotated[Bytes, Field(lt=2**31)] = 512 * MIB
    """Body of a load call that carries model files."""
    max_answer_bytes: Bytes = 64 * MIB
    max_instances: Count = 4096
    """Instances of one predict call, and inputs of one embeddings call."""
    compression: bool = True
    """Compress answers for clients that accept it."""
    shared_memory: bool = False
    """Let clients on this machine pass tensors through POSIX shared memory. Whoever can name an
    object there can then read and write it through the server."""

    # Time and room
    default_deadline: Seconds = 30.0
    max_deadline: Seconds = 300.0
    drain_timeout: Seconds = 25.0
    queue_size: Count = 100
    """Requests that may wait for one model."""
    total_queue_size: Count = 1000
    queue_bytes: Bytes = 256 * MIB
    """Input bytes that may wait, over all models."""

    # Observing
    json_logs: bool = False
    access_log: bool = False
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    otel: bool = False
    """A span of every request to where the `OTEL_EXPORTER_OTLP_*` variables say."""
    server_id: str = ""
    """Name in the server metadata; empty is `aiaas`."""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if (self.certfile is None) != (self.keyfile is None):
            raise ValueError("certfile and keyfile go together: one of them is missing")
        if self.client_ca is not None and self.certfile is None:
            raise ValueError("client_ca needs certfile and keyfile: it is about TLS")
        if self.default_deadline > self.max_deadline:
            raise ValueError(
                f"default_deadline ({self.default_deadline}) is longer than "
                f"max_deadline ({self.max_deadline})"
            )
        if self.data is None and (self.database_url is not None or self.artefacts_url):
            name = "database_url" if self.database_url is not None else "artefacts_url"
            raise ValueError(f"{name} needs data: a directory for what is kept beside it")
        if self.data is None and self.tenants:
            raise ValueError("tenants needs data (--data DIR): a directory for who they are")
        if self.tenants and self.api_key is not None:
            raise ValueError("tenants and api_key exclude each other: `aiaas keys init` makes keys")
        if self.data is None and (self.master_key_file or self.master_key):
            raise ValueError(
                "master_key needs data (--data DIR): a directory for what is encrypted"
            )
        if self.master_key_file is not None and self.master_key is not None:
            raise ValueError("master_key and master_key_file exclude each other")
        if self.data is None and self.jobs:
            raise ValueError("jobs needs data: a directory for what they work on and make")
        url = "" if self.alert_url is None else self.alert_url.get_secret_value()
        if self.alert_url is not None and not url.lower().startswith(("http://", "https://")):
            raise ValueError("alert_url: expected http://… or https://…")
        if not self.providers:
            raise ValueError("providers is empty: name at least one, or 'auto'")
        return self

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _postgres(value.get_secret_value()):
            # the value may hold a password: it is not told
            raise ValueError("expected postgresql://user:password@host/name")
        return value

    @field_validator("artefacts_url")
    @classmethod
    def _check_artefacts_url(cls, value: str) -> str:
        if value and not _bucket(value):
            raise ValueError(f"expected s3://bucket or s3://bucket/prefix, got {value[:64]!r}")
        return value

    @property
    def threads_per_run(self) -> int:
        """Threads inside one run: half the cores, at most four, unless it is set."""
        return self.intra_op_threads or max(1, min(4, _cores() // 2))

    @property
    def runs_at_once(self) -> int:
        """Runs of one model at a time on the CPU: enough to fill the cores, unless it is set."""
        return self.instances or max(1, _cores() // self.threads_per_run)

    @property
    def threads_per_generation(self) -> int:
        """Threads inside a step of a language model: all cores, unless it is set."""
        return self.intra_op_threads or _cores()

    @property
    def threads_per_job(self) -> int:
        """Processor cores that a job may use: half of them, unless it is set."""
        return self.job_threads or max(1, _cores() // 2)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None, **given: Any) -> Self:
        """Settings from `AIAAS_SERVER_*`; `given` fields stand above the environment.

        Args:
            environment: Variables to read instead of the process's own.
            given: Fields by name; one that is None counts as not given.
        Raises:
            pydantic.ValidationError: A value is unusable; the message names the field.
        """
        variables = os.environ if environment is None else environment
        found: dict[str, Any] = {
            name: variables[PREFIX + name.upper()]
            for name in cls.model_fields
            if PREFIX + name.upper() in variables
        }
        found.update({name: value for name, value in given.items() if value is not None})
        return cls(**found)


def unknown_variables(environment: Mapping[str, str] | None = None) -> list[str]:
    """A sentence about each variable that looks like a setting and is none.

    Args:
        environment: Variables to look at instead of the process's own.
    """
    variables = os.environ if environment is None else environment
    known = [name.upper() for name in Settings.model_fields]
    told = []
    for name in sorted(variables):
        own = name.removeprefix(PREFIX)
        if own != name and own not in known:
            nearest = get_close_matches(own, known, 1, 0.7)
            meant = f"; did you mean {PREFIX}{nearest[0]}?" if nearest else ""
            told.append(f"the variable {name[:64]} is no setting and changes nothing{meant}")
    return told
