"""What the kernel takes to carry bytes between two processes and back, nothing around it.

`python sockets.py PORT` answers: 16 bytes tell how many come and how many are wanted back. The
bytes that arrive lie in memory that is new each time, as those of an array must.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SIZES = struct.Struct("<QQ")


def receive(connection: socket.socket, size: int) -> bytearray:
    buffer = bytearray(size)
    view = memoryview(buffer)
    while view:
        count = connection.recv_into(view)
        if not count:
            raise ConnectionError("the other side has left")
        view = view[count:]
    return buffer


def serve(port: int) -> None:
    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            connection, _ = listener.accept()
            with connection:
                while head := connection.recv(SIZES.size, socket.MSG_WAITALL):
                    if head.startswith(b"GET "):
                        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                        break
                    there, back = SIZES.unpack(head)
                    receive(connection, there)
                    connection.sendall(bytes(back))


class Copy:
    """Sends bytes there and back."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def seconds(self, there: bytes | memoryview, back: int) -> float:
        """Time for one copy of `there`, and of `back` bytes the other way."""
        began = time.perf_counter()
        self._socket.sendall(SIZES.pack(len(there), back))
        self._socket.sendall(there)
        receive(self._socket, back)
        return time.perf_counter() - began

    def close(self) -> None:
        self._socket.close()


@contextmanager
def copying() -> Iterator[Copy]:
    """The other process, and a connection to it."""
    import processes

    command = [sys.executable, str(Path(__file__))]
    with processes.started("socket copy", command) as target:
        copy = Copy(target.port)
        try:
            yield copy
        finally:
            copy.close()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
