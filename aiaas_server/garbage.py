"""The cyclic garbage collector, kept away from requests.

A full collection walks every object that lives: with this server's modules and models some fifty
thousand, tens of milliseconds in which nothing is answered. `settle` moves what lives once the
models are there to where the collector does not look; a later full collection walks only what
came since, a few hundred objects. Nothing is lost by it: models are freed by their reference
counts when they are unloaded, and they hold no cycles.

The thresholds are left alone: a request leaves nothing for the collector, so that thousands go by
between two collections of the youngest generation, of a tenth of a millisecond each, and raising
them gains nothing that can be measured.
"""

from __future__ import annotations

import gc


def settle() -> None:
    """Collect once, then leave everything that lives out of later collections."""
    gc.collect()
    gc.freeze()


def unsettle() -> None:
    """Undo `settle`, for a process that goes on with something else."""
    gc.unfreeze()
