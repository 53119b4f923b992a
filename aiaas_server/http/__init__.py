"""Bytes in, bytes out: the Open Inference Protocol over ASGI.

`infer` is a bare ASGI callable, because its cost is the product's cost; every other route is an
ordinary Starlette route. `errors` is the one place where domain errors become status codes.
"""
