"""What calls take and give in their two flavours, as type variables.

Of what a call gives, threads get the value itself and tasks an awaitable of it. A class that is
written once for both is generic in these; each flavour's class says what they are.
"""

from __future__ import annotations

from typing import TypeVar

One = TypeVar("One")  # the result of one inference
Items = TypeVar("Items")  # what may be iterated
Many = TypeVar("Many")  # a generator of results
AnyBatcher = TypeVar("AnyBatcher")
Truth = TypeVar("Truth")  # yes or no
Document = TypeVar("Document")  # a JSON object
Metadata = TypeVar("Metadata")  # a server's, or a model's
Statistics = TypeVar("Statistics")


class Threads:
    """What is generic in a flavour is of this one where values are given themselves."""


class Tasks:
    """The same, where they are awaited."""


Flavour = TypeVar("Flavour")  # one of these two
