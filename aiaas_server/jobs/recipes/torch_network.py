"""`Network`: a trained network as torch runs it, and as a bundle.

The graph has it all from the raw numbers to the answer: centre and scale of the columns, the
network, softmax, or the values in their own unit.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from aiaas_server.core.errors import InvalidInput
from aiaas_server.jobs.recipes.network_inputs import Inputs, batches
from aiaas_server.jobs.recipes.recipe import Array, Exported, Fitted, Training, Watch
from aiaas_server.jobs.recipes.torch_training import NetworkParams, Plan, Rows, read_state
from aiaas_server.jobs.recipes.torch_workers import train_here
from aiaas_server.jobs.table import Table

_ROWS_AT_ONCE: Final = 1024
_STEPS: Final = 50  # of an epoch by default
# How torch says it, on the CPU and on a GPU, and how its launcher hands it on.
_NO_MEMORY: Final = ("can't allocate memory", "out of memory", "not enough memory", "MemoryError")
_WORTH_THREADS: Final = 50_000_000  # multiplications of a step; below, threads cost more
_SMALLEST, _LARGEST = 8, 128  # rows of a step by default

Build = Callable[[], Any]


class Unit(NamedTuple):
    """Where values lie: they are learned as `(value - mean) / scale`."""

    mean: float = 0.0
    scale: float = 1.0


def trained(
    build: Build,
    params: NetworkParams,
    data: Training,
    watch: Watch,
    scaled: Scaled,
    uses: int = 1,
) -> tuple[Any, Unit]:
    """The network with its best weights, and the unit of its answers.

    Args:
        build: Gives the untrained network; can be pickled.
        scaled: The rows of a table as the network takes them.
        uses: How often a weight is used for a row, about: by a convolution at each of its places.

    Raises:
        Diverged: The loss is not a number any more.
        MemoryError: The network, or a step, is too large.
        RuntimeError: Workers died again and again.
    """
    # Threads that wait shall sleep: what serves runs beside. Read when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    unit = Unit() if data.classes else _unit(data.target)
    features = scaled(data.features)
    weights = None if data.weights is None else data.weights.astype(np.float32)
    rows = Rows(features, _target(data.target, unit, data.classes), weights)
    validation = None
    if data.validation is not None and data.validation[0].rows:
        table, target = data.validation
        validation = Rows(scaled(table), _target(target, unit, data.classes))
    default = min(max(len(features) // _STEPS, _SMALLEST), _LARGEST)
    batch = params.batch_size or default
    watch.phase("training")
    with _memory_told():
        work = batch * uses * sum(weight.numel() for weight in build().parameters())
        threads = data.threads if work > _WORTH_THREADS else 1
        plan = Plan(build, params, len(data.classes), batch, data.seed, threads)
        state = train_here(plan, rows, validation, data.workers, watch, data.cluster)
        network = build()
        network.load_state_dict(read_state(state)["best"]["kept"])
    return network.eval(), unit


@contextmanager
def _memory_told() -> Iterator[None]:
    """Torch's errors of memory, its workers' among them, as Python's own."""
    try:
        yield
    except RuntimeError as error:
        if any(text in str(error) for text in _NO_MEMORY):
            raise MemoryError(str(error)) from None
        raise


Scaled = Callable[[Table], Array]


def _target(target: Array, unit: Unit, classes: tuple[str, ...]) -> Array:
    if classes:
        return target.astype(np.int64)
    return ((target - unit.mean) / unit.scale).astype(np.float32)


def _unit(target: Array) -> Unit:
    wrong = np.flatnonzero(~np.isfinite(target))
    if len(wrong):
        raise InvalidInput(f"the target of row {wrong[0]} is not a finite number")
    return Unit(float(target.mean()), float(target.std()) or 1.0)


class Network(Fitted):
    """A network over the columns of a table.

    Args:
        network: From scaled rows to logits, or to standardised values.
    """

    def __init__(self, inputs: Inputs, network: Any, unit: Unit, classes: tuple[str, ...]) -> None:
        self._inputs, self._classes = inputs, classes
        self._served = served_network(inputs.mean, inputs.scale, network, unit, bool(classes))

    def answer(self, features: Table) -> Array:
        """See `Fitted`; by the very network that is exported."""
        found = run_in_parts(self._served, self._inputs.raw, features)
        return found if self._classes else found[:, 0]

    def export(self, directory: Path) -> Exported:
        """See `Fitted`."""
        example = np.broadcast_to(self._inputs.mean, (2, self._inputs.width))
        output = "probabilities" if self._classes else "value"
        export_onnx(self._served, example, directory / "model.onnx", "features", output)
        kind = "classification" if self._classes else "regression"
        card: dict[str, Any] = {
            "task": f"tabular-{kind}",
            "preprocessing": self._inputs.card(),
            "postprocessing": {"output": output},
        }
        return Exported({**card, "labels": list(self._classes)} if self._classes else card)


def served_network(mean: Array, scale: Array, network: Any, unit: Unit, classes: bool) -> Any:
    """From raw numbers `(rows, width)` to probabilities `(rows, classes)` or values `(rows, 1)`."""
    import torch

    # In evaluation a normalisation over batches is `(x - mean) / sqrt(variance)`, as constants.
    centred = torch.nn.BatchNorm1d(len(mean), eps=0.0, affine=False)
    centred.running_mean = torch.from_numpy(mean.copy())
    centred.running_var = torch.from_numpy(np.square(scale.astype(np.float64)).astype(np.float32))
    if classes:
        last: Any = torch.nn.Softmax(dim=-1)
    else:
        last = torch.nn.Linear(1, 1)
        torch.nn.init.constant_(last.weight, unit.scale)
        torch.nn.init.constant_(last.bias, unit.mean)
    return torch.nn.Sequential(centred, network, last).eval()


def run_in_parts(network: Any, raw: Scaled, table: Table) -> Array:
    """What a network answers to the rows of a table: `(rows, outputs)` float64."""
    import torch

    found = []
    with torch.no_grad():
        for part in batches(table.rows, _ROWS_AT_ONCE):
            values = np.ascontiguousarray(raw(table.take(part)))
            found.append(network(torch.from_numpy(values)).numpy())
    answers: Array = np.concatenate(found).astype(np.float64)
    return answers


def export_onnx(network: Any, example: Array, path: Path, name: str, output: str) -> None:
    """Write the graph, weights inside, with any number of rows."""
    import torch

    # Of operators that an absent torchvision would have.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    rows = torch.from_numpy(np.array(example, np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about itself
        program: Any = torch.onnx.export(
            network,
            (rows,),
            dynamo=True,
            dynamic_shapes=({0: "batch"},),
            input_names=[name],
            output_names=[output],
            verbose=False,
        )
    program.save(str(path), external_data=False)
