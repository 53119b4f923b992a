"""Calls of a handle that are one request and its answer, for threads and tasks alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from aiaas_client._api import oip as calls
from aiaas_client._models.request_id import checked_request_id
from aiaas_client._send.flavours import Document, Statistics, Truth
from aiaas_client.protocol.inference import Scalar

Documents = TypeVar("Documents")  # a stream of documents


class PlainCalls(Generic[Document, Statistics, Truth, Documents]):
    """Calls of one model that need no thinking."""

    name: str
    version: str | None
    _sender: Any

    def config(self) -> Document:
        """The model's configuration as the server tells it, fetched each time."""
        found: Document = self._sender.send(calls.config(self.name, self.version))
        return found

    def statistics(self) -> Statistics:
        """Counts and times of each of its versions, or of the one this handle names."""
        found: Statistics = self._sender.send(calls.statistics(self.name, self.version))
        return found

    def ready(self) -> Truth:
        """Whether it takes inference now."""
        found: Truth = self._sender.send(calls.ready(self.name, self.version))
        return found

    def generate(
        self,
        inputs: Mapping[str, Any] | None = None,
        /,
        *,
        parameters: Mapping[str, Scalar] | None = None,
        request_id: str = "",
        timeout: float | None = None,
        deadline: float | None = None,
        **values: Any,
    ) -> Document:
        """Run the model by the generate extension: flat JSON in, flat JSON out.

        Args:
            inputs: Inputs by name (needed for inputs named like an option below): text, numbers,
                lists or arrays; a single value stands for a tensor of one element.
            parameters: Request parameters for the model.
            request_id: An id to send along.
            timeout: Seconds for each phase of a request, instead of the client's.
            deadline: Seconds for the whole call with its retries, instead of the client's.
            values: Inputs by name.
        Returns:
            `model_name`, `model_version` and the outputs: a value where there is one element, else
            a flat list.
        Raises:
            NotSupportedError: this server has no generate extension.
            AiaasError: anything else.
        """
        document = _document(inputs, values, parameters, request_id)
        sender = self._sender.with_options(timeout=timeout, deadline=deadline)
        found: Document = sender.send(calls.generate(self.name, self.version, document))
        return found

    def generate_stream(
        self,
        inputs: Mapping[str, Any] | None = None,
        /,
        *,
        parameters: Mapping[str, Scalar] | None = None,
        request_id: str = "",
        timeout: float | None = None,
        deadline: float | None = None,
        **values: Any,
    ) -> Documents:
        """As `generate`, each answer of the model as it comes; a tensor model gives exactly one.

        The request is sent with the first step of the iteration. Leaving the loop early, or
        closing the stream, closes the connection, and the server stops. The deadline covers the
        stream to its end; `timeout` bounds the wait between two events.
        """
        document = _document(inputs, values, parameters, request_id)
        sender = self._sender.with_options(timeout=timeout, deadline=deadline)
        found: Documents = sender.stream(calls.generate_stream(self.name, self.version, document))
        return found


def _document(
    inputs: Mapping[str, Any] | None,
    values: Mapping[str, Any],
    parameters: Mapping[str, Scalar] | None,
    request_id: str,
) -> dict[str, Any]:
    """Gather the members of a generate request."""
    document = {**(inputs or {}), **values}
    if parameters:
        document["parameters"] = dict(parameters)
    if request_id:
        document["id"] = checked_request_id(request_id)
    return document
