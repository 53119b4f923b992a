"""Labels, boxes, faces and lines of text on tiny models whose outputs follow from the picture."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from PIL import Image, ImageDraw

from aiaas_client.protocol.predictions import Box, Detections, OcrLine, OcrText
from aiaas_server.core.errors import InferenceFailed, InvalidInput, LoadFailed
from tests.graphs import model, value

COLOURS = ["red", "green", "blue"]


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def mean_colour(layout: str = "NCHW") -> bytes:
    """Scores: the mean of each channel."""
    shape = ["n", 3, 8, 8] if layout == "NCHW" else ["n", 8, 8, 3]
    axes = [2, 3] if layout == "NCHW" else [1, 2]
    node = helper.make_node("ReduceMean", ["pixels"], ["scores"], axes=axes, keepdims=0)
    return model([node], [value("pixels", shape)], [value("scores", ["n", 3])])


def classification(**postprocessing: Any) -> dict[str, Any]:
    return {
        "task": "image-classification",
        "labels": COLOURS,
        "postprocessing": postprocessing,
    }


def test_the_label_is_the_strongest_channel(open_bundle: Any) -> None:
    orange = Image.new("RGB", (40, 20), (255, 102, 0))
    found = open_bundle(mean_colour(), classification()).predict(png(orange))
    assert [(label.label, label.index) for label in found.top] == [
        ("red", 0),
        ("green", 1),
        ("blue", 2),
    ]
    assert [label.score for label in found.top] == pytest.approx([1, 0.4, 0], abs=0.01)
    assert (found.label, found.score) == ("red", pytest.approx(1))


def test_layout_order_and_activation_are_the_card_s(open_bundle: Any) -> None:
    card = classification(activation="softmax", top_k=2)
    card["preprocessing"] = {"layout": "NHWC", "channels": "BGR", "scale": 0.1}
    found = open_bundle(mean_colour("NHWC"), card).predict(
        png(Image.new("RGB", (9, 9), (0, 0, 40)))
    )
    assert found.label == "red"  # blue comes first in BGR
    assert found.score == pytest.approx(np.exp(4) / (np.exp(4) + 2), abs=1e-4)
    assert len(found.top) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"labels": ["a", "b"]}, "names 2, output 'scores' has 3", id="labels"),
        pytest.param({"labels": []}, "labels: the card names none", id="no labels"),
        pytest.param(
            {"preprocessing": {"mena": [0, 0, 0]}}, "preprocessing: unknown key 'mena'", id="key"
        ),
        pytest.param({"preprocessing": {"std": [1, 0, 1]}}, "std must not be 0", id="std"),
        pytest.param(
            {"preprocessing": {"size": [9, 9]}},
            r"shape \(3, 9, 9\), input 'pixels' takes",
            id="size",
        ),
        pytest.param(
            {"postprocessing": {"output": "logits"}},
            "names output 'logits', the model has 'scores'",
            id="output",
        ),
    ],
)
def test_a_wrong_card_is_refused_at_load(
    open_bundle: Any, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(LoadFailed, match=message):
        open_bundle(mean_colour(), {**classification(), **change})


def bright_cells(side: int = 64, bins: int = 4) -> bytes:
    """A detector of one level, stride 8: a cell scores its own brightness; distances of one bin.

    Scores `(1, cells, 2)` (red, green), distributions `(1, cells, 4 * bins)` that are sure of 1.
    """
    cells = (side // 8) ** 2
    sure = np.full((1, cells, 4, bins), -1e3, np.float32)
    sure[:, :, :, 1] = 1e3
    nodes = [
        helper.make_node("AveragePool", ["image"], ["small"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Slice", ["small", "from", "to", "axis"], ["two"]),
        helper.make_node("Reshape", ["two", "flat"], ["planes"]),
        helper.make_node("Transpose", ["planes"], ["scores"], perm=[0, 2, 1]),
        helper.make_node("Identity", ["sure"], ["distances"]),
    ]
    return model(
        nodes,
        [value("image", [1, 3, side, side])],
        [value("scores", [1, cells, 2]), value("distances", [1, cells, 4 * bins])],
        sure=sure.reshape(1, cells, 4 * bins),
        flat=np.array([1, 2, cells], np.int64),
        **{
            "from": np.array([0], np.int64),
            "to": np.array([2], np.int64),
            "axis": np.array([1], np.int64),
        },
    )


def spots() -> Image.Image:
    """128 x 64, twice as wide as the model's input: a red and a green spot of one cell each."""
    image = Image.new("RGB", (128, 64))
    pen = ImageDraw.Draw(image)
    pen.rectangle((32, 16, 47, 23), (255, 0, 0))
    pen.rectangle((96, 48, 111, 55), (0, 204, 0))
    return image


