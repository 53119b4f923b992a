"""Several worker processes on one port, which act as one server.

A parent that serves nothing itself (`supervisor`) starts them, starts them again when they die,
and hands what one of them is told to all of them in the same order. Each worker has one Unix
socket pair to the parent (`link`): JSON frames of bounded size, no pickle.
"""
