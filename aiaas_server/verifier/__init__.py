"""The throw-away process that verifies a bundle: what `registry.verification` starts.

It opens the bundle by the same code as a server that serves it: runtime, pool, task.
"""
