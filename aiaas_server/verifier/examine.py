"""Looks at a bundle from its bytes to its golden set, as a server that serves it would."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import onnx
from pydantic_core import from_json

from aiaas_client.protocol import management
from aiaas_client.protocol.management import CARD_FILE, GOLDEN_FILE, MODEL_FILE, Report
from aiaas_client.protocol.texts import decode_text
from aiaas_server.core.describe.bundle import Bundles
from aiaas_server.core.describe.card import Assets, Card, read_card
from aiaas_server.core.describe.config import ModelConfig
from aiaas_server.core.errors import InvalidInput, LoadFailed, ModelNotFound, Rejected, ServerError
from aiaas_server.core.model import LoadedModel
from aiaas_server.core.pool.memory import resident_bytes
from aiaas_server.core.pool.pool import ModelPool
from aiaas_server.core.predict import Predictor
from aiaas_server.core.session import Session
from aiaas_server.core.signature import TensorSpec
from aiaas_server.core.task import is_looping
from aiaas_server.generate import open_generator
from aiaas_server.registry.verification.golden import Golden, read_golden
from aiaas_server.registry.verification.structure import Structure
from aiaas_server.registry.verification.structure import examine as look_through
from aiaas_server.registry.verification.verdict import Order, Phase, Verified
from aiaas_server.repository.one_bundle import VERSION, OneBundle
from aiaas_server.runtimes.limits import refuse_unusable
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.runtimes.reasons import clean
from aiaas_server.runtimes.wire import read_model
from aiaas_server.settings import Settings
from aiaas_server.tasks import Tasks
from aiaas_server.tasks.task import read_labels
from aiaas_server.verifier.golden_runs import run_golden
from aiaas_server.verifier.made_up import payloads, run_once, short_params
from aiaas_server.verifier.self_contained import self_contained
from aiaas_server.verifier.witness import Witness

_MAX_CARD: Final = 1 << 20  # bytes
_HUGE: Final = 2**31 - 1  # bytes: a protobuf message cannot be larger
_LONG: Final = 3600.0  # seconds: the process itself ends much sooner
_LEFT_OUT: Final = "left out: "

Tell = Callable[[Phase], None]


def examine(order: Order, tell: Tell) -> Verified:
    """Verify the bundle of an order.

    Args:
        tell: Is called with what comes next.
    Raises:
        Rejected, LoadFailed: It is not fit to be served; the message is one line.
    """
    tell("read")
    files = _Files(Path(order.directory), order.digests)
    card, document = _card(files)
    golden = _golden(files)
    files.hold_against(card)
    structure, nodes = None, 0
    siblings: tuple[str, ...] = ()
    if card is None or not card.steps:
        declared = _declared(order, card)
        structure, nodes = _looked_through(files, MODEL_FILE, declared, tell)
        second = "" if card is None else (card.generation or {}).get("with_past")
        if isinstance(second, str) and second:
            siblings += _looked_through(files, second, declared, tell)[0].siblings
    repository = OneBundle(
        files.directory, order.name, siblings + (structure.siblings if structure else ())
    )
    opening = _Opening(order, tell)
    bundles = Bundles(repository.read_beside, Tasks().open, open_generator)
    settings = Settings(
        intra_op_threads=order.threads, instances=1, generate_slots=1, generate_prefix_bytes=0
    )
    pool = ModelPool(repository, opening.open, settings, (), bundles)
    tell("load")
    serving = _Serving(pool, order.name, card, files)
    asyncio.run(serving.verify(golden, tell))
    model, result = serving.model, serving.golden
    return Verified(
        report=Report(
            opset=structure.opset if structure is not None else {},
            ir_version=structure.ir_version if structure is not None else 0,
            nodes=nodes,
            providers=list(model.providers),
            load_seconds=round(opening.seconds, 6),
            warmup_seconds=round(serving.seconds, 6),
            memory_bytes=opening.grown + serving.grown,
            golden=result,
        ),
        inputs=[_spec(spec) for spec in model.signature.inputs],
        outputs=[_spec(spec) for spec in model.signature.outputs],
        card=document,
        metrics={**(card.metrics if card is not None else {}), **_metric(result)},
        profile=serving.profile,
    )


class _Files:
    """The files of the bundle, and their digests."""

    def __init__(self, directory: Path, digests: Mapping[str, str]) -> None:
        self.directory = directory
        self._digests = dict(digests)

    def read(self, name: str, most: int) -> bytes | None:
        """The bytes of a file; None where there is none."""
        path = self.directory / name
        try:
            size = path.stat().st_size
            if size > most:
                raise Rejected(f"{name}: expected at most {most} bytes, got {size}")
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Rejected(f"{name} cannot be read: {error.strerror}") from None

    def look(self, name: str) -> tuple[int, str] | None:
        """Size and SHA-256 of a file; None where there is none of that plain name."""
        path = self.directory / name
        if name in ("", ".", "..") or set(name) & set("/\\\0") or not path.is_file():
            return None
        if name not in self._digests:
            with path.open("rb") as file:
                self._digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
        return path.stat().st_size, self._digests[name].lower()

    def hold_against(self, card: Card | None) -> None:
        """Raises `Rejected` where a file is missing or another than the card declares."""
        for name, expected in (card.assets if card is not None else {}).items():
            found = self.look(name)
            if found is None:
                raise Rejected(f"{CARD_FILE}: asset '{name[:64]}' is not in the bundle")
            if expected and found[1] != expected.lower():
                raise Rejected(
                    f"file '{name[:64]}': expected sha256 {expected[:64]}, got {found[1]}"
                )


def _card(files: _Files) -> tuple[Card | None, dict[str, Any] | None]:
    content = files.read(CARD_FILE, _MAX_CARD)
    if content is None:
        return None, None
    card = read_card(content)
    document: dict[str, Any] = from_json(decode_text(content))
    return card, document


def _golden(files: _Files) -> Golden | None:
    content = files.read(GOLDEN_FILE, _HUGE)
    return None if content is None else read_golden(content)


def _declared(order: Order, card: Card | None) -> dict[str, str]:
    """Digests by file: whoever brought the bundle announced them, or the card tells them."""
    told = {} if card is None else {name: digest for name, digest in card.assets.items() if digest}
    return {**order.digests, **told}


def _looked_through(
    files: _Files, name: str, declared: Mapping[str, str], tell: Tell
) -> tuple[Structure, int]:
    """Everything that is known of a model file without running it, and its nodes expanded."""
    in_bundle = name == MODEL_FILE or files.look(name) is not None  # a card may name any place
    content = files.read(name, _HUGE) if in_bundle else None
    if content is None:
        raise Rejected(f"the bundle has no file '{name[:64]}'")
    structure = look_through(content, files.look, declared)
    # Before the checker, which follows functions wherever they lead.
    nodes = refuse_unusable(read_model(content))
    tell("check")
    if structure.siblings:
        content = self_contained(content, files.directory)
    try:
        onnx.checker.check_model(content, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise Rejected(f"ONNX's checker refuses the model: {clean(_first_line(error))}") from None
    except (RuntimeError, ValueError) as error:
        raise Rejected(f"ONNX's checker fails on the model: {clean(_first_line(error))}") from None
    return structure, nodes


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n\n", 1)[0]


class _Opening:
    """Opens the model file, and remembers how long that took and what it grew by."""

    def __init__(self, order: Order, tell: Tell) -> None:
        self.seconds = 0.0
        self.grown = 0
        self._open = partial(
            open_session, providers=order.providers, intra_op_threads=order.threads
        )
        self._tell = tell

    def open(self, model: Path | bytes, config: ModelConfig) -> Session:
        """See `core.session.OpenSession`; an output that cannot be served is refused here."""
        before, began = resident_bytes(), time.monotonic()
        session = self._open(model, config)
        self.seconds = time.monotonic() - began
        self.grown = max(resident_bytes() - before, 0)
        for change in session.graph.changes:
            if change.startswith(_LEFT_OUT):
                raise LoadFailed(change.removeprefix(_LEFT_OUT))
        self._tell("run")
        return session


class _Serving:
    """The bundle as a server would serve it.

    Attributes:
        model: Once it is verified.
        seconds: Of one run on made-up input, 0 where it took none; it grew by `grown` bytes.
        golden: What came of the golden set.
        profile: The reference that it makes.
    """

    def __init__(self, pool: ModelPool, name: str, card: Card | None, files: _Files) -> None:
        self._pool = pool
        self._name = name
        self._card = card
        self._files = files
        self.model: LoadedModel
        self.seconds = 0.0
        self.grown = 0
        self.golden: dict[str, Any] = {}
        self.profile: dict[str, Any] | None = None

    async def verify(self, golden: Golden | None, tell: Tell) -> None:
        """Load it; run it, its task and its golden set. Raises `Rejected`."""
        deadline = asyncio.get_running_loop().time() + _LONG
        try:
            self.model = model = await _loaded(self._pool, self._name)
            if model.signature.outputs:
                before = resident_bytes()
                self.seconds = await asyncio.to_thread(run_once, model.session, model.signature)
                self.grown = max(resident_bytes() - before, 0)
            predictor = Predictor(self._pool.obtain)
            if self._card is not None:
                tell("task")
                await _tried(model, self._card, predictor, deadline)
            if golden is not None:
                tell("golden")
                model.scheduler.tap = witness = Witness(model)
                self.golden = await run_golden(golden, model, predictor, self._labels(), deadline)
                self.profile = witness.profile()
        finally:
            await self._pool.close()

    def _labels(self) -> tuple[str, ...]:
        if self._card is None:
            return ()
        directory = self._files.directory
        return read_labels(self._card, Assets(lambda name: (directory / name).read_bytes(), {}))


async def _loaded(pool: ModelPool, name: str) -> LoadedModel:
    try:
        await pool.load(name)
    except LoadFailed as error:
        reason = error.message.removeprefix(f"failed to load '{name}', version {VERSION}: ")
        raise Rejected(reason) from None
    model = pool.find(name)
    assert model is not None, "it was loaded"
    return model


async def _tried(model: LoadedModel, card: Card, predictor: Predictor, deadline: float) -> None:
    """Predict something made up.

    What the task refuses says nothing against it, nor do models that it wants and are not here.
    """
    assert model.task is not None, "it has a card"
    if card.steps:
        return
    try:
        tried, params = payloads(model.task.input), short_params(model.task.params)
        answers = await predictor.predict(model, tried, params, deadline)
    except (InvalidInput, ModelNotFound):
        return
    except ServerError:
        if is_looping(model.task):
            return
        raise
    except Exception as error:
        raise Rejected(
            f"task '{card.task[:64]}' fails on made-up input: {type(error).__name__}: "
            f"{clean(str(error))}"
        ) from None
    for answer in answers:
        if isinstance(answer, ServerError) and not isinstance(answer, InvalidInput):
            raise Rejected(f"task '{card.task[:64]}' fails on made-up input: {answer.message}")


def _metric(result: Mapping[str, Any]) -> dict[str, Any]:
    return {f"golden_{result['metric']}": result["value"]} if "metric" in result else {}


def _spec(spec: TensorSpec) -> management.TensorSpec:
    return management.TensorSpec(name=spec.name, datatype=spec.datatype, shape=list(spec.shape))
