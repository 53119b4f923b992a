"""A convolutional network for handwritten digits: weights of a PyTorch checkpoint, graph here.

Three times 3 x 3 convolution, ReLU and 2 x 2 pooling with 32, 64 and 128 channels, then two linear
layers.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper, numpy_helper

from aiaas_server.zoo import files
from aiaas_server.zoo.packages import content
from aiaas_server.zoo.torch_pickle import read_state_dict


def build() -> bytes:
    """The ONNX file: `image` float32 `(batch, 1, 28, 28)` -> `logits` `(batch, 10)`."""
    weights = read_state_dict(content(files.DIGITS))
    nodes = []
    x = "image"
    for layer in (0, 3, 6):
        name = f"conv_layers.{layer}"
        inputs = [x, f"{name}.weight", f"{name}.bias"]
        pooled = f"{name}.pooled"
        nodes += [
            helper.make_node("Conv", inputs, [f"{name}.out"], pads=[1] * 4, kernel_shape=[3, 3]),
            helper.make_node("Relu", [f"{name}.out"], [f"{name}.relu"]),
            helper.make_node(
                "MaxPool", [f"{name}.relu"], [pooled], kernel_shape=[2, 2], strides=[2, 2]
            ),
        ]
        x = pooled
    hidden = ["flat", "fc_layers.0.weight", "fc_layers.0.bias"]
    last = ["active", "fc_layers.2.weight", "fc_layers.2.bias"]
    nodes += [
        helper.make_node("Flatten", [x], ["flat"]),  # (batch, 128 * 3 * 3)
        helper.make_node("Gemm", hidden, ["hidden"], transB=1),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Gemm", last, ["logits"], transB=1),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "digits-cnn",
        [value("image", TensorProto.FLOAT, ["batch", 1, 28, 28])],
        [value("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()
