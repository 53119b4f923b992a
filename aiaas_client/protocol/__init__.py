"""The wire, shared by the SDK and the server: numpy and pydantic only, no I/O, no framework.

* `tensors`: the datatypes of the Open Inference Protocol and their numpy dtypes.
* `codec`: request and answer bodies (JSON, binary, mixed, raw) to and from arrays.
* `jsontext`: the JSON text seam; the server hands in a faster implementation.
* `messages`: the control-plane documents, read tolerantly.
* `errors`: the stable error codes and the error body.
"""
