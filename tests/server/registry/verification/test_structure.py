"""What an uploaded graph may not hold: a refusal each, before anything but a parser has seen it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from aiaas_server.core.errors import Rejected
from aiaas_server.registry.verification.operators import LISTED
from aiaas_server.registry.verification.structure import Structure, examine
from tests.server.registry.verification import hostile

BESIDE = {"weights.bin": bytes(8), "short.bin": bytes(4)}
DECLARED = {name: hashlib.sha256(content).hexdigest() for name, content in BESIDE.items()}


def sibling(name: str) -> tuple[int, str] | None:
    content = BESIDE.get(name)
    return None if content is None else (len(content), hashlib.sha256(content).hexdigest())


def look(made: Any, declared: dict[str, str] = DECLARED) -> Structure:
    content = made if isinstance(made, bytes) else hostile.serialized(made)
    return examine(content, sibling, declared)


def refusal(made: Any, declared: dict[str, str] = DECLARED) -> str:
    with pytest.raises(Rejected) as caught:
        look(made, declared)
    message = caught.value.message
    assert "\n" not in message
    assert len(message) < 512
    return message


def changed(change: Callable[[Any], object], made: Any = None) -> Any:
    """A sound model with one thing changed."""
    made = made or hostile.plus()
    change(made)
    return made


def test_a_sound_model_is_described() -> None:
    assert look(hostile.plus()) == Structure({"ai.onnx": 17}, 10, 1, ())


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (b"", "empty"),
        (b"\x1c\0\0\0ORTM" + bytes(64), "onnxruntime's own format"),
        (b"\x1c\0\0\0TFL3" + bytes(64), "TensorFlow Lite"),
        (b"PK\x03\x04" + bytes(64), "zip"),
        (b"\x1f\x8b\x08" + bytes(64), "gzip"),
        (b"\x80\x04\x95" + bytes(64), "pickle"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b'{"a": 1}', "JSON"),
        (b"\xff" * 64, "none"),
        (b"hello, this is no model", "none"),
    ],
)
def test_what_is_no_onnx_is_told_by_its_name(content: bytes, got: str) -> None:
    assert got in refusal(content)


def test_a_file_that_was_cut_tells_how_much_is_missing() -> None:
    whole = onnx.ModelProto(ir_version=10, producer_name="somebody").SerializeToString()
    assert "ends 3 bytes too early" in refusal(whole[:-3])


@pytest.mark.parametrize("junk", [b"\0", bytes(100), b"\xfa\x07\x04evil", b"trailing"])
def test_what_follows_the_model_is_refused(junk: bytes) -> None:
    refusal(hostile.serialized(hostile.plus()) + junk)


def test_a_second_graph_that_a_parser_would_join_to_the_first_is_refused() -> None:
    content = hostile.serialized(hostile.plus())
    # A whole second model, and the same with only its graph.
    assert "second" in refusal(content + content)
    graph = onnx.ModelProto(graph=hostile.plus().graph).SerializeToString()
    assert "expected one 'graph'" in refusal(content + graph)


def test_a_model_needs_a_graph() -> None:
    assert "without a graph" in refusal(onnx.ModelProto(ir_version=10))


def test_messages_nested_too_deep_are_refused() -> None:
    look(hostile.nested(5))
    assert "nested at most 50" in refusal(hostile.nested(20))
    assert "nested more than 100" in refusal(hostile.bottomless(120))


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("../weights.bin", "plain file"),
        ("/etc/passwd", "plain file"),
        ("a\\b", "plain file"),
        ("file://x", "plain file"),
        ("", "plain file"),
        ("..", "plain file"),
        ("missing.bin", "not in the bundle"),
        ("*/_ORT_MEM_ADDR_/*", "memory address"),
        ("*/_ORT_NATIVE_ENDIAN_MEM_ADDR_/*", "memory address"),
    ],
)
def test_weights_elsewhere_than_beside_the_model_are_refused(location: str, words: str) -> None:
    assert words in refusal(hostile.external(location))


def test_weights_beside_the_model_need_the_digest_that_the_card_declares() -> None:
    made = hostile.external("weights.bin", offset="0", length="8")
    assert look(made).siblings == ("weights.bin",)
    assert "does not declare" in refusal(made, {})
    assert "expected sha256 " + "0" * 64 in refusal(made, {"weights.bin": "0" * 64})


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"location": "short.bin"}, "end at byte 8"),
        ({"location": "weights.bin", "offset": "4"}, "end at byte 12"),
        ({"location": "weights.bin", "length": "4"}, "got a length of 4"),
        ({"location": "weights.bin", "offset": "-8"}, "whole number"),
        ({"location": "weights.bin", "offset": "9" * 30}, "whole number"),
        ({"location": "weights.bin", "basepath": "/etc"}, "basepath"),
    ],
)
def test_the_extent_of_weights_beside_the_model_is_checked(
    entries: dict[str, str], words: str
) -> None:
    assert words in refusal(hostile.external(**entries))


def outside(tensor: Any) -> Any:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def _in_attribute(tensor: Any) -> Any:
    return hostile.model([helper.make_node("Constant", [], ["y"], value=tensor)])


def _in_list(tensor: Any) -> Any:
    made = helper.make_node("Constant", [], ["y"])
    made.attribute.add(name="ts", type=onnx.AttributeProto.TENSORS).tensors.append(tensor)
    return hostile.model([made])


def _in_subgraph(tensor: Any) -> Any:
    made = hostile.nested(1)
    made.graph.node[0].attribute[0].g.initializer.append(tensor)
    return made


def _in_function(tensor: Any) -> Any:
    made = hostile.doubling(1)
    made.functions[0].node.append(helper.make_node("Constant", [], ["c"], value=tensor))
    return made


def _in_sparse(tensor: Any) -> Any:
    made = hostile.plus()
    sparse = made.graph.sparse_initializer.add()
    sparse.values.CopyFrom(tensor)
    return made


def _in_sparse_attribute(tensor: Any) -> Any:
    made = helper.make_node("Constant", [], ["y"])
    made.attribute.add(
        name="s", type=onnx.AttributeProto.SPARSE_TENSOR
    ).sparse_tensor.indices.CopyFrom(tensor)
    return hostile.model([made])


@pytest.mark.parametrize(
    "place",
    [_in_attribute, _in_list, _in_subgraph, _in_function, _in_sparse, _in_sparse_attribute],
    ids=lambda place: place.__name__,
)
def test_weights_elsewhere_are_found_wherever_they_stand(place: Callable[[Any], Any]) -> None:
    tensor = numpy_helper.from_array(np.ones((1, 2), np.float32), "hidden")
    assert "'hidden'" in refusal(place(outside(tensor)))


def test_an_entry_counts_although_the_location_says_inside() -> None:
    made = hostile.plus()
    made.graph.initializer[0].external_data.add(key="location", value="/etc/passwd")
    assert "plain file" in refusal(made)


@pytest.mark.parametrize(
    ("domain", "operator"),
    [
        ("com.microsoft", "EPContext"),
        ("com.microsoft", "Snpe"),
        ("com.microsoft", "BeamSearch"),
        ("com.microsoft.nchwc", "Conv"),
        ("ai.onnx.training", "Adam"),
        ("evil.corp", "Run"),
        ("AI.ONNX", "Identity"),
    ],
)
def test_operators_that_are_not_listed_are_refused(domain: str, operator: str) -> None:
    made = hostile.model(
        [helper.make_node(operator, ["x"], ["y"], domain=domain)], domains=[domain]
    )
    assert f"'{operator}' of domain '{domain}'" in refusal(made)


@pytest.mark.parametrize("operator", ["Gelu", "Attention", "GroupQueryAttention", "MatMulNBits"])
def test_listed_operators_pass(operator: str) -> None:
    assert operator in LISTED
    made = hostile.model([helper.make_node(operator, ["x"], ["y"], domain="com.microsoft")])
    assert look(made).nodes == 1


def test_listed_operators_are_known_to_the_runtime_and_name_no_file() -> None:
    import onnxruntime.capi._pybind_state as state

    schemas = [s for s in state.get_all_operator_schema() if s.domain == "com.microsoft"]
    assert {schema.name for schema in schemas} >= LISTED
    named = {
        schema.name
        for schema in schemas
        if any("file" in name or "path" in name or "sdk" in name for name in schema.attributes)
    }
    assert LISTED.isdisjoint(named)


@pytest.mark.parametrize("domain", ["", "ai.onnx", "com.microsoft", "com.microsoft.nchwc"])
def test_a_function_of_the_model_takes_no_place_of_the_runtimes(domain: str) -> None:
    made = hostile.doubling(1)
    made.functions[0].domain = domain
    assert "domain of its own" in refusal(made)


def test_two_functions_of_one_name_are_refused() -> None:
    made = hostile.doubling(1)
    made.functions[1].name = made.functions[0].name
    assert "two of that name" in refusal(made)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: setattr(m, "ir_version", onnx.IR_VERSION + 1), "IR version"),
        (lambda m: setattr(m, "ir_version", 0), "IR version"),
        (lambda m: setattr(m.opset_import[0], "version", 999), "got 999"),
        (lambda m: setattr(m.opset_import[0], "version", 0), "got 0"),
        (lambda m: m.opset_import.add(domain="ai.onnx.ml", version=99), "ai.onnx.ml"),
        (lambda m: m.training_info.add(), "training_info"),
        (lambda m: m.metadata_props.add(key="k", value="v" * 65536), "metadata"),
        (lambda m: setattr(m.graph.node[0], "name", "n" * 513), "names of at most 512"),
        (lambda m: setattr(m.graph.node[0], "name", "é" * 300), "names of at most 512"),
        (lambda m: setattr(m.graph.initializer[0], "name", "n" * 513), "names of at most 512"),
        (lambda m: setattr(m.graph.input[0], "name", "n" * 513), "names of at most 512"),
        (lambda m: m.graph.node[0].input.append("n" * 513), "names of at most 512"),
    ],
)
def test_what_is_newer_or_longer_than_accepted_is_refused(
    change: Callable[[Any], object], words: str
) -> None:
    assert words in refusal(changed(change))


def test_the_standard_operators_may_be_listed_twice() -> None:
    made = changed(lambda m: m.opset_import.add(domain="", version=15))
    assert look(made).opset == {"ai.onnx": 17}


def test_names_that_are_no_text_are_refused() -> None:
    content = hostile.serialized(hostile.plus())
    assert "not UTF-8" in refusal(content.replace(b"\x0a\x01x", b"\x0a\x01\xff"))


def test_too_many_nodes_are_refused_as_written() -> None:
    nodes = [helper.make_node("Identity", ["x"], [f"y{i}"]) for i in range(50_001)]
    assert "at most 50000 nodes" in refusal(hostile.model(nodes))


def tensor(change: Callable[[Any], object]) -> Any:
    return changed(lambda m: change(m.graph.initializer[0]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.dims.__setitem__(0, -1), "dims of 0 or more"),
        (lambda t: t.dims.__setitem__(0, 2), "expected 16 bytes, got 8"),
        (lambda t: t.dims.__setitem__(0, 0), "expected 0 bytes, got 8"),
        (lambda t: t.dims.extend([2**62] * 8), "machine can address"),
        (lambda t: t.dims.extend([1] * 100), "64 dims"),
        (lambda t: setattr(t, "data_type", 99), "datatype of ONNX, got 99"),
        (lambda t: setattr(t, "data_type", 0), "datatype of ONNX, got 0"),
        (lambda t: setattr(t, "data_type", TensorProto.INT64), "expected 16 bytes, got 8"),
        (lambda t: setattr(t, "data_type", TensorProto.STRING), "expected 2 texts, got 0"),
        (lambda t: t.ClearField("raw_data"), "expected 2 values, got 0"),
    ],
)
def test_dims_that_differ_from_the_bytes_are_refused(
    change: Callable[[Any], object], words: str
) -> None:
    message = refusal(tensor(change))
    assert words in message
    assert "'w'" in message


@pytest.mark.parametrize(
    "kind",
    [
        TensorProto.FLOAT16,
        TensorProto.BFLOAT16,
        TensorProto.INT8,
        TensorProto.BOOL,
        TensorProto.INT64,
        TensorProto.UINT64,
        TensorProto.DOUBLE,
        TensorProto.INT4,
        TensorProto.UINT4,
        TensorProto.COMPLEX64,
        TensorProto.FLOAT8E4M3FN,
        TensorProto.STRING,
    ],
)
def test_every_datatype_may_be_written_as_typed_values(kind: int) -> None:
    values = [b"a", b"b", b"c"] if kind == TensorProto.STRING else [1, 0, 1]
    made = helper.make_tensor("w", kind, [3], values)
    look(changed(lambda m: m.graph.initializer[0].CopyFrom(made)))


def test_weights_that_swell_are_refused() -> None:
    # Packed as varints, a zero takes one byte in the file and eight in memory.
    zeros = helper.make_tensor("w", TensorProto.INT64, [1 << 20], [0] * (1 << 20))
    made = changed(lambda m: m.graph.initializer[0].CopyFrom(zeros))
    assert f"tensors of {8 << 20} bytes" in refusal(made)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([hostile.value("y", ["n", 2]), hostile.value("y", ["n", 2])], "two of that name"),
        ([hostile.value("y", [1] * 17)], "expected at most 16 dimensions, got 17"),
        ([hostile.value("y", [2**31, 2])], "at most 2147483647, got 2147483648"),
        ([hostile.value("y", [2**62, 2])], f"at most 2147483647, got {2**62}"),
    ],
    ids=["twice", "rank", "dimension", "overflow"],
)
def test_ends_that_no_request_could_name_or_fill_are_refused(values: Any, said: str) -> None:
    """They were verified, and could not be loaded in a process of their own."""
    assert said in refusal(hostile.model(outputs=values))
    assert said in refusal(hostile.model(inputs=values))
