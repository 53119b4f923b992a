"""EfficientNet-Lite0 for ImageNet: weights of a PyTorch checkpoint, graph written here.

Source: Tan and Le 2019, *EfficientNet: Rethinking Model Scaling for Convolutional Neural
Networks*; the Lite variants drop squeeze-and-excite and use ReLU6.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from aiaas_server.zoo import files
from aiaas_server.zoo.packages import content
from aiaas_server.zoo.torch_pickle import read_state_dict

# (repeats, kernel, stride of the first block, expansion)
STAGES = (
    (1, 3, 1, 1),
    (2, 3, 2, 6),
    (2, 5, 2, 6),
    (3, 3, 2, 6),
    (3, 5, 1, 6),
    (4, 5, 2, 6),
    (1, 3, 1, 6),
)
EPSILON = 1e-3


def build() -> bytes:
    """The ONNX file: `image` float32 `(batch, 3, 224, 224)` -> `probabilities` `(batch, 1000)`."""
    return _Graph(read_state_dict(content(files.EFFICIENTNET))).build()


def labels() -> list[str]:
    """The 1,000 class names in the order of the output, each with its synonyms after commas."""
    names: dict[str, str] = json.loads(content(files.IMAGENET_LABELS))
    return [names[str(i)] for i in range(len(names))]


class _Graph:
    """Writes nodes one after another; every method takes and returns a tensor's name."""

    def __init__(self, weights: Mapping[str, npt.NDArray[Any]]) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def build(self) -> bytes:
        self.constant("zero", np.float32(0))
        self.constant("six", np.float32(6))
        x = self.conv("image", "_conv_stem", "_bn0", kernel=3, stride=2)
        index = 0
        for repeats, kernel, stride, expansion in STAGES:
            for i in range(repeats):
                first = i == 0
                x = self.block(x, index, kernel, stride if first else 1, expansion, skip=not first)
                index += 1
        x = self.conv(x, "_conv_head", "_bn1")
        x = self.node("Flatten", [self.node("GlobalAveragePool", [x])])  # (batch, 1280)
        self.constant("_fc.weight", self.weights["_fc.weight"])
        self.constant("_fc.bias", self.weights["_fc.bias"])
        x = self.node("Gemm", [x, "_fc.weight", "_fc.bias"], transB=1)
        self.nodes.append(helper.make_node("Softmax", [x], ["probabilities"], axis=1))
        return self.serialise()

    def block(
        self, x: str, index: int, kernel: int, stride: int, expansion: int, *, skip: bool
    ) -> str:
        name = f"_blocks.{index}."
        y = x
        if expansion > 1:
            y = self.conv(y, f"{name}_expand_conv", f"{name}_bn0")
        depthwise = f"{name}_depthwise_conv"
        y = self.conv(y, depthwise, f"{name}_bn1", kernel=kernel, stride=stride, depthwise=True)
        y = self.conv(y, f"{name}_project_conv", f"{name}_bn2", clip=False)
        return self.node("Add", [x, y]) if skip else y

    def conv(
        self,
        x: str,
        name: str,
        norm: str,
        *,
        kernel: int = 1,
        stride: int = 1,
        depthwise: bool = False,
        clip: bool = True,
    ) -> str:
        """Convolution with its batch normalisation folded in, then ReLU6."""
        weight, w = self.weights[f"{name}.weight"], self.weights
        factor = w[f"{norm}.weight"] / np.sqrt(w[f"{norm}.running_var"] + EPSILON)
        self.constant(f"{name}.weight", weight * factor[:, None, None, None])
        self.constant(f"{name}.bias", w[f"{norm}.bias"] - w[f"{norm}.running_mean"] * factor)
        y = self.node(
            "Conv",
            [x, f"{name}.weight", f"{name}.bias"],
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            auto_pad="SAME_UPPER",
            group=weight.shape[0] if depthwise else 1,
        )
        return self.node("Clip", [y, "zero", "six"]) if clip else y

    def node(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        output = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, name: str, value: npt.ArrayLike) -> None:
        self.constants.append(numpy_helper.from_array(np.asarray(value, np.float32), name))

    def serialise(self) -> bytes:
        value = helper.make_tensor_value_info
        inputs = [value("image", TensorProto.FLOAT, ["batch", 3, 224, 224])]
        outputs = [value("probabilities", TensorProto.FLOAT, ["batch", 1000])]
        graph = helper.make_graph(self.nodes, "efficientnet-lite0", inputs, outputs, self.constants)
        opset = [helper.make_opsetid("", 17)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=10)
        onnx.checker.check_model(model)
        return model.SerializeToString()
