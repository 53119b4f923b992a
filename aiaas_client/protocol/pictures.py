"""What a pillow image shows: turned upright, in red, green and blue; the same on both sides.

The client sends pillow images by these rules and the server reads files by them, so that a picture
gives one answer however it is handed over.
"""

from __future__ import annotations

from typing import Any

ORIENTATION = 0x0112  # the EXIF tag
# Its values to pillow's `Transpose`.
_TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
# 8-bit colour spaces that convert as they are; the others are told apart below.
_DIRECT = frozenset({"RGB", "L", "1", "P", "CMYK", "YCbCr", "HSV", "LAB"})
_TRANSPARENT = frozenset({"RGBA", "LA", "PA", "La", "RGBa"})


def upright(image: Any) -> Any:
    """The image turned as its EXIF orientation says; itself where nothing is to be turned.

    Raises:
        Exception: Whatever pillow makes of a damaged file, which is read here.
    """
    image.load()  # before the orientation is asked for: reading a TIFF file turns it already
    try:
        turn = _TURNS.get(image.getexif().get(ORIENTATION))
    except Exception:  # EXIF that nobody can read turns nothing: viewers show such pictures, too
        return image
    return image if turn is None else image.transpose(turn)


def is_deep(image: Any) -> bool:
    """Whether its pixels are 16 bits of grey. Older pillow opens such PNG files as mode `I`."""
    return bool(image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"))


def flat_rgb(image: Any, *, deep: bool = False) -> Any:
    """The image in mode RGB; transparent parts lie on white, 16 bits a channel become 8.

    Args:
        image: Of pillow.
        deep: What `is_deep` said of it, or of the file's image that it is a part of.
    Raises:
        ValueError: Its mode has no such form (floating point, 32 bits).
    """
    from PIL import Image

    if deep:
        import numpy as np

        values = np.asarray(image)
        grey = (values >> 8).astype(np.uint8)
        clear = image.info.get("transparency")
        if isinstance(clear, int):
            grey[values == clear] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        clear = image.convert("RGBA")
        white = Image.new("RGB", clear.size, "white")
        white.paste(clear, mask=clear)
        return white
    if image.mode in _DIRECT:
        return image.convert("RGB")
    raise ValueError(
        f"the image has pixels of kind {image.mode!r}, expected 8 or 16 bits a channel"
    )
