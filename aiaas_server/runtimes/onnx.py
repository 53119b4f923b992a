"""Opens ONNX models in onnxruntime; this package is the only place that imports it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import onnxruntime as ort

from aiaas_server.core.describe.config import ModelConfig
from aiaas_server.core.errors import LoadFailed
from aiaas_server.runtimes.bound import BoundRuns
from aiaas_server.runtimes.devices import (
    device_id,
    load_libraries,
    uses_gpu,
    wants_binding,
    wants_graphs,
    with_device,
)
from aiaas_server.runtimes.facts import look_into
from aiaas_server.runtimes.options import arena_of, holds, session_options, wants_arena
from aiaas_server.runtimes.probe import gives_back, startable
from aiaas_server.runtimes.providers import (
    CUDA,
    choose_providers,
    refuse_fallback,
    wanted,
    who_asked,
)
from aiaas_server.runtimes.reasons import clean
from aiaas_server.runtimes.recorded import RecordedRuns
from aiaas_server.runtimes.session import OnnxSession

_MEMORY_ADDRESSES: Final = (b"_ORT_MEM_ADDR_", b"_ORT_NATIVE_ENDIAN_MEM_ADDR_")


def open_session(
    model: Path | bytes,
    config: ModelConfig | None = None,
    *,
    providers: Sequence[str] = ("auto",),
    intra_op_threads: int = 1,
    io_binding: bool | None = None,
) -> OnnxSession:
    """Load an ONNX model.

    Weights in further files are read only from the model's own directory.

    Args:
        model: The file, or its bytes when it has no further files.
        config: Its instance group may ask for a kind of device.
        providers: Execution providers in order; see `choose_providers`.
        intra_op_threads: Threads inside one run.
        io_binding: Bind inputs and outputs to the device; None is what the configuration's
            parameter `io_binding` says, else small ones where the device is a GPU.
    Raises:
        LoadFailed: The model is damaged, uses what the runtime lacks, or a provider that was
            named is missing, or its graph is not fit to be served; one line, free of paths.
    """
    config = config or ModelConfig()
    asked = wanted(providers, config)
    chosen = choose_providers(asked, startable(asked), because=who_asked(providers, config))
    if holds(model, _MEMORY_ADDRESSES):
        # A location with these marks makes the runtime read weights from any address it names.
        raise LoadFailed("the model names a memory address as the place of its weights")
    facts, source, refuses_empty = look_into(model)
    arena = wants_arena(model)
    on_gpu = uses_gpu(chosen)
    binds = wants_binding(config) if io_binding is None else io_binding
    directory = None if isinstance(model, bytes) else model.parent
    try:
        if on_gpu:
            load_libraries()
        session = ort.InferenceSession(
            source if isinstance(source, bytes) else str(source),
            session_options(config, intra_op_threads, arena=arena, directory=directory),
            providers=[with_device(name, config) for name in chosen],
            enable_fallback=0,  # it would print of every failure and load again
        )
    except Exception as error:  # onnxruntime's errors share no base class below Exception
        raise LoadFailed(clean(str(error))) from error
    refuse_fallback(chosen, session.get_providers())
    number = device_id(config) if on_gpu else 0
    recorded = None
    if wants_graphs(config):
        recorded = RecordedRuns(session, "cuda" if on_gpu else "cpu", number)
    # A recorded graph is replayed over the arena's memory, which must stay.
    shrinks = CUDA in chosen and recorded is None and gives_back(CUDA, f"gpu:{number}")
    may_bind = recorded is None and (on_gpu if binds is None else binds)
    try:
        return OnnxSession(
            session,
            bound=BoundRuns(session, always=bool(binds)) if may_bind else None,
            recorded=recorded,
            arena=arena_of(on_cpu=arena, gpu=number if shrinks else None),
            facts=facts,
            refuses_empty=refuses_empty,
        )
    except UnicodeDecodeError as error:
        raise LoadFailed("a name or a text in the model is not UTF-8") from error
