"""Resizing, cropping and normalising, against sums done by hand."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from aiaas_server.core.errors import LoadFailed
from aiaas_server.core.signature import TensorSpec
from aiaas_server.tasks.images import scaled
from aiaas_server.tasks.pixels import Filter, ImageInput, ImageTensor, fit, normalise, resized


def gradient(height: int, width: int) -> np.ndarray:
    """Red counts columns, green counts rows."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, :, 0] = np.arange(width)
    pixels[:, :, 1] = np.arange(height)[:, None]
    return pixels


def test_scale_mean_and_std_are_applied_in_this_order() -> None:
    pixels = np.array([[[10, 20, 30]]], np.uint8)
    settings = ImageInput(scale=0.1, mean=(1, 1, 2), std=(1, 2, 4))
    assert normalise(pixels, settings).tolist() == [[pytest.approx([0, 0.5, 0.25])]]
    turned = settings.model_copy(update={"channels": "BGR"})
    assert normalise(pixels, turned).tolist() == [[pytest.approx([2, 0.5, -0.25])]]


def test_grey_is_one_plane_of_brightness() -> None:
    pixels = np.array([[[255, 0, 0], [0, 255, 0]]], np.uint8)
    values = normalise(pixels, ImageInput(channels="grey", scale=1))
    assert values.tolist() == [[[76], [150]]]


def test_the_middle_of_the_shorter_side_is_kept() -> None:
    canvas, placement = fit(gradient(100, 200), (100, 100), ImageInput(resize="shorter"))
    assert canvas[0, :, 0].tolist() == list(range(50, 150))
    assert placement.to_picture(np.array([[0, 0, 100, 100]], np.float32)).tolist() == [
        [50, 0, 150, 100]
    ]


def test_fitting_fills_the_rest_and_boxes_find_back() -> None:
    canvas, placement = fit(gradient(50, 100), (100, 100), ImageInput(resize="fit", fill=7))
    assert canvas.shape == (100, 100, 3)
    assert (canvas[:25] == 7).all()
    assert (canvas[75:] == 7).all()
    assert canvas[25:75].tolist() == gradient(50, 100).tolist()
    boxes = placement.to_picture(np.array([[10, 25, 200, 75]], np.float32))
    assert boxes.tolist() == [[10, 0, 100, 50]]


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 7)])
@pytest.mark.parametrize("resize", ["exact", "shorter", "fit"])
def test_any_shape_of_picture_fills_the_tensor(size: tuple[int, int], resize: str) -> None:
    pixels = np.full((*size, 3), 9, np.uint8)
    canvas, _ = fit(pixels, (32, 48), ImageInput(resize=resize, fill=9))
    assert canvas.shape == (32, 48, 3)
    assert (canvas == 9).all()


@pytest.mark.parametrize("filter", ["nearest", "bilinear", "bicubic", "lanczos", "sampled"])
@pytest.mark.parametrize("size", [(6, 6000), (6000, 6), (9, 5000)])
def test_the_middle_of_a_thin_picture_is_that_of_the_whole_enlarged(
    size: tuple[int, int], filter: Filter
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    canvas, placement = fit(noise, (96, 80), ImageInput(resize="shorter", filter=filter))
    inner = round(size[0] * placement.scale_y), round(size[1] * placement.scale_x)
    assert inner[0] * inner[1] > 4_000_000  # so it is not made whole
    above, before = (inner[0] - 96) // 2, (inner[1] - 80) // 2
    whole = resized(noise, inner, filter)[above : above + 96, before : before + 80]
    # A region's edges are 32-bit numbers in pillow: a sample point on an edge may fall either way.
    assert np.percentile(np.abs(canvas.astype(int) - whole), 95) <= 1


def test_a_tall_thin_picture_is_made_lower_before_it_is_made_wider() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60_000, 2, 3), np.uint8)
    for method in (Image.Resampling.BILINEAR, Image.Resampling.BOX):
        at_once = np.asarray(Image.fromarray(noise).resize((100, 40), method))
        assert np.abs(scaled(noise, (40, 100), method).astype(int) - at_once).max() <= 1


def test_resizing_is_pillow_s_and_sampled_takes_four_neighbours() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for name in ("nearest", "bilinear", "bicubic", "lanczos"):
        method = Image.Resampling[name.upper()]
        expected = np.asarray(Image.fromarray(noise).resize((16, 20), method))
        assert (resized(noise, (20, 16), name) == expected).all()
    # To a quarter the sample points lie between the two middle pixels of each four.
    middle = noise.reshape(16, 4, 16, 4, 3)[:, 1:3, :, 1:3].mean(axis=(1, 3))
    assert np.abs(resized(noise, (16, 16), "sampled") - middle).max() <= 1
    assert resized(noise, (64, 64)) is noise


def test_a_picture_becomes_a_batch_of_one_in_the_model_s_datatype() -> None:
    spec = TensorSpec("image", "FP16", (-1, 3, 8, 6))
    values, _ = ImageTensor(ImageInput(), spec)(gradient(8, 6))
    assert values.shape == (1, 3, 8, 6)
    assert values.dtype == np.float16
    last = TensorSpec("image", "UINT8", (-1, -1, -1, 3))
    settings = ImageInput(layout="NHWC", scale=1, size=(4, 4))
    values, _ = ImageTensor(settings, last)(gradient(4, 4))
    assert values.tolist() == [gradient(4, 4).tolist()]


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        pytest.param(
            {}, (-1, 3, -1, -1), "input 'x' has the free shape .* must give height", id="free"
        ),
        pytest.param({}, (-1, 784), "needs four dimensions, input 'x' has", id="flat"),
        pytest.param(
            {"size": (8, 9)},
            (-1, 3, 8, 8),
            r"shape \(3, 8, 9\), input 'x' takes \(3, 8, 8\)",
            id="size",
        ),
        pytest.param(
            {"channels": "grey"}, (-1, 3, 8, 8), r"shape \(1, 8, 8\), input 'x' takes", id="planes"
        ),
    ],
)
def test_a_card_that_does_not_fit_the_model_is_refused_at_load(
    settings: dict[str, object], shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(LoadFailed, match=message):
        ImageTensor(ImageInput.model_validate(settings), TensorSpec("x", "FP32", shape))
