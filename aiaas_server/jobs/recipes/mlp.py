"""Networks of fully connected layers, for classes and for values."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, ClassVar

from pydantic import Field

from aiaas_client.protocol.datasets import ColumnKind
from aiaas_server.jobs.recipes.network_inputs import read_inputs
from aiaas_server.jobs.recipes.recipe import Fitted, Recipe, TaskKind, Training, Watch
from aiaas_server.jobs.recipes.torch_network import Network, trained
from aiaas_server.jobs.recipes.torch_training import NetworkParams


class MlpParams(NetworkParams):
    """Parameters of the network."""

    hidden: list[Annotated[int, Field(ge=1, le=16_384)]] = Field(
        default=[64], max_length=16, description="Width of each hidden layer, from the input on."
    )


class MlpClassifier(Recipe[MlpParams]):
    """Softmax over the classes."""

    name: ClassVar[str] = "mlp-classifier"
    title: ClassVar[str] = "Neural network"
    description: ClassVar[str] = "Fully connected layers with ReLU, for labels"
    task: ClassVar[TaskKind] = "classification"
    kinds: ClassVar[frozenset[ColumnKind]] = frozenset(
        {"number", "integer", "boolean", "category", "array"}
    )
    extra: ClassVar[str] = "torch"
    modules: ClassVar[tuple[str, ...]] = ("torch", "onnxscript")
    parallel: ClassVar[bool] = True
    resumes: ClassVar[bool] = True
    params = MlpParams

    def fit(self, params: MlpParams, data: Training, watch: Watch) -> Fitted:
        """See `Recipe`."""
        inputs = read_inputs(data.features)
        outputs = len(data.classes) or 1
        build = partial(layers, inputs.width, tuple(params.hidden), outputs, params.dropout)
        network, unit = trained(build, params, data, watch, inputs.scaled)
        return Network(inputs, network, unit, data.classes)


class MlpRegressor(MlpClassifier):
    """One value, learned in units of its deviation."""

    name: ClassVar[str] = "mlp-regressor"
    description: ClassVar[str] = "Fully connected layers with ReLU, for values"
    task: ClassVar[TaskKind] = "regression"


def layers(width: int, hidden: tuple[int, ...], outputs: int, dropout: float) -> Any:
    """The network: `(rows, width)` -> `(rows, outputs)`."""
    from torch import nn

    parts: list[Any] = []
    for size in hidden:
        parts += [nn.Linear(width, size), nn.ReLU()]
        parts += [nn.Dropout(dropout)] if dropout else []
        width = size
    return nn.Sequential(*parts, nn.Linear(width, outputs))
