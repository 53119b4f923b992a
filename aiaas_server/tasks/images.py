"""A picture from anywhere to upright RGB pixels, without trusting it.

Accepted: PNG, JPEG, WebP, GIF, BMP and TIFF files, pillow images, and uint8 arrays
`(height, width)`, `(height, width, 3 or 4)`. What comes out is what a person sees in a viewer:

* turned as its EXIF orientation says,
* transparency laid over white, palettes looked up, CMYK and the like converted,
* 16 bits a channel reduced to 8,
* of an animation or a many-page file, the first picture.

The number of pixels is read from the header and checked before a pixel is decoded.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from aiaas_server.core.errors import InvalidInput

if TYPE_CHECKING:
    from PIL import Image as PillowImage

Pixels = npt.NDArray[np.uint8]

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
ACCEPTED = "a PNG, JPEG, WebP, GIF, BMP or TIFF picture"
MAX_PIXELS = 50_000_000  # 150 MB once decoded
# 8-bit colour spaces that convert as they are; the others are told apart below.
DIRECT = {"RGB", "L", "1", "CMYK", "YCbCr", "HSV", "LAB"}
TRANSPARENT = {"RGBA", "LA", "PA", "La", "RGBa"}


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
        _check_size(*payload.size, max_pixels)
        return _upright_rgb(payload)
    raise InvalidInput(
        f"an image is {ACCEPTED} as bytes, a pillow image or a uint8 array, "
        f"got {type(payload).__name__}"
    )


def _from_file(content: bytes, max_pixels: int) -> Pixels:
    from PIL import Image, UnidentifiedImageError

    if not content:
        raise InvalidInput(f"the image is empty (0 bytes), expected {ACCEPTED}")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check_size(*image.size, max_pixels)
            return _upright_rgb(image)
    except InvalidInput:
        raise
    except UnidentifiedImageError:
        raise InvalidInput(
            f"the image is not {ACCEPTED}; it begins with {_beginning(content)}"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # pillow's own ceiling lies above ours; its message has the count.
        count = next(iter(re.findall(r"\((\d+) pixels\)", str(error))), "far more")
        raise _too_large(f"{count} pixels", max_pixels) from None
    except Exception as error:  # pillow's decoders raise whatever their file made them stumble on
        raise InvalidInput(
            f"the image is damaged or cut off ({len(content)} bytes came): {_reason(error)}"
        ) from None


def _upright_rgb(image: PillowImage.Image) -> Pixels:
    from PIL import ImageOps

    image.load()
    upright = ImageOps.exif_transpose(image)
    return np.asarray(_flat_rgb(upright))


def _flat_rgb(image: PillowImage.Image) -> PillowImage.Image:
    """RGB of any mode; transparent parts white."""
    from PIL import Image

    if image.mode == "I;16" or image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "I" and image.format == "PNG":
        # Older pillow opens 16-bit grey PNG files this way.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in TRANSPARENT or "transparency" in image.info:
        clear = image.convert("RGBA")
        white = Image.new("RGB", clear.size, "white")
        white.paste(clear, mask=clear)
        return white
    if image.mode in DIRECT or image.mode == "P":
        return image.convert("RGB")
    raise InvalidInput(
        f"the image has pixels of kind {image.mode!r}, expected 8 or 16 bits a channel"
    )


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

    return np.asarray(_flat_rgb(Image.fromarray(array)))


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise InvalidInput(f"the image has no pixels: {width} x {height}")
    if width * height > max_pixels:
        raise _too_large(f"{width} x {height} pixels", max_pixels)


def _too_large(size: str, max_pixels: int) -> InvalidInput:
    return InvalidInput(f"the image is too large: {size}, at most {max_pixels:,} are accepted")


def _beginning(content: bytes) -> str:
    return repr(content[:16])


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:120] or type(error).__name__
