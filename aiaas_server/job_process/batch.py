"""A job that answers a file of OpenAI calls, a line each: what `/v1/batches` asks for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

from aiaas_client.protocol.jobs import BatchSpec, read_model_ref
from aiaas_server.core.errors import InvalidInput, ModelNotFound, ServerError
from aiaas_server.http.errors import problem_of
from aiaas_server.http.openai.embeddings import (
    EmbeddingCall,
    check_task,
    read_call,
    vectors_of,
    with_usage,
    write_entries,
)
from aiaas_server.http.openai.errors import for_path
from aiaas_server.job_process.pace import Pace
from aiaas_server.job_process.served import Served
from aiaas_server.jobs.lines import Line, raw_lines, read_lines
from aiaas_server.jobs.orders import OUT, Order, Product
from aiaas_server.jobs.recipes.recipe import Watch
from aiaas_server.settings import Settings

OUTPUT: Final = "output.jsonl"
ERRORS: Final = "errors.jsonl"
_TOGETHER: Final = 64  # lines whose inputs are run together


class Done(NamedTuple):
    """How far it has come: lines, and bytes of either file."""

    lines: int = 0
    failed: int = 0
    output: int = 0
    errors: int = 0


def run(order: Order, watch: Watch) -> Product:
    """Answer each line once, in order; errors go to a file of their own.

    Raises:
        InvalidInput: The file has no line.
    """
    spec = BatchSpec.model_validate(order.spec)
    path = Path(order.files[spec.file])
    watch.phase("reading")
    total = sum(1 for _ in raw_lines(path))
    if not total:
        raise InvalidInput("the file has no line: expected a call on each")
    watch.phase("answering")
    with ExitStack() as stack:
        versions = Versions(spec, order, stack)
        files = stack.enter_context(Files(watch))
        lines = islice(read_lines(path, spec.endpoint), files.done.lines, None)
        while part := list(islice(lines, _TOGETHER)):
            files.write(_answered(part, versions, spec.endpoint, order.job))
            done = files.done
            told = {"completed": float(done.lines - done.failed), "failed": float(done.failed)}
            watch.progress(done.lines, total, "lines", metrics=told)
        done = files.done
    counts = {"total": total, "completed": total - done.failed, "failed": done.failed}
    kept = {name: f"{OUT}/{name}" for name, size in _sizes(done) if size}
    return Product(files=kept, metrics=counts)


def _sizes(done: Done) -> list[tuple[str, int]]:
    return [(OUTPUT, done.output), (ERRORS, done.errors)]


class Versions:
    """The versions that lines call, loaded when the first one does."""

    def __init__(self, spec: BatchSpec, order: Order, stack: ExitStack) -> None:
        self._spec, self._order, self._stack = spec, order, stack
        self._loaded: dict[str, Served] = {}

    def find(self, name: str) -> Served:
        """By the name that a line calls.

        Raises:
            ModelNotFound: There is none of that name.
            InvalidInput: It makes no embeddings.
        """
        ref = self._ref(name)
        if ref is None:
            raise ModelNotFound(f"model '{name[:64]}' is not found")
        if ref not in self._loaded:
            served = Served(Path(self._order.versions[ref].path), self._order.threads)
            self._stack.callback(served.close)
            self._loaded[ref] = served
        check_task(self._loaded[ref].model, name)
        return self._loaded[ref]

    def _ref(self, name: str) -> str | None:
        known = self._spec.called.get(name)
        if known is not None or name in self._spec.models:
            return known or name
        return next((ref for ref in self._spec.models if read_model_ref(ref)[0] == name), None)


class Files:
    """Both files that are written, with checkpoints.

    A checkpoint is `Done` as a line of JSON, and behind it the bytes of both files.
    """

    def __init__(self, watch: Watch) -> None:
        self.done = Done()
        self._watch = watch
        self._pace = Pace()
        directory = Path(OUT)
        directory.mkdir(exist_ok=True)
        self._output = (directory / OUTPUT).open("w+b")
        self._errors = (directory / ERRORS).open("w+b")
        if watch.restored is not None:
            self._restore(watch.restored)

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *_: object) -> None:
        self._output.close()
        self._errors.close()

    def write(self, answers: Sequence[tuple[bool, bytes]]) -> None:
        """A line for each call: whether it went well, and what is told of it."""
        for well, line in answers:
            (self._output if well else self._errors).write(line + b"\n")
        failed = self.done.failed + sum(not well for well, _ in answers)
        lines = self.done.lines + len(answers)
        self.done = Done(lines, failed, self._output.tell(), self._errors.tell())
        if self._pace.is_due:
            self._pace.write(lambda: self._watch.checkpoint(self.done.lines, self._save))

    def _save(self, path: Path) -> None:
        with path.open("wb") as target:
            target.write(json.dumps(self.done).encode() + b"\n")
            for file in (self._output, self._errors):
                file.seek(0)
                shutil.copyfileobj(file, target)

    def _restore(self, path: Path) -> None:
        with path.open("rb") as source:
            self.done = Done(*json.loads(source.readline()))
            _copy(source, self._output, self.done.output)
            _copy(source, self._errors, self.done.errors)
        self._watch.log(f"going on after {self.done.lines} lines")


def _copy(source: BinaryIO, target: BinaryIO, size: int) -> None:
    while size:
        piece = source.read(min(size, 1 << 20))
        assert piece, "a checkpoint is whole"
        target.write(piece)
        size -= len(piece)


def _answered(
    lines: Sequence[Line], versions: Versions, endpoint: str, job: str
) -> list[tuple[bool, bytes]]:
    """What each line is told, in order."""
    told: dict[int, tuple[bool, bytes]] = {}
    calls: dict[str, list[tuple[Line, EmbeddingCall]]] = {}
    for line in lines:
        if line.wrong is not None:
            told[line.number] = False, _unreadable(line, job)
            continue
        try:
            call = read_call(line.body, Settings().max_instances)
        except ServerError as error:
            told[line.number] = False, _failed(line, error, endpoint, job)
        else:
            same = f"{call.model} {json.dumps(call.params, sort_keys=True)}"
            calls.setdefault(same, []).append((line, call))
    for several in calls.values():
        for line, found in _together(several, versions):
            if isinstance(found, ServerError):
                told[line.number] = False, _failed(line, found, endpoint, job)
            else:
                told[line.number] = True, _well(line, found, job)
    return [told[line.number] for line in lines]


def _together(
    calls: Sequence[tuple[Line, EmbeddingCall]], versions: Versions
) -> Iterator[tuple[Line, bytes | ServerError]]:
    """Calls of one model with the same params, run as one."""
    first = calls[0][1]
    payloads = [payload for _, call in calls for payload in call.payloads]
    try:
        found = versions.find(first.model).predict(payloads, first.params)
    except (InvalidInput, ModelNotFound) as error:  # of the model or the params, so of all
        yield from ((line, error) for line, _ in calls)
        return
    start = 0
    for line, call in calls:
        answers = found[start : start + len(call.payloads)]
        start += len(call.payloads)
        try:
            vectors = vectors_of(answers)
        except ServerError as error:
            yield line, error
        else:
            entries = write_entries(call.encoding, list(enumerate(vectors)))
            yield line, with_usage(call, vectors, entries)


def _well(line: Line, body: bytes, job: str) -> bytes:
    answer = b'{"status_code": 200, "request_id": %s, "body": %s}'
    return _told(line, job, answer % (json.dumps(_id(line, job)).encode(), body), None)


def _failed(line: Line, error: ServerError, endpoint: str, job: str) -> bytes:
    """A call that was read, and answered by an error as the route would tell it."""
    problem = for_path(problem_of(error), endpoint)
    answer = b'{"status_code": %d, "request_id": %s, "body": %s}'
    ident = _id(line, job)
    values = problem.status, json.dumps(ident).encode(), problem.body(ident)
    return _told(line, job, answer % values, None)


def _unreadable(line: Line, job: str) -> bytes:
    assert line.wrong is not None, "it cannot be read"
    code, message = line.wrong
    return _told(line, job, b"null", {"code": code, "message": message})


def _told(line: Line, job: str, response: bytes, error: dict[str, Any] | None) -> bytes:
    values = [json.dumps(value).encode() for value in (_id(line, job), line.custom_id, error)]
    form = b'{"id": %s, "custom_id": %s, "response": %s, "error": %s}'
    return form % (values[0], values[1], response, values[2])


def _id(line: Line, job: str) -> str:
    return f"batch_req_{job}_{line.number}"
