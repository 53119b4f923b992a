"""The only place that knows the HTTP libraries.

* `pools`: connection pools of our own, for threads and for event loops;
* `sockets`, `loop_sockets`: the connections in them;
* `borrowed`: clients that the caller made.
"""
