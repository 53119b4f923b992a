"""Texts by TF-IDF of words, or of characters and their pairs, inside the graph.

What the conversion gets wrong is not asked of it: lower case and runs of whitespace are dealt with
before the graph, `sublinear_tf` and unsegmented Chinese words are not offered.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import numpy as np
from pydantic import Field

from aiaas_server.core.errors import InvalidInput
from aiaas_server.job_process.recipes.texts import TextParams, TextRecipe, answered, exported
from aiaas_server.jobs.recipes.recipe import Array, Exported, Fitted, Training, Watch
from aiaas_server.jobs.table import Table
from aiaas_server.tasks.text import PlainEncoder, TextSettings

_INPUT: Final = "text"
_SETTINGS: Final = TextSettings(features="text", lowercase=True, whitespace="collapse")
# Both libraries of regular expressions take it alike; the default's `\\b` and `\\w` they do not.
_WORD: Final = r"[^ \t.,;:!?()\[\]{}<>\"'`/|*#~=+，。；：！？（）、…]+"
_DENSE: Final = 0.2  # share of characters of scripts without spaces that makes it one of them


class TfidfParams(TextParams):
    """Parameters of the features."""

    analyzer: Literal["auto", "words", "characters"] = Field(
        default="auto",
        description="Words and word pairs, or characters and character pairs; by default the "
        "latter for scripts that put no spaces between words.",
    )
    features: int = Field(
        default=50_000, ge=10, le=1_000_000, description="Most of them: the most frequent."
    )


class TextTfidf(TextRecipe[TfidfParams]):
    """Frequencies of words or characters, weighed by how rare they are."""

    name: ClassVar[str] = "text-tfidf"
    title: ClassVar[str] = "Texts by TF-IDF"
    description: ClassVar[str] = "Words of English and the like, characters of Chinese"
    modules: ClassVar[tuple[str, ...]] = ("sklearn", "skl2onnx")
    params = TfidfParams

    def fit_texts(
        self, params: TfidfParams, texts: list[str], data: Training, watch: Watch, name: str
    ) -> Fitted:
        """See `TextRecipe`."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        watch.phase("training")
        characters = params.analyzer == "characters" or (
            params.analyzer == "auto" and _without_spaces(texts)
        )
        vectors = TfidfVectorizer(
            analyzer="char" if characters else "word",
            ngram_range=(1, 2),
            max_features=params.features,
            lowercase=False,
        )
        if not characters:
            vectors.set_params(token_pattern=_WORD)
        try:
            vectors.fit(_prepared(texts))
        except ValueError as error:
            if "empty vocabulary" not in str(error):
                raise
            raise InvalidInput(f"column '{name}': there is no word in any text") from None
        grams = _closed(vectors.vocabulary_, characters)
        # A graph that looks for pairs and has none does not load: single words have none.
        longest = max(len(_parts(gram, characters)) for gram in grams)
        vectors.set_params(vocabulary=grams, ngram_range=(1, longest))
        head = LogisticRegression(C=params.strength, max_iter=1000)
        pipeline = make_pipeline(vectors, head)
        weights = data.weights
        pipeline.fit(_prepared(texts), data.target, logisticregression__sample_weight=weights)
        return _Tfidf(pipeline, data.classes, name)


class _Tfidf(Fitted):
    def __init__(self, pipeline: Any, classes: tuple[str, ...], name: str) -> None:
        self._pipeline, self._classes, self._name = pipeline, classes, name

    def answer(self, features: Table) -> Array:
        """See `Fitted`."""
        return answered(features, self._name, len(self._classes), self._answer)

    def _answer(self, texts: list[str]) -> Array:
        return np.asarray(self._pipeline.predict_proba(_prepared(texts)), np.float64)

    def export(self, directory: Path) -> Exported:
        """See `Fitted`."""
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import StringTensorType

        inputs: Any = [(_INPUT, StringTensorType([None, 1]))]
        vectors, head = (step for _, step in self._pipeline.steps)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # characters are said to be doubtful: see above
            model: Any = to_onnx(
                self._pipeline,
                initial_types=inputs,
                # The locale that every system has: the default's is missing from slim ones.
                options={id(vectors): {"locale": "C.UTF-8"}, id(head): {"zipmap": False}},
                target_opset=17,
            )
        return exported(directory, model.SerializeToString(), self._classes, _SETTINGS)


def _prepared(texts: list[str]) -> list[str]:
    """As the task prepares them for the graph."""
    encoder = PlainEncoder(_SETTINGS, _INPUT, 1)
    return [content.decode() for content in encoder.encode(texts).tensors[_INPUT]]


def _closed(vocabulary: Mapping[str, int], characters: bool) -> list[str]:
    """Without pairs of what is not there by itself, which the graph cannot tell apart."""
    return sorted(
        gram for gram in vocabulary if all(part in vocabulary for part in _parts(gram, characters))
    )


def _parts(gram: str, characters: bool) -> list[str]:
    return list(gram) if characters else gram.split(" ")


def _without_spaces(texts: list[str]) -> bool:
    """Whether most of what is written is Chinese, Japanese, Thai or the like."""
    some = "".join(texts[:1000])
    dense = sum(0x0E00 <= ord(sign) < 0x0F00 or 0x2E80 <= ord(sign) < 0xA4D0 for sign in some)
    return dense > _DENSE * len(some)
