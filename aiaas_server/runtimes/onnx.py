"""onnxruntime behind `core.session.Session`: the only place that imports it."""

from __future__ import annotations

import logging
import mmap
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.config import ModelConfig, StringParameter
from aiaas_server.core.errors import (
    DeadlineExceeded,
    InferenceFailed,
    InvalidInput,
    LoadFailed,
    ModelUnavailable,
    ServerError,
)
from aiaas_server.core.session import StopToken
from aiaas_server.core.signature import TensorSpec

from .reasons import explain

_log = logging.getLogger("aiaas.server")

CPU: Final = "CPUExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
TENSORRT: Final = "TensorrtExecutionProvider"
PROVIDERS: Final = {
    "cpu": CPU,
    "cuda": CUDA,
    "tensorrt": TENSORRT,
    "openvino": "OpenVINOExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
    "rocm": "ROCMExecutionProvider",
}
"""Short names of execution providers; onnxruntime's own spelling is accepted as well."""

_DATATYPES: Final = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}
# How a node's `op_type` is written in the file: field 4, its length, the name. Weights may hold
# the same bytes by chance; such a model just never runs on the event loop.
_LOOPS: Final = tuple(
    bytes([4 << 3 | 2, len(name)]) + name for name in (b"Loop", b"Scan", b"If", b"SequenceMap")
)
_MEMORY_ADDRESSES: Final = (b"_ORT_MEM_ADDR_", b"_ORT_NATIVE_ENDIAN_MEM_ADDR_")
_SMALL_RUN: Final = 64 * 1024  # input bytes of runs whose memory is not worth giving back
# A quarter of a convolutional batch's time, see `Arena`; a tiny model gains nothing from it, and
# a thousand of them would take a gigabyte, since an arena begins with one megabyte.
_ARENA_FROM: Final = 1 << 20
# The key under which a weight names its file. A small model that calls something else so has an
# arena for nothing.
_FURTHER_FILES: Final = (b"location",)
_MAX_REASON: Final = 300
_MAX_LOGGED: Final = 1024


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
        io_binding: Bind outputs to the device; None does so where the device is CUDA.
    Raises:
        LoadFailed: The model is damaged, uses what the runtime lacks, or a provider that was
            named is missing; one line, free of paths.
    """
    config = config or ModelConfig()
    chosen = choose_providers(_wanted(providers, config), ort.get_available_providers())
    if _holds(model, _MEMORY_ADDRESSES):
        # A location with these marks makes the runtime read weights from any address it names.
        raise LoadFailed("the model names a memory address as the place of its weights")
    loops = _holds(model, _LOOPS)
    try:
        arena = wants_arena(model)
        session = ort.InferenceSession(
            model if isinstance(model, bytes) else str(model),
            _options(config, intra_op_threads, arena=arena),
            providers=[_with_device(name, config) for name in chosen],
        )
    except Exception as error:  # onnxruntime's errors share no base class below Exception
        raise LoadFailed(clean(str(error))) from error
    _refuse_fallback(chosen, session.get_providers())
    if wants_graphs(config):
        device = "cuda" if CUDA in chosen or TENSORRT in chosen else "cpu"
        return OnnxSession(
            session,
            bound=False,
            arena=arena,
            recorded=RecordedRuns(session, device),
            has_loops=loops,
        )
    on_gpu = CUDA in chosen or TENSORRT in chosen
    bound = on_gpu if io_binding is None else io_binding
    return OnnxSession(session, bound=bound, arena=arena, has_loops=loops)


def choose_providers(asked: Sequence[str], available: Sequence[str]) -> list[str]:
    """onnxruntime's names of the providers to use, in order; the CPU's always last.

    Args:
        asked: `auto` (CUDA if there is one), a short name of `PROVIDERS`, or a full name.
    Raises:
        LoadFailed: One was named and is not available; the message lists what is.
    """
    chosen: list[str] = []
    for name in asked:
        if name == "auto":
            chosen += [CUDA] if CUDA in available else []
            continue
        full = PROVIDERS.get(name.lower(), name)
        if full not in available:
            raise LoadFailed(
                f"execution provider '{name}' is not available; there are: {', '.join(available)}"
            )
        chosen.append(full)
        if full == TENSORRT and CUDA in available:
            chosen.append(CUDA)  # what TensorRT has no kernel for is better off there
    return [*dict.fromkeys(name for name in chosen if name != CPU), CPU]


def clean(text: str) -> str:
    """A runtime message fit for a caller: one line, no paths, no source places, not long."""
    line = " ".join(text.split())
    line = re.sub(r"^(\[ONNXRuntimeError\] : \d+ : \w+ : )", "", line)
    line = re.sub(r"Load model from \S+ failed: ?", "", line)
    line = re.sub(r"\S+\.(?:cc|h|cpp|cu):\d+ ", "", line)
    line = re.sub(r"(?<![\w.])(?:[A-Za-z]:\\|\.{0,2}/)[^\s\"':,)]+", "<path>", line)
    return line[:_MAX_REASON] or "the runtime gave no reason"


class Arena:
    """Decides which runs give the session's arena back to the system.

    The arena keeps what a run took for the next one, which saves a quarter of the time of large
    batches, and keeps the most that any run ever took. So a run gives it back where the largest
    one since then was far from typical: after a single huge request, and once large ones stop.
    """

    __slots__ = ("_largest", "_typical")

    def __init__(self) -> None:
        self._largest = 0
        self._typical = 0.0

    def options(
        self, inputs: Mapping[str, Array], options: ort.RunOptions | None
    ) -> ort.RunOptions | None:
        """The options of a run on `inputs`, made from `options`; None is the default ones."""
        size = 0
        for array in inputs.values():
            size += array.nbytes
        self._typical += (size - self._typical) / 8
        if size > self._largest:
            self._largest = size
        if self._largest < _SMALL_RUN or self._largest < 4 * self._typical:
            return options
        self._largest = 0
        options = options or ort.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        return options


class OnnxSession:
    """One `InferenceSession`, shared by threads; see `core.session.Session`."""

    def __init__(
        self,
        session: ort.InferenceSession,
        *,
        bound: bool,
        arena: bool = True,
        recorded: RecordedRuns | None = None,
        has_loops: bool = False,
    ) -> None:
        self.has_loops = has_loops
        self.inputs = tuple(_spec(arg, "input") for arg in session.get_inputs())
        self.outputs = tuple(_spec(arg, "output") for arg in session.get_outputs())
        self.providers = tuple(session.get_providers())
        self.metadata = _metadata(session.get_modelmeta())
        self._session: ort.InferenceSession | None = session
        self._text_inputs = frozenset(s.name for s in self.inputs if s.datatype == "BYTES")
        self._text_outputs = frozenset(s.name for s in self.outputs if s.datatype == "BYTES")
        # Text cannot be bound: such a model takes the plain way on every device.
        has_text = bool(self._text_inputs or self._text_outputs)
        self._bound = bound and not has_text
        if recorded is not None and has_text:
            raise LoadFailed("cuda_graphs: a model with text cannot be recorded")
        self._recorded = recorded
        self._arena = Arena() if arena else None

    def run(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], stop: StopToken | None = None
    ) -> list[Array]:
        """Run once; arrays in the order of `outputs`; see `core.session.Session`."""
        session: Any = self._session  # its own annotations name types that never occur here
        if session is None:
            raise ModelUnavailable("the model was unloaded", retry_after=1.0)
        if self._text_inputs:
            inputs = {
                name: _as_text(name, array) if name in self._text_inputs else array
                for name, array in inputs.items()
            }
        options = None if stop is None else _stoppable(stop)
        if self._arena is not None:
            options = self._arena.options(inputs, options)
        try:
            arrays: list[Array] | None = None
            if self._recorded is not None:
                arrays = self._recorded.run(inputs, outputs)
            elif self._bound:
                arrays = _run_bound(session, inputs, outputs, options)
            if arrays is None:
                arrays = session.run(outputs, inputs, options)
        except Exception as error:  # onnxruntime's errors share no base class below Exception
            raise self._translated(error, inputs, stop) from error
        assert arrays is not None, "the plain run gives a list"
        if self._text_outputs:
            return [
                _as_bytes(array) if name in self._text_outputs else array
                for name, array in zip(outputs, arrays, strict=True)
            ]
        return arrays

    def close(self) -> None:
        """Let go of the session; its memory is free when the last run has ended."""
        self._session = self._recorded = None

    def _translated(
        self, error: Exception, inputs: Mapping[str, Array], stop: StopToken | None
    ) -> ServerError:
        if stop is not None and stop.stopped:
            return DeadlineExceeded("the run was stopped: nobody waits for its answer")
        text = str(error)
        _log.warning("a run failed: %s", " ".join(text.split())[:_MAX_LOGGED])
        said = explain(text)
        reason = f": {said}" if said else ""
        if isinstance(error, ValueError) or "INVALID_ARGUMENT" in text:
            return InvalidInput(f"the model refuses these shapes or values{reason}")
        if "alloc" not in text and self._may_blame(inputs):
            return InvalidInput(f"the model cannot run on these shapes or values{reason}")
        return InferenceFailed(f"inference failed: {said or clean(text)}")

    def _may_blame(self, inputs: Mapping[str, Array]) -> bool:
        """Whether the caller had the freedom to give shapes that the graph cannot join."""
        tensors = (*self.inputs, *self.outputs)
        batch = int(all(spec.shape[:1] == (-1,) for spec in tensors))  # leading axes of the batch
        varies = any(-1 in spec.shape[batch:] for spec in self.inputs)
        return varies or any(array.size == 0 for array in inputs.values())


def _wanted(providers: Sequence[str], config: ModelConfig) -> Sequence[str]:
    """What `auto` becomes where the configuration asks for a kind of device."""
    kinds = {group.kind for group in config.instance_group}
    if tuple(providers) == ("auto",) and "KIND_GPU" in kinds:
        return ("cuda",)
    if tuple(providers) == ("auto",) and kinds == {"KIND_CPU"}:
        return ("cpu",)
    return providers


def _with_device(name: str, config: ModelConfig) -> str | tuple[str, dict[str, Any]]:
    if name not in (CUDA, TENSORRT):
        return name
    gpus = [gpu for group in config.instance_group for gpu in group.gpus]
    options: dict[str, Any] = {"device_id": gpus[0] if gpus else 0}
    if name == CUDA:
        # The exhaustive search costs hundreds of milliseconds for every new input shape.
        options["cudnn_conv_algo_search"] = "HEURISTIC"
    if wants_graphs(config):
        options["enable_cuda_graph" if name == CUDA else "trt_cuda_graph_enable"] = "1"
    return name, options


def wants_graphs(config: ModelConfig) -> bool:
    """Whether the configuration's parameter `cuda_graphs` asks to record and replay runs."""
    text = config.parameters.get("cuda_graphs", StringParameter()).string_value
    return text.lower() in ("1", "true", "on")


