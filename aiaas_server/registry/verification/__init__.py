"""A version that somebody brought is looked at in a throw-away process before it is kept.

`verify` is the server's side: it starts the process, holds it to its limits and distrusts what it
says. `structure` and `golden` are what the process, `aiaas_server.verifier`, knows of hostile
graphs and of golden sets; both are pure.
"""
