"""Work of several threads at once."""

from __future__ import annotations

import threading
from collections.abc import Callable


def on_threads(work: Callable[[int], None], count: int = 4) -> None:
    """Call `work` with 0, 1, ... on `count` threads, and wait until all have ended."""
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
