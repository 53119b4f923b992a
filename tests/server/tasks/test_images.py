"""Pictures of every kind become the pixels a person sees, or a message that says what is wrong."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from aiaas_server.core.errors import InvalidInput
from aiaas_server.tasks.images import decode_image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def quarters() -> Image.Image:
    """4 x 2 pixels: red and green above, blue and white below, two pixels each."""
    rows = [[RED, RED, GREEN, GREEN], [BLUE, BLUE, WHITE, WHITE]]
    return Image.fromarray(np.array(rows, np.uint8))


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header says a size that its data does not have."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF"])
def test_a_lossless_file_gives_its_pixels(kind: str) -> None:
    pixels = decode_image(
        encoded(quarters(), kind, **({"lossless": True} if kind == "WEBP" else {}))
    )
    assert pixels.dtype == np.uint8
    assert pixels.tolist() == np.asarray(quarters()).tolist()


def test_a_jpeg_gives_its_pixels_nearly() -> None:
    pixels = decode_image(encoded(Image.new("RGB", (16, 8), (200, 100, 50)), "JPEG", quality=95))
    assert pixels.shape == (8, 16, 3)
    assert np.abs(pixels.astype(int) - [200, 100, 50]).max() <= 3


@pytest.mark.parametrize(
    ("orientation", "upper_left", "shape"),
    [
        pytest.param(1, RED, (2, 4, 3), id="as it is"),
        pytest.param(3, WHITE, (2, 4, 3), id="upside down"),
        pytest.param(6, BLUE, (4, 2, 3), id="quarter turn"),
        pytest.param(8, GREEN, (4, 2, 3), id="three quarters"),
    ],
)
def test_exif_orientation_is_obeyed(
    orientation: int, upper_left: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decode_image(encoded(quarters(), exif=exif))
    assert pixels.shape == shape
    assert tuple(pixels[0, 0]) == upper_left


def test_sixteen_bit_grey_keeps_its_brightness() -> None:
    deep = Image.fromarray(np.array([[0, 0x8000, 0xFFFF]], np.uint16))
    assert decode_image(encoded(deep)).tolist() == [[[0] * 3, [128] * 3, [255] * 3]]


def test_the_transparent_grey_of_sixteen_bits_is_white() -> None:
    deep = Image.fromarray(np.array([[0x1234, 0x8000]], np.uint16))
    content = encoded(deep, transparency=0x1234)
    assert decode_image(content).tolist() == [[list(WHITE), [128] * 3]]


def test_eight_bit_grey_and_black_and_white() -> None:
    grey = Image.fromarray(np.array([[0, 77, 255]], np.uint8))
    assert decode_image(encoded(grey)).tolist() == [[[0] * 3, [77] * 3, [255] * 3]]
    assert decode_image(encoded(grey.convert("1"))).shape == (1, 3, 3)


def test_transparency_lies_on_white() -> None:
    clear = Image.fromarray(np.array([[[255, 0, 0, 0], [255, 0, 0, 255]]], np.uint8))
    assert decode_image(encoded(clear)).tolist() == [[list(WHITE), list(RED)]]
    grey = Image.fromarray(np.array([[[0, 0], [0, 255]]], np.uint8), "LA")
    assert decode_image(encoded(grey)).tolist() == [[list(WHITE), [0, 0, 0]]]


def test_a_palette_is_looked_up_with_its_transparent_entry() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([*RED, *BLUE])
    palette.putpixel((1, 0), 1)
    assert decode_image(encoded(palette)).tolist() == [[list(RED), list(BLUE)]]
    assert decode_image(encoded(palette, transparency=0)).tolist() == [[list(WHITE), list(BLUE)]]


def test_cmyk_is_converted() -> None:
    inks = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    pixels = decode_image(encoded(inks, "JPEG", quality=95))
    assert pixels.shape == (8, 8, 3)
    assert np.abs(pixels.astype(int) - RED).max() <= 8


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_picture_of_many_is_taken(kind: str) -> None:
    pictures = [Image.new("RGB", (3, 2), colour) for colour in (RED, BLUE, GREEN)]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(pictures[0], kind, save_all=True, append_images=pictures[1:], **options)
    assert decode_image(content).tolist() == [[list(RED)] * 3] * 2


def test_pillow_images_and_arrays_are_taken_too() -> None:
    expected = np.asarray(quarters())
    assert decode_image(quarters()).tolist() == expected.tolist()
    assert decode_image(expected).tolist() == expected.tolist()
    assert decode_image(expected[:, :, 0]).shape == (2, 4, 3)
    clear = np.zeros((1, 1, 4), np.uint8)
    assert decode_image(clear).tolist() == [[list(WHITE)]]


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        pytest.param(b"", r"the image is empty \(0 bytes\), expected a PNG, JPEG", id="empty"),
        pytest.param(
            b"Dear Sir or Madam,\n", r"the image is not a PNG.*it begins with b'Dear Sir", id="text"
        ),
        pytest.param(
            encoded(Image.effect_noise((64, 64), 50), "JPEG")[:900],
            r"the image is damaged or cut off \(900 bytes came\)",
            id="truncated jpeg",
        ),
        pytest.param(
            encoded(Image.effect_noise((64, 64), 50))[:500],
            r"the image is damaged or cut off",
            id="truncated png",
        ),
        pytest.param(
            png_claiming(30_000, 30_000),
            r"too large: 900000000 pixels, at most 50,000,000 are accepted",
            id="30,000 x 30,000",
        ),
        pytest.param(
            png_claiming(8_000, 8_000),
            r"too large: 8000 x 8000 pixels, at most 50,000,000 are accepted",
            id="8,000 x 8,000",
        ),
        pytest.param(
            encoded(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"),
            r"pixels of kind 'F', expected 8 or 16 bits a channel",
            id="floating point",
        ),
        pytest.param("photo.jpg", r"as bytes, a pillow image or a uint8 array, got str", id="str"),
        pytest.param(
            np.zeros((4, 4, 3)),
            r"expected uint8 of shape .* got float64 of \(4, 4, 3\)",
            id="dtype",
        ),
        pytest.param(np.zeros((4, 4, 2), np.uint8), r"got uint8 of \(4, 4, 2\)", id="planes"),
        pytest.param(np.zeros((0, 4, 3), np.uint8), r"has no pixels: shape \(0, 4, 3\)", id="none"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_wrong_with_a_picture_is_said(payload: object, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        decode_image(payload)


@pytest.mark.parametrize("size", [(100_001, 1), (1, 100_001)])
def test_a_side_has_a_limit_of_its_own(size: tuple[int, int]) -> None:
    with pytest.raises(InvalidInput, match=r"too long: .* sides of at most 100,000 are accepted"):
        decode_image(encoded(Image.new("1", size)))


@pytest.mark.parametrize(
    "error", [ValueError, TypeError, OSError, SyntaxError, IndexError, KeyError, MemoryError]
)
def test_whatever_a_decoder_raises_is_told_as_a_damaged_picture(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: object) -> None:
        raise error("inside the decoder")

    monkeypatch.setattr(ImageFile.ImageFile, "load", fails)
    for payload in (encoded(quarters()), Image.open(io.BytesIO(encoded(quarters())))):
        with pytest.raises(InvalidInput, match=r"the image is damaged or cut off.*inside the dec"):
            decode_image(payload)


def test_a_picture_whose_exif_nobody_can_read_is_shown_as_it_is() -> None:
    for exif in (b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"MM"):
        assert decode_image(encoded(quarters(), exif=exif)).shape == (2, 4, 3)


def test_colours_converted_in_strips_are_those_of_the_whole() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1500, 4), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = Image.fromarray(noise)
    white = Image.new("RGB", clear.size, "white")
    white.paste(clear, mask=clear)
    expected = np.rot90(np.asarray(white), -1)
    assert (decode_image(encoded(clear, compress_level=0, exif=exif)) == expected).all()
    palette = clear.convert("RGB").quantize(50)
    turned = np.rot90(np.asarray(palette.convert("RGB")), -1)
    assert (decode_image(encoded(palette, exif=exif)) == turned).all()


def test_the_ceiling_is_the_card_s() -> None:
    with pytest.raises(InvalidInput, match=r"4 x 2 pixels, at most 7 are accepted"):
        decode_image(encoded(quarters()), max_pixels=7)
    assert decode_image(encoded(quarters()), max_pixels=8).shape == (2, 4, 3)


PICTURE = encoded(quarters())


@given(at=st.integers(0, len(PICTURE) - 1), value=st.integers(0, 255), cut=st.integers(1, 200))
def test_damage_never_ends_in_another_error(at: int, value: int, cut: int) -> None:
    damaged = bytearray(PICTURE)
    damaged[at] = value
    for content in (bytes(damaged), bytes(damaged[:cut])):
        assert damage(content) in ("none", "said")


def damage(content: bytes) -> str:
    try:
        decode_image(content, max_pixels=10_000)
    except InvalidInput as error:
        return "said" if error.message.startswith("the image") else error.message
    return "none"


def test_a_jpeg_painted_over_and_over_is_refused_before_it_is_decoded():
    file = io.BytesIO()
    Image.new("RGB", (2000, 2000), "red").save(file, "JPEG", progressive=True)
    content = file.getvalue()
    assert decode_image(content).shape == (2000, 2000, 3)
    start = content.rindex(b"\xff\xda")
    last = content[start:-2]
    with pytest.raises(InvalidInput, match="painted too often: 20010 scans of 2000 x 2000 pixels"):
        decode_image(content[:-2] + last * 20_000 + b"\xff\xd9")


def test_a_refusal_names_no_object_of_the_server():
    with pytest.raises(InvalidInput, match="cannot identify image file$"):
        decode_image(b"\x89PNG\r\n\x1a\n" + bytes(40))


def test_a_damaged_tiff_is_told_to_the_caller_and_not_on_standard_error(
    capfd: pytest.CaptureFixture[str],
) -> None:
    content = io.BytesIO()
    Image.new("RGB", (64, 64), (1, 2, 3)).save(content, "TIFF", compression="tiff_lzw")
    damaged = bytearray(content.getvalue())
    damaged[20:60] = b"\xff" * 40
    with pytest.raises(InvalidInput, match="damaged"):
        decode_image(bytes(damaged))
    assert capfd.readouterr() == ("", "")
