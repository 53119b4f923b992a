"""The server's end of a channel: one run at a time, and nothing believed that comes back."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.errors import InferenceFailed, InvalidInput, OutputTooLarge, ServerError
from aiaas_server.core.signature import TensorSpec
from aiaas_server.runtimes.isolated.areas import Area, laid_out
from aiaas_server.runtimes.isolated.frames import (
    ANSWER,
    CODES,
    FAILED,
    FAILURES,
    HEADER,
    MOST_FRAME,
    MOST_TEXT,
    NEEDS,
    ROOM,
    RUN,
    Broken,
    Place,
    check_place,
    pack_place,
    pack_positions,
    read_places,
)
from aiaas_server.runtimes.isolated.repeats import Heard, Laid, laid, views_of
from aiaas_server.runtimes.reasons import clean

KEPT = 32 << 20
"""Bytes of an area that is kept between runs; a larger one goes with its run."""

Given = tuple[int, int, Array]
"""A tensor's position among the inputs, the code of its datatype, its elements."""


class Gone(Exception):
    """The process has ended, or let go of the channel.

    Attributes:
        began: Whether it may have begun the run.
    """

    def __init__(self, *, began: bool) -> None:
        super().__init__()
        self.began = began


class Channel:
    """A socket to a thread of a process, and the memory for what runs there.

    Args:
        most: Bytes that the outputs of a run may take.

    Attributes:
        call: The run that goes on; 0 for none.
    """

    def __init__(self, link: socket.socket, most: int) -> None:
        self._socket = link
        self._most = most
        self._area: Area | None = None
        self._outputs = 0  # bytes that those of the last run took
        self._laid: Laid | None = None
        self._heard: Heard | None = None
        self._buffer = memoryview(bytearray(MOST_FRAME + 1))
        self.call = 0

    def run(
        self,
        call: int,
        inputs: Sequence[Given],
        outputs: Sequence[int],
        specs: Sequence[TensorSpec],
    ) -> list[Array]:
        """Have a run done, and take its outputs out of the shared memory.

        Args:
            call: A number of its own.
            outputs: Positions among `specs`, which are all outputs of the model.
        Raises:
            ServerError: The run failed.
            Gone: The process has ended.
            Broken: It answers as no honest one would.
        """
        self.call = call
        try:
            self._ask(call, inputs, outputs)
            return self._hear(call, outputs, specs)
        except ConnectionError as error:
            raise Gone(began=True) from error
        finally:
            self.call = 0
            if self._area is not None and self._area.size > KEPT:
                self._let_go()

    def close(self) -> None:
        """Let go of the socket and the memory."""
        self._socket.close()
        self._let_go()

    def _let_go(self) -> None:
        """Give the memory back, and forget what was said of it."""
        if self._area is not None:
            self._area.handed()
        self._area = self._laid = self._heard = None

    def _ask(self, call: int, inputs: Sequence[Given], outputs: Sequence[int]) -> None:
        like = ([(position, code, array.shape) for position, code, array in inputs], outputs)
        again, area = self._laid, self._area
        if again is not None and area is not None and again.is_again(area, like):
            again.write([array for _, _, array in inputs])
            tail = again.tail
        else:
            area, tail = self._lay(inputs, outputs, like)
        try:
            self._send(HEADER.pack(RUN, len(inputs), call, area.size) + tail, area)
        except ConnectionError as error:
            raise Gone(began=False) from error

    def _lay(
        self, inputs: Sequence[Given], outputs: Sequence[int], like: object
    ) -> tuple[Area, bytes]:
        """Write inputs where there is room; gives where, and the frame behind its header."""
        places, contents, end = laid_out(inputs)
        area = self._area
        if area is None or area.size < end + self._outputs:
            area = self._new_area(end + self._outputs)
        for place, content in zip(places, contents, strict=True):
            area.write(content, place.offset)
        tail = b"".join(map(pack_place, places)) + pack_positions(outputs)
        if HEADER.size + len(tail) > MOST_FRAME:
            raise InvalidInput(f"expected fewer tensors, got {len(places)} and {len(outputs)}")
        self._laid = laid(area, like, places, tail)
        return area, tail

    def _new_area(self, size: int) -> Area:
        self._let_go()  # the old one goes before the new one comes
        try:
            self._area = Area.made(size)
        except OSError as error:
            raise InferenceFailed(f"no memory for {size} bytes of tensors") from error
        return self._area

    def _send(self, frame: bytes, area: Area) -> None:
        """Send a frame, and the area where the process does not have it yet."""
        try:
            if area.file < 0:
                self._socket.send(frame, socket.MSG_DONTWAIT)
            else:
                socket.send_fds(self._socket, [frame], [area.file], socket.MSG_DONTWAIT)
                area.handed()
        except BlockingIOError as error:
            raise Broken("it does not read what it is sent") from error

    def _hear(self, call: int, outputs: Sequence[int], specs: Sequence[TensorSpec]) -> list[Array]:
        kind, count, size, frame = self._receive(call)
        if kind == NEEDS:
            self._give_room(call, size)
            kind, count, size, frame = self._receive(call)
        if kind == FAILED:
            raise _failure(count, frame)
        if kind != ANSWER or count != len(outputs):
            raise Broken(f"a frame of kind {kind} with {count} tensors, for {len(outputs)}")
        heard, tail = self._heard, bytes(frame[HEADER.size :])
        if heard is not None and heard.is_again(self._area, tail, outputs, specs):
            return [view.copy() for view in heard.views]
        places, end = read_places(frame, HEADER.size, count)
        if end != len(frame):
            raise Broken(f"{len(frame) - end} bytes behind its last place")
        arrays = [
            self._taken(place, wanted, specs[wanted])
            for place, wanted in zip(places, outputs, strict=True)
        ]
        area = self._area
        assert area is not None, "the outputs lie there"
        views = views_of(area, places)
        self._heard = None if views is None else Heard(area, tail, outputs, specs, views)
        return arrays

    def _receive(self, call: int) -> tuple[int, int, int, memoryview]:
        """The next frame: its kind, count and size, and all of it."""
        length = self._socket.recv_into(self._buffer)
        if not length:
            raise Gone(began=True)
        if not HEADER.size <= length <= MOST_FRAME:
            raise Broken(f"a frame of {length} bytes")
        kind, count, answered, size = HEADER.unpack_from(self._buffer)
        if answered != call:
            raise Broken(f"it answers call {answered} in the place of {call}")
        return kind, count, size, self._buffer[:length]

    def _give_room(self, call: int, size: int) -> None:
        """Give the process an area for its outputs.

        Raises:
            OutputTooLarge: They take more than they may; the process has heard of it.
        """
        if size > self._most:
            self._socket.send(HEADER.pack(ROOM, 0, call, 0), socket.MSG_DONTWAIT)
            kind, count, _, frame = self._receive(call)
            if kind != FAILED:
                raise Broken(f"a frame of kind {kind} where it has no room")
            _failure(count, frame)
            raise OutputTooLarge(
                f"expected outputs of at most {self._most} bytes in one run, got {size}"
            )
        area = self._new_area(size)
        self._send(HEADER.pack(ROOM, 0, call, area.size), area)

    def _taken(self, place: Place, position: int, spec: TensorSpec) -> Array:
        """One output, checked before its elements are looked at."""
        if place.position != position or place.datatype != CODES[spec.datatype]:
            raise Broken(f"output {place.position} of datatype {place.datatype}")
        area = self._area
        assert area is not None, "the inputs lie there"
        check_place(place, area.size)
        _check_shape(place.shape, spec)
        self._outputs = max(self._outputs, min(place.offset + place.size, KEPT))
        return area.copy(place)


def _check_shape(shape: tuple[int, ...], spec: TensorSpec) -> None:
    """A graph may give another shape than it tells, by mistake: no crime, and no answer."""
    expected = spec.shape
    if not expected:  # a scalar, or a graph that does not tell
        return
    fits = len(shape) == len(expected) and all(
        known in (-1, found) for known, found in zip(expected, shape, strict=True)
    )
    if not fits:
        raise InferenceFailed(
            f"inference failed: output '{spec.name[:64]}': expected shape {expected}, got {shape}"
        )


def _failure(code: int, frame: memoryview) -> ServerError:
    """The error that a FAILED frame tells; its text is the model's, so it is cleaned."""
    text = bytes(frame[HEADER.size :])
    if code >= len(FAILURES) or len(text) > MOST_TEXT:
        raise Broken(f"a failure of kind {code} with {len(text)} bytes of text")
    shown = "".join(sign for sign in text.decode("utf-8", "replace") if sign.isprintable())
    return FAILURES[code](clean(shown))
