"""Sealed bytes: what was changed, moved, cut or taken from elsewhere does not open."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiaas_server.state.artefacts.sealed import HEADER, TAG, Tampered, plain_size, seal, unseal
from aiaas_server.state.artefacts.sealed_records import Records, scan

KEY, ABOUT, SIZE = bytes(range(32)), b"acme/" + b"0" * 64, 64
WHOLE = SIZE + TAG
PLAIN = bytes(range(256))[: 3 * SIZE + 10]  # three whole frames and a short one


def sealed(plain: bytes = PLAIN, about: bytes = ABOUT, key: bytes = KEY) -> bytes:
    return b"".join(seal([plain], key, about, SIZE))


def opened(content: bytes, about: bytes = ABOUT, key: bytes = KEY) -> bytes:
    return b"".join(unseal([content], key, about))


@given(st.lists(st.binary(max_size=200), max_size=8), st.integers(1, 300))
def test_what_is_sealed_opens_however_it_came(pieces: list[bytes], step: int) -> None:
    pieces = [piece for piece in pieces if piece]
    plain = b"".join(pieces)
    found = b"".join(seal(pieces, KEY, ABOUT, SIZE))
    assert plain_size(len(found), SIZE) == len(plain)
    cut = [found[at : at + step] for at in range(0, len(found), step)]
    assert b"".join(unseal(cut, KEY, ABOUT)) == plain


def test_the_same_bytes_are_sealed_differently_each_time() -> None:
    first, second = sealed(), sealed()
    assert first[HEADER:] != second[HEADER:]
    assert not any(PLAIN[at : at + 16] in first for at in range(0, len(PLAIN), 16))


def frame(content: bytes, number: int) -> bytes:
    return content[HEADER + number * WHOLE :][:WHOLE]


def exchanged(content: bytes) -> bytes:
    return content[:HEADER] + frame(content, 1) + frame(content, 0) + content[HEADER + 2 * WHOLE :]


TAMPERED: dict[str, Callable[[bytes], bytes]] = {
    "frames swapped": exchanged,
    "frame left out": lambda c: c[:HEADER] + c[HEADER + WHOLE :],
    "frame repeated": lambda c: c[: HEADER + WHOLE] + frame(c, 0) + c[HEADER + WHOLE :],
    "cut inside a frame": lambda c: c[: HEADER + WHOLE + 30],
    "cut inside a tag": lambda c: c[:-1],
    "cut at a border": lambda c: c[: HEADER + 2 * WHOLE],
    "cut behind the header": lambda c: c[:HEADER],
    "cut inside the header": lambda c: c[: HEADER - 1],
    "nothing": lambda c: b"",
    "bytes added": lambda c: c + b"\0",
    "frame added": lambda c: c + frame(c, 0),
    "frame of the same key's other file": lambda c: (
        c[:HEADER] + frame(sealed(), 0) + c[HEADER + WHOLE :]
    ),
    "another version": lambda c: c[:4] + b"\x02" + c[5:],
    "a frame of no bytes": lambda c: c[: HEADER - 4] + bytes(4) + c[HEADER:],
    "a frame beyond any size": lambda c: c[: HEADER - 4] + b"\xff" * 4 + c[HEADER:],
    "a longer frame": lambda c: c[: HEADER - 1] + bytes([SIZE * 2]) + c[HEADER:],
}


@pytest.mark.parametrize("change", TAMPERED.values(), ids=TAMPERED.keys())
def test_what_was_tampered_with_is_refused(change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(Tampered):
        opened(change(sealed()))


def test_every_bit_counts() -> None:
    content = sealed()
    for at in range(len(content)):
        for bit in (1, 128):
            changed = bytearray(content)
            changed[at] ^= bit
            with pytest.raises(Tampered):
                opened(bytes(changed))


def test_another_key_or_artefact_does_not_open_it() -> None:
    assert opened(sealed()) == PLAIN
    with pytest.raises(Tampered, match="frame 0"):
        opened(sealed(), key=bytes(32))
    with pytest.raises(Tampered, match="frame 0"):
        opened(sealed(), about=b"other/" + b"0" * 64)


def test_the_end_is_known_before_the_last_piece_is_given() -> None:
    """Whoever has read a cut artefact was told so, and not after its last byte."""
    cut = sealed(PLAIN[: 3 * SIZE])[: HEADER + 2 * WHOLE]
    pieces = unseal([cut], KEY, ABOUT)
    assert next(pieces) == PLAIN[:SIZE]
    with pytest.raises(Tampered):
        next(pieces)


def test_records_go_on_where_they_were_cut(tmp_path: Path) -> None:
    """A record that was not written whole has not come; those before it have."""
    path = tmp_path / "part"
    pieces = [os.urandom(100), os.urandom(1), os.urandom(5000)]
    ends = []
    with path.open("w+b") as file:
        records = Records.begin(file, KEY)
        for piece in pieces:
            records.add(piece)
            ends.append(scan(file).end)
        assert list(records.pieces()) == pieces
    whole = path.read_bytes()
    assert not any(piece[:32] in whole for piece in (pieces[0], pieces[2]))
    for cut in range(0, len(whole) + 1, 7):
        path.write_bytes(whole[:cut])
        have = sum(end <= cut for end in ends)
        with path.open("r+b") as file:
            assert scan(file).size == sum(map(len, pieces[:have]))
            if cut < ends[0]:
                continue
            records = Records.go_on(file, KEY)
            for piece in pieces[have:]:
                records.add(piece)
            assert b"".join(records.pieces()) == b"".join(pieces)


def test_records_that_were_changed_or_moved_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "part"
    with path.open("w+b") as file:
        records = Records.begin(file, KEY)
        for _ in range(2):
            records.add(bytes(100))
    whole = path.read_bytes()
    header, one = whole[:21], (len(whole) - 21) // 2
    first, second = whole[21 : 21 + one], whole[21 + one :]
    for changed in (
        header + second + first,
        header + second,
        header + first + first,
        header[:-1] + bytes([header[-1] ^ 1]) + first + second,
        header + first[:-1] + bytes([first[-1] ^ 1]) + second,
    ):
        path.write_bytes(changed)
        with path.open("r+b") as file, pytest.raises(Tampered):
            list(Records.go_on(file, KEY).pieces())
    with path.open("r+b") as file:
        file.write(whole)
        with pytest.raises(Tampered):
            list(Records.go_on(file, bytes(32)).pieces())