DETECTION = {"task": "object-detection", "labels": ["red", "green"]}


def test_distributions_become_boxes_in_the_picture_s_pixels(open_bundle: Any) -> None:
    bundle = open_bundle(bright_cells(), DETECTION)
    found = bundle.predict(png(spots()))
    assert isinstance(found, Detections)
    assert (found.width, found.height) == (128, 64)
    red, green = found.boxes
    # One bin is 8 pixels of the input from the cell's middle: 16 of the picture across, 8 down.
    assert (red.label, red.x1, red.y1, red.x2, red.y2) == ("red", 24, 12, 56, 28)
    assert (green.label, green.x1, green.y1, green.x2, green.y2) == ("green", 88, 44, 120, 60)
    assert [red.score, green.score] == pytest.approx([1, 0.8], abs=0.05)


def test_threshold_and_top_k_are_the_caller_s(open_bundle: Any) -> None:
    bundle = open_bundle(bright_cells(), DETECTION)
    assert [b.label for b in bundle.predict(png(spots()), threshold=0.9).boxes] == ["red"]
    assert len(bundle.predict(png(spots()), top_k=1).boxes) == 1
    assert bundle.predict(png(Image.new("RGB", (64, 64)))).boxes == ()


def test_the_picture_is_drawn_on_where_the_boxes_are(open_bundle: Any) -> None:
    picture = Image.new("RGB", (640, 320), "black")
    ImageDraw.Draw(picture).rectangle((160, 80, 239, 119), (255, 0, 0))
    (box,) = (found := open_bundle(bright_cells(), DETECTION).predict(png(picture))).boxes
    drawn = found.draw(picture)
    assert drawn.size == picture.size
    difference = np.argwhere((np.asarray(drawn) != np.asarray(picture)).any(axis=2))
    assert difference[:, 1].min() == pytest.approx(box.x1, abs=3)
    assert difference[:, 0].max() == pytest.approx(box.y2, abs=3)
    assert (np.asarray(picture)[90, 200] == [255, 0, 0]).all()


def test_labels_and_levels_are_checked_at_load(open_bundle: Any, onnx_models: Any) -> None:
    with pytest.raises(LoadFailed, match="names 3, output 'scores' has 2"):
        open_bundle(bright_cells(), {**DETECTION, "labels": COLOURS})
    other = {**DETECTION, "postprocessing": {"boxes": "yolo"}}
    with pytest.raises(LoadFailed, match="names 2, output 'scores' has -?[0-9]+ beside the box"):
        open_bundle(bright_cells(), other)
    with pytest.raises(LoadFailed, match="names output 'boxes', the model has 'scores'"):
        open_bundle(bright_cells(), {**DETECTION, "postprocessing": {"boxes": "boxes"}})


