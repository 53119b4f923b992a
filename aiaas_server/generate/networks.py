"""Chooses how a model is run step by step: in place where its graph and its device can."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

from aiaas_server.core.errors import LoadFailed, NotSupported
from aiaas_server.core.generation import GenerationLimits
from aiaas_server.core.session import KeepsArrays, Session
from aiaas_server.generate.network import Network
from aiaas_server.generate.separate import Pads, SeparateNetwork
from aiaas_server.generate.shared import SharedNetwork
from aiaas_server.generate.tensor_names import Kept, Tensors, read_first, read_tensors

_CACHES: Final = ("auto", "shared", "separate")


def open_network(
    session: Session,
    open_graph: Callable[[str], Session],
    settings: Kept,
    limits: GenerationLimits,
) -> Network:
    """Open the network of one version.

    Args:
        session: Of the graph that begins a prompt; the only one, where the card names no other.
        open_graph: Opens the one that goes on, by the name that the card gives.
        settings: What the card says: `context`, `cache`, `with_past` and `constants`.
    Raises:
        LoadFailed: The graph is not of a form that can be run token by token; what is missing, or
            too much, is named.
    """
    if settings.cache not in _CACHES:
        raise LoadFailed(f"generation.cache: expected one of {_CACHES}, got '{settings.cache}'")
    sizes: dict[str, Any] = {
        "slots": limits.slots,
        "context": settings.context,
        "cache_bytes": limits.cache_bytes,
        "prefix_bytes": limits.prefix_bytes,
    }
    if settings.with_past:
        later = open_graph(settings.with_past)
        try:
            return _of_two(session, later, settings.constants, sizes)
        except BaseException:
            later.close()
            raise
    tensors = read_tensors(session, settings.constants)
    wants_shared = settings.cache == "shared" or (
        settings.cache == "auto" and session.graph.shared_cache
    )
    if wants_shared and _runs_in_place(session, tensors, settings.cache):
        return SharedNetwork(cast("KeepsArrays", session), tensors, **sizes)
    return SeparateNetwork(session, tensors, pads=_pads(session, tensors), **sizes)


def _of_two(
    begins: Session, goes_on: Session, constants: Sequence[str], sizes: Mapping[str, Any]
) -> Network:
    """One graph begins, and gives what the other one goes on with."""
    of_first = {spec.name for spec in begins.inputs}
    of_later = {spec.name for spec in goes_on.inputs}
    needed = [name for name in constants if name in of_later or name not in of_first]
    later = read_tensors(goes_on, needed, begins=False)
    first = read_first(begins, later, constants)
    pads = _pads(goes_on, later)
    return SeparateNetwork(goes_on, later, first=(begins, first), pads=pads, **sizes)


def _pads(session: Session, tensors: Tensors) -> Pads:
    """Where zeros may stand in rows that are shorter than others."""
    if tensors.mask is None:
        return "never"
    if session.graph.shared_cache:
        return "behind"  # it takes the mask's sum for a row's length
    return "never" if tensors.positions is None else "before"


def _runs_in_place(session: Session, tensors: Tensors, cache: str) -> bool:
    """Whether the graph extends memory of ours; tried, where the device may be another one.

    Raises:
        LoadFailed: The card says so, and the graph cannot.
    """
    fits = session.graph.shared_cache and tensors.mask is not None
    if not fits or tensors.constants or tensors.fixed or tensors.branches or tensors.one_token:
        if cache == "shared":
            raise LoadFailed(
                "generation.cache: expected a graph with GroupQueryAttention, an input "
                "'attention_mask' and no constants for 'shared'; got another one"
            )
        return False
    if not hasattr(session, "keep"):
        return False
    one = {(c.past, c.present): c.empty(1, 1) for c in tensors.caches}
    try:
        cast("KeepsArrays", session).keep(one)
    except NotSupported:
        return False
    return True
