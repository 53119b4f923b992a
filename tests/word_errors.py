"""`python -m tests.word_errors`: how many words of packaged recordings Whisper tiny.en gets wrong.

In this process, by the same task, decoder and engine as on a server. The model is pulled first;
`--models DIR` takes one that is there.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from aiaas_client import Client
from tests.recordings import CLIPS, recording, word_errors

NAME = "whisper-tiny-en"


class Heard(NamedTuple):
    """One recording: what is said, what was heard, and words to put in, leave out or change."""

    name: str
    words: int
    wrong: int
    text: str


def listen(transcribe: Callable[[bytes], str]) -> Iterator[Heard]:
    """Have each packaged recording transcribed."""
    for clip in CLIPS:
        text = transcribe(recording(clip))
        yield Heard(clip.name, len(clip.said.split()), word_errors(clip.said, text), text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one line a recording, and the rate of all of them; gives the exit code.

    Args:
        arguments: Of the command line; by default the process's own.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.word_errors", description=__doc__)
    parser.add_argument("--models", type=Path, help="a repository that has the model")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as directory:
        if given.models is None:
            from aiaas_server.zoo.pull import pull

            pull(NAME, Path(directory))
        with Client.local(given.models or directory) as client:
            found = list(listen(lambda audio: client.transcribe(NAME, audio).text))
    for one in found:
        print(f"{one.wrong:3} of {one.words:3} words wrong  {one.name:12} {one.text}")
    wrong, words = sum(one.wrong for one in found), sum(one.words for one in found)
    print(f"{wrong:3} of {words:3} words wrong: word error rate {wrong / words:.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