def constant(outputs: dict[str, np.ndarray]) -> bytes:
    """A detector that always answers the same."""
    nodes = [helper.make_node("Identity", [f"c_{name}"], [name]) for name in outputs]
    kinds = {"f": TensorProto.FLOAT, "i": TensorProto.INT64}
    made = [value(n, list(a.shape), kinds[a.dtype.kind]) for n, a in outputs.items()]
    nodes.append(helper.make_node("Identity", ["image"], ["unused"]))
    constants = {f"c_{name}": array for name, array in outputs.items()}
    image = [1, 3, 32, 32]
    return model(nodes, [value("image", image)], [*made, value("unused", image)], **constants)


def test_yolo_candidates_become_boxes(open_bundle: Any) -> None:
    candidates = np.array(
        [
            [16, 16, 8, 8, 0.9, 0.1],
            [17, 16, 8, 8, 0.8, 0.1],
            [4, 4, 8, 8, 0.1, 0.7],
            [9, 9, 2, 2, 0.1, 0.1],
        ],
        np.float32,
    )
    card = {**DETECTION, "postprocessing": {"boxes": "yolo"}}
    bundle = open_bundle(constant({"out": candidates.T[None]}), card)
    first, second = bundle.predict(png(Image.new("RGB", (64, 32)))).boxes
    assert (first.label, first.x1, first.y1, first.x2, first.y2) == ("red", 24, 12, 40, 20)
    assert (second.label, second.x1, second.y1, second.x2, second.y2) == ("green", 0, 0, 16, 8)


def test_ready_boxes_are_taken_as_they_are(open_bundle: Any) -> None:
    outputs = {
        "boxes": np.array([[0, 0, 8, 8], [8, 8, 16, 16], [1, 1, 2, 2]], np.float32),
        "scores": np.array([0.6, 0.9, 0.1], np.float32),
        "labels": np.array([1, 0, 0]),
    }
    card = {**DETECTION, "postprocessing": {"boxes": "boxes"}}
    found = open_bundle(constant(outputs), card).predict(png(Image.new("RGB", (32, 32))))
    assert [(b.label, b.x1, b.x2) for b in found.boxes] == [("red", 8, 16), ("green", 0, 8)]
    unknown = constant({**outputs, "labels": np.array([1, 7, 0])})
    with pytest.raises(InferenceFailed, match="answered class 7, the card has 2 labels"):
        open_bundle(unknown, card).predict(png(Image.new("RGB", (32, 32))))


def bright_mask() -> bytes:
    """A text detector: the map is the mean brightness."""
    node = helper.make_node("ReduceMean", ["x"], ["map"], axes=[1], keepdims=1)
    return model([node], [value("x", ["n", 3, "h", "w"])], [value("map", ["n", 1, "h", "w"])])


