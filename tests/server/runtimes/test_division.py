"""No whole number that a request carries ends the process in a division."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import onnx
import pytest
from onnx import helper

from aiaas_server.core.errors import InvalidInput, LoadFailed
from aiaas_server.runtimes.onnx import open_session
from tests.server.runtimes.graphs import constant, model, node, value

DTYPES = {"INT32": np.int32, "INT64": np.int64}


def divides(datatype, constants=None, opset=17):
    """`y = a / b`; what `constants` names is no input."""
    inputs = {n: (datatype, ["n"]) for n in "ab" if n not in (constants or {})}
    return model(
        [node("Div", ["a", "b"], ["y"])], inputs, {"y": (datatype, ["n"])}, constants, opset=opset
    )


def in_a_branch(datatype):
    """The division stands in a branch and takes both from around it."""

    def branch(operator, name):
        output = value(name, onnx.TensorProto.DataType.Value(datatype), ["n"])
        return helper.make_graph([node(operator, ["a", "b"], [name])], name, [], [output])

    choice = node(
        "If", ["c"], ["y"], then_branch=branch("Div", "q"), else_branch=branch("Add", "s")
    )
    return model(
        [choice],
        {"c": ("BOOL", []), "a": (datatype, ["n"]), "b": (datatype, ["n"])},
        {"y": (datatype, ["n"])},
    )


def in_a_function(datatype):
    """The division stands in a function, whose inputs have no type."""
    function = helper.make_function(
        "own", "Ratio", ["p", "q"], ["r"], [node("Div", ["p", "q"], ["r"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    inputs = {"a": (datatype, ["n"]), "b": (datatype, ["n"])}
    call = node("Ratio", ["a", "b"], ["y"], domain="own")
    return model([call], inputs, {"y": (datatype, ["n"])}, functions=[function])


def made_between(datatype):
    """The divided and the divisor are made inside the graph, of tensors of other datatypes."""
    kind = onnx.TensorProto.DataType.Value(datatype)
    nodes = [
        node("Cast", ["f"], ["whole"], to=kind),
        node("Where", ["c", "whole", "least"], ["p"]),
        node("Identity", ["whole"], ["q"]),
        node("Div", ["p", "q"], ["y"]),
    ]
    least = np.array([np.iinfo(DTYPES[datatype]).min], DTYPES[datatype])
    return model(
        nodes, {"f": ("FP32", ["n"]), "c": ("BOOL", ["n"])}, {"y": (datatype, ["n"])},
        {"least": least},
    )  # fmt: skip


SURVIVES = textwrap.dedent("""
    import sys
    import numpy as np
    from aiaas_server.runtimes.onnx import open_session
    from tests.server.runtimes import test_division as t
    for datatype, dtype in t.DTYPES.items():
        least = np.full(5, np.iinfo(dtype).min, dtype)
        minus = np.full(5, -1, dtype)
        yes = {"c": np.array(True)}
        both = {"a": least, "b": minus}
        one = {"f": np.full(5, -1, np.float32), "c": np.zeros(5, bool)}
        for name, made, inputs in [
            ("two inputs", t.divides(datatype), both),
            ("divided constant", t.divides(datatype, {"a": least[:1]}), {"b": minus}),
            ("divisor constant", t.divides(datatype, {"b": minus[:1]}), {"a": least}),
            ("branch", t.in_a_branch(datatype), {**both, **yes}),
            ("function", t.in_a_function(datatype), both),
            ("made between", t.made_between(datatype), one),
        ]:
            (y,) = open_session(made).run(inputs, ["y"])
            assert y.tolist() == least.tolist(), (name, y)
            print(datatype, name, flush=True)
""")


def test_the_smallest_number_by_minus_one_is_answered():
    """In a process of its own, which a mistake here would end."""
    done = subprocess.run(
        [sys.executable, "-c", SURVIVES], capture_output=True, text=True, timeout=900, check=False
    )
    assert (done.returncode, done.stdout.count("\n")) == (0, 12), done.stdout + done.stderr


def test_by_zero_is_the_callers_mistake_and_is_told():
    session = open_session(divides("INT32"))
    with pytest.raises(InvalidInput, match="a whole number is divided by zero"):
        session.run({"a": np.ones(1, np.int32), "b": np.zeros(1, np.int32)}, ["y"])


@pytest.mark.parametrize("datatype", DTYPES)
@pytest.mark.parametrize("made", [divides, in_a_function], ids=["graph", "function"])
def test_a_guarded_division_gives_what_it_gave(made, datatype):
    random = np.random.default_rng(0)
    info = np.iinfo(DTYPES[datatype])
    a = random.integers(info.min + 1, info.max, 400).astype(DTYPES[datatype])
    b = np.concatenate([np.arange(-50, 0), np.arange(1, 51), random.integers(1, info.max, 300)])
    b = b.astype(DTYPES[datatype])
    session = open_session(made(datatype))
    (y,) = session.run({"a": a, "b": b}, ["y"])
    pairs = zip(a.tolist(), b.tolist(), strict=True)
    expected = [abs(p) // abs(q) * (1 if (p < 0) == (q < 0) else -1) for p, q in pairs]
    assert y.tolist() == expected
    assert any("1 division(s) of whole numbers guarded" in told for told in session.graph.changes)


def test_a_function_divides_floats_as_before():
    a, b = np.array([3, -2, np.inf, 1, 0], np.float32), np.array([-1, -0.5, -1, 0, 0], np.float32)
    (y,) = open_session(in_a_function("FP32")).run({"a": a, "b": b}, ["y"])
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(y, a / b)


@pytest.mark.parametrize(
    "made",
    [
        divides("FP32"),
        divides("INT32", {"b": np.array([7], np.int32)}),
        divides("INT64", {"a": np.array([100], np.int64)}),
        model(
            [node("Constant", [], ["b"], value_int=64), node("Div", ["a", "b"], ["y"])],
            {"a": ("INT64", ["n"])},
            {"y": ("INT64", ["n"])},
        ),
    ],
    ids=["floats", "constant divisor", "constant divided", "constant node"],
)
def test_what_cannot_trap_is_left_as_it_is(made):
    assert open_session(made).graph.changes == ()


def test_the_file_on_disk_stays_as_it_is(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(divides("INT32"))
    before = path.read_bytes()
    assert open_session(path).graph.changes
    assert path.read_bytes() == before


def test_weights_in_a_further_file_are_found_by_a_guarded_graph(tmp_path):
    weights = constant("w", np.zeros(4, np.int32))
    np.array([2, 4, 5, 10], np.int32).tofile(tmp_path / "w.bin")
    made = onnx.load_from_string(divides("INT32", {"b": np.zeros(4, np.int32)}))
    weights.ClearField("raw_data")
    weights.name, weights.data_location = "b", onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="w.bin")
    made.graph.initializer[0].CopyFrom(weights)
    (tmp_path / "model.onnx").write_bytes(made.SerializeToString())
    session = open_session(tmp_path / "model.onnx")
    assert session.graph.changes
    (y,) = session.run({"a": np.full(4, 20, np.int32)}, ["y"])
    assert y.tolist() == [10, 5, 4, 2]


def test_operators_too_old_to_guard_are_refused_with_the_reason():
    with pytest.raises(LoadFailed, match="divides whole numbers.*version 9 or later.*version 8"):
        open_session(divides("INT32", opset=8))
