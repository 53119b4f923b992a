"""llama.cpp's server out of `llama-cpp-python`, beside ours: the same weights, both in float32.

It is measured where one of the given interpreters can import it, else skipped with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import generate
import gguf
import others
import processes
import streams
import wire
from bare_loop import Wanted
from plan import Plan
from table import Row, at_least
from tokenizers import Tokenizer
from told import Told

from aiaas_server.zoo import files
from aiaas_server.zoo.packages import cache_dir

NAME: Final = "llama.cpp"
PACKAGE: Final = "llama_cpp.server"
DISTRIBUTION: Final = "llama_cpp_python"


def measure(
    plan: Plan, pythons: Sequence[Path], report: Callable[[str], None], found: Told
) -> None:
    """Eight streams of each, in turns."""
    having = ((python, others.installed(python, PACKAGE, DISTRIBUTION)) for python in pythons)
    python, version = next((one for one in having if one[1]), (None, None))
    if version is None:
        report(f"{NAME}: skipped, no {PACKAGE} in {', '.join(map(str, pythons))}")
        return
    report(f"measuring {NAME} {version} ...")
    models = generate.pulled(plan, generate.MODEL)
    command = [
        str(python), "-m", PACKAGE, "--model", str(widened()), "--n_ctx", "4096",
        "--n_threads", str(generate.CORES), "--n_threads_batch", str(generate.CORES),
        "--interrupt_requests", "False", "--verbose", "False", "--port",
    ]  # fmt: skip
    with (
        processes.aiaas(models, generate_speculate="false") as ours,
        processes.started(NAME, command, ready="/v1/models") as theirs,
    ):
        found.rows.extend(_rows(plan, models, ours, theirs, f"{NAME} {version}"))


def _rows(
    plan: Plan, models: Path, ours: processes.Target, theirs: processes.Target, name: str
) -> list[Row]:
    model = models / generate.MODEL / "1"
    tokens = generate.Tokens(model)
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    rows = []
    for count in (generate.STREAMS, 1):
        mine, other = [], []
        for _ in range(max(1, plan.rounds // 2)):
            wanted = tokens.mixed(32)
            requests = [_request(tokenizer, one) for one in wanted]
            mine.append(streams.rate(ours, generate.asked(wanted), count, plan.seconds * 10))
            other.append(streams.rate(theirs, requests, count, plan.seconds * 10))
        what = f"SmolLM2 in float32, {count} streams" if count > 1 else "SmolLM2, one stream"
        goal = at_least(1.0) if count > 1 else None
        rows.append(Row(others.GROUP, what, max(mine), "tokens/s", max(other), name, goal))
    return rows


def _request(tokenizer: Tokenizer, wanted: Wanted) -> bytes:
    """As ours, but of text, and without an end by other means."""
    document = {
        "prompt": tokenizer.decode(wanted.prompt), "max_tokens": wanted.tokens, "temperature": 0,
        "logit_bias": {"0": -100, "2": -100}, "stream": True,
    }  # fmt: skip
    return wire.post(streams.COMPLETIONS, json.dumps(document).encode(), "application/json")


def widened() -> Path:
    """The packaged checkpoint with all weights in float32, kept in the cache."""
    path = cache_dir() / "writing" / generate.EDITION / "smollm2-135m.f32.gguf"
    if not path.exists():
        part = path.with_suffix(".part")
        _widen(files.SMOLLM2_WEIGHTS.path, part)
        part.replace(path)
    return path


def _widen(source: Path, target: Path) -> None:
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        value = 0 if field.name == "general.file_type" else field.contents()
        inner = field.types[-1] if len(field.types) > 1 else None
        writer.add_key_value(field.name, value, field.types[0], inner)
    for tensor in reader.tensors:
        weights = tensor.data
        if tensor.tensor_type != gguf.GGMLQuantizationType.F32:
            weights = gguf.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
