"""A model's configuration, in the JSON shape that Triton's clients read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from aiaas_server.core.errors import LoadFailed

_NEAR = 0.8  # of difflib's ratio: a letter or a sign of ten
MAX_PRIORITY_LEVELS = 100
MAX_INSTANCES = 64
MAX_WARMUP_RUNS = 10_000
THREADS = "intra_op_thread_count"
"""The parameter of a configuration that says how many threads work inside one run."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


Dims = tuple[int, ...]
Micros = Annotated[int, Field(ge=0, le=2**53)]


def _plain(name: str) -> str:
    if name in (".", "..") or len(name) > 255 or any(sign in name for sign in "/\\\0"):
        raise ValueError("must be a plain file name")
    return name


PlainName = Annotated[str, AfterValidator(_plain)]


class InputConfig(_Part):
    """One input; `dims` is without the batch when `max_batch_size` is 1 or more."""

    name: str
    data_type: str = "TYPE_INVALID"
    format: str = "FORMAT_NONE"
    dims: Dims = ()
    is_shape_tensor: bool = False
    allow_ragged_batch: bool = False
    optional: bool = False
    reshape: dict[str, Any] | None = Field(default=None, exclude_if=lambda value: value is None)


class OutputConfig(_Part):
    """One output; `label_filename` names a file beside the configuration, one label a line."""

    name: str
    data_type: str = "TYPE_INVALID"
    dims: Dims = ()
    label_filename: PlainName = ""
    is_shape_tensor: bool = False
    reshape: dict[str, Any] | None = Field(default=None, exclude_if=lambda value: value is None)


class InstanceGroup(_Part):
    """How many runs at a time, and on what."""

    name: str = ""
    kind: Literal["KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL"] = "KIND_AUTO"
    count: Annotated[int, Field(ge=0, le=MAX_INSTANCES)] = 1
    gpus: tuple[int, ...] = ()
    profile: tuple[str, ...] = ()


class QueuePolicy(_Part):
    """How long and how many may wait; 0 is no limit."""

    timeout_action: Literal["REJECT", "DELAY"] = "REJECT"
    default_timeout_microseconds: Micros = 0
    allow_timeout_override: bool = False
    max_queue_size: Annotated[int, Field(ge=0)] = 0


class DynamicBatching(_Part):
    """Present: requests are joined. Limits count items, not requests."""

    preferred_batch_size: tuple[Annotated[int, Field(ge=1)], ...] = ()
    max_queue_delay_microseconds: Micros = 0
    preserve_ordering: bool = False
    priority_levels: Annotated[int, Field(ge=0, le=MAX_PRIORITY_LEVELS)] = 0
    default_priority_level: Annotated[int, Field(ge=0)] = 0
    priority_queue_policy: dict[int, QueuePolicy] = Field(default_factory=dict)
    default_queue_policy: QueuePolicy = QueuePolicy()

    @model_validator(mode="after")
    def _levels_agree(self) -> Self:
        if self.priority_levels and not 1 <= self.default_priority_level <= self.priority_levels:
            raise ValueError(
                f"default_priority_level must be 1 to {self.priority_levels}, "
                f"got {self.default_priority_level}"
            )
        for level in self.priority_queue_policy:
            if not 1 <= level <= self.priority_levels:
                raise ValueError(f"priority_queue_policy names level {level} of none such")
        return self

    def policy(self, level: int) -> QueuePolicy:
        """The queue policy of priority `level` (1 is the highest)."""
        return self.priority_queue_policy.get(level, self.default_queue_policy)


class Latest(_Part):
    """The greatest `num_versions`; 0 is one."""

    num_versions: Annotated[int, Field(ge=0)] = 1


class Specific(_Part):
    """Those that are listed, where they are there."""

    versions: tuple[int, ...] = ()


class VersionPolicy(_Part):
    """Which versions of a model are served: exactly one of the three."""

    latest: Latest | None = None
    all: dict[str, Any] | None = None
    specific: Specific | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [name for name in ("latest", "all", "specific") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"version_policy needs one of latest, all, specific; got {given}")
        return self

    def choose(self, versions: Sequence[int]) -> list[int]:
        """Those of `versions` to serve, ascending."""
        ordered = sorted(versions)
        if self.specific is not None:
            return [version for version in ordered if version in self.specific.versions]
        if self.latest is not None:
            return ordered[-max(self.latest.num_versions, 1) :]
        return ordered


class StringParameter(_Part):
    """A parameter's value, which is always text."""

    string_value: str = ""


class TransactionPolicy(_Part):
    """`decoupled` models answer a request any number of times: read, and refused."""

    decoupled: bool = False


class CachePolicy(_Part):
    """Whether answers are kept for requests that come again."""

    enable: bool = False


class WarmupInput(_Part):
    """What a warm-up request holds in one input; exactly one of the three sources is given.

    `input_data_file` names a file in the directory `warmup` beside the configuration.
    """

    data_type: str = "TYPE_INVALID"
    dims: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(max_length=16)] = ()
    zero_data: bool | None = Field(default=None, exclude_if=lambda value: value is None)
    random_data: bool | None = Field(default=None, exclude_if=lambda value: value is None)
    input_data_file: PlainName | None = Field(default=None, exclude_if=lambda value: value is None)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = (bool(self.zero_data), bool(self.random_data), bool(self.input_data_file))
        if sum(given) != 1:
            raise ValueError("needs one of zero_data, random_data, input_data_file")
        return self


