"""What a candidate may lose, and which one is promoted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from aiaas_client.protocol.jobs import OptimiseSpec
from aiaas_server.core.errors import InvalidInput
from aiaas_server.job_process.optimising.measure import Speed

_UP: Final = ("accuracy", "precision", "recall", "f1", "roc_auc", "r2")
_DOWN: Final = ("log_loss", "mse", "rmse", "mae")
_ROUNDING: Final = 1e-9
_FASTER: Final = 0.97  # of the parent's latency: less would be the noise of a machine


class Gate(NamedTuple):
    """What is asked of a candidate.

    Attributes:
        metric: Of which it may lose `max_drop`; more is better, or less where it is an error.
        value: The parent's.
    """

    metric: str
    value: float
    max_drop: float

    def drop(self, metrics: Mapping[str, Any]) -> float:
        """What a candidate with those metrics loses; negative where it gains."""
        lost = self.value - float(metrics[self.metric])
        return lost if self.metric in _UP else -lost

    def passes(self, metrics: Mapping[str, Any]) -> bool:
        """Whether that is little enough."""
        return self.drop(metrics) <= self.max_drop + _ROUNDING

    @property
    def bound(self) -> float:
        """The worst value that passes."""
        return self.value - self.max_drop if self.metric in _UP else self.value + self.max_drop


def gate_of(spec: OptimiseSpec, metrics: Mapping[str, Any]) -> Gate:
    """The gate of a job.

    Args:
        metrics: The parent's.
    Raises:
        InvalidInput: There is no such metric of these answers, or it is not defined on the rows.
    """
    known = [name for name in (*_UP, *_DOWN) if name in metrics]
    name = spec.metric or ("accuracy" if "accuracy" in metrics else "r2")
    if name not in known:
        raise InvalidInput(f"metric: expected one of {', '.join(known)}, got '{name[:64]}'")
    if metrics[name] is None:
        raise InvalidInput(f"metric '{name}' is not defined on the rows that are measured")
    return Gate(name, float(metrics[name]), spec.max_drop)


def fastest(parent: Speed, within: Mapping[str, Speed]) -> str | None:
    """The candidate to promote: the one that answers soonest, and many rows no slower than before.

    None where the parent is as fast.
    """
    found = {
        name: one.p50_ms
        for name, one in within.items()
        if one.p50_ms < _FASTER * parent.p50_ms and one.rows_per_second >= parent.rows_per_second
    }
    return min(found, key=lambda name: found[name], default=None)
