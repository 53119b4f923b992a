"""The wire, shared by the SDK and the server: numpy and pydantic only, no I/O, no framework.

* `tensors`: the datatypes of the Open Inference Protocol, their numpy dtypes and their bytes.
* `inference`: requests and answers as arrays.
* `codec`: their bodies (JSON, binary, mixed) to and from arrays; `options` and `raw` beside it.
* `jsontext`: the JSON text seam; the server hands in a faster implementation.
* `messages`: the control-plane documents, read tolerantly.
* `errors`: the stable error codes and the error body.
"""