class Warmup(_Part):
    """A request that is run `count` times (0 is once) before the version serves.

    `batch_size` is that of the request; 0 for a model that does not batch.
    """

    name: str = ""
    batch_size: Annotated[int, Field(ge=0)] = 0
    inputs: dict[str, WarmupInput] = Field(default_factory=dict)
    count: Annotated[int, Field(ge=0, le=MAX_WARMUP_RUNS)] = 0


_Object: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])


def first_problem(error: ValidationError) -> tuple[str, str, str]:
    """Of all that pydantic found the first: the field's path, what is wrong, pydantic's word."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = ".".join(str(part) for part in first["loc"])
    return path, first["msg"].removeprefix("Value error, "), first["type"]


def nearest(name: str, known: Iterable[str]) -> str:
    """The one of `known` that `name` is most likely meant to be, in whatever case; "" for none."""
    by_case = {one.casefold(): one for one in known}
    return next((by_case[one] for one in get_close_matches(name.casefold(), by_case, 1, _NEAR)), "")


class ModelConfig(_Part):
    """Configuration of one model, as stored (parts may be missing) or completed from the graph.

    `max_batch_size` is None where a stored configuration leaves it out; a completed one, as a
    `LoadedModel` holds it, always has a number.
    """

    name: str = ""
    platform: str = ""
    backend: str = ""
    version_policy: VersionPolicy = VersionPolicy(latest=Latest())
    max_batch_size: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    input: tuple[InputConfig, ...] = ()
    output: tuple[OutputConfig, ...] = ()
    batch_input: tuple[dict[str, Any], ...] = ()
    batch_output: tuple[dict[str, Any], ...] = ()
    instance_group: tuple[InstanceGroup, ...] = ()
    default_model_filename: PlainName = ""
    dynamic_batching: DynamicBatching | None = None
    sequence_batching: dict[str, Any] | None = None
    ensemble_scheduling: dict[str, Any] | None = None
    parameters: dict[str, StringParameter] = Field(default_factory=dict)
    model_warmup: tuple[Warmup, ...] = ()
    model_transaction_policy: TransactionPolicy = TransactionPolicy()
    response_cache: CachePolicy = CachePolicy()

    @classmethod
    def parse(cls, data: Mapping[str, Any] | str | bytes) -> Self:
        """A configuration from JSON text or from an object of that shape.

        Raises:
            LoadFailed: It is not JSON, a field is unusable, or the name of one is nearly that of a
                known one; the message names the field.
        """
        try:
            if isinstance(data, (str, bytes)):
                data = _Object.validate_json(data)
            config = cls.model_validate(data)
            _refuse_misspelt(data, cls)
            return config
        except ValidationError as error:
            path, text, _ = first_problem(error)
            where = f"{path}: " if path else ""
            raise LoadFailed(f"configuration: {where}{text}") from error

    def refuse_unsupported(self) -> None:
        """Raises `LoadFailed` for what this server does not run, saying which and why."""
        for key, offered in _NOT_OFFERED.items():
            if getattr(self, key) is not None:
                raise LoadFailed(f"{key} is not supported: {offered}")
        if self.backend not in ("", "onnxruntime"):
            raise LoadFailed(f"backend '{self.backend[:64]}' is not supported: only onnxruntime is")
        if self.platform not in ("", "onnxruntime_onnx"):
            raise LoadFailed(
                f"platform '{self.platform[:64]}' is not supported: only onnxruntime_onnx is"
            )
        if self.batch_input or self.batch_output:
            raise LoadFailed("batch_input and batch_output are not supported")
        if self.model_transaction_policy.decoupled:
            raise LoadFailed("a decoupled model_transaction_policy is not supported")
        reshaped = [i.name for i in self.input if i.reshape is not None]
        reshaped += [o.name for o in self.output if o.reshape is not None]
        if reshaped:
            raise LoadFailed(f"'{reshaped[0]}': reshape is not supported; export the final shape")
        ragged = [i.name for i in self.input if i.allow_ragged_batch]
        if ragged:
            raise LoadFailed(f"input '{ragged[0]}': allow_ragged_batch is not supported")

    @property
    def instances(self) -> int:
        """Runs at a time: the sum over the instance groups, at least 1."""
        return max(sum(group.count for group in self.instance_group), 1)

    def threads_per_run(self, default: int) -> int:
        """Threads inside one run: the parameter `intra_op_thread_count`, or `default`."""
        own = self.parameters.get(THREADS, StringParameter()).string_value
        return int(own) if own.isdecimal() else default

    def as_json(self) -> dict[str, Any]:
        """The configuration as the protocol's JSON object; schedulers that are off are absent."""
        data = self.model_dump(mode="json")
        for key in ("dynamic_batching", "sequence_batching", "ensemble_scheduling"):
            if data[key] is None:
                del data[key]
        data["version_policy"] = {
            key: value for key, value in data["version_policy"].items() if value is not None
        }
        data["max_batch_size"] = self.max_batch_size or 0
        return data


_NOT_OFFERED = {
    "sequence_batching": "requests are independent of one another here",
    "ensemble_scheduling": "call the models of the ensemble one after another",
}


def _refuse_misspelt(data: Mapping[str, Any], kind: type[BaseModel]) -> None:
    for name, value in data.items():
        if name not in kind.model_fields:
            if near := nearest(name, kind.model_fields):
                raise LoadFailed(
                    f"configuration: unknown field '{name[:64]}'; "
                    f"the nearest known name is '{near}'"
                )
        elif name == "dynamic_batching" and isinstance(value, Mapping):
            _refuse_misspelt(value, DynamicBatching)
