"""Sound as a picture of pitch over time: the logarithmic mel spectrogram that Whisper reads.

Source: Radford et al. 2022, *Robust Speech Recognition via Large-Scale Weak Supervision*, section
2.2; the mel scale is Slaney's (*Auditory Toolbox*, 1998): linear below 1 kHz, logarithmic above.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from aiaas_server.tasks.task import Floats

RATE = 16_000
WINDOW, HOP = 400, 160  # samples: 25 ms every 10 ms
_LINEAR = 200 / 3  # hertz a mel below the break
_BREAK = 1000.0  # hertz
_STEP = np.log(6.4) / 27  # above it


def log_mel(samples: Floats, bands: int, seconds: float) -> Floats:
    """`(1, bands, frames)` of a sound at 16 kHz, cut or filled with silence to `seconds`.

    Values are about -1 to 1.
    """
    length = round(seconds * RATE)
    padded = np.zeros(length, np.float32)
    padded[: len(samples)] = samples[:length]
    around = np.pad(padded, WINDOW // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(around, WINDOW)[::HOP][: length // HOP]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    power = np.abs(np.fft.rfft(frames * hann, axis=1)) ** 2  # (frames, WINDOW // 2 + 1)
    mel = power @ mel_filters(bands).T
    decades = np.log10(np.maximum(mel, 1e-10))
    decades = np.maximum(decades, decades.max() - 8)
    spectrogram: Floats = ((decades + 4) / 4).T[None].astype(np.float32)
    return spectrogram


@lru_cache(maxsize=4)
def mel_filters(bands: int) -> npt.NDArray[np.float64]:
    """`(bands, WINDOW // 2 + 1)`: triangles over the frequencies, each of area 1 in hertz."""
    frequencies = np.linspace(0, RATE / 2, WINDOW // 2 + 1)
    corners = _hertz(np.linspace(0, _mel(RATE / 2), bands + 2))
    low, middle, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    rise = (frequencies - low) / (middle - low)
    fall = (high - frequencies) / (high - middle)
    filters: npt.NDArray[np.float64] = np.maximum(0, np.minimum(rise, fall)) * 2 / (high - low)
    return filters


def _mel(hertz: float) -> float:
    if hertz < _BREAK:
        return hertz / _LINEAR
    return _BREAK / _LINEAR + float(np.log(hertz / _BREAK)) / float(_STEP)


def _hertz(mels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    edge = _BREAK / _LINEAR
    above = _BREAK * np.exp(_STEP * (np.maximum(mels, edge) - edge))
    chosen: npt.NDArray[np.float64] = np.where(mels < edge, mels * _LINEAR, above)
    return chosen
