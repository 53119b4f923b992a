"""What a client has of tenants: who they are, their keys, usage, prices and the audit.

A class for each of them is in a file of its own beside this, imported when it is asked for.
"""

from __future__ import annotations
