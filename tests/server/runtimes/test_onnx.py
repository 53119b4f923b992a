"""The onnxruntime adapter: loading, datatypes, providers, errors, stopping."""

from __future__ import annotations

import threading

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from aiaas_client.protocol.tensors import dtype_of
from aiaas_server.core.describe.config import ModelConfig
from aiaas_server.core.errors import (
    DeadlineExceeded,
    InferenceFailed,
    InvalidInput,
    LoadFailed,
    ModelUnavailable,
)
from aiaas_server.core.session import StopToken
from aiaas_server.core.signature import TensorSpec
from aiaas_server.runtimes.onnx import open_session
from aiaas_server.runtimes.probe import why_not
from aiaas_server.runtimes.providers import CPU, CUDA, TENSORRT, choose_providers
from aiaas_server.runtimes.reasons import clean
from tests.server.runtimes.threads import on_threads

NUMERIC = ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64",
           "FP16", "FP32", "FP64"]  # fmt: skip
AVAILABLE = ["CUDAExecutionProvider", "CPUExecutionProvider"]


def built(nodes, inputs, outputs, **options):
    graph = helper.make_graph(nodes, "g", inputs, outputs, **options)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize("bound", [False, True], ids=["plain", "io binding"])
@pytest.mark.parametrize("shape", [(2, 3), (0, 3), (2, 0)], ids=["2x3", "no rows", "no columns"])
@pytest.mark.parametrize("datatype", NUMERIC)
def test_every_datatype_goes_in_and_comes_out(onnx_models, datatype, shape, bound):
    session = open_session(onnx_models.identity(datatype), io_binding=bound)
    assert session.inputs == (TensorSpec("x", datatype, (-1, -1), symbols=("batch", "n")),)
    count = shape[0] * shape[1]
    x = (np.arange(count) % 2).astype(dtype_of(datatype)).reshape(shape)
    (y,) = session.run({"x": x}, ["y"])
    assert y.dtype == x.dtype
    assert y.shape == x.shape
    np.testing.assert_array_equal(y, x)
    assert y.flags.writeable
    assert not np.shares_memory(x, y)


def test_rank_0_goes_in_and_comes_out(onnx_models):
    session = open_session(onnx_models.identity("FP32", []))
    (y,) = session.run({"x": np.array(3, np.float32)}, ["y"])
    assert (y.shape, float(y)) == ((), 3)


def test_texts_are_bytes_outside_and_need_not_be_ascii(onnx_models):
    session = open_session(onnx_models.identity("BYTES"), io_binding=True)
    x = np.array([["a", "", "价"]], dtype=object)
    x = np.array([[text.encode() for text in x[0]]], dtype=object)
    (y,) = session.run({"x": x}, ["y"])
    assert y.tolist() == x.tolist()
    empty = np.empty((0, 3), object)
    assert session.run({"x": empty}, ["y"])[0].shape == (0, 3)


def test_text_that_is_not_utf8_is_the_callers_mistake(onnx_models):
    session = open_session(onnx_models.identity("BYTES"))
    with pytest.raises(InvalidInput, match="input 'x': an element is not valid UTF-8"):
        session.run({"x": np.array([[b"ok", b"\xff\xfe"]], dtype=object)}, ["y"])


def test_read_only_and_strided_inputs_are_accepted(onnx_models):
    session = open_session(onnx_models.scale(2))
    view = np.frombuffer(np.ones(8, np.float32).tobytes(), np.float32).reshape(2, 4)
    strided = np.ones((4, 8), np.float32)[::2, ::2]
    for x in (view, strided):
        (y,) = session.run({"x": x}, ["y"])
        assert y.tolist() == [[2] * 4] * 2


def test_only_the_outputs_asked_for_come_in_that_order(onnx_models):
    session = open_session(onnx_models.simple())
    x = {"INPUT0": np.full((1, 16), 5, np.int32), "INPUT1": np.full((1, 16), 3, np.int32)}
    assert [int(a[0, 0]) for a in session.run(x, ["OUTPUT1", "OUTPUT0"])] == [2, 8]
    assert len(session.run(x, ["OUTPUT1"])) == 1


