"""Pictures whose answers by the packaged models are known: drawn here, or photographs fetched."""

from __future__ import annotations

import io

from PIL import Image, ImageDraw, ImageFont

from aiaas_server.zoo.packages import PackagedFile, content, fetch

from . import photographs

PARAGRAPH = (
    "Coffee is a drink prepared from roasted beans. It is dark and bitter and has been drunk for "
    "centuries by people all over the world, who brew it in many ways. "
)


def photograph(file: PackagedFile) -> bytes:
    """The bytes of a packaged picture, fetched once."""
    for _ in fetch([file]):
        pass
    return content(file)


def encoded(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def written(text: str, size: int = 32) -> Image.Image:
    """One line of text, black on white, 400 x 100."""
    image = Image.new("RGB", (400, 100), "white")
    ImageDraw.Draw(image).text((20, 30), text, "black", font=ImageFont.load_default(size))
    return image


def page() -> Image.Image:
    """A page of 850 x 1100: title, paragraph, a photograph with its caption, paragraph."""
    image = Image.new("RGB", (850, 1100), "white")
    pen = ImageDraw.Draw(image)
    pen.text((250, 60), "A Study of Coffee", "black", font=ImageFont.load_default(36))
    _block(pen, 140)
    cup = Image.open(io.BytesIO(photograph(photographs.COFFEE)))
    image.paste(cup.resize((450, 300)), (200, 400))
    caption = "Figure 1: A cup of coffee on a table."
    pen.text((270, 715), caption, "black", font=ImageFont.load_default(18))
    _block(pen, 780)
    return image


def _block(pen: ImageDraw.ImageDraw, top: int, lines: int = 9) -> None:
    """Lines of text 690 pixels wide."""
    font = ImageFont.load_default(18)
    words = iter((PARAGRAPH * 8).split())
    for row in range(lines):
        line = next(words)
        for word in words:
            if pen.textlength(f"{line} {word}", font=font) > 690:
                break
            line = f"{line} {word}"
        pen.text((75, top + row * 24), line, "black", font=font)
