"""What a fake server knows: models, tasks, faults to come, and the requests that came."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic import BaseModel

from aiaas_client.protocol.inference import InferRequest
from aiaas_client.testing.fake_model import FakeModel
from aiaas_client.testing.limits import FakeLimit

TaskFunction = Callable[..., "BaseModel | Mapping[str, Any]"]
GeneratorFunction = Callable[..., Iterable[Mapping[str, Any]]]
WriterFunction = Callable[..., str | Iterable[str] | Mapping[str, Any]]
HearerFunction = Callable[..., "str | BaseModel | Mapping[str, Any]"]


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """One request as it arrived; `infer` is its decoded body when it was an inference."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    infer: InferRequest | None = None
    query: Mapping[str, str] = field(default_factory=dict)

    @property
    def binary(self) -> bool:
        """Whether the body carried binary tensors."""
        return "inference-header-content-length" in self.headers


class Answer(NamedTuple):
    status: int
    body: bytes
    headers: Sequence[tuple[str, str]] = ()
    events: Iterator[bytes] | None = None  # a stream, in place of the body


@dataclass(slots=True)
class Fault:
    """What happens to the next `times` requests whose path contains `path`."""

    path: str
    times: int
    before: Callable[[], None] | None = None
    alter: Callable[[bytes], bytes] | None = None
    instead: Answer | None = None
    drop: bool = False
    cut: int | None = None


@dataclass(frozen=True, slots=True)
class FakeTask:
    """A function of one payload, and the task whose predictions it gives."""

    function: TaskFunction
    task: str
    kind: str


@dataclass(slots=True)
class State:
    models: dict[str, FakeModel] = field(default_factory=dict)
    tasks: dict[str, FakeTask] = field(default_factory=dict)
    generators: dict[str, GeneratorFunction] = field(default_factory=dict)
    writers: dict[str, WriterFunction] = field(default_factory=dict)
    hearers: dict[str, HearerFunction] = field(default_factory=dict)
    limit: FakeLimit | None = None
    faults: deque[Fault] = field(default_factory=deque)
    requests: list[RecordedRequest] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)
    extensions: tuple[str, ...] = ("binary_tensor_data", "model_repository", "statistics")
    api_key: str = ""
    ready: bool = True
