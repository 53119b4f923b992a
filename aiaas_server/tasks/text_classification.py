"""Text classification: sentiment, topics, languages, intents.

Payload: a text. Long text is cut into windows whose scores are averaged.

Example card:

    {"task": "text-classification", "labels": ["negative", "positive"],
     "preprocessing": {"features": "hashed", "max_tokens": 4096},
     "postprocessing": {"output": "probabilities"}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from aiaas_client.protocol.predictions import Classification
from aiaas_client.protocol.tensors import Array
from aiaas_server.core.describe.card import Assets, Card, read_settings
from aiaas_server.core.errors import LoadFailed
from aiaas_server.core.signature import Signature
from aiaas_server.core.task import Params, PayloadKind, Prepared
from aiaas_server.tasks.scores import Activation, activated, classification
from aiaas_server.tasks.task import TaskSettings, check_label_count, output_spec, read_labels
from aiaas_server.tasks.text import TextSettings, check_text, mean_of_rows, open_encoder


class Postprocessing(TaskSettings):
    """`output` names the scores `(rows, labels)`; `activation` turns them into probabilities."""

    output: str = ""
    activation: Activation = "none"
    windows: Literal["mean"] = "mean"


class TextParams(Params):
    """`top_k`: how many labels `scores` has; all by default."""

    top_k: int | None = Field(default=None, ge=1)


class TextClassification:
    """The task of one version."""

    input: PayloadKind = "text"
    predictions: tuple[type[Classification], ...] = (Classification,)
    params = TextParams
    costs = False

    def __init__(
        self, card: Card, assets: Assets, signature: Signature, metadata: Mapping[str, str]
    ) -> None:
        self._settings = read_settings(TextSettings, card.preprocessing, "preprocessing")
        self._post = read_settings(Postprocessing, card.postprocessing, "postprocessing")
        self.labels = read_labels(card, assets)
        if not self.labels:
            raise LoadFailed("model.json: text-classification needs 'labels'")
        self._output = output_spec(signature, self._post.output)
        check_label_count(self.labels, self._output)
        self._encoder = open_encoder(self._settings, assets, signature)

    def preprocess(self, payload: Any, params: TextParams) -> Prepared:
        """Check the text and encode it; a row a window."""
        return self._encoded(check_text(payload, self._settings.max_characters))

    def blank(self) -> Prepared:
        """A text without any word, which no caller may send: what explanations compare with."""
        return self._encoded("")

    def _encoded(self, text: str) -> Prepared:
        encoded = self._encoder.encode([text])
        return Prepared(encoded.tensors, len(encoded.owners), encoded, (self._output.name,))

    def postprocess(
        self, tensors: Mapping[str, Array], prepared: Prepared, params: TextParams
    ) -> Classification:
        """Probabilities, averaged over the windows."""
        scores = activated(tensors[self._output.name], self._post.activation)
        mean = mean_of_rows(scores, prepared.context.owners)[0]
        return classification(mean, self.labels, params.top_k)


open_task = TextClassification
