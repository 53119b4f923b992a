"""Checkpoints are read as they were saved, and refused by name where they are something else."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.implementations import SentencePieceBPETokenizer

from aiaas_server.zoo.llama.checkpoint import Checkpoint, check_weights
from aiaas_server.zoo.llama.config import UnusableCheckpoint, llama3_slower
from aiaas_server.zoo.llama.gguf_tokens import (
    begin_tokens,
    end_tokens,
    tokenizer_of,
    with_texts,
)
from aiaas_server.zoo.llama.importing import read_checkpoint
from tests.llama_checkpoints import (
    FAMILIES,
    TINY,
    Arrays,
    save_directory,
    save_gguf,
    settings_of,
    tensors_of,
)
from tests.tiny_llm import TEMPLATE, tokenizer_json

TEXTS = (
    "the river runs to the sea, and 1234 foxes aren't there",
    "  two spaces\n\n\tand a tab; ¿Qué tal? 你好 \N{GRINNING FACE}",
    "<|im_start|>user\nhello<|im_end|>\n",
)


def held(checkpoint: Checkpoint, tensors: Arrays) -> None:
    check_weights(checkpoint.config, checkpoint.weights)
    for name, numbers in tensors.items():
        np.testing.assert_array_equal(np.asarray(checkpoint.weights[name], np.float32), numbers)


@pytest.mark.parametrize("shards", [1, 3], ids=["one file", "three shards"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_directory_is_read_as_it_was_saved(family: str, shards: int, tmp_path: Path) -> None:
    tensors = tensors_of(family, tied=False)
    directory = save_directory(tmp_path, family, tensors, shards=shards, tie_word_embeddings=False)
    found = read_checkpoint(directory)
    assert found.config == TINY
    held(found, tensors)
    assert (found.tokenizer, found.template) == (tokenizer_json(), TEMPLATE)
    assert (found.begin, found.end) == ((), (2,))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_a_gguf_file_is_read_as_it_was_saved(family: str, tmp_path: Path) -> None:
    tensors = tensors_of(family, tied=False)
    found = read_checkpoint(save_gguf(tmp_path / "m.gguf", family, tensors))
    assert found.config.epsilon == pytest.approx(TINY.epsilon)  # the file has half its digits
    assert replace(found.config, epsilon=TINY.epsilon) == TINY
    held(found, tensors)
    assert found.template == TEMPLATE
    assert (found.begin, found.end) == ((), (2, 0))


def test_quantised_weights_are_widened(tmp_path: Path) -> None:
    tensors = tensors_of("llama")
    kind = gguf.GGMLQuantizationType.Q8_0
    found = read_checkpoint(save_gguf(tmp_path / "m.gguf", "llama", tensors, kind=kind))
    for name in ("model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.up_proj.weight"):
        numbers = np.asarray(found.weights[name])
        off = np.abs(numbers - tensors[name]).max() / np.abs(tensors[name]).max()
        assert 0 < off < 0.01


@pytest.mark.parametrize("text", TEXTS)
def test_a_tokenizer_out_of_a_gguf_file_cuts_alike(text: str, tmp_path: Path) -> None:
    found = read_checkpoint(save_gguf(tmp_path / "m.gguf", "llama", tensors_of("llama")))
    rebuilt = Tokenizer.from_str(found.tokenizer)
    original = Tokenizer.from_str(tokenizer_json())
    ids = rebuilt.encode(text).ids
    assert ids == original.encode(text).ids
    assert rebuilt.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize(
    ("cut", "pieces"),
    [
        ("gpt-2", "Ġfoxes|'ll|Ġrun|Ġ12345|!|Ċ"),
        ("smollm", "Ġfoxes|'ll|Ġrun|Ġ|1|2|3|4|5|!|Ċ"),
        ("llama-bpe", "Ġfoxes|'ll|Ġrun|Ġ|123|45|!Ċ"),
        ("qwen2", "Ġfoxes|'ll|Ġrun|Ġ|1|2|3|4|5|!Ċ"),
    ],
    ids=["gpt-2", "smollm", "llama-bpe", "qwen2"],
)
def test_texts_are_cut_as_the_file_says(cut: str, pieces: str, tmp_path: Path) -> None:
    keys = {"tokenizer.ggml.pre": cut}
    path = save_gguf(tmp_path / "m.gguf", "llama", tensors_of("llama"), keys=keys)
    cutter = Tokenizer.from_str(read_checkpoint(path).tokenizer).pre_tokenizer
    assert cutter is not None
    found = [piece for piece, _ in cutter.pre_tokenize_str(" foxes'll run 12345!\n")]
    assert "|".join(found) == pieces


PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]


class PieceFields:
    """A GGUF file's vocabulary out of a SentencePiece model that was trained here."""

    def __init__(self, **further: Any) -> None:
        trained = SentencePieceBPETokenizer()
        trained.train_from_iterator(TRAINING, vocab_size=160, show_progress=False)
        numbers = trained.get_vocab()
        words = sorted(numbers, key=numbers.__getitem__)
        tokens = PIECES + [word for word in words if word not in PIECES]
        self.reference = trained
        self.values = {
            "model": "llama",
            "tokens": tokens,
            "scores": [-float(number) for number in range(len(tokens))],
            "token_type": [2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 259),
            "bos_token_id": 1,
            "eos_token_id": 2,
            **further,
        }

    def get(self, key: str) -> Any:
        return self.values.get(key.removeprefix("tokenizer.ggml."))

    def text(self, key: str) -> str:
        return str(self.get(key) or "")


