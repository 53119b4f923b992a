"""What the server and the process of a model say to each other: short frames of fixed layout.

Each is one message of a socket that keeps messages whole. Tensors lie in an `Area` of memory that
both see; a frame says where. Numbers are little-endian; a place is of a tensor whose name is its
position among the model's inputs or outputs.

| frame | from | kind, count, call, size | followed by |
| --- | --- | --- | --- |
| RUN | server | inputs, call, bytes of the area | places of the inputs, positions of outputs |
| ANSWER | process | outputs, call | places of the outputs, in the order asked for |
| NEEDS | process | 0, call, bytes that the outputs take | |
| ROOM | server | 0, call, bytes of the area; 0: no | |
| FAILED | process | which of `FAILURES`, call | a text |

RUN and ROOM carry a descriptor with them where the area is a new one. On the socket that all
threads of the process share: CHANNEL (a descriptor with it, the number of the channel as call),
STOP (the call), and from the process while it loads PART, a piece of `orders.Told`, and TOLD.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from math import prod
from typing import Final, NamedTuple

from aiaas_client.protocol.tensors import dtype_of
from aiaas_server.core import errors

RUN, ANSWER, NEEDS, ROOM, FAILED = 1, 2, 3, 4, 5
CHANNEL, STOP, PART, TOLD = 6, 7, 8, 9
HEADER: Final = struct.Struct("<BxHxxxxQQ")  # kind, count, call, size
MOST_FRAME: Final = 128 * 1024  # what such a socket takes at once, everywhere
MOST_PART: Final = 32 * 1024
MOST_TEXT: Final = 1024
MOST_RANK: Final = 16
MOST_SIZE: Final = 2**31 - 1
ALIGNED: Final = 64  # of tensors in an area
MOST_WORDS: Final = 64 << 20  # bytes of a tensor of text: as objects they are ten times as many

DATATYPES: Final = (
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16",
    "FP32", "FP64", "BYTES",
)  # fmt: skip
CODES: Final = {name: code for code, name in enumerate(DATATYPES)}
DTYPES: Final = tuple(dtype_of(name) for name in DATATYPES)
TEXT: Final = CODES["BYTES"]

FAILURES: Final[tuple[type[errors.ServerError], ...]] = (
    errors.InferenceFailed,
    errors.InvalidInput,
    errors.OutOfMemory,
    errors.DeadlineExceeded,
)
"""What a run may fail with, by the number that says so."""

_PLACE: Final = struct.Struct("<HBBxxxxQQ")  # position, datatype, rank, offset, bytes
_DIMS: Final = tuple(struct.Struct(f"<{rank}q") for rank in range(MOST_RANK + 1))
_POSITIONS: Final = "<{}H"


class Broken(Exception):
    """A frame that no honest process would send; the message says in what."""


class Place(NamedTuple):
    """Where in an area a tensor lies."""

    position: int
    datatype: int
    shape: tuple[int, ...]
    offset: int
    size: int


def pack_place(place: Place) -> bytes:
    """A place as it stands in a frame."""
    position, datatype, shape, offset, size = place
    rank = len(shape)
    return _PLACE.pack(position, datatype, rank, offset, size) + _DIMS[rank].pack(*shape)


def read_places(frame: memoryview, at: int, count: int) -> tuple[list[Place], int]:
    """So many places, and where they end.

    Raises:
        Broken: The frame ends before, or one is of a datatype or rank that there is not.
    """
    places: list[Place] = []
    for _ in range(count):
        if at + _PLACE.size > len(frame):
            raise Broken(f"it ends within place {len(places)} of {count}")
        position, datatype, rank, offset, size = _PLACE.unpack_from(frame, at)
        at += _PLACE.size
        if datatype >= len(DATATYPES) or rank > MOST_RANK:
            raise Broken(f"place {len(places)} is of datatype {datatype} and rank {rank}")
        dims = _DIMS[rank]
        if at + dims.size > len(frame):
            raise Broken(f"it ends within the shape of place {len(places)}")
        places.append(Place(position, datatype, dims.unpack_from(frame, at), offset, size))
        at += dims.size
    return places, at


def check_place(place: Place, area: int) -> None:
    """Hold a place against the size of the area that it is to lie in.

    Raises:
        Broken: A dimension is negative or too large, the bytes are not those of the shape, or they
            do not lie within the area.
    """
    _, datatype, shape, offset, size = place
    if any(not 0 <= dim <= MOST_SIZE for dim in shape):
        raise Broken("a dimension is negative or too large")
    count = prod(shape)
    least = 4 * count if datatype == TEXT else DTYPES[datatype].itemsize * count
    if size != least and (datatype != TEXT or size < least):
        raise Broken(f"{count} elements of {DATATYPES[datatype]} in {size} bytes")
    if datatype == TEXT and size > MOST_WORDS:
        raise Broken(f"a text of {size} bytes")
    if offset + size > area:
        raise Broken(f"{size} bytes at {offset} of an area of {area}")


def pack_positions(positions: Sequence[int]) -> bytes:
    """Positions of outputs, as they stand behind the places of a RUN."""
    return struct.pack(_POSITIONS.format(len(positions)), *positions)


def read_positions(rest: memoryview) -> tuple[int, ...]:
    """What `pack_positions` packed."""
    found: tuple[int, ...] = struct.unpack(_POSITIONS.format(len(rest) // 2), rest)
    return found


def aligned(offset: int) -> int:
    """The next offset that a tensor may lie at."""
    return -(-offset // ALIGNED) * ALIGNED