def test_answers_equal_onnxruntimes_own(onnx_models):
    model = onnx_models.mlp()
    x = np.random.default_rng(1).normal(size=(5, 784)).astype(np.float32)
    expected = ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(
        None, {"image": x}
    )
    for bound in (False, True):
        (y,) = open_session(model, io_binding=bound).run({"image": x}, ["logits"])
        np.testing.assert_array_equal(y, expected[0])


def test_the_models_metadata_is_told(onnx_models):
    model = onnx.load_from_string(onnx_models.scale())
    model.producer_name = "trainer"
    helper.set_model_props(model, {"task": "demo"})
    session = open_session(model.SerializeToString())
    assert session.metadata["producer_name"] == "trainer"
    assert session.metadata["task"] == "demo"
    assert session.providers == ("CPUExecutionProvider",)


# Loading


@pytest.mark.parametrize(
    "content", [b"", b"junk", b"\x08\x08\x12\x00"], ids=["empty", "junk", "no graph"]
)
@pytest.mark.parametrize("as_file", [True, False], ids=["file", "bytes"])
def test_a_damaged_model_is_refused_in_one_line_without_a_path(tmp_path, content, as_file):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(LoadFailed) as caught:
        open_session(path if as_file else content)
    message = caught.value.message
    assert message
    assert "\n" not in message
    assert str(tmp_path) not in message


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(LoadFailed, match="cannot be read: No such file") as caught:
        open_session(tmp_path / "model.onnx")
    assert str(tmp_path) not in caught.value.message


def test_an_operator_that_does_not_exist_is_named():
    value = helper.make_tensor_value_info
    model = built([helper.make_node("Teleport", ["x"], ["y"])], [value("x", 1, [1])],
                  [value("y", 1, [1])])  # fmt: skip
    with pytest.raises(LoadFailed, match="Teleport"):
        open_session(model.SerializeToString())


def test_outputs_that_are_no_tensors_are_refused_with_a_hint():
    model = built(
        [helper.make_node("SequenceConstruct", ["x"], ["y"])],
        [helper.make_tensor_value_info("x", 1, ["n"])],
        [helper.make_tensor_sequence_value_info("y", 1, None)],
    )
    with pytest.raises(LoadFailed, match=r"output 'y' is of type seq\(.*its elements as tensors"):
        open_session(model.SerializeToString())


def test_bfloat16_at_the_border_of_a_graph_is_refused_with_a_hint(onnx_models):
    with pytest.raises(LoadFailed, match="BF16 only inside a graph"):
        open_session(onnx_models.identity("BF16"))


