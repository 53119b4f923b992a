"""The graph of a recipe: what a `Design` does, before what the estimator does."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from aiaas_server.jobs.recipes.preprocessing import INPUT, Design

Array = np.ndarray[Any, Any]

OPSET: Final = 21
ML_OPSET: Final = 3
IR_VERSION: Final = 10
_READY: Final = "ready"  # of the design; the input of the estimator


class Graph:
    """Nodes and constants, written down in order.

    Args:
        design: What comes first.
    """

    def __init__(self, design: Design) -> None:
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._width = design.width
        self.ready = self._prepare(design)

    def constant(self, name: str, values: Any) -> str:
        """A tensor of the graph's own."""
        from onnx import numpy_helper

        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def node(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """A node whose only output bears its name."""
        from onnx import helper

        self._nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def smallest(self, values: str, count: str, name: str) -> str:
        """The indices of the `count` smallest of each row; of equal ones the first."""
        from onnx import helper

        outputs = [f"{name}_values", name]
        inputs = [values, count]
        self._nodes.append(
            helper.make_node("TopK", inputs, outputs, name=name, axis=1, largest=0, sorted=1)
        )
        return name

    def append(self, model: Any) -> None:
        """Nodes of another model, which takes `ready` by its only input."""
        from onnx import compose

        (given,) = (one.name for one in model.graph.input)
        rest = compose.add_prefix(model, "m_", rename_outputs=False, rename_inputs=False)
        for node in rest.graph.node:
            node.input[:] = [self.ready if one == given else one for one in node.input]
        self._nodes += rest.graph.node
        self._constants += rest.graph.initializer

    def write(self, path: Path, output: str, columns: int | None) -> None:
        """Write the model.

        Args:
            output: The name of a tensor `[rows, columns]`, or `[rows]` where `columns` is None.
        """
        import onnx
        from onnx import TensorProto, helper

        shape: list[Any] = ["rows"] if columns is None else ["rows", columns]
        graph = helper.make_graph(
            self._nodes,
            "recipe",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["rows", self._width])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
            self._constants,
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="aiaas"
        )
        onnx.checker.check_model(model)
        path.write_bytes(model.SerializeToString(deterministic=True))

    def _prepare(self, design: Design) -> str:
        """The nodes of `Design.ready`."""
        from onnx import TensorProto

        wide = self.node("Cast", [INPUT], "wide", to=TensorProto.DOUBLE)
        empty = self.node("IsNaN", [wide], "empty")
        filled = self.node("Where", [empty, self.constant("fill", design.fill), wide], "filled")
        shifted = self.node("Sub", [filled, self.constant("center", design.center)], "shifted")
        scaled = self.node("Div", [shifted, self.constant("scale", design.scale)], "scaled")
        if not len(design.gaps):
            return self.node("Cast", [scaled], _READY, to=TensorProto.FLOAT)
        narrow = self.node("Cast", [scaled], "narrow", to=TensorProto.FLOAT)
        gaps = self.node("Gather", [empty, self.constant("gaps", design.gaps)], "gapped", axis=1)
        told = self.node("Cast", [gaps], "gap", to=TensorProto.FLOAT)
        return self.node("Concat", [narrow, told], _READY, axis=1)
