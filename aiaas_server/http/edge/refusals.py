"""The answer to a request that no application has seen."""

from __future__ import annotations

from aiaas_server.http.answers import whole_problem
from aiaas_server.http.edge.lines import STATUS_LINES, Headers, header_lines
from aiaas_server.http.errors import Problem


def whole_answer(problem: Problem, request_id: bytes, default_headers: Headers) -> bytes:
    """Write an error that ends the connection, for a request that no application has seen."""
    headers, body = whole_problem(problem, request_id)
    lines = [*default_headers, *headers, (b"connection", b"close")]
    return b"%b%b\r\n%b" % (STATUS_LINES[problem.status], header_lines(lines), body)