TRAINING = [
    "the quick brown fox jumps over the lazy dog and the river runs to the sea",
    "a model reads tokens and writes tokens, one after another, until it ends",
] * 4


@pytest.mark.parametrize("text", ["the river ends", "a fox jumps  over tokens, another"])
def test_sentencepiece_merges_by_score(text: str) -> None:
    fields = PieceFields()
    rebuilt = Tokenizer.from_str(tokenizer_of(fields, 1000))
    assert rebuilt.encode(text).tokens == fields.reference.encode(text).tokens
    assert rebuilt.decode(rebuilt.encode(text).ids) == text


def test_what_sentencepiece_has_no_token_for_is_written_in_bytes() -> None:
    rebuilt = Tokenizer.from_str(tokenizer_of(PieceFields(), 1000))
    found = rebuilt.encode("\N{GRINNING FACE}\n")
    assert found.tokens[1:] == ["<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "<0x0A>"]
    assert rebuilt.decode(found.ids) == "\N{GRINNING FACE}\n"
    assert rebuilt.encode("</s>").ids == [2]


def test_sentencepiece_opens_with_a_space_and_a_token_unless_the_file_says_no() -> None:
    fields = PieceFields()
    assert begin_tokens(fields) == (1,)
    assert Tokenizer.from_str(tokenizer_of(fields, 1000)).encode("the").tokens[0][0] == "▁"
    plain = PieceFields(add_space_prefix=False, add_bos_token=False)
    assert begin_tokens(plain) == ()
    rebuilt = Tokenizer.from_str(tokenizer_of(plain, 1000))
    assert rebuilt.encode("the").tokens[0][0] == "t"
    assert rebuilt.decode(rebuilt.encode(" the").ids) == " the"


@pytest.mark.parametrize(
    ("further", "reason"),
    [
        ({"scores": [0.0]}, "'tokenizer.ggml.scores': expected [0-9]+ numbers"),
        ({"tokens": [1, 2]}, "'tokenizer.ggml.tokens': expected a list of texts"),
        ({"tokens": ["a"] * 1001}, "at most the 1000 that the model has, got 1001"),
    ],
    ids=["scores", "tokens", "many"],
)
def test_a_vocabulary_that_does_not_fit_is_refused(further: Any, reason: str) -> None:
    with pytest.raises(UnusableCheckpoint, match=reason):
        tokenizer_of(PieceFields(**further), 1000)


def test_bfloat16_is_the_upper_half_of_a_number(tmp_path: Path) -> None:
    tensors = tensors_of("llama")
    directory = save_directory(tmp_path, "llama", tensors)
    half = {name: numbers.astype(ml_dtypes.bfloat16) for name, numbers in tensors.items()}
    write_safetensors(directory / "model.safetensors", half, "BF16")
    held(read_checkpoint(directory), {n: a.astype(np.float32) for n, a in half.items()})


def write_safetensors(path: Path, tensors: dict[str, Any], kind: str) -> None:
    header, offset = {}, 0
    for name, numbers in tensors.items():
        end = offset + numbers.nbytes
        header[name] = {"dtype": kind, "shape": numbers.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    content = [struct.pack("<Q", len(text)), text, *(n.tobytes() for n in tensors.values())]
    path.write_bytes(b"".join(content))


def test_settings_of_the_rotary_positions_are_heeded(tmp_path: Path) -> None:
    rope = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }
    tensors = tensors_of("llama")
    found = read_checkpoint(save_directory(tmp_path / "a", "llama", tensors, rope_scaling=rope))
    assert found.config.slower == llama3_slower(TINY, 8.0, 1.0, 4.0, 16)
    newer = {"rope_type": "linear", "factor": 2.0, "rope_theta": 700.0}
    found = read_checkpoint(save_directory(tmp_path / "b", "llama", tensors, rope_parameters=newer))
    assert (found.config.theta, found.config.slower) == (700.0, (2.0,) * 8)


@pytest.mark.parametrize(
    ("keys", "slower"),
    [
        ({"llama.rope.scaling.factor": 4}, (4.0,) * 8),
        ({"llama.rope.scaling.factor": 4, "llama.rope.scaling.type": "linear"}, (4.0,) * 8),
        ({"llama.rope.scaling.factor": 4, "llama.rope.scaling.type": "none"}, ()),
        ({}, ()),
    ],
    ids=["factor", "linear", "none", "nothing"],
)
def test_a_gguf_file_tells_how_its_context_was_stretched(
    keys: dict[str, Any], slower: tuple[float, ...], tmp_path: Path
) -> None:
    path = save_gguf(tmp_path / "m.gguf", "llama", tensors_of("llama"), keys=keys)
    assert read_checkpoint(path).config.slower == slower


def test_a_gguf_file_of_llama_3_holds_the_divisors_themselves(tmp_path: Path) -> None:
    divisors = np.array([1, 1, 1, 2, 4, 8, 8, 8], np.float32)
    tensors = {**tensors_of("llama"), "rope_freqs.weight": divisors}
    found = read_checkpoint(save_gguf(tmp_path / "m.gguf", "llama", tensors))
    assert found.config.slower == tuple(divisors)
    check_weights(found.config, found.weights)


def test_what_a_model_is_to_do_by_default_comes_along(tmp_path: Path) -> None:
    directory = save_directory(tmp_path, "llama", tensors_of("llama"))
    chosen = {"eos_token_id": [0, 2], "temperature": 0.6, "top_p": 0.9, "max_length": 7}
    (directory / "generation_config.json").write_text(json.dumps(chosen), "utf-8")
    found = read_checkpoint(directory)
    assert found.end == (0, 2)
    assert found.defaults == {"temperature": 0.6, "top_p": 0.9}
    (directory / "generation_config.json").write_text('{"do_sample": false}', "utf-8")
    assert read_checkpoint(directory).defaults == {"temperature": 0.0}


def test_the_opening_token_is_what_the_tokenizer_puts(tmp_path: Path) -> None:
    directory = save_directory(tmp_path, "llama", tensors_of("llama"))
    document = json.loads(tokenizer_json())
    opening = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [],
        "special_tokens": {
            "<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}
        },
    }
    plain = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    document["post_processor"] = {"type": "Sequence", "processors": [plain, opening]}
    (directory / "tokenizer.json").write_text(json.dumps(document), "utf-8")
    assert read_checkpoint(directory).begin == (1,)
    (directory / "tokenizer_config.json").write_text('{"add_bos_token": false}', "utf-8")
    assert read_checkpoint(directory).begin == ()


