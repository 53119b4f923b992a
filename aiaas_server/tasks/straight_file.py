"""Recordings read from the beginning to the end; its own file, since the library may be missing."""

from __future__ import annotations

import soundfile


class StraightFile(soundfile.SoundFile):  # type: ignore[misc]  # the library has no types
    """A recording that does not seek: a stream of unknown length cannot."""

    def seekable(self) -> bool:
        """No."""
        return False