def external(location):
    weights = TensorProto(name="w", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        weights.external_data.add(key=key, value=value)
    value = helper.make_tensor_value_info
    return built(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        [value("x", 1, ["n", 4])],
        [value("y", 1, ["n", 4])],
        initializer=[weights],
    ).SerializeToString()


def test_weights_in_a_sibling_file_are_read(tmp_path):
    np.arange(4, dtype=np.float32).tofile(tmp_path / "w.bin")
    (tmp_path / "model.onnx").write_bytes(external("w.bin"))
    (y,) = open_session(tmp_path / "model.onnx").run({"x": np.zeros((1, 4), np.float32)}, ["y"])
    assert y.tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize(
    "location",
    ["../w.bin", "{root}/w.bin", "missing.bin", "*/_ORT_MEM_ADDR_/*"],
    ids=["outside", "absolute", "missing", "memory"],
)
def test_weights_from_anywhere_else_are_refused_without_telling_paths(tmp_path, location):
    np.arange(4, dtype=np.float32).tofile(tmp_path / "w.bin")
    (tmp_path / "1").mkdir()
    path = tmp_path / "1" / "model.onnx"
    path.write_bytes(external(location.format(root=tmp_path)))
    with pytest.raises(LoadFailed) as caught:
        open_session(path)
    assert str(tmp_path) not in caught.value.message


# Providers


@pytest.mark.parametrize(
    ("asked", "available", "chosen"),
    [
        (["auto"], AVAILABLE, AVAILABLE),
        (["auto"], AVAILABLE[1:], AVAILABLE[1:]),
        (["cpu"], AVAILABLE, AVAILABLE[1:]),
        (["cuda"], AVAILABLE, AVAILABLE),
        (["CPUExecutionProvider", "CUDA"], AVAILABLE, AVAILABLE),
        (["XExecutionProvider", "auto"], ["XExecutionProvider", *AVAILABLE],
         ["XExecutionProvider", *AVAILABLE]),
    ],
    ids=["auto with", "auto without", "cpu", "cuda", "cpu is always last", "own spelling first"],
)  # fmt: skip
def test_providers_are_chosen_by_name_in_order(asked, available, chosen):
    assert choose_providers(asked, available) == chosen


def test_a_provider_that_was_demanded_and_is_missing_is_an_error_that_lists_what_is_there():
    with pytest.raises(LoadFailed, match="'cuda' is not available; there are: CPUExec"):
        choose_providers(["cuda", "cpu"], AVAILABLE[1:])


@pytest.mark.skipif(
    "CUDAExecutionProvider" in ort.get_available_providers(), reason="here CUDA is available"
)
def test_a_configuration_that_demands_a_gpu_is_refused_without_one(onnx_models):
    gpu = ModelConfig.parse('{"instance_group": [{"kind": "KIND_GPU"}]}')
    with pytest.raises(LoadFailed, match="asks for KIND_GPU .*: .* 'cuda' is not available"):
        open_session(onnx_models.scale(), gpu)
    assert open_session(onnx_models.scale(), gpu, providers=("cpu",)).providers


@pytest.mark.skipif(
    CUDA not in ort.get_available_providers() or bool(why_not(CUDA)),
    reason="onnxruntime offers no CUDAExecutionProvider here, or it cannot start",
)
@pytest.mark.parametrize("bound", [None, True, False], ids=["default", "io binding", "plain"])
def test_cuda_gives_what_the_cpu_gives(onnx_models, bound):
    x = np.random.default_rng(1).normal(size=(5, 784)).astype(np.float32)
    session = open_session(onnx_models.mlp(), providers=("cuda",), io_binding=bound)
    assert session.providers[0] == "CUDAExecutionProvider"
    (y,) = session.run({"image": x}, ["logits"])
    (expected,) = open_session(onnx_models.mlp(), providers=("cpu",)).run({"image": x}, ["logits"])
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-4)


# Failing and stopping


@pytest.mark.parametrize("bound", [False, True], ids=["plain", "io binding"])
def test_a_value_that_the_graph_cannot_take_is_the_callers_mistake(onnx_models, bound):
    session = open_session(onnx_models.lookup(), io_binding=bound)
    with pytest.raises(InvalidInput, match=r"refuses.*: an index: expected -10 to 9, got 99$"):
        session.run({"index": np.array([[99]], np.int64)}, ["value"])


def test_shapes_that_do_not_go_together_are_the_callers_mistake(onnx_models):
    session = open_session(onnx_models.add("FP32", ["batch", "n"]))
    arrays = {"a": np.zeros((1, 3), np.float32), "b": np.zeros((1, 4), np.float32)}
    told = "cannot run on these shapes or values: two dimensions that meet: .*, got 3 and 4$"
    with pytest.raises(InvalidInput, match=told):
        session.run(arrays, ["sum"])


