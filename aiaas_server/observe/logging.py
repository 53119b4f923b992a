"""Logs: written by a thread of their own, so that the event loop never waits for a terminal.

`start_logging` puts a bounded queue between the loggers and standard error. Lines are plain text
or JSON; bearer tokens and API keys are taken out of every one. When more is logged than can be
written, lines are dropped and counted, memory does not grow.
"""

from __future__ import annotations

import json
import logging
import queue
import sys
from collections.abc import Callable
from logging.handlers import QueueHandler, QueueListener
from typing import Any, NamedTuple, TextIO

from aiaas_server.observe.stderr import MAX_MESSAGE, redact, utc

SERVER = "aiaas_server"
"""The logger of the whole server; those below it are `.access` and, of native code, `.stderr`."""

LOGGERS = (SERVER, "uvicorn")
ACCESS = f"{SERVER}.access"
QUEUE_LINES = 10_000


class AccessRecord(NamedTuple):
    """One answered request; no header, no query, nothing of a body."""

    method: str
    path: str
    """As it came, percent-encoded."""
    status: int
    duration: float
    """Seconds from the complete head to the last byte of the answer written."""
    sent: int
    received: int
    """Body bytes out and in."""
    request_id: str
    client: str


class PlainFormatter(logging.Formatter):
    """`2026-01-31 12:00:00.123 WARNING text`, with the traceback below."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03d %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        return redact(super().format(record))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the fields of an access record."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        fields: dict[str, Any] = {
            "time": utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        access = getattr(record, "access", None)
        if isinstance(access, AccessRecord):
            fields.update(access._asdict(), duration=round(access.duration, 6))
        else:
            fields["message"] = record.getMessage()[:MAX_MESSAGE]
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        elif record.exc_text:
            fields["exception"] = record.exc_text
        clean = {k: redact(v) if isinstance(v, str) else v for k, v in fields.items()}
        return json.dumps(clean, ensure_ascii=False)


class BoundedHandler(QueueHandler):
    """Hands records to the writing thread as they are; drops them when it does not keep up."""

    def __init__(self, lines: queue.Queue[Any]) -> None:
        super().__init__(lines)
        self.dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Leave formatting to the writing thread, but settle the message's arguments now."""
        record.msg = record.getMessage()[:MAX_MESSAGE]
        record.args = None
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queue without waiting."""
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1


class LogWriter:
    """The running thread; `stop` writes what is queued and ends it."""

    def __init__(self, handler: BoundedHandler, listener: QueueListener) -> None:
        self._handler = handler
        self._listener = listener

    def stop(self) -> None:
        """Write what is left and give the loggers back."""
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(self._handler)
        self._listener.stop()
        if self._handler.dropped:
            print(f"{self._handler.dropped} log lines were dropped", file=sys.stderr)


def start_logging(
    level: str = "info", *, as_json: bool = False, stream: TextIO | None = None
) -> LogWriter:
    """Send the server's and uvicorn's loggers to `stream` (standard error) through a thread.

    Args:
        level: Least severe level written: `debug`, `info`, `warning` or `error`.
        as_json: One JSON object a line instead of text.
        stream: Where to write.
    """
    output = logging.StreamHandler(stream)
    output.setFormatter(JsonFormatter() if as_json else PlainFormatter())
    lines: queue.Queue[Any] = queue.Queue(QUEUE_LINES)
    handler = BoundedHandler(lines)
    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(level.upper())
        logger.propagate = False
    # uvicorn tells its own start and stop; ours is told once, by us.
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))
    listener = QueueListener(lines, output)
    listener.start()
    return LogWriter(handler, listener)


def access_logger() -> Callable[[AccessRecord], None]:
    """Make the function that logs one line a request, for the HTTP edge."""
    logger = logging.getLogger(ACCESS)

    def log(record: AccessRecord) -> None:
        logger.info(
            '%s "%s %s" %d %dB %.1fms %s',
            record.client or "-",
            record.method,
            record.path[:256],
            record.status,
            record.sent,
            record.duration * 1000,
            record.request_id,
            extra={"access": record},
        )

    return log
