"""From RGB pixels to the tensor of a vision model: resize, crop, normalise, lay out.

The settings are the words of a card's `preprocessing`; each task that takes pictures has them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from aiaas_client.protocol.tensors import dtype_of
from aiaas_server.core.errors import LoadFailed
from aiaas_server.core.signature import TensorSpec
from aiaas_server.tasks.boxes import FloatArray
from aiaas_server.tasks.images import LARGE_PIXELS, MAX_PIXELS, Pixels, Region, scaled
from aiaas_server.tasks.task import TaskSettings

Side = Annotated[int, Field(ge=1, le=8192)]
Filter = Literal["nearest", "bilinear", "bicubic", "lanczos", "sampled"]
Channels = tuple[float, float, float]


class ImageInput(TaskSettings):
    """How a picture becomes the model's input.

    Attributes:
        input: Name of the model's input; empty is its first.
        resize: `exact` to `size` whatever the shape; `shorter` side to `shorter_side`, then the
            middle of `size` is kept; `fit` inside `size`, the rest filled with `fill`.
        size: Height and width of the input; by default what the model's signature says.
        shorter_side: Of `shorter`; by default the crop itself.
        filter: Of the resizing. Pictures that become smaller are smoothed first, but for `sampled`,
            which is bilinear between four neighbours whatever the size, as OpenCV's default is.
        scale: Multiplies a pixel's 0 to 255 before `mean` and `std`.
        mean: Per channel, subtracted; in the channels' order.
        std: Per channel, divides.
        channels: Order that the model was trained with.
        layout: `NCHW` or `NHWC`.
        fill: Grey value 0 to 255 around a picture that was made to fit.
        max_pixels: Larger pictures are refused before they are decoded.
    """

    input: str = ""
    resize: Literal["exact", "shorter", "fit"] = "exact"
    size: tuple[Side, Side] | None = None
    shorter_side: Side | None = None
    filter: Filter = "bilinear"
    scale: float = 1 / 255
    mean: Channels = (0.0, 0.0, 0.0)
    std: Channels = (1.0, 1.0, 1.0)
    channels: Literal["RGB", "BGR", "grey"] = "RGB"
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    fill: Annotated[int, Field(ge=0, le=255)] = 114
    max_pixels: Annotated[int, Field(ge=1)] = MAX_PIXELS

    @model_validator(mode="after")
    def _no_division_by_zero(self) -> ImageInput:
        if 0 in self.std:
            raise ValueError("std must not be 0")
        return self


class Transform(NamedTuple):
    """Where the picture lies in the tensor: `tensor x = picture x * scale_x + left`.

    Attributes:
        width, height: Of the picture, in pixels.
    """

    width: int
    height: int
    scale_x: float
    scale_y: float
    left: float
    top: float

    def to_picture(self, boxes: FloatArray) -> FloatArray:
        """Boxes `(n, 4)` xyxy of the tensor, in the picture's pixels and within it."""
        offset = np.array([self.left, self.top] * 2, np.float32)
        factor = np.array([self.scale_x, self.scale_y] * 2, np.float32)
        limit = np.array([self.width, self.height] * 2, np.float32)
        inside: FloatArray = np.clip((boxes - offset) / factor, 0, limit)
        return inside


class ImageTensor:
    """Turns pictures into one input of a model, by an `ImageInput` and the input's spec."""

    def __init__(self, settings: ImageInput, spec: TensorSpec) -> None:
        """The input's shape holds the batch first.

        Raises:
            LoadFailed: The input is not a picture's, or its size is nowhere said.
        """
        if len(spec.shape) != 4:
            raise LoadFailed(
                f"preprocessing: a picture needs four dimensions, input '{spec.name}' has "
                f"{spec.shape}"
            )
        self.settings = settings
        self.spec = spec
        self.dtype = dtype_of(spec.datatype)
        self.size = settings.size or _declared_size(spec, settings.layout)
        planes = 1 if settings.channels == "grey" else 3
        shape = self._shape(planes)
        fits = all(a in (-1, b) for a, b in zip(self.spec.shape[1:], shape, strict=True))
        if not fits:
            raise LoadFailed(
                f"preprocessing: the card makes {settings.layout} pictures of shape {shape}, "
                f"input '{self.spec.name}' takes {self.spec.shape[1:]}"
            )

    def __call__(self, pixels: Pixels) -> tuple[npt.NDArray[Any], Transform]:
        """One picture as a batch of one, and where in it the picture lies."""
        fitted, transform = fit(pixels, self.size, self.settings)
        values = normalise(fitted, self.settings)  # (H, W, C)
        if self.settings.layout == "NCHW":
            values = values.transpose(2, 0, 1)
        return np.ascontiguousarray(values[None]).astype(self.dtype, copy=False), transform

    def _shape(self, planes: int) -> tuple[int, ...]:
        height, width = self.size
        first = self.settings.layout == "NCHW"
        return (planes, height, width) if first else (height, width, planes)


