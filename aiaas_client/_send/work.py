"""Work that is more than calls: steps that also read and write files, for threads and tasks alike.

The steps are a generator, as for `core.drive`; besides calls they may ask for a piece of work on
this machine, which tasks have done on a thread, for a wait, for the answer to a call to be written
away as it comes, or for a stream to be heard.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from aiaas_client._send.core import async_drive, drive

if TYPE_CHECKING:
    from aiaas_client._api.call import Call, DownloadCall, StreamCall

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Local:
    """Something to be done on this machine that may take a while: reading, hashing."""

    run: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Pause:
    """A wait of so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Within:
    """A call under options of its own, as `Sender.with_options` takes them."""

    call: Call[Any]
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Save:
    """A download, and what takes its pieces."""

    call: DownloadCall
    write: Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class Hear:
    """A stream, and what hears its events until it returns True."""

    call: StreamCall[Any]
    heard: Callable[[Any], bool]
    options: Mapping[str, Any]


Work = Generator["Call[Any] | Local | Pause | Save | Within | Hear", Any, T]


def carry_out(work: Work[T], sender: Any) -> T:
    """Do what the steps ask for, and give what they return.

    Raises:
        AiaasError: as they do.
    """
    return drive(work, partial(_do, sender))


def _do(sender: Any, asked: Any) -> Any:
    match asked:
        case Local():
            return asked.run()
        case Pause():
            return sender.clock.sleep(asked.seconds)
        case Within():
            return sender.with_options(**asked.options).send(asked.call)
        case Save():
            with sender.stream(asked.call) as pieces:
                for piece in pieces:
                    asked.write(piece)
            return None
        case Hear():
            with sender.with_options(**asked.options).stream(asked.call) as events:
                return any(map(asked.heard, events))
    return sender.send(asked)


async def acarry_out(work: Work[T], sender: Any) -> T:
    """As `carry_out`, on an event loop, which never waits for a disk."""
    return await async_drive(work, partial(_ado, sender))


async def _ado(sender: Any, asked: Any) -> Any:
    from asyncio import to_thread  # not needed by programs that use threads

    match asked:
        case Local():
            return await to_thread(asked.run)
        case Pause():
            return await sender.clock.async_sleep(asked.seconds)
        case Within():
            return await sender.with_options(**asked.options).send(asked.call)
        case Save():
            async with aclosing(sender.stream(asked.call)) as pieces:
                async for piece in pieces:
                    await to_thread(asked.write, piece)
            return None
        case Hear():
            async with aclosing(sender.with_options(**asked.options).stream(asked.call)) as events:
                async for event in events:
                    if asked.heard(event):
                        return True
            return False
    return await sender.send(asked)
