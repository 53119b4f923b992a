"""What a card says of how its model writes: the part `generation` of `model.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from aiaas_server.core.describe.card import read_settings
from aiaas_server.core.generation import Sampling

Token = Annotated[int, Field(ge=0)]
CacheKind = Literal["auto", "shared", "separate"]
ToolFormat = Literal["", "hermes", "json", "llama3", "mistral"]
LARGEST_TEMPERATURE: Final = 1e6
MOST_CONTEXT: Final = 1 << 20
"""Tokens: what a row takes is known for each length beforehand, which itself takes memory."""


def _plain(name: str) -> str:
    """See that a file is one of the bundle."""
    if name in (".", "..") or set(name) & set("/\\\0"):
        raise ValueError("expected a plain file name")
    return name


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class DefaultSampling(_Part):
    """How tokens are chosen where a request does not say; meanings as in `Sampling`."""

    temperature: float = Field(default=1.0, ge=0.0, le=LARGEST_TEMPERATURE, allow_inf_nan=False)
    top_k: int = Field(default=0, ge=0)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    min_p: float = Field(default=0.0, ge=0.0, le=1.0)
    repetition_penalty: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)
    presence_penalty: float = Field(default=0.0, allow_inf_nan=False)
    frequency_penalty: float = Field(default=0.0, allow_inf_nan=False)

    def sampling(self) -> Sampling:
        """As a request has it."""
        return Sampling(**self.model_dump())


class GenerationSettings(_Part):
    """How a model writes, token by token.

    Attributes:
        context: Most tokens of one answer, prompt included.
        tokenizer: Asset with the tokenizer; "" for a model that is given and gives ids only.
        template: Asset with the template of conversations; "" or a missing one for none.
        begin: Tokens put before every text.
        end: Tokens that end an answer.
        cache: How keys and values are kept: `shared` extends a buffer in place, `separate` gives
            the graph the past and takes the present; `auto` asks the graph.
        with_past: File name of a second graph that goes on where `model.onnx` began; "" for none.
        constants: Names of inputs that every request brings, and that stay as they are.
        suppress: Tokens that are never chosen.
        suppress_first: Tokens that are not chosen as an answer's first.
        tools: In which form the model writes calls; "" for one that cannot.
        defaults: How tokens are chosen where a request does not say.
    """

    context: int = Field(ge=2, le=MOST_CONTEXT)
    tokenizer: str = "tokenizer.json"
    template: str = "chat_template.jinja"
    begin: tuple[Token, ...] = ()
    end: tuple[Token, ...] = ()
    cache: CacheKind = "auto"
    with_past: Annotated[str, AfterValidator(_plain)] = ""
    constants: tuple[str, ...] = ()
    suppress: tuple[Token, ...] = ()
    suppress_first: tuple[Token, ...] = ()
    tools: ToolFormat = ""
    defaults: DefaultSampling = DefaultSampling()


def read_generation(values: Mapping[str, JsonValue]) -> GenerationSettings:
    """The settings out of a card's `generation`.

    Raises:
        LoadFailed: An unknown key, named beside those known, or a value of the wrong kind.
    """
    return read_settings(GenerationSettings, values, "generation")
