"""What the process of a model is told at its start, and what it tells of the model it opened.

Before a request comes there is time: these are JSON, read strictly and bounded on both sides.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aiaas_server.core.describe.config import ModelConfig
from aiaas_server.core.session import GraphFacts
from aiaas_server.core.signature import TensorSpec
from aiaas_server.runtimes.isolated.frames import DATATYPES, MOST_RANK, MOST_SIZE, Broken

MOST_TOLD: Final = 4 << 20
"""Bytes that a process may tell of its model."""
_MOST_NAME: Final = 512
_MOST_TENSORS: Final = 1_024

Name = Annotated[str, Field(max_length=_MOST_NAME)]
Dim = Annotated[int, Field(ge=-1, le=MOST_SIZE)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Order(BaseModel):
    """What to open, and within which limits; the model's bytes follow where it has no path.

    Attributes:
        memory_bytes: What the process may take besides what it takes before it opens the model.
        filters: Take system calls away.
        size: Of the bytes that follow.
    """

    path: str | None
    size: int
    config: ModelConfig
    threads: int
    memory_bytes: int
    filters: bool


class ToldTensor(_Strict):
    """An input or an output, as `core.signature.TensorSpec`."""

    name: Name
    datatype: str
    shape: Annotated[tuple[Dim, ...], Field(max_length=MOST_RANK, strict=False)]
    symbols: Annotated[tuple[Name, ...], Field(max_length=MOST_RANK, strict=False)]

    def spec(self) -> TensorSpec:
        """As the core has it.

        Raises:
            Broken: It is of no datatype that is served, or has symbols for other dimensions.
        """
        if self.datatype not in DATATYPES:
            raise Broken(f"a tensor is of datatype {self.datatype[:16]!r}")
        if len(self.symbols) not in (0, len(self.shape)):
            raise Broken("a tensor has symbols for dimensions that it lacks")
        return TensorSpec(self.name, self.datatype, self.shape, symbols=self.symbols)


Tensors = Annotated[tuple[ToldTensor, ...], Field(max_length=_MOST_TENSORS, strict=False)]


class Told(_Strict):
    """What was opened; or why nothing was.

    Attributes:
        failed: One line; "" where it was opened.
        mistake: Whether that is the model's: else the process itself does not work.
    """

    failed: str = ""
    mistake: bool = True
    inputs: Tensors = ()
    outputs: Tensors = ()
    providers: Annotated[
        tuple[Literal["CPUExecutionProvider"], ...], Field(max_length=4, strict=False)
    ] = ()
    metadata: dict[Annotated[str, Field(max_length=1024)], str] = {}
    cost_in_values: bool = False
    shared_cache: bool = False
    changes: Annotated[tuple[str, ...], Field(max_length=4_096, strict=False)] = ()
    words: Annotated[tuple[str, ...], Field(max_length=64, strict=False)] = ()

    @property
    def graph(self) -> GraphFacts:
        """What was found in the graph, by its own process."""
        return GraphFacts(self.cost_in_values, self.shared_cache, self.changes, self.words)


def read_told(text: bytes) -> Told:
    """What a process told, if it is of the form.

    Raises:
        Broken: It is not, or two tensors have one name.
    """
    try:
        told = Told.model_validate_json(text)
    except ValidationError as error:
        raise Broken(f"what it tells of the model has {error.error_count()} mistakes") from None
    for tensors in (told.inputs, told.outputs):
        if len({tensor.name for tensor in tensors}) != len(tensors):
            raise Broken("two tensors have one name")
        for tensor in tensors:
            tensor.spec()
    return told
