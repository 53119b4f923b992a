"""Models of a hostile tenant: most of them pass verification, and turn bad on a number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.server.registry.verification.hostile import (
    doubling,
    encoded,
    external,
    model,
    nested,
    node,
    plus,
    serialized,
    value,
)

INT64, FLOAT, BOOL, STRING = (
    TensorProto.INT64,
    TensorProto.FLOAT,
    TensorProto.BOOL,
    TensorProto.STRING,
)
HUGE: Final = 1 << 40
Made = Callable[[], bytes]


def numbers(name: str, *values: int) -> Any:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def scalar(name: str, number: Any, kind: Any = np.int64) -> Any:
    return numpy_helper.from_array(np.array(number, kind), name)


def counted(
    nodes: Sequence[Any], *, weights: Sequence[Any] = (), out: int = FLOAT, dims: Any = ()
) -> bytes:
    """A model of one whole number `n`, shape [1], that gives `y`."""
    made = model(
        nodes,
        [value("n", [1], INT64)],
        [value("y", dims, out)],
        weights=weights,
    )
    return serialized(made)


def _body(
    nodes: Sequence[Any], held: Sequence[tuple[str, str]], kind: int = INT64, on: str = "on"
) -> Any:
    turn, going = f"turn-{on}", f"going-{on}"
    inputs = [value(turn, [], INT64), value(going, [], BOOL)]
    outputs = [value(on, [], BOOL)]
    for before, after in held:
        inputs.append(value(before, None, kind))
        outputs.append(value(after, None, kind))
    return helper.make_graph([node("Identity", [going], [on]), *nodes], "b", inputs, outputs)


def loop_of_input() -> bytes:
    """As many turns as the input says."""
    body = _body([node("Add", ["h", "h"], ["k"])], [("h", "k")])
    return counted(
        [
            node("Squeeze", ["n"], ["trips"]),
            node("Loop", ["trips", "yes", "n"], ["y"], body=body),
        ],
        weights=[scalar("yes", True, bool)],
        out=INT64,
        dims=["m"],
    )


def loop_for_ever() -> bytes:
    """Turns for ever where `n` is large: its condition never changes."""
    body = _body([node("Identity", ["h"], ["k"])], [("h", "k")])
    return counted(
        [
            node("Greater", ["n", "large"], ["ask"]),
            node("Squeeze", ["ask"], ["go"]),
            node("Loop", ["", "go", "n"], ["y"], body=body),
        ],
        weights=[numbers("large", 1000)],
        out=INT64,
        dims=["m"],
    )


def loop_in_loop() -> bytes:
    """`n` x `n` turns."""
    inner = _body([node("Add", ["i", "i"], ["j"])], [("i", "j")], on="inner")
    outer = _body([node("Loop", ["trips", "yes", "h"], ["k"], body=inner)], [("h", "k")])
    return counted(
        [
            node("Squeeze", ["n"], ["trips"]),
            node("Loop", ["trips", "yes", "n"], ["y"], body=outer),
        ],
        weights=[scalar("yes", True, bool)],
        out=INT64,
        dims=["m"],
    )


def loop_that_keeps() -> bytes:
    """Keeps an output of each turn: memory grows with `n`."""
    body = helper.make_graph(
        [
            node("Identity", ["going"], ["on"]),
            node("ConstantOfShape", ["many"], ["z"]),
        ],
        "b",
        [value("turn", [], INT64), value("going", [], BOOL)],
        [value("on", [], BOOL), value("z", [1 << 20])],
    )
    return counted(
        [
            node("Squeeze", ["n"], ["trips"]),
            node("Loop", ["trips", "yes"], ["all"], body=body),
            node("ReduceSum", ["all"], ["y"], keepdims=0),
        ],
        weights=[scalar("yes", True, bool), numbers("many", 1 << 20)],
    )


def doubles() -> bytes:
    """A tensor that is joined to itself `n` times."""
    body = _body([node("Concat", ["h", "h"], ["k"], axis=0)], [("h", "k")])
    return counted(
        [
            node("Squeeze", ["n"], ["trips"]),
            node("Loop", ["trips", "yes", "n"], ["y"], body=body),
        ],
        weights=[scalar("yes", True, bool)],
        out=INT64,
        dims=["m"],
    )


def filled() -> bytes:
    """`n` numbers are allocated."""
    return counted(
        [node("ConstantOfShape", ["n"], ["m"]), node("ReduceSum", ["m"], ["y"], keepdims=0)]
    )


def given_back() -> bytes:
    """`n` numbers are answered."""
    return counted([node("ConstantOfShape", ["n"], ["y"])], dims=["m"])


def random_filled(kind: str) -> Made:
    """`n` numbers, which a node of chance makes out of their shape."""

    def made() -> bytes:
        return counted(
            [
                node("ConstantOfShape", ["n"], ["m"]),
                node(kind, ["m"], ["r"]),
                node("ReduceSum", ["r"], ["y"], keepdims=0),
            ]
        )

    return made


def expanded() -> bytes:
    return counted(
        [node("Expand", ["one", "n"], ["m"]), node("ReduceSum", ["m"], ["y"], keepdims=0)],
        weights=[numpy_helper.from_array(np.ones(1, np.float32), "one")],
    )


def tiled() -> bytes:
    return counted(
        [node("Tile", ["one", "n"], ["m"]), node("ReduceSum", ["m"], ["y"], keepdims=0)],
        weights=[numpy_helper.from_array(np.ones(1024, np.float32), "one")],
    )


def ranged() -> bytes:
    return counted(
        [
            node("Squeeze", ["n"], ["end"]),
            node("Range", ["zero", "end", "step"], ["m"]),
            node("ReduceSum", ["m"], ["y"], keepdims=0),
        ],
        weights=[scalar("zero", 0), scalar("step", 1)],
        out=INT64,
    )


def one_hot() -> bytes:
    return counted(
        [
            node("Squeeze", ["n"], ["depth"]),
            node("OneHot", ["n", "depth", "values"], ["m"]),
            node("ReduceSum", ["m"], ["y"], keepdims=0),
        ],
        weights=[numpy_helper.from_array(np.array([0, 1], np.float32), "values")],
    )


def padded() -> bytes:
    return counted(
        [
            node("Concat", ["n", "n"], ["pads"], axis=0),
            node("Pad", ["one", "pads"], ["m"]),
            node("ReduceSum", ["m"], ["y"], keepdims=0),
        ],
        weights=[numpy_helper.from_array(np.ones(1, np.float32), "one")],
    )


def resized() -> bytes:
    return counted(
        [
            node("Concat", ["ones", "n"], ["sizes"], axis=0),
            node("Resize", ["pic", "", "", "sizes"], ["m"], mode="nearest"),
            node("ReduceSum", ["m"], ["y"], keepdims=0),
        ],
        weights=[
            numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "pic"),
            numbers("ones", 1, 1, 1),
        ],
    )


def outside(kind: str) -> Made:
    """Reads at the index `n`, which need not be there."""

    def made() -> bytes:
        weights = [numpy_helper.from_array(np.arange(4, dtype=np.float32), "w")]
        if kind == "GatherND":
            return counted([node("GatherND", ["w", "n"], ["y"])], weights=weights)
        return counted([node(kind, ["w", "n"], ["y"], axis=0)], weights=weights, dims=["m"])

    return made


def scattered() -> bytes:
    """Writes at the index `n`."""
    return counted(
        [node("ScatterElements", ["w", "n", "u"], ["y"], axis=0)],
        weights=[
            numpy_helper.from_array(np.arange(4, dtype=np.float32), "w"),
            numpy_helper.from_array(np.ones(1, np.float32), "u"),
        ],
        dims=["m"],
    )


def reshaped() -> bytes:
    return counted(
        [node("Reshape", ["w", "n"], ["y"])],
        weights=[numpy_helper.from_array(np.arange(1, dtype=np.float32), "w")],
        dims=["m"],
    )


def divided() -> bytes:
    """The least whole number, divided by -1 times a number that is chosen: a trap of processors."""
    return counted(
        [node("Div", ["least", "n"], ["y"])],
        weights=[numbers("least", -(2**63))],
        out=INT64,
        dims=[1],
    )


def remainder() -> bytes:
    return counted(
        [node("Mod", ["least", "n"], ["y"])],
        weights=[numbers("least", -(2**63))],
        out=INT64,
        dims=[1],
    )


def shifted_shape() -> bytes:
    """Says [1], and answers `n` of them."""
    return counted([node("ConstantOfShape", ["n"], ["y"])], dims=[1])


def branches(levels: int) -> Made:
    def made() -> bytes:
        return serialized(nested(levels))

    return made


def scan_nest(levels: int) -> Made:
    """Scans inside scans."""

    def made() -> bytes:
        inner = helper.make_graph(
            [node("Identity", ["a"], ["b"])], "s", [value("a", None)], [value("b", None)]
        )
        for level in range(1, levels):
            a, b = f"a{level}", f"b{level}"
            scan = node("Scan", [a], [b], body=inner, num_scan_inputs=1)
            inner = helper.make_graph([scan], f"s{level}", [value(a, None)], [value(b, None)])
        scan = node("Scan", ["x"], ["y"], body=inner, num_scan_inputs=1)
        shape = [2] * (levels + 1)
        return serialized(model([scan], [value("x", shape)], [value("y", shape)]))

    return made


def named(output: str, given: str = "x") -> Made:
    def made() -> bytes:
        return serialized(
            model([node("Identity", [given], [output])], [value(given, [2])], [value(output, [2])])
        )

    return made


def output_is_input() -> bytes:
    return serialized(model([node("Identity", ["x"], ["z"])], [value("x", [2])], [value("x", [2])]))


def output_twice() -> bytes:
    return serialized(
        model(
            [node("Identity", ["x"], ["y"])], outputs=[value("y", ["n", 2]), value("y", ["n", 2])]
        )
    )


def of_sequence() -> bytes:
    made = model([node("SequenceConstruct", ["x"], ["y"])])
    made.graph.output[0].CopyFrom(helper.make_tensor_sequence_value_info("y", FLOAT, ["n", 2]))
    return serialized(made)


def of_optional() -> bytes:
    made = model([node("Optional", ["x"], ["y"])])
    inner = helper.make_tensor_type_proto(FLOAT, ["n", 2])
    made.graph.output[0].CopyFrom(
        helper.make_value_info("y", helper.make_optional_type_proto(inner))
    )
    return serialized(made)


def shaped(*dims: int) -> Made:
    def made() -> bytes:
        return serialized(
            model([node("Identity", ["x"], ["y"])], [value("x", dims)], [value("y", dims)])
        )

    return made


def with_operator(kind: str, domain: str, **attributes: Any) -> Made:
    def made() -> bytes:
        return serialized(
            model([node(kind, ["x"], ["y"], domain=domain, **attributes)], domains=[domain])
        )

    return made


def address() -> bytes:
    return serialized(external("*/_ORT_MEM_ADDR_/*", offset="140000000000000", length="8"))


def address_in_a_constant() -> bytes:
    tensor = TensorProto(name="c", data_type=FLOAT, dims=[1, 2], data_location=1)
    tensor.external_data.add(key="location", value="*/_ORT_MEM_ADDR_/*")
    tensor.external_data.add(key="offset", value="140000000000000")
    return serialized(
        model([node("Constant", [], ["w"], value=tensor), node("Add", ["x", "w"], ["y"])])
    )


def outward(location: str) -> Made:
    return lambda: serialized(external(location))


def too_few_bytes() -> bytes:
    made = plus()
    made.graph.initializer[0].dims[0] = 1 << 40
    return serialized(made)


def negative_dims() -> bytes:
    made = plus()
    made.graph.initializer[0].dims[0] = -1
    return serialized(made)


def long_text() -> bytes:
    """A text that is written `n` times."""
    return counted(
        [node("Expand", ["word", "n"], ["y"])],
        weights=[helper.make_tensor("word", STRING, [1], [b"w" * 1024])],
        out=STRING,
        dims=["m"],
    )


def pattern() -> bytes:
    """An expression that takes for ever on a text that nearly fits."""
    return serialized(
        model(
            [node("RegexFullMatch", ["t"], ["y"], pattern="(a+)+b")],
            [value("t", [1], STRING)],
            [value("y", [1], BOOL)],
            opset=20,
        )
    )


def sums(letters: str) -> Made:
    def made() -> bytes:
        return counted(
            [
                node("ConstantOfShape", ["n"], ["m"]),
                node("Einsum", ["m", "m", "m"], ["o"], equation=letters),
                node("ReduceSum", ["o"], ["y"], keepdims=0),
            ]
        )

    return made


def sorts() -> bytes:
    return counted(
        [
            node("ConstantOfShape", ["n"], ["m"]),
            node("TopK", ["m", "n"], ["o", "i"]),
            node("ReduceSum", ["o"], ["y"], keepdims=0),
        ]
    )


def junk(content: bytes) -> Made:
    return lambda: content


def trailing() -> bytes:
    return serialized(plus()) + b"\xff" * 64


def deep_attribute() -> bytes:
    content = b""
    for _ in range(20_000):
        content = b"\x0a" + encoded(len(content)) + content
    return b"\x08\x0a\x3a" + encoded(len(content)) + content


# How each is asked: a number, None for the tensor `x`, or nothing where it has to be refused.
BAD_ON_A_NUMBER: Final[dict[str, tuple[Made, int]]] = {
    "loop-of-input": (loop_of_input, 2**62),
    "loop-for-ever": (loop_for_ever, 10**6),
    "loop-in-loop": (loop_in_loop, 10**7),
    "loop-that-keeps": (loop_that_keeps, 10**6),
    "doubles": (doubles, 62),
    "filled": (filled, 25_000_000_000),
    "filled-negative": (filled, -5),
    "filled-least": (filled, -(2**63)),
    "filled-most": (filled, 2**63 - 1),
    "given-back": (given_back, 25_000_000_000),
    "given-back-some": (given_back, 30_000_000),
    "random-uniform": (random_filled("RandomUniformLike"), 25_000_000_000),
    "random-normal": (random_filled("RandomNormalLike"), 2**61),
    "bernoulli": (random_filled("Bernoulli"), 25_000_000_000),
    "expanded": (expanded, HUGE),
    "tiled": (tiled, HUGE),
    "tiled-over": (tiled, 2**54),
    "ranged": (ranged, HUGE),
    "ranged-most": (ranged, 2**63 - 1),
    "one-hot": (one_hot, HUGE),
    "padded": (padded, HUGE),
    "padded-negative": (padded, -HUGE),
    "resized": (resized, HUGE),
    "gather": (outside("Gather"), HUGE),
    "gather-negative": (outside("Gather"), -HUGE),
    "gather-elements": (outside("GatherElements"), HUGE),
    "gather-nd": (outside("GatherND"), HUGE),
    "scattered": (scattered, HUGE),
    "scattered-negative": (scattered, -HUGE),
    "reshaped": (reshaped, HUGE),
    "divided-by-nought": (divided, 0),
    "divided-by-minus-one": (divided, -1),
    "remainder-of-nought": (remainder, 0),
    "remainder-of-minus-one": (remainder, -1),
    "another-shape": (shifted_shape, 7),
    "long-text": (long_text, 1 << 22),
    "einsum": (sums("a,b,c->abc"), 100_000),
    "sorts": (sorts, 2**33),
}
GOOD_OR_REFUSED: Final[dict[str, Made]] = {
    "if-nest": branches(12),
    "if-nest-too-deep": branches(17),
    "scan-nest": scan_nest(6),
    "scan-nest-too-deep": scan_nest(20),
    "bomb-of-functions": lambda: serialized(doubling(30)),
    "output-is-input": output_is_input,
    "output-twice": output_twice,
    "named-like-a-path": named("../../etc/passwd"),
    "named-with-a-break": named("y\r\nSet-Cookie: a=b"),
    "named-with-nul": named("y\0z"),
    "named-huge": named("y" * 1_000_000),
    "input-named-huge": named("y", "x" * 1_000_000),
    "sequence": of_sequence,
    "optional": of_optional,
    "no-elements": shaped(0, 2),
    "huge-shape": shaped(1 << 31, 1 << 31),
    "overflowing-shape": shaped(1 << 62, 1 << 62),
    "many-dims": shaped(*[1] * 40),
    "negative-shape": shaped(-7, 2),
    "custom-operator": with_operator("Own", "evil.example"),
    "context-of-a-provider": with_operator(
        "EPContext", "com.microsoft", embed_mode=0, ep_cache_context="/etc/passwd", main_context=1
    ),
    "python-operator": with_operator("PythonOp", "com.microsoft"),
    "memory-address": address,
    "memory-address-in-a-constant": address_in_a_constant,
    "weights-elsewhere": outward("/etc/passwd"),
    "weights-above": outward("../../../../../secret"),
    "weights-of-the-process": outward("/proc/self/mem"),
    "too-few-bytes": too_few_bytes,
    "negative-dims": negative_dims,
    "empty": junk(b""),
    "pickle": junk(b"\x80\x04\x95." * 10),
    "zip": junk(b"PK\x03\x04" + b"\0" * 100),
    "flatbuffer": junk(b"\x18\0\0\0ORTM" + b"\0" * 100),
    "trailing": trailing,
    "deep-attribute": deep_attribute,
    "pattern": pattern,
}
