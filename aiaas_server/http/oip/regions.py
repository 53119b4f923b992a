"""The shared-memory regions that clients have registered, read and written by position.

Nothing is mapped: a client that shrinks an object which is mapped here would end the process with
a bus error, and one that writes while a request waits would change what has been checked. Reading
copies the bytes once, straight into the tensor.
"""

from __future__ import annotations

import os
import stat
import sys
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
from starlette.types import Scope

from aiaas_client.protocol.errors import ErrorCode
from aiaas_client.protocol.inference import CodecError, SharedInput, SharedMemory
from aiaas_client.protocol.tensors import Array, TensorError, tensor_bytes, tensor_from_bytes
from aiaas_server.core.errors import InvalidInput, NotSupported
from aiaas_server.http.edge.presence import is_loopback
from aiaas_server.http.errors import HttpError

OBJECTS: Final = Path("/dev/shm")  # where Linux keeps POSIX shared memory
MAX_REGIONS = 1000
_RESERVED = "triton_python_backend_shm_region_"
_LONGEST = 255
_LARGEST = 2**63 - 1


class Region:
    """A registered part of a shared-memory object; it stays open while somebody holds it."""

    __slots__ = ("__weakref__", "_descriptor", "byte_size", "key", "name", "offset")

    def __init__(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Open the object.

        Raises:
            InvalidInput: There is no such object, or it is smaller than the region.
        """
        self.name, self.key, self.offset, self.byte_size = name, key, offset, byte_size
        self._descriptor = _open(key)
        weakref.finalize(self, os.close, self._descriptor)
        size = os.fstat(self._descriptor).st_size
        if offset + byte_size > size:
            raise InvalidInput(
                f"shared memory region {name[:64]!r}: offset {offset} and byte_size {byte_size} "
                f"do not fit the object {key[:64]!r} of {size} bytes"
            )

    def place(self, memory: SharedMemory) -> int:
        """Where in the object a tensor lies.

        Raises:
            InvalidInput: It is not inside the region.
        """
        if memory.offset >= self.byte_size or memory.offset + memory.byte_size > self.byte_size:
            raise InvalidInput(
                f"shared memory region {self.name[:64]!r} has {self.byte_size} bytes, "
                f"got offset {memory.offset} and byte_size {memory.byte_size}"
            )
        return self.offset + memory.offset

    def read(self, memory: SharedMemory) -> Array:
        """Copy bytes out, `(byte_size,)` uint8.

        Raises:
            InvalidInput: They are not inside the region, or no longer in the object.
        """
        start = self.place(memory)
        found = np.empty(memory.byte_size, np.uint8)
        view, filled = found.data, 0
        while filled < memory.byte_size:
            count = os.preadv(self._descriptor, [view[filled:]], start + filled)
            if not count:
                raise self._shrunk()
            filled += count
        return found

    def write(self, memory: SharedMemory, content: bytes | memoryview) -> None:
        """Copy bytes in.

        Raises:
            InvalidInput: They do not fit.
        """
        start = self.place(memory)
        size = len(content)
        if size > memory.byte_size:
            raise InvalidInput(
                f"shared memory region {self.name[:64]!r}: the output has {size} bytes, "
                f"shared_memory_byte_size is {memory.byte_size}"
            )
        if start + size > os.fstat(self._descriptor).st_size:
            raise self._shrunk()
        view, written = memoryview(content), 0
        while written < size:
            written += os.pwrite(self._descriptor, view[written:], start + written)

    def as_json(self) -> dict[str, Any]:
        """The protocol's status entry."""
        return {
            "name": self.name,
            "key": self.key,
            "offset": self.offset,
            "byte_size": self.byte_size,
        }

    def _shrunk(self) -> InvalidInput:
        return InvalidInput(f"shared memory region {self.name[:64]!r}: its object has shrunk")


class Regions:
    """All regions of one process."""

    def __init__(self) -> None:
        self._regions: dict[str, Region] = {}

    def register(self, name: str, *, key: str, offset: int, byte_size: int) -> None:
        """Open a region.

        Raises:
            InvalidInput: The name is taken, the key is not allowed, or the object does not fit.
            NotSupported: This system keeps shared memory elsewhere.
        """
        if name in self._regions:
            raise InvalidInput(f"shared memory region {name[:64]!r} is already registered")
        if len(self._regions) >= MAX_REGIONS:
            raise InvalidInput(f"at most {MAX_REGIONS} shared memory regions can be registered")
        self._regions[name] = Region(name, key, offset, byte_size)

    def unregister(self, name: str) -> None:
        """Forget a region, all of them when `name` is empty; those in use close afterwards."""
        if name:
            self._regions.pop(name, None)
        else:
            self._regions.clear()

    def status(self, name: str = "") -> list[dict[str, Any]]:
        """The entries of all regions, or of one.

        Raises:
            HttpError: 404 for an unknown name.
        """
        found: Iterable[Region] = [self.find(name)] if name else self._regions.values()
        return [region.as_json() for region in found]

    def find(self, name: str) -> Region:
        """The region of that name.

        Raises:
            HttpError: 404 when there is none.
        """
        region = self._regions.get(name)
        if region is None:
            message = f"unable to find shared memory region {name[:64]!r}"
            raise HttpError(404, ErrorCode.NOT_FOUND, message)
        return region


def read_input(region: Region, name: str, wanted: SharedInput) -> Array:
    """Take an input out of shared memory.

    Raises:
        InvalidInput: It does not lie inside the region.
        CodecError: Its bytes are no such tensor.
    """
    content = region.read(wanted.memory)
    try:
        return tensor_from_bytes(content.data, 0, content.nbytes, wanted.datatype, wanted.shape)
    except TensorError as error:
        raise CodecError(f"tensor {name[:64]!r}: {error}") from None


def write_output(region: Region, memory: SharedMemory, array: Array) -> None:
    """Put an output into shared memory.

    Raises:
        InvalidInput: It does not fit.
    """
    region.write(memory, tensor_bytes(array))


def is_local(scope: Scope) -> bool:
    """Whether the client is on this machine: over loopback, or a Unix socket."""
    client = scope.get("client")
    if not client or not client[0]:
        return True
    try:
        return is_loopback(client[0])
    except ValueError:
        return False


def check_region(document: dict[str, Any]) -> dict[str, Any]:
    """Check the body of a register call.

    Returns:
        The arguments of `Regions.register`.
    Raises:
        InvalidInput: A member is missing or of the wrong kind, or the key is not allowed.
    """
    key = document.get("key")
    if not isinstance(key, str):
        raise InvalidInput("'key': expected a string")
    _object_of(key)
    numbers = {"offset": document.get("offset", 0), "byte_size": document.get("byte_size")}
    for name, number in numbers.items():
        if type(number) is not int or not 0 <= number <= _LARGEST:
            raise InvalidInput(f"{name!r}: expected an integer of 0 or more")
    if not numbers["byte_size"]:
        raise InvalidInput("'byte_size': expected 1 or more")
    return {"key": key, **numbers}


def _object_of(key: str) -> str:
    """The plain file name that a key means."""
    name = key.removeprefix("/")
    shown = repr(key[:64])
    if not name or len(name.encode("utf-8", "replace")) > _LONGEST or not name.isprintable():
        raise InvalidInput(f"'key': expected 1 to {_LONGEST} printable bytes, got {shown}")
    if "/" in name or ".." in name or name == ".":
        raise InvalidInput(f"'key': '/' and '..' are not allowed in {shown}")
    if name.startswith(_RESERVED):
        raise InvalidInput(f"'key': names that begin with {_RESERVED!r} are reserved")
    return name


def _open(key: str) -> int:
    if sys.platform != "linux":
        raise NotSupported("system shared memory is offered on Linux only")
    path = OBJECTS / _object_of(key)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a name"
        message = f"unable to open shared memory object {key[:64]!r}: {reason}"
        raise InvalidInput(message) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidInput(f"{key[:64]!r} is not a shared memory object")
    return descriptor
