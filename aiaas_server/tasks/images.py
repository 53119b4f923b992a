"""A picture from anywhere to upright RGB pixels, without trusting it.

Accepted: PNG, JPEG, WebP, GIF, BMP and TIFF files, pillow images, and uint8 arrays
`(height, width)`, `(height, width, 3 or 4)`. What comes out is what a person sees in a viewer:

* turned as its EXIF orientation says,
* transparency laid over white, palettes looked up, CMYK and the like converted,
* 16 bits a channel reduced to 8,
* of an animation or a many-page file, the first picture.

The number of pixels is read from the header and checked before a pixel is decoded. Beyond the
decoder's own picture nothing larger than the answer is held: colours are converted in strips.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import re
from collections.abc import Mapping
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aiaas_client.protocol.pictures import flat_rgb, is_deep, upright
from aiaas_server.core.errors import InvalidInput

if TYPE_CHECKING:
    from PIL import Image as PillowImage

Pixels = npt.NDArray[np.uint8]
# Left, upper, right, lower edge of a part of a picture, in pixels.
Region = tuple[float, float, float, float]

# How the accepted files begin; no other decoder of pillow ever sees a payload.
BEGINNINGS: Mapping[bytes, str] = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"RIFF": "WEBP",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
ACCEPTED = "a PNG, JPEG, WebP, GIF, BMP or TIFF picture"
MAX_PIXELS = 50_000_000  # 150 MB once decoded
MAX_PAINTED = 2_000_000_000  # pixels of all scans of a JPEG: seconds
_SCAN = b"\xff\xda"  # how each begins; it does not occur inside one
MAX_SIDE = 100_000  # pixels; resizing costs memory by the length of a side, too
STRIP_PIXELS = 1 << 20  # converted at a time
LARGE_PIXELS = 1 << 22  # an intermediate picture beyond this is worth a look at its shape


def decode_image(payload: object, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """The picture as `(height, width, 3)` uint8, RGB.

    Args:
        payload: The bytes of a file, a pillow image, or an array as described above.
        max_pixels: More than these are refused, before decoding where the size is known.
    Raises:
        InvalidInput: Not a picture, damaged, too large, or of a kind that is not accepted.
    """
    if isinstance(payload, bytes | bytearray | memoryview):
        return _from_file(bytes(payload), max_pixels)
    if isinstance(payload, np.ndarray):
        return _from_array(payload, max_pixels)
    from PIL import Image

    if isinstance(payload, Image.Image):
        return _decoded(payload, max_pixels, "damaged or cut off")
    raise InvalidInput(
        f"an image is {ACCEPTED} as bytes, a pillow image or a uint8 array, "
        f"got {type(payload).__name__}"
    )


def scaled(
    pixels: Pixels, size: tuple[int, int], method: int, region: Region | None = None
) -> Pixels:
    """A picture, or a region of it, at `size` (height, width), by one of pillow's `Resampling`.

    Pillow resizes across and then down. Where the picture between the two steps would be large,
    as for one pixel across that is to become many, the steps are taken the other way round.
    """
    from PIL import Image

    picture = Image.fromarray(pixels)
    rows, columns = size
    left, upper, right, lower = region or (0, 0, picture.width, picture.height)
    between = columns * (lower - upper)
    if between > LARGE_PIXELS and rows * (right - left) < between:
        whole = picture.width
        picture = picture.resize((whole, rows), Image.Resampling(method), (0, upper, whole, lower))
        upper, lower = 0, rows
    box = (left, upper, right, lower)
    return np.asarray(picture.resize((columns, rows), Image.Resampling(method), box))


def _from_file(content: bytes, max_pixels: int) -> Pixels:
    from PIL import Image

    if not content:
        raise InvalidInput(f"the image is empty (0 bytes), expected {ACCEPTED}")
    name = next((name for begin, name in BEGINNINGS.items() if content.startswith(begin)), None)
    if name is None or (name == "WEBP" and content[8:12] != b"WEBP"):
        raise InvalidInput(f"the image is not {ACCEPTED}; it begins with {content[:16]!r}")
    damaged = f"damaged or cut off ({len(content)} bytes came)"
    try:
        image = Image.open(io.BytesIO(content), formats=(name,))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # pillow's own ceiling lies above ours; its message has the count.
        count = next(iter(re.findall(r"\((\d+) pixels\)", str(error))), "far more")
        raise _too_large(f"{count} pixels", max_pixels) from None
    except Exception as error:  # pillow's decoders raise whatever their file made them stumble on
        raise InvalidInput(f"the image is {damaged}: {_reason(error)}") from None
    if name == "TIFF":
        _silence_libtiff()
    with image:
        if name == "JPEG":
            _check_scans(content, image.size)
        return _decoded(image, max_pixels, damaged)


@cache
def _silence_libtiff() -> None:
    """Keep what libtiff says of damaged files off standard error, where it would be in the log.

    Pillow's errors tell the same to the caller. Pillow has no switch for it, so the library is
    reached through pillow's own module; where it cannot be, its lines stay.
    """
    from PIL import _imaging

    with contextlib.suppress(AttributeError, OSError):
        set_handler = ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler
        set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
        set_handler(None)


def _check_scans(content: bytes, size: tuple[int, int]) -> None:
    """Refuse a JPEG that paints its picture again and again, which takes minutes."""
    scans = content.count(_SCAN)
    if scans * prod(size) > MAX_PAINTED:
        raise InvalidInput(
            f"the image is painted too often: {scans} scans of {size[0]} x {size[1]} pixels, "
            f"at most {MAX_PAINTED:,} pixels are painted"
        )


def _decoded(image: PillowImage.Image, max_pixels: int, damaged: str) -> Pixels:
    try:
        _check_size(*image.size, max_pixels)
        return _upright_rgb(image)
    except InvalidInput:
        raise
    except Exception as error:  # as above: here the pixels are read
        raise InvalidInput(f"the image is {damaged}: {_reason(error)}") from None


def _upright_rgb(image: PillowImage.Image) -> Pixels:
    deep = is_deep(image)
    turned = upright(image)
    width, height = turned.size
    rows = max(1, STRIP_PIXELS // width)
    if rows >= height:
        return np.asarray(_rgb(turned, deep=deep))
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        strip = turned.crop((0, top, width, min(top + rows, height)))
        pixels[top : top + rows] = np.asarray(_rgb(strip, deep=deep))
    return pixels


def _rgb(image: PillowImage.Image, *, deep: bool = False) -> PillowImage.Image:
    try:
        flat: PillowImage.Image = flat_rgb(image, deep=deep)
    except ValueError as error:
        raise InvalidInput(str(error)) from None
    return flat


def _from_array(array: npt.NDArray[Any], max_pixels: int) -> Pixels:
    accepted = "expected uint8 of shape (height, width), (height, width, 3) or (height, width, 4)"
    grey = array.ndim == 2
    if array.dtype != np.uint8 or not (grey or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise InvalidInput(f"the image array: {accepted}, got {array.dtype} of {array.shape}")
    if array.size == 0:
        raise InvalidInput(f"the image array has no pixels: shape {array.shape}")
    _check_size(array.shape[1], array.shape[0], max_pixels)
    if grey:
        return np.repeat(array[:, :, None], 3, axis=2)
    if array.shape[2] == 3:
        return np.ascontiguousarray(array)
    from PIL import Image

    return np.asarray(_rgb(Image.fromarray(array)))


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise InvalidInput(f"the image has no pixels: {width} x {height}")
    if width * height > max_pixels:
        raise _too_large(f"{width} x {height} pixels", max_pixels)
    if max(width, height) > MAX_SIDE:
        raise InvalidInput(
            f"the image is too long: {width} x {height} pixels, "
            f"sides of at most {MAX_SIDE:,} are accepted"
        )


def _too_large(size: str, max_pixels: int) -> InvalidInput:
    return InvalidInput(f"the image is too large: {size}, at most {max_pixels:,} are accepted")


def _reason(error: Exception) -> str:
    text = re.sub(r" <_io\.[^>]*>", "", " ".join(str(error).split()))  # pillow's name of the bytes
    return text[:120] or type(error).__name__
