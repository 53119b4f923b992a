"""`Explanation`: what a prediction stands on, and pictures of it; drawn when somebody asks."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, ClassVar, Final

import numpy as np
from pydantic import Field

from aiaas_client._api.plots import new_figure
from aiaas_client.protocol.explanations import Contribution, ExplainAnswer, ExplanationDocument
from aiaas_client.protocol.predictions import picture_of

FOR, AGAINST = (214, 39, 40), (31, 119, 180)
"""Red raises what is explained, blue lowers it."""
_STRONGEST: Final = 0.65  # of the colour over a picture or behind a word
_COLUMNS: Final = 20


class Explanation(ExplanationDocument):
    """The explanation of one prediction: `contributions` added to `base` give `prediction`.

    With `method="occlusion"` they need not: each part was taken out alone.

    Attributes:
        text: The text that was explained, if it was one.
    """

    shown: ClassVar[tuple[str, ...]] = ("method", "output", "prediction", "base", "samples")
    text: str | None = Field(default=None, exclude=True)

    def top(self, n: int = 10) -> list[Contribution]:
        """The contributions that weigh most, whatever their sign."""
        return sorted(self.contributions, key=lambda one: -abs(one.contribution))[:n]

    def plot(self, figure: Any = None, *, n: int = _COLUMNS) -> Any:
        """Draw what weighs most as bars with their standard errors; of a picture the grid of cells.

        Args:
            figure: A matplotlib figure to draw on; a new one by default.
            n: Most bars; what is left is drawn as one.
        Returns:
            The figure.
        Raises:
            ConfigurationError: matplotlib is not installed.
        """
        if figure is None:
            figure = new_figure((8, 5))
        axes = figure.subplots()
        if self.size is not None:
            self._plot_cells(figure, axes)
        else:
            self._plot_bars(axes, n)
        rest = "" if self.complete else ", stopped by the deadline"
        axes.set_title(
            f"{self.output}: {self.prediction:.4g} (base {self.base:.4g}; {self.method}{rest})"
        )
        return figure

    def _plot_bars(self, axes: Any, n: int) -> None:
        shown = self.top(n)
        names = [_named(one) for one in shown]
        added = [one.contribution for one in shown]
        errors = [one.error for one in shown]
        others = len(self.contributions) - len(shown)
        if others:
            names.append(f"{others} others")
            added.append(self.prediction - self.base - sum(added))
            errors.append(0.0)
        colours = [_hex(FOR if value >= 0 else AGAINST) for value in added]
        places = range(len(names))  # not the names: two words may be the same
        spread = {"xerr": errors, "ecolor": "0.3", "capsize": 3} if any(errors) else {}
        axes.barh(places, added, color=colours, **spread)
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        axes.axvline(0, color="0.3", linewidth=0.8)
        axes.set_xlabel("added to the base")

    def _plot_cells(self, figure: Any, axes: Any) -> None:
        heat = self._heat()
        most = float(np.abs(heat).max()) or 1.0
        drawn = axes.imshow(heat, cmap="RdBu_r", vmin=-most, vmax=most)
        figure.colorbar(drawn, ax=axes, label="added to the base")

    def _heat(self) -> Any:
        """`(height, width)`: what the cell of each pixel adds."""
        width, height = self.size or [1, 1]
        heat = np.zeros((height, width))
        for one in self.contributions:
            if one.box is not None:
                x, y, across, down = one.box
                heat[y : y + down, x : x + across] = one.contribution
        return heat

    def draw(self, image: Any) -> Any:
        """The picture with its cells coloured: red raises the explained output, blue lowers it.

        Args:
            image: The picture that was explained: bytes, a path, a pillow image or an array.
        Returns:
            A pillow image.
        Raises:
            ValueError: It is no picture that was explained.
            ImportError: pillow is not installed.
        """
        if self.size is None:
            raise ValueError("expected the explanation of a picture; this one has no cells")
        try:
            from PIL import Image
        except ImportError:
            raise ImportError('drawing needs pillow: pip install "aiaas-client[tasks]"') from None
        picture = picture_of(image)
        heat = self._heat()
        strength = np.abs(heat) / (np.abs(heat).max() or 1.0) * _STRONGEST
        colour = np.where(heat[..., None] >= 0, FOR, AGAINST)
        layer = np.dstack([colour, strength[..., None] * 255]).astype(np.uint8)
        over = Image.fromarray(layer, "RGBA").resize(picture.size, Image.Resampling.NEAREST)
        drawn = picture.convert("RGBA")
        drawn.alpha_composite(over)
        return drawn.convert("RGB")

    def _repr_html_(self) -> str:
        """The text with its words coloured, or a table, for notebooks."""
        head = (
            f"<p><b>{escape(str(self.output))}</b>: {self.prediction:.4g}, "
            f"base {self.base:.4g} ({self.method}, {self.samples} samples"
            f"{'' if self.complete else ', not complete'})</p>"
        )
        return head + (self._coloured() if self.text is not None else self._table())

    def _coloured(self) -> str:
        text = self.text or ""
        most = max((abs(one.contribution) for one in self.contributions), default=0.0) or 1.0
        parts: list[str] = []
        end = 0
        for one in self.contributions:
            if one.start is None or one.end is None:
                continue
            alpha = abs(one.contribution) / most * _STRONGEST
            red, green, blue = FOR if one.contribution >= 0 else AGAINST
            parts.append(escape(text[end : one.start]))
            parts.append(
                f'<span style="background:rgba({red},{green},{blue},{alpha:.2f})" '
                f'title="{one.contribution:+.4g} ± {one.error:.2g}">'
                f"{escape(text[one.start : one.end])}</span>"
            )
            end = one.end
        return f"<p>{''.join(parts)}{escape(text[end:])}</p>"

    def _table(self) -> str:
        rows = "".join(
            f"<tr><th>{escape(one.feature)}</th>"
            f"<td>{escape('' if one.value is None else str(one.value)[:64])}</td>"
            f"<td>{one.contribution:+.4g}</td><td>± {one.error:.2g}</td></tr>"
            for one in self.top(_COLUMNS)
        )
        return f"<table>{rows}</table>"


def read_explanations(body: bytes, texts: Sequence[str | None]) -> list[Explanation]:
    """The explanations of an answer; each gets its text.

    Raises:
        ValueError: They are not as many as there are texts, or something else.
    """
    told = ExplainAnswer.model_validate_json(body).explanations
    found = [Explanation.model_validate(one, from_attributes=True) for one in told]
    if len(found) != len(texts):
        raise ValueError(f"{len(found)} came")
    return [
        one if text is None else one.model_copy(update={"text": text})
        for one, text in zip(found, texts, strict=True)
    ]


def _named(one: Contribution) -> str:
    value = one.value
    if value is None:
        return one.feature
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)[:24]
    return f"{one.feature} = {shown}"


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
