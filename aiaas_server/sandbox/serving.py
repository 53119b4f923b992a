"""Runs what comes by one channel, one after the other; several channels run side by side."""

from __future__ import annotations

import array
import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from aiaas_client.protocol.tensors import Array
from aiaas_server.core.errors import InferenceFailed, OutOfMemory, ServerError
from aiaas_server.core.session import Session, StopToken
from aiaas_server.runtimes.isolated.areas import Area, laid_out
from aiaas_server.runtimes.isolated.frames import (
    ANSWER,
    CODES,
    FAILED,
    FAILURES,
    HEADER,
    MOST_FRAME,
    MOST_TEXT,
    MOST_WORDS,
    NEEDS,
    ROOM,
    TEXT,
    Place,
    aligned,
    pack_place,
    read_places,
    read_positions,
)
from aiaas_server.runtimes.isolated.repeats import Laid, laid
from aiaas_server.sandbox.memory import mapped

_DESCRIPTOR = socket.CMSG_SPACE(array.array("i").itemsize)
_REMEMBERED = 64


class Running:
    """Runs that go on, by their calls; used by the threads of all channels."""

    def __init__(self) -> None:
        self._tokens: dict[int, StopToken] = {}
        self._stopped: deque[int] = deque(maxlen=_REMEMBERED)

    def begun(self, call: int) -> StopToken:
        """A token for a run; stopped, where that was asked for before."""
        token = self._tokens[call] = StopToken()
        if call in self._stopped:
            token.stop()
        return token

    def ended(self, call: int) -> None:
        """It is over."""
        self._tokens.pop(call, None)

    def stop(self, call: int) -> None:
        """Have a run end, or one that is to come."""
        self._stopped.append(call)
        token = self._tokens.get(call)
        if token is not None:
            token.stop()


def serve(channel: socket.socket, session: Session, running: Running) -> None:
    """Run until the server closes the channel; the process ends with an error of its own."""
    try:
        _Channel(channel, session, running).serve()
    except OSError:  # the server is gone
        return
    except BaseException:
        os._exit(70)  # a thread less would leave the server waiting


class _Asked(NamedTuple):
    """A frame that asks for a run: `tail` is all of it behind its header.

    Attributes:
        end: Where the inputs end in the area, and outputs may begin.
    """

    tail: bytes
    names: list[str]
    inputs: dict[str, Array]
    end: int


class _Channel:
    def __init__(self, channel: socket.socket, session: Session, running: Running) -> None:
        self._socket = channel
        self._session = session
        self._running = running
        self._inputs = [spec.name for spec in session.inputs]
        self._outputs = [spec.name for spec in session.outputs]
        self._codes = {spec.name: CODES[spec.datatype] for spec in session.outputs}
        self._buffer = memoryview(bytearray(MOST_FRAME))
        self._area: Area | None = None
        self._asked: _Asked | None = None
        self._laid: Laid | None = None

    def serve(self) -> None:
        while True:
            size = self._receive()
            if not size:
                return
            _, count, call, _ = HEADER.unpack_from(self._buffer)
            self._socket.send(self._answer(self._buffer[:size], count, call))

    def _receive(self) -> int:
        """Take a frame, and the new area that may come with it."""
        size, extra, _, _ = self._socket.recvmsg_into([self._buffer], _DESCRIPTOR)
        if extra:
            (file,) = array.array("i", extra[0][2])
            _, _, _, length = HEADER.unpack_from(self._buffer)
            self._area = self._asked = self._laid = None
            self._area = Area(file, length, mapped(file, length))
            self._area.handed()
        return size

    def _answer(self, frame: memoryview, count: int, call: int) -> bytes:
        token = self._running.begun(call)
        try:
            return self._run(frame, count, call, token)
        except ServerError as error:
            code = FAILURES.index(type(error)) if type(error) in FAILURES else 0
            return _failure(code, call, error.message)
        except MemoryError:
            code = FAILURES.index(OutOfMemory)
            return _failure(code, call, "inference failed: out of memory")
        except Exception as error:
            return _failure(0, call, f"inference failed: {type(error).__name__}")
        finally:
            self._running.ended(call)

    def _run(self, frame: memoryview, count: int, call: int, token: StopToken) -> bytes:
        asked = self._asked
        if asked is None or asked.tail != frame[HEADER.size :]:
            asked = self._read(frame, count)
        arrays = self._session.run(asked.inputs, asked.names, token)
        return self._put(asked, arrays, call)

    def _read(self, frame: memoryview, count: int) -> _Asked:
        """What a frame asks for; remembered, where its inputs lie in the memory itself."""
        assert self._area is not None, "it comes with the first frame"
        places, at = read_places(frame, HEADER.size, count)
        names = [self._outputs[position] for position in read_positions(frame[at:])]
        inputs = {self._inputs[place.position]: self._area.view(place) for place in places}
        end = max((place.offset + place.size for place in places), default=0)
        asked = _Asked(bytes(frame[HEADER.size :]), names, inputs, aligned(end))
        self._asked = None if any(place.datatype == TEXT for place in places) else asked
        return asked

    def _put(self, asked: _Asked, arrays: Sequence[Array], call: int) -> bytes:
        """Write outputs behind the inputs, or into an area that the server gives for them."""
        like = (asked.names, asked.end, [(array.dtype, array.shape) for array in arrays])
        again = self._laid
        if again is not None and again.is_again(self._area, like):
            again.write(arrays)
            return HEADER.pack(ANSWER, len(arrays), call, 0) + again.tail
        codes, at = self._codes, asked.end
        named = zip(asked.names, arrays, strict=True)
        outputs = [(self._outputs.index(name), codes[name], found) for name, found in named]
        places, contents, end = laid_out(outputs)
        if any(place.datatype == TEXT and place.size > MOST_WORDS for place in places):
            raise InferenceFailed(f"inference failed: a text output takes over {MOST_WORDS} bytes")
        assert self._area is not None, "as above"
        if at + end > self._area.size:
            at = self._ask(call, end)
        area = self._area
        for place, content in zip(places, contents, strict=True):
            area.write(content, at + place.offset)
        placed = [_moved(place, at) for place in places]
        tail = b"".join(map(pack_place, placed))
        self._laid = laid(area, like, placed, tail) if at == asked.end else None
        return HEADER.pack(ANSWER, len(places), call, 0) + tail

    def _ask(self, call: int, size: int) -> int:
        """Have the server give an area of `size`; gives where outputs begin there."""
        self._socket.send(HEADER.pack(NEEDS, 0, call, size))
        if not self._receive():
            raise OSError("the server is gone")
        kind, _, _, given = HEADER.unpack_from(self._buffer)
        if kind != ROOM or given < size:
            raise OutOfMemory(f"inference failed: its outputs take {size} bytes, too many here")
        return 0


def _moved(place: Place, at: int) -> Place:
    return place._replace(offset=place.offset + at)


def _failure(code: int, call: int, message: str) -> bytes:
    text = message.encode("utf-8", "replace")[:MOST_TEXT]
    return HEADER.pack(FAILED, code, call, 0) + text
