"""The tiny model in the forms that exporters give decoders."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from aiaas_server.zoo.llama.graph import Cache
from tests import tiny_llm

PAST = "past_key_values."
_NUMBERS = itertools.count()


def bare(*removed: str, kept: Cache = "separate") -> bytes:
    """Without some of its inputs, which the graph works out of the length of the past."""
    model = _read(kept)
    nodes: list[onnx.NodeProto] = []
    add = _Nodes(nodes)
    past = add.size(f"{PAST}0.key", 2)
    steps = add.size("input_ids", 1)
    total = add("Add", past, steps)
    if "num_logits_to_keep" in removed:
        nodes.append(helper.make_node("Identity", [steps], ["num_logits_to_keep"]))
    if "attention_mask" in removed:
        batch = add.size("input_ids", 0)
        axis = add.constant(np.array([0]))
        sizes = [add("Unsqueeze", size, axis) for size in (batch, total)]
        shape = add("Concat", *sizes, axis=0)
        one = numpy_helper.from_array(np.array([1]))
        nodes.append(helper.make_node("ConstantOfShape", [shape], ["attention_mask"], value=one))
    if "position_ids" in removed:
        counted = add("Range", past, total, add.constant(np.int64(1)))
        row = add.constant(np.array([0]))
        nodes.append(helper.make_node("Unsqueeze", [counted, row], ["position_ids"]))
    return _written(model, nodes, removed)


def merged() -> bytes:
    """One file with two branches, of which `use_cache_branch` takes the one or the other."""
    model = _read()
    nodes: list[onnx.NodeProto] = []
    add = _Nodes(nodes)
    flag = add("Cast", "use_cache_branch", to=TensorProto.INT64)  # (1,)
    for name in _pasts(model):
        end = add("Mul", add("Unsqueeze", add.size(name, 2), add.constant(np.array([0]))), flag)
        cut = add("Slice", name, add.constant(np.array([0])), end, add.constant(np.array([2])))
        _rename(model, name, cut)
    branch = helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1])
    model.graph.input.append(branch)
    return _written(model, nodes, ())


def branched() -> bytes:
    """The same as optimum writes it: an `If`, each of whose branches is a whole decoder.

    Weights stand outside and are shared. The branch that begins makes a past of its own, of no
    tokens, whatever is given as one.
    """
    model, first = _read(), onnx.load_from_string(beginning())
    names = [told.name for told in model.graph.output]
    branches = {}
    for name, of, own in (("then", model, names), ("else", first, [*names, *_pasts(model)])):
        nodes = [_suffixed(node, own, f".{name}") for node in of.graph.node]
        outputs = [onnx.ValueInfoProto.FromString(o.SerializeToString()) for o in of.graph.output]
        for told in outputs:
            told.name += f".{name}"
        branches[f"{name}_branch"] = helper.make_graph(nodes, name, [], outputs)
    branch = helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1])
    model.graph.input.append(branch)
    del model.graph.node[:]
    return _written(model, [helper.make_node("If", [branch.name], names, **branches)], ())


def beginning() -> bytes:
    """The first of two files: it takes no past."""
    model = _read()
    pasts = _pasts(model)
    config = tiny_llm.CONFIG
    nodes: list[onnx.NodeProto] = []
    add = _Nodes(nodes)
    batch = add("Unsqueeze", add.size("input_ids", 0), add.constant(np.array([0])))
    shape = add("Concat", batch, add.constant(np.array([config.kv_heads, 0, config.head])), axis=0)
    nodes += [helper.make_node("ConstantOfShape", [shape], [name]) for name in pasts]
    return _written(model, nodes, pasts)


def going_on() -> bytes:
    """The second: one token a run."""
    model = _read()
    (ids,) = (given for given in model.graph.input if given.name == "input_ids")
    ids.type.tensor_type.shape.dim[1].dim_value = 1
    return _written(model, [], ())


def halved() -> bytes:
    """Keys and values in float16; the rest as it is."""
    model = _read()
    nodes: list[onnx.NodeProto] = []
    after: list[onnx.NodeProto] = []
    for name in _pasts(model):
        _rename(model, name, f"{name}.wide")
        nodes.append(helper.make_node("Cast", [name], [f"{name}.wide"], to=TensorProto.FLOAT))
        present = name.replace(PAST, "present.")
        _rename(model, present, f"{present}.wide")
        after.append(
            helper.make_node("Cast", [f"{present}.wide"], [present], to=TensorProto.FLOAT16)
        )
    for info in (*model.graph.input, *model.graph.output):
        if info.name.startswith((PAST, "present.")):
            info.type.tensor_type.elem_type = TensorProto.FLOAT16
    model.graph.node.extend(after)
    return _written(model, nodes, ())


def shifted() -> bytes:
    """The logits shifted by a constant that comes with each request, `[batch, any]`, summed."""
    model = _read()
    _rename(model, "logits", "plain")
    info = helper.make_tensor_value_info("hint", TensorProto.FLOAT, ["batch", "any"])
    model.graph.input.append(info)
    after: list[onnx.NodeProto] = []
    add = _Nodes(after)
    total = add("ReduceSum", "hint", add.constant(np.array([1])), keepdims=1)  # (B, 1)
    total = add("Unsqueeze", total, add.constant(np.array([1])))  # (B, 1, 1)
    after.append(helper.make_node("Add", ["plain", total], ["logits"]))
    model.graph.node.extend(after)
    return _written(model, [], ())


def encoded() -> tuple[bytes, bytes]:
    """Two files whose first makes a tensor of a hint, which the second one takes as it is."""
    first = onnx.load_from_string(shifted())
    heads: list[str | int | None] = ["batch", 1, "any", 1]
    made = helper.make_tensor_value_info("present.0.encoder.key", TensorProto.FLOAT, heads)
    first.graph.output.append(made)
    nodes: list[onnx.NodeProto] = []
    wide = _Nodes(nodes)
    axes = wide.constant(np.array([1, 3]))
    nodes.append(helper.make_node("Unsqueeze", ["hint", axes], ["present.0.encoder.key"]))
    pasts = _pasts(first)
    config = tiny_llm.CONFIG
    batch = wide("Unsqueeze", wide.size("input_ids", 0), wide.constant(np.array([0])))
    sizes = wide.constant(np.array([config.kv_heads, 0, config.head]))
    shape = wide("Concat", batch, sizes, axis=0)
    nodes += [helper.make_node("ConstantOfShape", [shape], [name]) for name in pasts]
    later = onnx.load_from_string(shifted())
    _rename(later, "hint", "hint.flat")
    (hint,) = (given for given in later.graph.input if given.name == "hint")
    taken = helper.make_tensor_value_info(f"{PAST}0.encoder.key", TensorProto.FLOAT, heads)
    hint.CopyFrom(taken)
    back: list[onnx.NodeProto] = []
    add = _Nodes(back)
    axes = add.constant(np.array([1, 3]))
    back.append(helper.make_node("Squeeze", [f"{PAST}0.encoder.key", axes], ["hint.flat"]))
    return _written(first, nodes, pasts), _written(later, back, ())


class _Nodes:
    """Adds nodes, and gives the names of what they compute."""

    def __init__(self, nodes: list[onnx.NodeProto]) -> None:
        self.nodes = nodes

    def __call__(self, kind: str, *inputs: str, **attributes: Any) -> str:
        output = f"form.{next(_NUMBERS)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def constant(self, value: Any) -> str:
        return self("Constant", value=numpy_helper.from_array(np.asarray(value)))

    def size(self, name: str, axis: int) -> str:
        return self("Gather", self("Shape", name), self.constant(np.int64(axis)))


def _read(kept: Cache = "separate") -> onnx.ModelProto:
    return onnx.load_from_string(tiny_llm.model_bytes(kept))


def _pasts(model: onnx.ModelProto) -> tuple[str, ...]:
    return tuple(given.name for given in model.graph.input if given.name.startswith(PAST))


def _rename(model: onnx.ModelProto, name: str, new: str) -> None:
    """Have the nodes write and read another name."""
    for node in model.graph.node:
        for names in (node.input, node.output):
            for place, found in enumerate(names):
                if found == name:
                    names[place] = new


def _suffixed(node: onnx.NodeProto, names: list[str], suffix: str) -> onnx.NodeProto:
    """A node that writes and reads some of its names with something behind them."""
    changed = onnx.NodeProto.FromString(node.SerializeToString())
    for places in (changed.input, changed.output):
        for place, found in enumerate(places):
            if found in names:
                places[place] = found + suffix
    return changed


def _written(
    model: onnx.ModelProto, first: list[onnx.NodeProto], removed: tuple[str, ...]
) -> bytes:
    nodes = [*first, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    inputs = [given for given in model.graph.input if given.name not in removed]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    content: bytes = model.SerializeToString()
    return content
