"""The HTTP side of a fake server: the standard library's, on threads that end with it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from aiaas_client.testing.faults import take_fault
from aiaas_client.testing.managing import Managing
from aiaas_client.testing.routes import inference_of, respond
from aiaas_client.testing.state import Answer, RecordedRequest, State


class Listener(ThreadingHTTPServer):
    daemon_threads = False  # so that `server_close` joins them
    request_queue_size = 128

    def __init__(
        self, address: tuple[str, int], state: State, managing: Managing | None = None
    ) -> None:
        super().__init__(address, _Handler)
        self.state = state
        self.managing = managing
        self._live: set[socket.socket] = set()
        self._lock = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._live.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._live.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nothing to print about."""

    def end_connections(self) -> None:
        with self._lock:
            live = list(self._live)
        for connection in live:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:  # it has ended by itself
                continue


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def _state(self) -> State:
        return cast("Listener", self.server).state

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def do_PATCH(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Tests want no access log."""

    def _answer(self) -> None:
        request = self._read()
        state = self._state
        fault = take_fault(state, request)
        if fault is not None and fault.before is not None:
            fault.before()
        if fault is not None and fault.drop:
            self.close_connection = True
            return
        answer = fault.instead if fault is not None and fault.instead else None
        limit = state.limit
        if limit is not None and limit.path in request.path:
            refusal, told = limit.take()
            if refusal is not None:
                answer = Answer(429, refusal)
            answer = answer or self._respond(request)
            answer = answer._replace(headers=[*answer.headers, *told])
        answer = answer or self._respond(request)
        if fault is not None and fault.alter is not None:
            events = answer.events and (fault.alter(event) for event in answer.events)
            answer = answer._replace(body=fault.alter(answer.body), events=events)
        self._write(answer, None if fault is None else fault.cut)

    def _respond(self, request: RecordedRequest) -> Answer:
        return respond(self._state, request, cast("Listener", self.server).managing)

    def _read(self) -> RecordedRequest:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self._chunks() if "chunked" in headers.get("transfer-encoding", "") else b""
        body = body or self.rfile.read(int(headers.get("content-length", "0")))
        target = urlsplit(self.path)
        path, query = unquote(target.path), dict(parse_qsl(target.query))
        infer = inference_of(path, headers, body)
        request = RecordedRequest(self.command, path, headers, body, infer, query)
        state = self._state
        with state.changed:
            state.requests.append(request)
            state.changed.notify_all()
        return request

    def _chunks(self) -> bytes:
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _stream(self, events: Iterator[bytes], cut: int | None) -> None:
        """Send each event as it comes, in chunks; `cut` ends it after so many of them."""
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for sent, event in enumerate(events):
                if sent == cut:
                    self.close_connection = True
                    return
                self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
            self.wfile.write(b"0\r\n\r\n")
        finally:
            cast("Generator[bytes, None, None]", events).close()

    def _write(self, answer: Answer, cut: int | None) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        if answer.events is not None:
            self._stream(answer.events, cut)
            return
        if answer.status != 204:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body if cut is None else answer.body[:cut])
        if cut is not None:
            self.close_connection = True