def _options(config: ModelConfig, threads: int, *, arena: bool) -> ort.SessionOptions:
    own = config.parameters.get("intra_op_thread_count", StringParameter()).string_value
    options = ort.SessionOptions()
    options.intra_op_num_threads = int(own) if own.isdecimal() else threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = arena
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4  # errors come as exceptions, and are logged without paths
    return options


def _holds(model: Path | bytes, marks: Sequence[bytes]) -> bool:
    """Whether any of `marks` occurs in the file."""
    if isinstance(model, bytes):
        return any(mark in model for mark in marks)
    try:
        with model.open("rb") as file:
            if file.seek(0, 2) == 0:
                raise LoadFailed("the model file is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                return any(view.find(mark) >= 0 for mark in marks)
    except OSError as error:
        raise LoadFailed(f"the model file cannot be read: {error.strerror}") from error


def wants_arena(model: Path | bytes) -> bool:
    """Whether a model is large: by itself, or by weights in further files."""
    size = len(model) if isinstance(model, bytes) else model.stat().st_size
    return size >= _ARENA_FROM or _holds(model, _FURTHER_FILES)


def _refuse_fallback(chosen: Sequence[str], got: Sequence[str]) -> None:
    missing = [name for name in chosen if name not in got]
    if missing:
        raise LoadFailed(
            f"execution provider '{missing[0]}' could not start; there are: {', '.join(got)}"
        )


def _spec(arg: Any, role: str) -> TensorSpec:
    datatype = _DATATYPES.get(arg.type)
    if datatype is None:
        hint = ""
        if arg.type.startswith(("seq", "map")):
            hint = "; a classifier made with skl2onnx needs the option zipmap=False"
        elif arg.type == "tensor(bfloat16)":
            hint = "; the runtime takes BF16 only inside a graph, so cast at its border"
        raise LoadFailed(f"{role} '{arg.name}' is of type {arg.type}, which cannot be served{hint}")
    return TensorSpec(
        name=arg.name,
        datatype=datatype,
        shape=tuple(dim if isinstance(dim, int) and dim >= 0 else -1 for dim in arg.shape),
        symbols=tuple(dim if isinstance(dim, str) else "" for dim in arg.shape),
    )


def _metadata(meta: Any) -> dict[str, str]:
    known = {
        "producer_name": meta.producer_name,
        "graph_name": meta.graph_name,
        "domain": meta.domain,
        "description": meta.description,
    }
    return {
        **{key: value for key, value in known.items() if value},
        **meta.custom_metadata_map,
    }


def _stoppable(stop: StopToken) -> ort.RunOptions:
    options = ort.RunOptions()

    def terminate() -> None:
        options.terminate = True

    stop.on_stop(terminate)
    return options


def _run_bound(
    session: Any,
    inputs: Mapping[str, Array],
    outputs: Sequence[str],
    options: ort.RunOptions | None,
) -> list[Array] | None:
    """Inputs and outputs cross to the device once each, with nothing in between.

    None when the run failed: this call's errors do not tell their kind, the plain one's do.
    """
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_cpu_input(name, np.ascontiguousarray(array))
    for name in outputs:
        binding.bind_output(name)
    try:
        session.run_with_iobinding(binding, options)
    except RuntimeError:
        return None
    arrays: list[Array] = binding.copy_outputs_to_cpu()
    return arrays


class RecordedRuns:
    """Runs over buffers that stay where they are, as CUDA graphs need them: one set a shape.

    A graph is recorded when a shape is first run and replayed afterwards; shapes beyond the first
    few are not recorded. One run at a time: the buffers are shared.
    """

    MOST = 16

    def __init__(self, session: ort.InferenceSession, device: str) -> None:
        self._session: Any = session
        self._device = device
        self._lock = threading.Lock()
        self._known: dict[object, _Recorded] = {}

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array] | None:
        """The outputs, copied out of their buffers; None for what is not recorded."""
        shapes = [(name, array.shape) for name, array in sorted(inputs.items())]
        key = (tuple(shapes), tuple(outputs))
        with self._lock:
            recorded = self._known.get(key)
            if recorded is None:
                empty = any(array.size == 0 for array in inputs.values())
                if empty or len(self._known) >= self.MOST:
                    return None
                recorded = self._record(inputs, outputs, len(self._known))
                self._known[key] = recorded
            return recorded.run(self._session, inputs)

    def _record(
        self, inputs: Mapping[str, Array], outputs: Sequence[str], number: int
    ) -> _Recorded:
        binding = self._session.io_binding()
        held = {}
        for name, array in inputs.items():
            held[name] = ort.OrtValue.ortvalue_from_numpy(
                np.array(array, order="C"), self._device, 0
            )
            binding.bind_ortvalue_input(name, held[name])
        # A plain run tells the shapes, which the buffers then have for good; -1: do not record it.
        for name in outputs:
            binding.bind_output(name, self._device)
        self._session.run_with_iobinding(binding, _numbered(-1))
        results = binding.get_outputs()
        for name, result in zip(outputs, results, strict=True):
            binding.bind_ortvalue_output(name, result)
        return _Recorded(binding, held, results, _numbered(number + 1))


@dataclass(frozen=True, slots=True)
class _Recorded:
    binding: Any
    inputs: Mapping[str, Any]
    outputs: Sequence[Any]
    options: ort.RunOptions

    def run(self, session: Any, inputs: Mapping[str, Array]) -> list[Array]:
        for name, array in inputs.items():
            self.inputs[name].update_inplace(np.ascontiguousarray(array))
        session.run_with_iobinding(self.binding, self.options)
        return [value.numpy().copy() for value in self.outputs]


def _numbered(number: int) -> ort.RunOptions:
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(number))
    return options


def _as_text(name: str, array: Array) -> Array:
    text = np.empty(array.size, dtype=object)
    try:
        text[:] = [element.decode() for element in array.reshape(-1).tolist()]
    except UnicodeDecodeError as error:
        raise InvalidInput(f"input '{name}': an element is not valid UTF-8") from error
    return text.reshape(array.shape)


def _as_bytes(array: Array) -> Array:
    encoded = np.empty(array.size, dtype=object)
    encoded[:] = [element.encode() for element in array.reshape(-1).tolist()]
    return encoded.reshape(array.shape)
