"""`aiaas import-llm`: a checkpoint becomes a bundle that says the same, or nothing is left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from aiaas_server.cli import app
from aiaas_server.core.describe.card import CARD_NAME, read_card
from aiaas_server.core.session import OpenSession, Session
from aiaas_server.repository.external_data import external_files
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.zoo.llama.config import UnusableCheckpoint
from aiaas_server.zoo.llama.graph import build
from aiaas_server.zoo.llama.importing import import_llm
from aiaas_server.zoo.llama.parity import Parity, greedy, judge
from aiaas_server.zoo.llama.projections import Precision
from aiaas_server.zoo.llama.reference import forward
from aiaas_server.zoo.llama.writer import PAGE
from tests.llama_checkpoints import TINY, save_directory, save_gguf, tensors_of
from tests.tiny_llm import TEMPLATE, tokenizer_json

invoke = CliRunner().invoke


def test_a_bundle_has_graph_weights_words_and_card(tmp_path: Path) -> None:
    source = save_directory(tmp_path / "My Model", "llama", tensors_of("llama"))
    (source / "LICENSE").write_text("do as you like", "utf-8")
    chosen = {"temperature": 0.6, "top_p": 0.9}
    (source / "generation_config.json").write_text(json.dumps(chosen), "utf-8")
    done = import_llm(source, tmp_path / "models", open_session, licence="CC0-1.0")
    directory = done.pulled.path
    assert directory == tmp_path / "models" / "my-model" / "1"
    assert (directory / "tokenizer.json").read_text("utf-8") == tokenizer_json()
    assert (directory / "chat_template.jinja").read_text("utf-8") == TEMPLATE
    card = read_card((directory / CARD_NAME).read_bytes())
    assert (card.task, card.licence) == ("text-generation", "CC0-1.0")
    assert card.generation == {"context": 64, "end": [2], "defaults": chosen}
    assert set(card.assets) == {"tokenizer.json", "chat_template.jinja", "LICENSE"}
    assert [file["file"] for file in card.lineage["files"]] == ["model.safetensors"]
    weights = directory / "model.onnx.data"
    assert external_files(directory / "model.onnx") == [weights]
    assert weights.stat().st_size > 10 * (directory / "model.onnx").stat().st_size
    assert done.parity is not None
    assert done.parity.difference < 1e-5
    # 64 tokens, 2 layers, 2 heads of 16, keys and values, 4 bytes a number
    assert (done.context, done.slot_bytes) == (64, 64 * 2 * 2 * 16 * 2 * 4)


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
@pytest.mark.parametrize("saved", ["directory", "gguf"])
def test_what_was_imported_writes_as_the_checkpoint_would(
    saved: str, precision: Precision, tmp_path: Path
) -> None:
    tensors = tensors_of("qwen3")
    source = tmp_path / "m.gguf"
    if saved == "gguf":
        save_gguf(source, "qwen3", tensors)
    else:
        save_directory(source := tmp_path / "m", "qwen3", tensors)
    done = import_llm(source, tmp_path / "models", open_session, precision=precision)
    session = open_session(done.pulled.path / "model.onnx")
    prompt = [5, 17, 300, 2, 41]
    _tokens, (row, *_rest) = greedy(session, TINY, prompt, 2)
    expected = forward(TINY, tensors, prompt)[-1]
    off = np.abs(row - expected).max() / np.ptp(expected)
    assert off < {"float32": 1e-5, "float16": 2e-3, "int8": 0.05}[precision]


def test_the_same_import_twice_is_one_version_and_another_is_the_next(tmp_path: Path) -> None:
    source = save_directory(tmp_path / "m", "llama", tensors_of("llama"))
    models = tmp_path / "models"
    first = import_llm(source, models, open_session)
    again = import_llm(source, models, open_session)
    assert (again.pulled.version, again.pulled.is_new, again.parity) == (1, False, None)
    half = import_llm(source, models, open_session, precision="float16")
    assert (half.pulled.version, half.pulled.is_new) == (2, True)
    weights = first.pulled.path / "model.onnx.data"
    content = bytearray(weights.read_bytes())
    content[-PAGE] ^= 1
    weights.write_bytes(content)
    assert import_llm(source, models, open_session).pulled.version == 3


def test_the_weights_are_told_as_they_are_written(tmp_path: Path) -> None:
    source = save_directory(tmp_path / "m", "llama", tensors_of("llama"))
    told: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        told.append((done, total))

    done = import_llm(source, tmp_path / "models", open_session, progress=progress)
    size = (done.pulled.path / "model.onnx.data").stat().st_size
    assert told == sorted(told)
    assert told[-1] == (size, size)


def other_graph(*_arguments: Any) -> Session:
    """As if the runtime ran another model than the one that was written."""
    tensors = tensors_of("llama")
    tensors["model.norm.weight"] = tensors["model.norm.weight"][::-1].copy()
    return open_session(build(TINY, tensors, "shared").SerializeToString())


def fails(*_arguments: Any) -> Session:
    raise OSError("no space left")


@pytest.mark.parametrize(
    ("open_graph", "error", "reason"),
    [
        (other_graph, UnusableCheckpoint, "float32 weights change the model: expected logits with"),
        (fails, OSError, "no space left"),
    ],
    ids=["other answers", "failure"],
)
def test_an_import_that_fails_leaves_nothing(
    open_graph: OpenSession, error: type[Exception], reason: str, tmp_path: Path
) -> None:
    source = save_directory(tmp_path / "m", "llama", tensors_of("llama"))
    with pytest.raises(error, match=reason):
        import_llm(source, tmp_path / "models", open_graph)
    assert list((tmp_path / "models").iterdir()) == []


def test_no_number_is_no_parity() -> None:
    with pytest.raises(UnusableCheckpoint, match="got nan"):
        judge(Parity(float("nan"), 1.0), "int8")


def test_a_window_that_slides_bounds_the_context(tmp_path: Path) -> None:
    source = save_directory(tmp_path / "m", "mistral", tensors_of("mistral"), sliding_window=40)
    models = tmp_path / "models"
    with pytest.raises(UnusableCheckpoint, match="at most the model's sliding window of 40, got 4"):
        import_llm(source, models, open_session, context=41)
    assert import_llm(source, models, open_session).context == 40
    assert import_llm(source, models, open_session, context=9).context == 9
    off = save_directory(
        tmp_path / "q", "qwen2", tensors_of("qwen2"), sliding_window=40, use_sliding_window=False
    )
    assert import_llm(off, models, open_session).context == 64
    with pytest.raises(UnusableCheckpoint, match="at most the model's context of 64, got 65"):
        import_llm(off, models, open_session, context=65)


@pytest.mark.parametrize(
    ("mark", "tools"),
    [("<tool_call>", "hermes"), ("[TOOL_CALLS]", "mistral"), ("<|python_tag|>", "llama3")],
    ids=["hermes", "mistral", "llama3"],
)
def test_how_a_model_calls_tools_is_seen_in_its_template(
    mark: str, tools: str, tmp_path: Path
) -> None:
    source = save_directory(tmp_path / "m", "llama", tensors_of("llama"))
    (source / "chat_template.jinja").write_text(f"{{# {mark} #}}", "utf-8")
    done = import_llm(source, tmp_path / "models", open_session)
    generation = read_card((done.pulled.path / CARD_NAME).read_bytes()).generation
    assert generation is not None
    assert generation["tools"] == tools


def test_the_command_tells_what_came_of_it(tmp_path: Path) -> None:
    source = save_gguf(tmp_path / "tiny.Q8.gguf", "llama", tensors_of("llama"))
    models = str(tmp_path / "models")
    shown = invoke(app, ["import-llm", str(source), "--models", models, "--weights", "float16"])
    assert shown.exit_code == 0, shown.stderr
    assert f"tiny.q8 version 1 ready: {tmp_path / 'models' / 'tiny.q8' / '1'}" in shown.stdout
    assert "of the tokens are the same" in shown.stderr
    assert "context 64 tokens: at most 33 kB an answer" in shown.stderr
    again = invoke(app, ["import-llm", str(source), "--models", models, "--weights", "float16"])
    assert "tiny.q8 version 1 was there" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nowhere"], "nowhere: expected a .gguf file or a directory, got nothing there"),
        (["notes.txt"], "notes.txt: expected a .gguf file or a directory, got a file of another"),
        (["."], "expected config.json in"),
        ([".", "--name", "a/b"], "name 'a/b': the name of a model begins with"),
    ],
    ids=["nothing", "a text", "no checkpoint", "name"],
)
def test_the_command_tells_what_is_wrong(
    arguments: list[str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("hello", "utf-8")
    shown = invoke(app, ["import-llm", *arguments, "--models", "models"])
    assert shown.exit_code == 1
    assert shown.stderr.startswith("aiaas: ")
    assert reason in " ".join(shown.stderr.split())
    assert not (tmp_path / "models").exists()