def test_special_texts_that_a_template_names_are_set_in_it(tmp_path: Path) -> None:
    directory = save_directory(tmp_path, "llama", tensors_of("llama"))
    (directory / "chat_template.jinja").unlink()
    words = {
        "bos_token": {"content": "<s>"},
        "eos_token": '</"s">',
        "chat_template": [
            {"name": "tool_use", "template": "no"},
            {"name": "default", "template": "{{ bos_token }}{{ messages[0].content }}"},
        ],
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(words), "utf-8")
    from jinja2 import Template

    template = read_checkpoint(directory).template
    assert "eos_token" not in template
    assert Template(template).render(messages=[{"content": "hello"}]) == "<s>hello"
    quoted = with_texts("{{ eos_token }}", {"eos_token": '</"s">\n'})
    assert Template(quoted).render() == '</"s">\n'


def test_known_tokens_end_answers_only_where_they_are_special() -> None:
    class Words:
        def get(self, key: str) -> Any:
            return {
                "tokenizer.ggml.tokens": ["a", "</s>", "<|eot_id|>", "<|im_end|>"],
                "tokenizer.ggml.token_type": [1, 1, 3, 3],
                "tokenizer.ggml.eos_token_id": 3,
            }.get(key)

        def text(self, key: str) -> str:
            return ""

    assert end_tokens(Words()) == (3, 2)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"model_type": "gemma3"}, "model_type: expected llama, mistral, .*; got 'gemma3'"),
        ({"hidden_act": "gelu"}, "hidden_act: expected 'silu', got 'gelu'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config: .* got quantised weights"),
        ({"num_local_experts": 8}, "num_local_experts: expected 0, got 8"),
        ({"hidden_size": "64"}, "'hidden_size': expected a number, got '64'"),
        (
            {"rope_scaling": {"type": "yarn", "factor": 4}},
            "rope_scaling: expected default, linear or llama3; got 'yarn'",
        ),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling of type linear: 'factor'"),
        ({"rope_parameters": {"full_attention": {}}}, r"layers differ \(full_attention\)"),
        ({"tie_word_embeddings": False}, "'lm_head.weight' is missing, and embeddings are not"),
    ],
    ids=[
        "family",
        "activation",
        "quantised",
        "experts",
        "number",
        "yarn",
        "factor",
        "layers",
        "untied",
    ],
)
def test_a_directory_of_something_else_is_refused_by_name(
    settings: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    directory = save_directory(tmp_path, "llama", tensors_of("llama"))
    content = {**settings_of("llama"), **settings}
    (directory / "config.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(UnusableCheckpoint, match=reason):
        read_checkpoint(directory)


@pytest.mark.parametrize(
    ("architecture", "keys", "reason"),
    [
        ("gemma3", {}, "general.architecture: expected llama, qwen2, qwen3, got 'gemma3'"),
        ("llama", {"llama.expert_count": 8}, "mixtures of experts are not supported"),
        ("llama", {"llama.rope.scaling.type": "yarn"}, "expected none or linear, got 'yarn'"),
        ("llama", {"llama.attention.scale": 2}, "attention.scale: expected none, got 2"),
        ("llama", {"llama.rope.dimension_count": 8}, "dimension_count: expected all of 16, got 8"),
        (
            "llama",
            {"tokenizer.ggml.model": "bert"},
            r"expected gpt2 .* or llama .*'bert'",
        ),
        ("llama", {"tokenizer.ggml.model": "llama"}, "'tokenizer.ggml.scores' is missing"),
        ("llama", {"tokenizer.ggml.pre": "tekken"}, "expected one of .*; got 'tekken'"),
    ],
    ids=["family", "experts", "yarn", "scale", "partly turned", "words", "scores", "cut"],
)
def test_a_gguf_file_of_something_else_is_refused_by_name(
    architecture: str, keys: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    path = save_gguf(tmp_path / "m.gguf", architecture, tensors_of("llama"), keys=keys)
    with pytest.raises(UnusableCheckpoint, match=reason):
        read_checkpoint(path)


@pytest.mark.parametrize("kept", [0, 3, 200, 20_000, -100], ids=str)
@pytest.mark.parametrize("name", ["m.gguf", "model.safetensors"])
def test_a_file_that_was_cut_off_is_refused(name: str, kept: int, tmp_path: Path) -> None:
    tensors = tensors_of("llama")
    if name == "m.gguf":
        path = file = save_gguf(tmp_path / name, "llama", tensors)
    else:
        path = save_directory(tmp_path, "llama", tensors)
        file = path / name
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(UnusableCheckpoint, match=name.replace(".", r"\.")):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"a": {"dtype": "I8", "shape": [2], "data_offsets": [0, 2]}}, "'a': expected one of F32"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, r"8 bytes for \(2,\), got"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}, "'a': expected 8 bytes"),
        ({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}, "within tensor 'a'"),
        ({"a": 7}, "is no safetensors file"),
        ([], "is no safetensors file"),
    ],
    ids=["type", "size", "place", "end", "entry", "list"],
)
def test_places_outside_of_a_file_are_refused(header: Any, reason: str, tmp_path: Path) -> None:
    directory = save_directory(tmp_path, "llama", tensors_of("llama"))
    text = json.dumps(header).encode()
    content = struct.pack("<Q", len(text)) + text + bytes(8)
    (directory / "model.safetensors").write_bytes(content)
    with pytest.raises(UnusableCheckpoint, match=reason):
        read_checkpoint(directory)


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ({"weight_map": {"a": "../x"}}, "expected plain file names, got '../x'"),
        ({"weight_map": {"a": "x.safetensors"}}, "x.safetensors is missing"),
        ({"weight_map": {"a": "model.safetensors"}}, "tensor 'a' is not in model.safetensors"),
        ({"weights": 1}, "model.safetensors.index.json: 'weight_map'"),
    ],
    ids=["elsewhere", "no shard", "no tensor", "no map"],
)
def test_an_index_names_what_is_there(index: Any, reason: str, tmp_path: Path) -> None:
    directory = save_directory(tmp_path, "llama", tensors_of("llama"))
    (directory / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    with pytest.raises(UnusableCheckpoint, match=reason):
        read_checkpoint(directory)


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_file_that_is_missing_is_named(missing: str, tmp_path: Path) -> None:
    directory = save_directory(tmp_path, "llama", tensors_of("llama"))
    (directory / missing).unlink()
    with pytest.raises(UnusableCheckpoint, match=f"expected {missing}"):
        read_checkpoint(directory)