def fit(pixels: Pixels, size: tuple[int, int], settings: ImageInput) -> tuple[Pixels, Transform]:
    """The picture at `size` (height, width), resized as the settings say."""
    height, width = pixels.shape[:2]
    rows, columns = size
    if settings.resize == "exact":
        transform = Transform(width, height, columns / width, rows / height, 0, 0)
        return resized(pixels, size, settings.filter), transform
    if settings.resize == "shorter":
        factor = (settings.shorter_side or max(size)) / min(height, width)
        factor = max(factor, rows / height, columns / width)
    else:
        factor = min(rows / height, columns / width)
    inner = max(1, round(height * factor)), max(1, round(width * factor))
    if settings.resize == "shorter":
        above, before = (inner[0] - rows) // 2, (inner[1] - columns) // 2
        transform = Transform(width, height, inner[1] / width, inner[0] / height, -before, -above)
        return _middle(pixels, inner, (above, before), size, settings.filter), transform
    top, left = (rows - inner[0]) // 2, (columns - inner[1]) // 2
    canvas = np.full((rows, columns, 3), settings.fill, np.uint8)
    canvas[top : top + inner[0], left : left + inner[1]] = resized(pixels, inner, settings.filter)
    return canvas, Transform(width, height, inner[1] / width, inner[0] / height, left, top)


def _middle(
    pixels: Pixels,
    inner: tuple[int, int],
    corner: tuple[int, int],
    size: tuple[int, int],
    filter: Filter,
) -> Pixels:
    """The part of the given size at a corner of the picture resized to `inner`.

    A thin picture would become a very long one: of such only what is kept is made. Others are
    made whole, since their rounding is then the same as that of the programs models come from.
    """
    above, before = corner
    rows, columns = size
    if inner[0] * inner[1] <= LARGE_PIXELS:
        whole = resized(pixels, inner, filter)
        return whole[above : above + rows, before : before + columns]
    height, width = pixels.shape[:2]
    down, across = height / inner[0], width / inner[1]
    right = min((before + columns) * across, width)
    lower = min((above + rows) * down, height)
    return resized(pixels, size, filter, (before * across, above * down, right, lower))


def resized(
    pixels: Pixels,
    size: tuple[int, int],
    filter: Filter = "bilinear",
    region: Region | None = None,
) -> Pixels:
    """The picture, or a region of it, at `size` (height, width)."""
    from PIL import Image

    height, width = pixels.shape[:2]
    region = region or (0, 0, width, height)
    if region == (0, 0, width, height) and (height, width) == size:
        return pixels
    if filter == "sampled":
        method = Image.Transform.EXTENT
        plain = Image.Resampling.BILINEAR
        picture = Image.fromarray(pixels)
        return np.asarray(picture.transform((size[1], size[0]), method, region, plain))
    return scaled(pixels, size, Image.Resampling[filter.upper()], region)


def normalise(pixels: Pixels, settings: ImageInput) -> npt.NDArray[np.float32]:
    """`(pixel * scale - mean) / std`, channels in the settings' order: `(H, W, 3 or 1)` float32."""
    if settings.channels == "grey":
        weights = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
        ordered = np.rint(pixels.astype(np.float32) @ weights)[:, :, None]
    else:
        ordered = pixels[:, :, ::-1] if settings.channels == "BGR" else pixels
    planes = ordered.shape[2]
    # One multiplication and one addition over the picture, not three passes.
    std = np.array(settings.std[:planes], np.float32)
    factor = np.float32(settings.scale) / std
    shift = np.array(settings.mean[:planes], np.float32) / std
    return np.asarray(ordered.astype(np.float32) * factor - shift, np.float32)


def _declared_size(spec: TensorSpec, layout: str) -> tuple[int, int]:
    height, width = spec.shape[2:] if layout == "NCHW" else spec.shape[1:3]
    if height < 1 or width < 1:
        raise LoadFailed(
            f"preprocessing.size: input '{spec.name}' has the free shape {spec.shape}, "
            "so the card must give height and width"
        )
    return height, width
