"""Whole HTTP requests as bytes, for the load generator."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from aiaas_client.protocol.codec import decode_response, encode_request
from aiaas_client.protocol.inference import InferRequest

Arrays = Mapping[str, npt.NDArray[Any]]


def binary(model: str, inputs: Arrays) -> bytes:
    """An infer request with the tensors in binary, there and back."""
    encoded = encode_request(InferRequest(inputs=dict(inputs), binary_output=True))
    head = b"inference-header-content-length: %d\r\n" % (encoded.json_length or 0)
    return post(_path(model), encoded.join(), encoded.content_type, head)


def text(model: str, inputs: Arrays) -> bytes:
    """An infer request in JSON, as a person with `curl` would send it."""
    tensors = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": "FP32" if array.dtype == np.float32 else "INT64",
            "data": [round(float(v), 4) for v in array.ravel()]
            if array.dtype == np.float32
            else array.ravel().tolist(),
        }
        for name, array in inputs.items()
    ]
    body = json.dumps({"inputs": tensors}, separators=(",", ":")).encode()
    return post(_path(model), body, "application/json")


def outputs(answer: bytes) -> dict[str, npt.NDArray[Any]]:
    """The arrays in a whole HTTP answer to infer.

    Raises:
        ValueError: It was not 200.
    """
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise ValueError(f"answered {answer[:200]!r}")
    length = re.search(rb"inference-header-content-length: (\d+)", head)
    return decode_response(body, None if length is None else int(length[1])).outputs


def _path(model: str) -> str:
    return f"/v2/models/{model}/infer"


def post(path: str, body: bytes, content_type: str, head: bytes = b"") -> bytes:
    """A POST with the header lines `head` besides the usual ones."""
    return b"".join(
        [
            f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n".encode(),
            f"content-type: {content_type}\r\n".encode(),
            b"content-length: %d\r\n" % len(body),
            head,
            b"\r\n",
            body,
        ]
    )


def with_header(request: bytes, line: bytes) -> bytes:
    """The same request with one more header line."""
    return request.replace(b"\r\n", b"\r\n" + line + b"\r\n", 1)
