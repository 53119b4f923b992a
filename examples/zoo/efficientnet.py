"""EfficientNet-Lite0 for ImageNet, and what goes before it when its tensors are sent directly.

Source: Tan and Le 2019, *EfficientNet: Rethinking Model Scaling for Convolutional Neural
Networks*; the Lite variants drop squeeze-and-excite and use ReLU6.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from aiaas_server.zoo import files
from aiaas_server.zoo.efficientnet import build, labels

__all__ = ["CONFIG", "FILES", "build", "labels", "preprocess"]

FILES = (files.EFFICIENTNET, files.IMAGENET_LABELS)

CONFIG = """\
platform: "onnxruntime_onnx"
max_batch_size: 16
input [ { name: "image" data_type: TYPE_FP32 dims: [ 3, 224, 224 ] } ]
output [ {
  name: "probabilities" data_type: TYPE_FP32 dims: [ 1000 ] label_filename: "labels.txt"
} ]
dynamic_batching { }
"""


def preprocess(picture: str | Path | Image.Image) -> npt.NDArray[np.float32]:
    """A picture as the model wants it: `(3, 224, 224)` float32, about -1 to 1.

    The shorter side becomes 256 (bicubic), the middle 224 x 224 is kept, `(x - 127) / 128`.
    """
    image = picture if isinstance(picture, Image.Image) else Image.open(picture)
    with image:
        rgb = image.convert("RGB")
    factor = 256 / min(rgb.size)
    width, height = (round(side * factor) for side in rgb.size)
    rgb = rgb.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - 224) // 2, (height - 224) // 2
    pixels = np.asarray(rgb.crop((left, top, left + 224, top + 224)), np.float32)  # (H, W, C)
    return np.ascontiguousarray(((pixels - np.float32(127)) / np.float32(128)).transpose(2, 0, 1))