def reader(signs: int) -> bytes:
    """A recogniser: 8 pixels a step; the sign is told by the step's brightness in tenths."""
    nodes = [
        helper.make_node("AveragePool", ["x"], ["small"], kernel_shape=[48, 8], strides=[48, 8]),
        helper.make_node("ReduceMean", ["small"], ["level"], axes=[1, 2], keepdims=0),
        helper.make_node("Unsqueeze", ["level", "last"], ["column"]),
        helper.make_node("Sub", ["column", "levels"], ["off"]),
        helper.make_node("Mul", ["off", "off"], ["square"]),
        helper.make_node("Mul", ["square", "sharp"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=2),
    ]
    return model(
        nodes,
        [value("x", ["n", 3, 48, "w"])],
        [value("scores", ["n", "steps", signs])],
        last=np.array([2], np.int64),
        levels=np.arange(signs, dtype=np.float32)[None, None] / 10,
        sharp=np.float32(-5000),
    )


def test_lines_are_found_cut_out_and_read(open_bundle: Any) -> None:
    """Bars stand for words: their brightness is what they say."""
    image = Image.new("RGB", (800, 760))
    pen = ImageDraw.Draw(image)
    for left, top, level in ((40, 100, 204), (400, 100, 230), (40, 400, 255)):
        pen.rectangle((left, top, left + 200, top + 60), (level,) * 3)
    step = {"model": "reader", "input": "x"}
    card = {
        "task": "ocr",
        "preprocessing": {"filter": "sampled"},
        "postprocessing": {"recogniser": step, "characters": "characters.txt", "grow": 0.0},
    }
    # Signs: blank, one for each tenth up to 1.0, and the space.
    characters = {"characters.txt": "\n".join("abcdefghij").encode()}
    bundle = open_bundle(bright_mask(), card, characters, {"reader": reader(12)})
    found = bundle.predict(png(image))
    assert [line.text[:1] for line in found.lines] == ["h", "i", "j"]
    assert found.text.count("\n") == 1  # the upper two stand in one row
    (x1, y1), _, (x2, y2), _ = found.lines[2].box
    assert (x1, y1, x2, y2) == pytest.approx((40, 400, 240, 460), abs=3)
    assert (
        open_bundle(bright_mask(), card, characters, {"reader": reader(12)})
        .predict(png(Image.new("RGB", (100, 50))))
        .lines
        == ()
    )
    with pytest.raises(InferenceFailed, match="tells 13 signs apart, the characters are 12"):
        open_bundle(bright_mask(), card, characters, {"reader": reader(13)}).predict(png(image))


@pytest.mark.parametrize("size", [(1, 1), (3000, 2), (2, 3000), (31, 33)])
def test_text_is_looked_for_in_pictures_of_any_shape(
    open_bundle: Any, size: tuple[int, int]
) -> None:
    step = {"model": "reader", "input": "x"}
    card = {
        "task": "ocr",
        "postprocessing": {"recogniser": step, "characters": "characters.txt"},
    }
    characters = {"characters.txt": "\n".join("abcdefghij").encode()}
    bundle = open_bundle(bright_mask(), card, characters, {"reader": reader(12)})
    found = bundle.predict(png(Image.new("RGB", size, "white")))
    assert (found.width, found.height) == size


def proposal_net() -> bytes:
    """P-Net: a cell's face score is its brightness; no moves. x is the first axis, stride 2."""
    nodes = [
        helper.make_node("Transpose", ["picture"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node(
            "AveragePool", ["planes"], ["pooled"], kernel_shape=[12, 12], strides=[2, 2]
        ),
        helper.make_node("Transpose", ["pooled"], ["cells"], perm=[0, 2, 3, 1]),
        helper.make_node("MatMul", ["cells", "to_scores"], ["scores"]),
        helper.make_node("MatMul", ["cells", "to_moves"], ["moves"]),
    ]
    size = ["n", "w", "h"]
    return model(
        nodes,
        [value("picture", [*size, 3])],
        [value("moves", ["n", "cw", "ch", 4]), value("scores", ["n", "cw", "ch", 2])],
        to_scores=np.array([[0, 1 / 3]] * 3, np.float32),
        to_moves=np.zeros((3, 4), np.float32),
    )


def looking_net(side: int, with_points: bool) -> bytes:
    """R-Net or O-Net: the score is the brightness, no moves, points in the middle."""
    nodes = [
        helper.make_node("ReduceMean", ["crop"], ["level"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["level", "to_scores"], ["scores"]),
        helper.make_node("MatMul", ["level", "to_moves"], ["moves"]),
    ]
    outputs = [value("scores", ["n", 2]), value("moves", ["n", 4])]
    constants = {
        "to_scores": np.array([[0, 1 / 3]] * 3, np.float32),
        "to_moves": np.zeros((3, 4), np.float32),
    }
    if with_points:
        nodes.append(helper.make_node("MatMul", ["level", "to_points"], ["ten"]))
        nodes.append(helper.make_node("Clip", ["ten", "half", "half"], ["points"]))
        outputs.append(value("points", ["n", 10]))
        constants["to_points"] = np.zeros((3, 10), np.float32)
        constants["half"] = np.float32(0.5)
    return model(nodes, [value("crop", ["n", side, side, 3])], outputs, **constants)


CASCADE = {
    "task": "object-detection",
    "labels": ["face"],
    "postprocessing": {
        "boxes": "cascade",
        "refine": {"model": "r", "input": "crop"},
        "output": {"model": "o", "input": "crop"},
    },
}
NETS = {"r": looking_net(24, False), "o": looking_net(48, True)}


@pytest.mark.parametrize("factor", [1, 20], ids=["small", "larger than is looked at"])
def test_a_cascade_finds_the_bright_square(open_bundle: Any, factor: int) -> None:
    side = 120 * factor
    image = Image.new("RGB", (side, side))
    left, top, length = 60 * factor, 30 * factor, 36 * factor
    ImageDraw.Draw(image).rectangle((left, top, left + length, top + length), "white")
    found = open_bundle(proposal_net(), CASCADE, {}, NETS).predict(png(image))
    assert (found.width, found.height) == (side, side)
    best = found.boxes[0]
    assert best.label == "face"
    middle = ((best.x1 + best.x2) / 2, (best.y1 + best.y2) / 2)
    assert left <= middle[0] <= left + length
    assert top <= middle[1] <= top + length
    assert best.points["nose"] == pytest.approx(middle, abs=2 * factor)
    assert (
        open_bundle(proposal_net(), CASCADE, {}, NETS)
        .predict(png(Image.new("RGB", (120, 120))))
        .boxes
        == ()
    )


def test_a_cascade_of_other_models_is_refused(open_bundle: Any) -> None:
    with pytest.raises(LoadFailed, match="begins with outputs of 2 scores and 4 moves"):
        open_bundle(mean_colour(), CASCADE)
    with pytest.raises(LoadFailed, match="the card names one label"):
        open_bundle(proposal_net(), {**CASCADE, "labels": ["a", "b"]})


@pytest.mark.parametrize(
    ("model_bytes", "card"),
    [
        pytest.param(mean_colour(), classification(), id="classification"),
        pytest.param(bright_cells(), DETECTION, id="detection"),
        pytest.param(proposal_net(), CASCADE, id="cascade"),
    ],
)
@pytest.mark.parametrize("payload", [b"", b"plain text", b"\x89PNG\r\n\x1a\n"])
def test_no_task_takes_what_is_no_picture(
    open_bundle: Any, model_bytes: bytes, card: dict[str, Any], payload: bytes
) -> None:
    with pytest.raises(InvalidInput, match="the image is"):
        open_bundle(model_bytes, card).predict(payload)


def test_lines_are_drawn_beside_what_was_read() -> None:
    box = ((20, 20), (180, 20), (180, 50), (20, 50))
    read = OcrText(
        text="Hello 世界",
        lines=(OcrLine(text="Hello 世界", score=1, box=box),),
        width=200,
        height=80,
    )
    drawn = np.asarray(read.draw(Image.new("RGB", (200, 80), "white")))
    assert drawn.shape == (80, 400, 3)
    ink = (drawn != 255).any(axis=2)
    assert ink[20, 20:180].all()  # the outline
    assert not ink[30:40, 30:170].any()  # what is inside stays to be seen
    rows, columns = np.nonzero(ink[:, 200:])
    assert columns.min() >= 18
    assert columns.max() <= 190
    assert (rows.min() >= 15, rows.max() <= 60) == (True, True)


def test_named_points_are_dotted() -> None:
    face = Box(label="face", score=1, x1=20, y1=20, x2=80, y2=80, points={"nose": (50, 55)})
    plain = face.model_copy(update={"points": {}})
    pictures = [
        np.asarray(
            Detections(boxes=(box,), width=100, height=100).draw(np.zeros((100, 100, 3), "u1"))
        )
        for box in (face, plain)
    ]
    rows, columns = np.nonzero((pictures[0] != pictures[1]).any(axis=2))
    assert (rows.mean(), columns.mean()) == pytest.approx((55, 50), abs=1)