def test_a_failure_that_no_shape_explains_is_the_runtimes(onnx_models):
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Concat", ["shape", "shape"], ["twice"], axis=0),
        helper.make_node("Add", ["twice", "one"], ["grown"]),
        helper.make_node("Reshape", ["x", "grown"], ["y"]),
    ]
    one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
    model = built(nodes, [value("x", 1, [2, 2])], [value("y", 1, None)], initializer=[one])
    session = open_session(model.SerializeToString())
    with pytest.raises(InferenceFailed, match=r"shape \[2,2\] does not fit the shape \[3,3,3,3\]"):
        session.run({"x": np.zeros((2, 2), np.float32)}, ["y"])


@pytest.mark.parametrize("binds", [False, True], ids=["plain", "bound"])
def test_a_run_is_stopped_from_another_thread_and_the_session_lives_on(onnx_models, binds):
    session = open_session(onnx_models.busy(), io_binding=binds)
    stop = StopToken()
    timer = threading.Timer(0.05, stop.stop)
    timer.start()
    with pytest.raises(DeadlineExceeded):
        session.run({"steps": np.array([10**9], np.int64)}, ["state"], stop)
    timer.join()
    (state,) = session.run({"steps": np.array([1], np.int64)}, ["state"], StopToken())
    np.testing.assert_array_equal(state, np.eye(128, dtype=np.float32))


def test_a_run_whose_stop_came_first_ends_at_once(onnx_models):
    session = open_session(onnx_models.busy())
    stop = StopToken()
    stop.stop()
    with pytest.raises(DeadlineExceeded):
        session.run({"steps": np.array([10**9], np.int64)}, ["state"], stop)


@pytest.mark.parametrize("binds", [False, True], ids=["plain", "bound"])
def test_threads_share_a_session(onnx_models, binds):
    session = open_session(onnx_models.scale(3), io_binding=binds)
    wrong = []

    def work(value):
        for count in range(1, 100):
            (y,) = session.run({"x": np.full((count % 7 + 1, 4), value, np.float32)}, ["y"])
            if (y != 3 * value).any():
                wrong.append(value)

    on_threads(work)
    assert wrong == []


def test_a_closed_session_refuses(onnx_models):
    session = open_session(onnx_models.scale())
    session.close()
    with pytest.raises(ModelUnavailable):
        session.run({"x": np.zeros((1, 4), np.float32)}, ["y"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Load model from /a/b/model.onnx "
         "failed:Protobuf parsing failed.", "Protobuf parsing failed."),
        ("see '/home/u/w.bin' or \"../w.bin\"\nnow", "see '<path>' or \"<path>\" now"),
        ("[ONNXRuntimeError] : 1 : FAIL : x.cc:592 Validate Absolute", "Validate Absolute"),
        ("", "the runtime gave no reason"),
        ("a" * 1000, "a" * 300),
        ("and/or 3/4", "and/or 3/4"),
        ("/src/cuda_call.cc:148 CUDA failure 35: driver is too old ; GPU=-1 ; hostname=secret ; "
         "file=/src/x.cc ; line=355 ; expr=cudaSetDevice(info_.device_id);",
         "CUDA failure 35: driver is too old"),
    ],
    ids=["prefix and path", "quoted paths", "source place", "nothing", "long", "no path",
         "machine of a CUDA failure"],
)  # fmt: skip
def test_runtime_messages_are_cleaned(text, expected):
    assert clean(text) == expected


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (("tensorrt",), [TENSORRT, CUDA, CPU]),
        (("cuda", "tensorrt"), [CUDA, TENSORRT, CPU]),
        (("auto",), [CUDA, CPU]),
    ],
    ids=["tensorrt falls back on cuda", "in the order asked for", "auto takes no tensorrt"],
)
def test_tensorrt_is_used_when_it_is_named(asked, expected):
    assert choose_providers(asked, [TENSORRT, CUDA, CPU]) == expected


def test_a_graph_that_repeats_is_known_by_its_file(onnx_models, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_models.busy())
    assert open_session(path).graph.cost_in_values
    assert open_session(onnx_models.busy()).graph.cost_in_values
    assert not open_session(onnx_models.mlp()).graph.cost_in_values
