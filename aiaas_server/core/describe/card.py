"""The card of a model version: what it is for and how payloads become tensors and back.

A bundle is `model.onnx`, `model.json` (the card) and the assets the card names, in one directory.
The settings of a task are validated by the task; this file knows only their place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from aiaas_client.protocol.texts import decode_text
from aiaas_server.core.describe.config import PlainName, first_problem
from aiaas_server.core.errors import LoadFailed

CARD_NAME = "model.json"

M = TypeVar("M", bound=BaseModel)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Step(_Part):
    """One step of a pipeline: a model of the same server, and how its input is made.

    Attributes:
        model: Its name; `version` 0 is the latest.
        input: Path into the former step's prediction, "label" or "lines.0.text"; empty is all of
            it, and "$" the pipeline's own payload.
        each: The input is a list: the step runs once an item, batched.
    """

    model: str
    version: int = 0
    input: str = ""
    each: bool = False
    params: dict[str, JsonValue] = {}


class Card(_Part):
    """What `model.json` says.

    Attributes:
        format_version: Of this document.
        task: "text-classification" and so on; names the file in `tasks/`.
        labels: In the order of the model's outputs; a text names an asset holding them, a JSON
            list or one label a line.
        preprocessing: Settings of the task, validated when the model is loaded.
        postprocessing: The same.
        signature: Names of inputs and outputs the task uses, where the graph leaves a choice.
        batching: Reserved for the scheduler's use of the version.
        steps: Of a pipeline.
        generation: How it writes token by token: settings of `generate/`; None of other models.
        metrics: As measured by whoever made the version: `{"accuracy": 0.844}`.
        lineage: Where it comes from: package, version, digests, training command.
        assets: File name -> SHA-256 in hexadecimal; empty text where unknown.
    """

    format_version: Literal[1] = 1
    name: str = ""
    task: str
    description: str = ""
    licence: str = ""
    labels: tuple[str, ...] | str = ()
    preprocessing: dict[str, JsonValue] = {}
    postprocessing: dict[str, JsonValue] = {}
    signature: dict[str, JsonValue] = {}
    batching: dict[str, JsonValue] = {}
    steps: tuple[Step, ...] = ()
    generation: dict[str, JsonValue] | None = None
    metrics: dict[str, JsonValue] = {}
    lineage: dict[str, JsonValue] = {}
    assets: dict[PlainName, str] = Field(default_factory=dict)


class Assets:
    """The files beside a model, read by plain name and checked against the card's digests."""

    def __init__(self, read: Callable[[str], bytes], digests: Mapping[str, str]) -> None:
        """`read` gives a file's bytes and raises FileNotFoundError or KeyError for none."""
        self._read = read
        self._digests = digests

    def read(self, name: str) -> bytes:
        """The bytes of an asset.

        Raises:
            LoadFailed: Not a plain name, missing, or other bytes than the card's digest.
        """
        if name in ("", ".", "..") or any(sign in name for sign in "/\\\0"):
            raise LoadFailed(f"asset {name!r}: must be a plain file name")
        try:
            content = self._read(name)
        except (FileNotFoundError, KeyError):
            raise LoadFailed(f"asset '{name}' is missing beside the model") from None
        except OSError as error:
            raise LoadFailed(f"asset '{name}' cannot be read: {error.strerror}") from None
        expected = self._digests.get(name, "").lower()
        if expected and (found := hashlib.sha256(content).hexdigest()) != expected:
            raise LoadFailed(f"asset '{name}': expected sha256 {expected}, got {found}")
        return content

    def has(self, name: str) -> bool:
        """Whether there is such a file, readable or not."""
        try:
            self._read(name)
        except (FileNotFoundError, KeyError):
            return False
        except OSError:
            return True
        return True

    def read_text(self, name: str) -> str:
        """The same as text: UTF-8, or UTF-16 with a byte order mark.

        Raises:
            LoadFailed: As `read`, or the bytes are neither.
        """
        try:
            return decode_text(self.read(name))
        except UnicodeDecodeError:
            raise LoadFailed(f"asset '{name}' is not UTF-8 text") from None


def read_card(content: bytes) -> Card:
    """The card from the bytes of `model.json`.

    Raises:
        LoadFailed: Not JSON, an unknown key (named), or a value of the wrong kind.
    """
    try:
        return Card.model_validate_json(decode_text(content))
    except UnicodeDecodeError:
        raise LoadFailed("model.json is not UTF-8 text") from None
    except ValidationError as error:
        raise LoadFailed(f"{CARD_NAME}: {explain(error, Card)}") from None


def read_settings(kind: type[M], values: Mapping[str, JsonValue], where: str) -> M:
    """A task's settings out of the card's `preprocessing` or `postprocessing` (`where`).

    `kind` should forbid extra fields (`TaskSettings` does).

    Raises:
        LoadFailed: An unknown key, named beside those known, or a value of the wrong kind.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise LoadFailed(f"{CARD_NAME}: {where}: {explain(error, kind)}") from None


def explain(error: ValidationError, kind: type[BaseModel]) -> str:
    """The first thing wrong, in one line; an unknown key with those that are known."""
    path, text, wrong = first_problem(error)
    if wrong == "extra_forbidden":
        known = ", ".join(kind.model_fields) or "none"
        return f"unknown key '{path}'; known: {known}"
    if wrong == "missing":
        return f"'{path}' is missing"
    return f"'{path}': {text}" if path else text
