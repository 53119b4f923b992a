"""First runs of a model that is being verified: on made-up tensors, and through its task."""

from __future__ import annotations

import io
import time
import wave
from collections.abc import Sequence
from typing import Any

from aiaas_server.core.describe.samples import TooLarge, plans, sample
from aiaas_server.core.errors import InferenceFailed, InvalidInput, OutOfMemory, Rejected
from aiaas_server.core.session import Session
from aiaas_server.core.signature import Signature
from aiaas_server.core.task import Params, PayloadKind

_PATIENCE = 20.0  # seconds of trying out what the model takes
_TOKENS = 8


def run_once(session: Session, signature: Signature) -> float:
    """Run the model on the first made-up input that it takes.

    A model that takes none of them is not refused: it may know more of its input than a graph
    tells. One that fails, whatever it is given, is.

    Returns:
        Seconds of that run; 0 where it took none.
    Raises:
        MemoryError: There is not enough for it.
        Rejected: The runtime fails on all of them.
    """
    failure: InferenceFailed | None = None
    refused = False
    until = time.monotonic() + _PATIENCE
    words = session.graph.words
    for plan in plans(signature.inputs, cautious=session.graph.cost_in_values):
        try:
            inputs = sample(signature.inputs, plan, 1, words)
            began = time.monotonic()
            session.run(inputs, signature.output_names)
            return time.monotonic() - began
        except OutOfMemory:
            raise MemoryError from None
        except InferenceFailed as error:
            failure = error
        except (InvalidInput, TooLarge):
            refused = True
        if time.monotonic() > until:
            break
    if failure is not None and not refused:
        raise Rejected(f"a run on made-up input: {failure.message}") from None
    return 0.0


def payloads(kind: PayloadKind) -> Sequence[Any]:
    """A payload of that kind that most tasks take; none where the task alone knows."""
    if kind == "text":
        return ["A text that was made up to see whether this works."]
    if kind == "image":
        return [_picture()]
    if kind == "audio":
        return [_recording()]
    return []


def short_params(params: type[Params]) -> dict[str, Any]:
    """Parameters with which a task is tried: what writes need not fill its whole context."""
    return {"max_tokens": _TOKENS} if "max_tokens" in params.model_fields else {}


def _picture() -> bytes:
    from PIL import Image  # a task of pictures has it open already

    kept = io.BytesIO()
    Image.new("RGB", (64, 48), (120, 130, 140)).save(kept, "PNG")
    return kept.getvalue()


def _recording() -> bytes:
    kept = io.BytesIO()
    with wave.open(kept, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(bytes(2 * 16000))
    return kept.getvalue()
