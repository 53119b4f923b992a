"""The only place that knows the HTTP libraries.

* `wire`: the seam, what all transports share; `failures`: their errors, made ours;
* `pools`: connection pools of our own, on the sockets of `threads` and `loop`;
* `borrowed`: clients that the caller made;
* `aiohttp` and `urllib3`: the other backends, the latter on `http1`;
* `connecting`: opens blocking sockets;
* `local`: models in this process, no socket at all.
"""
